//! Lookups against servers on loopback that do as a test says. Time is what the test says too: what is
//! waited for is what the kernel has to deliver, never a time-out.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "test code: a wrong index is a failed test"
)]

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;

use super::wire::tests::{
    A, AAAA, ANSWER, CNAME, NAME, TRUNCATED, address, alias, message, name, question, record,
};
use super::*;

const SECOND: Duration = Duration::from_secs(1);
/// For what the kernel has to do; more is a failure.
const LATE: Duration = Duration::from_secs(5);

/// A server at an address of its own, for datagrams and connections.
struct Fake {
    udp: UdpSocket,
    tcp: TcpListener,
}

/// A question as the server sees it.
#[derive(Clone)]
struct Asked {
    from: SocketAddr,
    id: u16,
    question: Vec<u8>,
}

impl Asked {
    fn kind(&self) -> u16 {
        let at = self.question.len() - 4;
        u16::from_be_bytes([self.question[at], self.question[at + 1]])
    }

    fn answer(&self, flags: u16, answers: &[Vec<u8>]) -> Vec<u8> {
        message(self.id, flags, &self.question, answers)
    }
}

impl Fake {
    /// 127.0.0.`last`, and a port that both protocols have free.
    fn new(last: u8) -> Self {
        for _ in 0..100 {
            let udp = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, last), 0)).unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
                udp.set_nonblocking(true).unwrap();
                tcp.set_nonblocking(true).unwrap();
                return Self { udp, tcp };
            }
        }
        panic!("no port is free for both UDP and TCP");
    }

    fn server(&self) -> Server {
        Server { addr: self.udp.local_addr().unwrap(), device: None }
    }

    /// Every question that has come.
    fn asked(&self) -> Vec<Asked> {
        let mut buffer = [0; 1024];
        let mut out = Vec::new();
        loop {
            match self.udp.recv_from(&mut buffer) {
                Ok((length, from)) => out.push(parse(&buffer[..length], from)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return out,
                // What the kernel says of an answer that came too late.
                Err(e) if e.kind() == ErrorKind::ConnectionRefused => {}
                Err(e) => panic!("{e}"),
            }
        }
    }

    /// The next `count` questions of the lookup, and no more.
    fn questions(&self, count: usize, lookup: &mut Lookup, now: Instant) -> Vec<Asked> {
        let mut out = self.asked();
        until("question", lookup, now, &[self], |_| {
            out.extend(self.asked());
            out.len() >= count
        });
        assert_eq!(out.len(), count);
        out
    }

    /// The two questions that a name begins with, IPv4 first.
    fn both(&self, lookup: &mut Lookup, now: Instant) -> [Asked; 2] {
        let mut asked = self.questions(2, lookup, now);
        asked.sort_by_key(Asked::kind);
        asked.try_into().ok().unwrap()
    }

    fn send(&self, to: &Asked, bytes: &[u8]) {
        self.udp.send_to(bytes, to.from).unwrap();
    }

    /// Answers the first question with `answers`, and others with nothing.
    fn answer(&self, asked: &[Asked], flags: u16, answers: &[Vec<u8>]) {
        for (number, asked) in asked.iter().enumerate() {
            let (flags, answers) = if number == 0 { (flags, answers) } else { (ANSWER, &[][..]) };
            self.send(asked, &asked.answer(flags, answers));
        }
    }

    /// The next connection and the question in it.
    fn accept(&self, lookup: &mut Lookup, now: Instant) -> (TcpStream, Asked) {
        let mut accepted = None;
        until("connection", lookup, now, &[self], |_| {
            accepted = self.tcp.accept().ok();
            accepted.is_some()
        });
        let (mut stream, from) = accepted.unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(LATE)).unwrap();
        // The connection stands; now the question can be sent.
        let sent = |l: &Lookup| l.fds().iter().all(|(_, events)| *events == libc::POLLIN);
        until("connection", lookup, now, &[], sent);
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut bytes).unwrap();
        (stream, parse(&bytes, from))
    }
}

/// Lets the lookup take what comes until `done`.
fn until(
    what: &str,
    lookup: &mut Lookup,
    now: Instant,
    servers: &[&Fake],
    mut done: impl FnMut(&Lookup) -> bool,
) {
    let end = Instant::now() + LATE;
    while !done(lookup) {
        let left = end.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "no {what} comes");
        let servers = servers.iter().flat_map(|s| [s.udp.as_fd(), s.tcp.as_fd()]);
        let servers = servers.map(|fd| (fd, libc::POLLIN));
        netlink::wait(&lookup.fds().into_iter().chain(servers).collect::<Vec<_>>(), Some(left))
            .unwrap();
        lookup.advance(now);
    }
}

/// Takes what is on its way; then the lookup must be done.
fn settle(lookup: &mut Lookup, now: Instant) {
    until("end", lookup, now, &[], |l| l.deadline().is_none());
    assert!(lookup.advance(now) && lookup.fds().is_empty());
}

fn parse(bytes: &[u8], from: SocketAddr) -> Asked {
    // Recursion is wished for, there is one question, and nothing behind it.
    assert_eq!(bytes[2..12], [1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    let id = u16::from_be_bytes([bytes[0], bytes[1]]);
    Asked { from, id, question: bytes[12..].to_vec() }
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

fn lookup(servers: &[&Fake], now: Instant) -> Lookup {
    let servers: Vec<Server> = servers.iter().map(|s| s.server()).collect();
    Lookup::new(&[NAME.to_owned()], &servers, 0, now)
}

fn result(lookup: Lookup) -> Result<Found, String> {
    let [answer] = <[Answer; 1]>::try_from(lookup.finish()).unwrap();
    assert_eq!(answer.name, NAME);
    answer.result
}

fn found(addrs: &[&str], secs: u64) -> Result<Found, String> {
    let addrs = addrs.iter().map(|a| a.parse().unwrap()).collect();
    Ok(Found { addrs, ttl: Duration::from_secs(secs) })
}

#[test]
fn both_families_are_asked_and_joined() {
    let (fake, now) = (Fake::new(1), Instant::now());
    let mut lookup = lookup(&[&fake], now);
    let [four, six] = fake.both(&mut lookup, now);
    assert_eq!((four.question.clone(), six.kind()), (question(NAME, A), AAAA));
    assert_eq!(lookup.fds().len(), 2);
    assert_eq!(lookup.deadline(), Some(now + SECOND));
    fake.send(&six, &six.answer(ANSWER, &[address(NAME, 500, "2001:db8::1")]));
    until("answer", &mut lookup, now, &[], |l| l.fds().len() == 1);
    fake.send(&four, &four.answer(ANSWER, &[address(NAME, 400, "192.0.2.1")]));
    settle(&mut lookup, now);
    assert_eq!(result(lookup), found(&["192.0.2.1", "2001:db8::1"], 400));
}

#[test]
fn ports_and_numbers_of_questions_differ() {
    let (fake, now) = (Fake::new(1), Instant::now());
    let names: Vec<String> = (0..16).map(|n| format!("n{n}.example")).collect();
    let mut lookup = Lookup::new(&names, &[fake.server()], 0, now);
    let asked = fake.questions(32, &mut lookup, now);
    let ports: BTreeSet<u16> = asked.iter().map(|a| a.from.port()).collect();
    let ids: BTreeSet<u16> = asked.iter().map(|a| a.id).collect();
    // The ports are in use at once. Of the numbers two may meet by chance, four pairs cannot.
    assert!(ports.len() == 32 && ids.len() > 28, "{ports:?} {ids:?}");
    let gaps = |set: &BTreeSet<u16>| set.iter().zip(set.iter().skip(1)).map(|(a, b)| b - a).max();
    assert!(gaps(&ports) > Some(256) && gaps(&ids) > Some(256), "{ports:?} {ids:?}");
}

#[test]
fn lies_do_not_end_the_waiting() {
    let (fake, stranger, neighbour) = (Fake::new(1), Fake::new(1), Fake::new(2));
    let now = Instant::now();
    let mut lookup = lookup(&[&fake], now);
    let [asked, _] = fake.both(&mut lookup, now);
    let evil = [address(NAME, 60, "192.0.2.66")];
    // From another port, and from another host: right in everything else.
    stranger.send(&asked, &asked.answer(ANSWER, &evil));
    neighbour.send(&asked, &asked.answer(ANSWER, &evil));
    let other = Asked { id: asked.id ^ 1, ..asked.clone() };
    fake.send(&asked, &other.answer(ANSWER, &evil));
    fake.send(&asked, &other.answer(ANSWER | 3, &[]));
    fake.send(&asked, &other.answer(ANSWER | TRUNCATED, &[]));
    let other = Asked { question: question("vpn.example.com", A), ..asked };
    fake.send(&asked, &other.answer(ANSWER, &[address("vpn.example.com", 60, "192.0.2.66")]));
    let other = Asked { question: question(NAME, AAAA), ..asked };
    fake.send(&asked, &other.answer(ANSWER, &[address(NAME, 60, "2001:db8::66")]));
    fake.send(&asked, &asked.answer(0x0100, &evil));
    fake.send(&asked, b"");
    fake.send(&asked, b"garbage");
    let good = asked.answer(ANSWER, &evil);
    fake.send(&asked, &good[..good.len() - 1]);
    fake.send(&asked, &asked.answer(ANSWER, &vec![evil[0].clone(); 200]));
    fake.send(&asked, &asked.answer(ANSWER, &[record(&[0xc0, 0xff], A, 60, &[192, 0, 2, 66])]));
    fake.send(&asked, &asked.answer(ANSWER, &[address(NAME, 60, "192.0.2.1")]));
    until("answer", &mut lookup, now, &[], |l| l.fds().len() == 1);
    assert!(!lookup.advance(now), "the other family was not answered");
    assert_eq!(result(lookup), found(&["192.0.2.1"], 60));
}

#[test]
fn lies_alone_are_no_answer() {
    let (fake, now) = (Fake::new(1), Instant::now());
    let mut lookup = lookup(&[&fake], now);
    for asked in fake.both(&mut lookup, now) {
        let other = Asked { id: asked.id ^ 1, ..asked.clone() };
        fake.send(&asked, &other.answer(ANSWER | 3, &[]));
    }
    // When the time of each turn is over, what came in it has been read.
    while let Some(deadline) = lookup.deadline() {
        lookup.advance(deadline);
    }
    assert_eq!(result(lookup).unwrap_err(), "no answer from 127.0.0.1");
}

#[test]
fn who_guesses_drives_us_into_a_connection() {
    let (fake, now) = (Fake::new(1), Instant::now());
    let mut lookup = lookup(&[&fake], now);
    for asked in fake.both(&mut lookup, now) {
        for step in 1..=64 {
            let guess = Asked { id: asked.id.wrapping_add(step), ..asked.clone() };
            fake.send(&asked, &guess.answer(ANSWER, &[address(NAME, 60, "192.0.2.66")]));
        }
    }
    let mut open = Vec::new();
    while open.len() < 2 {
        let (mut stream, asked) = fake.accept(&mut lookup, now);
        let addr = if asked.kind() == A { "192.0.2.1" } else { "2001:db8::1" };
        let answer = asked.answer(ANSWER, &[address(NAME, 60, addr)]);
        stream.write_all(&framed(&answer)).unwrap();
        open.push(stream);
    }
    settle(&mut lookup, now);
    assert_eq!(result(lookup), found(&["192.0.2.1", "2001:db8::1"], 60));
}

/// A lookup whose first question the server answers with "ask by TCP", and that connection.
fn by_tcp(fake: &Fake, servers: &[&Fake], now: Instant) -> (Lookup, TcpStream, Asked) {
    let mut lookup = lookup(servers, now);
    let asked = fake.both(&mut lookup, now);
    fake.answer(&asked, ANSWER | TRUNCATED, &[]);
    let (stream, asked) = fake.accept(&mut lookup, now);
    assert_eq!(asked.kind(), A);
    (lookup, stream, asked)
}

#[test]
fn what_does_not_fit_is_asked_for_by_tcp() {
    let (fake, now) = (Fake::new(1), Instant::now());
    let (mut lookup, mut stream, asked) = by_tcp(&fake, &[&fake], now);
    let many: Vec<_> = (1..=40).map(|n| address(NAME, 90, &format!("192.0.2.{n}"))).collect();
    let answer = framed(&asked.answer(ANSWER, &many));
    // In pieces, the first of which cuts the length in two.
    for piece in [&answer[..1], &answer[1..30], &answer[30..]] {
        stream.write_all(piece).unwrap();
        netlink::wait(&lookup.fds(), Some(LATE)).unwrap();
        lookup.advance(now);
    }
    settle(&mut lookup, now);
    let found = result(lookup).unwrap();
    assert_eq!((found.addrs.len(), found.ttl.as_secs()), (16, 90));
}

type Lie<'a> = &'a dyn Fn(&Asked) -> Vec<u8>;

#[test]
fn a_connection_that_lies_or_breaks_is_left() {
    let (bad, good, now) = (Fake::new(1), Fake::new(2), Instant::now());
    let wrong_id = |asked: &Asked| {
        let other = Asked { id: asked.id ^ 1, ..asked.clone() };
        framed(&other.answer(ANSWER, &[address(NAME, 60, "192.0.2.66")]))
    };
    let again = |asked: &Asked| framed(&asked.answer(ANSWER | TRUNCATED, &[]));
    let cut = |asked: &Asked| framed(&asked.answer(ANSWER, &[]))[..20].to_vec();
    let lies: [Lie<'_>; 6] =
        [&wrong_id, &again, &cut, &|_| vec![0, 0], &|_| vec![0xff, 0xff, 1], &|_| vec![]];
    for lie in lies {
        let (mut lookup, mut stream, asked) = by_tcp(&bad, &[&bad, &good], now);
        stream.write_all(&lie(&asked)).unwrap();
        drop(stream);
        let asked = good.questions(1, &mut lookup, now);
        good.answer(&asked, ANSWER, &[address(NAME, 60, "192.0.2.1")]);
        settle(&mut lookup, now);
        assert_eq!(result(lookup), found(&["192.0.2.1"], 60));
    }
}

#[test]
fn a_silent_connection_is_left() {
    let (bad, good, now) = (Fake::new(1), Fake::new(2), Instant::now());
    let (mut lookup, _stream, _) = by_tcp(&bad, &[&bad, &good], now);
    let late = lookup.deadline().unwrap();
    assert!(late > now && late < now + BUDGET);
    lookup.advance(late);
    let asked = good.questions(1, &mut lookup, late);
    good.answer(&asked, ANSWER, &[address(NAME, 60, "192.0.2.1")]);
    settle(&mut lookup, late);
    assert_eq!(result(lookup), found(&["192.0.2.1"], 60));
}

#[test]
fn aliases_lead_to_another_question() {
    let (fake, now) = (Fake::new(1), Instant::now());
    let mut lookup = lookup(&[&fake], now);
    let steps = [alias(NAME, 70, "b.example"), alias("b.example", 400, "c.example")];
    fake.answer(&fake.both(&mut lookup, now), ANSWER, &steps);
    let asked = fake.questions(1, &mut lookup, now);
    assert_eq!(asked[0].question, question("c.example", A));
    fake.answer(&asked, ANSWER, &[address("c.example", 90, "192.0.2.3")]);
    settle(&mut lookup, now);
    assert_eq!(result(lookup), found(&["192.0.2.3"], 70));
}

#[test]
fn aliases_that_never_end_do() {
    let (fake, now) = (Fake::new(1), Instant::now());
    let reason = "127.0.0.1 says that the name stands for too many others";
    let mut one_by_one = lookup(&[&fake], now);
    let mut questions = 0;
    let mut seen = 0;
    until("end", &mut one_by_one, now, &[&fake], |lookup| {
        for asked in fake.asked() {
            questions += 1;
            let target = name(&format!("n{questions}.example"));
            fake.send(&asked, &asked.answer(ANSWER, &[record(&[0xc0, 12], CNAME, 60, &target)]));
        }
        seen = questions;
        lookup.deadline().is_none()
    });
    assert_eq!(seen, 2 * wire::HOPS_MAX);
    assert_eq!(result(one_by_one).unwrap_err(), reason);

    let mut around = lookup(&[&fake], now);
    for asked in fake.both(&mut around, now) {
        let loops = [alias(NAME, 60, "b.example"), alias("b.example", 60, NAME)];
        fake.send(&asked, &asked.answer(ANSWER, &loops));
    }
    settle(&mut around, now);
    assert_eq!(result(around).unwrap_err(), reason);
}

#[test]
fn servers_that_do_not_help_are_passed_over() {
    // With errors, without recursion, and a portal's answer.
    let portal = [address(NAME, 60, "127.0.0.1")];
    let unhelpful: [(u16, &[Vec<u8>]); 5] =
        [(ANSWER | 2, &[]), (ANSWER | 5, &[]), (ANSWER | 4, &[]), (0x8100, &[]), (ANSWER, &portal)];
    for (flags, answers) in unhelpful {
        let (bad, good, now) = (Fake::new(1), Fake::new(2), Instant::now());
        let mut lookup = lookup(&[&bad, &good], now);
        bad.answer(&bad.both(&mut lookup, now), flags, answers);
        let asked = good.questions(1, &mut lookup, now);
        good.answer(&asked, ANSWER, &[address(NAME, 60, "192.0.2.1")]);
        settle(&mut lookup, now);
        assert_eq!(result(lookup), found(&["192.0.2.1"], 60));
    }
}

#[test]
fn silence_is_answered_by_the_next_server_and_the_next_round() {
    let (first, second, now) = (Fake::new(1), Fake::new(2), Instant::now());
    let mut lookup = lookup(&[&first, &second], now);
    let [early, _] = first.both(&mut lookup, now);
    assert!(!lookup.advance(now + SECOND / 2));
    assert_eq!(lookup.deadline(), Some(now + SECOND));
    assert!(!lookup.advance(now + SECOND));
    second.both(&mut lookup, now + SECOND);
    let now = now + 2 * SECOND;
    assert!(!lookup.advance(now));
    let asked = first.both(&mut lookup, now);
    // The second round has more patience; what answers the first one comes too late.
    assert_eq!(lookup.deadline(), Some(now + 2 * SECOND));
    first.send(&early, &early.answer(ANSWER, &[address(NAME, 60, "192.0.2.66")]));
    first.answer(&asked, ANSWER, &[address(NAME, 60, "192.0.2.1")]);
    settle(&mut lookup, now);
    assert_eq!(result(lookup), found(&["192.0.2.1"], 60));
}

#[test]
fn a_lookup_ends_and_says_why() {
    let (first, second, now) = (Fake::new(1), Fake::new(2), Instant::now());
    let mut silence = lookup(&[&first, &second], now);
    let mut time = now;
    while let Some(deadline) = silence.deadline() {
        assert!(deadline > time && deadline <= now + BUDGET);
        time = deadline;
        silence.advance(time);
    }
    assert_eq!(result(silence).unwrap_err(), "no answer from 127.0.0.1, 127.0.0.2");
    let all = 2 * 2 * 3;
    assert!((first.asked().len() + second.asked().len()) <= all);

    let (first, second) = (Fake::new(1), Fake::new(2));
    let mut refusal = lookup(&[&first, &second], now);
    first.both(&mut refusal, now);
    refusal.advance(now + SECOND);
    for asked in second.both(&mut refusal, now + SECOND) {
        second.send(&asked, &asked.answer(ANSWER | 5, &[]));
    }
    // The first one is asked again, the one that refused is not.
    first.both(&mut refusal, now + SECOND);
    assert!(refusal.advance(now + BUDGET));
    assert_eq!(second.asked().len(), 0);
    assert_eq!(
        result(refusal).unwrap_err(),
        "127.0.0.2 does not resolve the name (REFUSED); no answer from 127.0.0.1"
    );
}

#[test]
fn a_name_that_is_not_there_is_not_asked_for_elsewhere() {
    let (first, second, now) = (Fake::new(1), Fake::new(2), Instant::now());
    for (flags, reason) in [(3, "the name does not exist"), (0, "the name has no address")] {
        let mut lookup = lookup(&[&first, &second], now);
        for asked in first.both(&mut lookup, now) {
            first.send(&asked, &asked.answer(ANSWER | flags, &[]));
        }
        settle(&mut lookup, now);
        assert_eq!(second.asked().len(), 0);
        assert_eq!(result(lookup).unwrap_err(), format!("127.0.0.1 says that {reason}"));
    }
    // Each family for its own reason.
    let mut lookup = lookup(&[&first], now);
    first.answer(&first.both(&mut lookup, now), ANSWER | 3, &[]);
    settle(&mut lookup, now);
    assert_eq!(
        result(lookup).unwrap_err(),
        "127.0.0.1 says that the name does not exist (IPv4); \
         127.0.0.1 says that the name has no address (IPv6)"
    );
}

#[test]
fn one_family_does_not_wait_long_for_the_other() {
    let (fake, now) = (Fake::new(1), Instant::now());
    let mut lookup = lookup(&[&fake], now);
    let asked = fake.both(&mut lookup, now);
    fake.answer(&asked[..1], ANSWER, &[address(NAME, 60, "192.0.2.1")]);
    until("answer", &mut lookup, now, &[], |l| l.fds().len() == 1);
    // The other one is asked again, then given up.
    assert!(!lookup.advance(now + SECOND));
    assert_eq!(lookup.deadline(), Some(now + GRACE));
    assert!(lookup.advance(now + GRACE));
    assert_eq!(result(lookup), found(&["192.0.2.1"], 60));
}

#[test]
fn lifetimes_are_kept_within_limits() {
    for (said, kept) in [(0, 60), (59, 60), (3600, 3600), (86401, 86400), (u32::MAX, 60)] {
        let (fake, now) = (Fake::new(1), Instant::now());
        let mut lookup = lookup(&[&fake], now);
        let asked = fake.both(&mut lookup, now);
        fake.answer(&asked, ANSWER, &[address(NAME, said, "192.0.2.1")]);
        settle(&mut lookup, now);
        assert_eq!(result(lookup), found(&["192.0.2.1"], kept), "{said}");
    }
}

#[test]
fn only_so_many_questions_are_on_their_way() {
    let (fake, now) = (Fake::new(1), Instant::now());
    let names: Vec<String> = (0..40).map(|n| format!("n{n}.example")).collect();
    let mut lookup = Lookup::new(&names, &[fake.server()], 0, now);
    assert_eq!(lookup.fds().len(), QUESTIONS_MAX);
    until("end", &mut lookup, now, &[&fake], |lookup| {
        assert!(lookup.fds().len() <= QUESTIONS_MAX);
        for asked in fake.asked() {
            let data: &[u8] = if asked.kind() == A { &[192, 0, 2, 1] } else { &[0x20; 16] };
            let answer = asked.answer(ANSWER, &[record(&[0xc0, 12], asked.kind(), 60, data)]);
            fake.send(&asked, &answer);
        }
        lookup.deadline().is_none()
    });
    let answers = lookup.finish();
    assert!(answers.iter().map(|a| &a.name).eq(&names));
    assert!(answers.iter().all(|a| a.result.as_ref().is_ok_and(|f| f.addrs.len() == 2)));
}

#[test]
fn nobody_to_ask_and_nothing_to_ask_for() {
    let now = Instant::now();
    let fake = Fake::new(1);
    let mut nobody = lookup(&[], now);
    assert!(nobody.advance(now) && nobody.deadline().is_none());
    assert_eq!(result(nobody).unwrap_err(), "there is no server to ask");
    let names = ["a..b".to_owned(), String::new()];
    let answers = Lookup::new(&names, &[fake.server()], 0, now).finish();
    assert!(answers.iter().all(|a| a.result.is_err()) && answers.len() == 2);
    assert_eq!(fake.asked().len(), 0);
    assert!(Lookup::new(&[], &[fake.server()], 0, now).finish().is_empty());
}

#[test]
fn a_server_that_cannot_be_asked_is_named_and_passed_over() {
    let (fake, now) = (Fake::new(1), Instant::now());
    // Nobody listens there any more; no such device; a name that is none.
    let gone = Fake::new(2).server();
    let device = |name: &str| Server { device: Some(name.to_owned()), ..fake.server() };
    let bad = [gone, device("none-such"), device(""), device("longer-than-fifteen")];
    for server in &bad {
        let servers = [server.clone(), fake.server()];
        let mut lookup = Lookup::new(&[NAME.to_owned()], &servers, 0, now);
        let asked = fake.both(&mut lookup, now);
        fake.answer(&asked, ANSWER, &[address(NAME, 60, "192.0.2.1")]);
        settle(&mut lookup, now);
        assert_eq!(result(lookup), found(&["192.0.2.1"], 60));
    }
    let mut lookup = Lookup::new(&[NAME.to_owned()], &bad[..2], 0, now);
    settle(&mut lookup, now);
    let reason = result(lookup).unwrap_err();
    assert!(reason.starts_with("127.0.0.2 cannot be asked: Connection refused"), "{reason}");
    assert!(reason.contains("127.0.0.1 cannot be asked: No such device"), "{reason}");
}

#[test]
fn waiting_for_it_all_is_one_call() {
    let fake = Fake::new(1);
    fake.udp.set_nonblocking(false).unwrap();
    fake.udp.set_read_timeout(Some(LATE)).unwrap();
    let server = fake.server();
    let waiting = std::thread::spawn(move || resolve(&[NAME.to_owned()], &[server], 0, LATE));
    let mut buffer = [0; 512];
    for _ in 0..2 {
        let (length, from) = fake.udp.recv_from(&mut buffer).unwrap();
        let asked = parse(&buffer[..length], from);
        let addr = if asked.kind() == A { "192.0.2.1" } else { "2001:db8::1" };
        fake.send(&asked, &asked.answer(ANSWER, &[address(NAME, 60, addr)]));
    }
    let answers = waiting.join().unwrap();
    assert_eq!(answers[0].result, found(&["192.0.2.1", "2001:db8::1"], 60));

    // Nobody answers: the time that was given, not the whole of what a lookup may take.
    let (began, little) = (Instant::now(), Duration::from_millis(50));
    let answers = resolve(&[NAME.to_owned()], &[fake.server()], 0, little);
    assert_eq!(answers[0].result.as_ref().unwrap_err(), "no answer from 127.0.0.1");
    assert!((little..LATE).contains(&began.elapsed()));
}
