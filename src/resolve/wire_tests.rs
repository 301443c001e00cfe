//! What of a message is believed. The messages are put together by hand: what reads them does not
//! write them.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "test code: a wrong index is a failed test"
)]

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

pub const A: u16 = 1;
pub const CNAME: u16 = 5;
pub const AAAA: u16 = 28;
/// An answer of a server that asks others (QR, RD, RA); with an error in its last four bits.
pub const ANSWER: u16 = 0x8180;
pub const TRUNCATED: u16 = 0x0200;
pub const NAME: &str = "vpn.example.net";

pub fn name(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in text.split('.').filter(|l| !l.is_empty()) {
        out.push(label.len() as u8);
        out.extend(label.as_bytes());
    }
    out.push(0);
    out
}

pub fn record(owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    record_of(1, owner, kind, ttl, data)
}

fn record_of(class: u16, owner: &[u8], kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let length = data.len() as u16;
    let fixed = [kind.to_be_bytes(), class.to_be_bytes()].concat();
    [owner, &fixed, &ttl.to_be_bytes(), &length.to_be_bytes(), data].concat()
}

pub fn address(owner: &str, ttl: u32, addr: &str) -> Vec<u8> {
    match addr.parse().unwrap() {
        IpAddr::V4(a) => record(&name(owner), A, ttl, &a.octets()),
        IpAddr::V6(a) => record(&name(owner), AAAA, ttl, &a.octets()),
    }
}

pub fn alias(owner: &str, ttl: u32, target: &str) -> Vec<u8> {
    record(&name(owner), CNAME, ttl, &name(target))
}

/// A message with one question, given as bytes, and answers.
pub fn message(id: u16, flags: u16, question: &[u8], answers: &[Vec<u8>]) -> Vec<u8> {
    let counts = [1, answers.len() as u16, 0, 0].map(u16::to_be_bytes).concat();
    [&id.to_be_bytes(), &flags.to_be_bytes(), &counts[..], question, &answers.concat()].concat()
}

pub fn question(text: &str, kind: u16) -> Vec<u8> {
    [name(text), [kind, 1].map(u16::to_be_bytes).concat()].concat()
}

fn read(answers: &[Vec<u8>]) -> Option<Reply> {
    read_raw(&message(7, ANSWER, &question(NAME, A), answers))
}

fn read_raw(bytes: &[u8]) -> Option<Reply> {
    Question::new(NAME, Kind::A).unwrap().read(7, bytes)
}

fn found(addrs: &[&str], hops: usize, ttl: u32) -> Option<Reply> {
    let addrs = addrs.iter().map(|a| a.parse().unwrap()).collect();
    Some(Reply::Addresses(addrs, Chain { hops, ttl }))
}

#[test]
fn a_question_is_what_the_rfc_says() {
    let asked = Question::new("VPN.example.net.", Kind::Aaaa).unwrap().ask(0x1234).unwrap();
    let header = [0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    assert_eq!(asked, [&header[..], &question("VPN.example.net", AAAA)].concat());
}

#[test]
fn only_names_that_a_host_can_have_are_asked() {
    let long = [["a"; 127].join("."), "a".repeat(63)];
    for good in ["a", "vpn-1.example", "_x.y", "1.2", "a.", &long[0], &long[1]] {
        let asked = Question::new(good, Kind::A).and_then(|q| q.ask(0));
        assert_eq!(asked.unwrap()[12..], question(good, A), "{good}");
    }
    let long = [["a"; 128].join("."), "a".repeat(64)];
    for bad in [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a b",
        "a\\046b",
        "a\"",
        "é.example",
        "a\n",
        &long[0],
        &long[1],
    ] {
        assert!(Question::new(bad, Kind::A).is_none(), "{bad:?}");
    }
}

#[test]
fn addresses_of_the_name_are_found() {
    let both = [address(NAME, 300, "192.0.2.1"), address(NAME, 200, "192.0.2.2")];
    assert_eq!(read(&both), found(&["192.0.2.1", "192.0.2.2"], 0, 200));
    // Names are the same in any case, and as a reference to the question.
    assert_eq!(read(&[address("vPn.ExAmPlE.net", 5, "10.0.0.1")]), found(&["10.0.0.1"], 0, 5));
    let reference = record(&[0xc0, 12], A, 6, &[192, 168, 1, 1]);
    assert_eq!(read(&[reference]), found(&["192.168.1.1"], 0, 6));
    let shouted = message(7, ANSWER, &question("VPN.EXAMPLE.NET", A), &both);
    assert_eq!(read_raw(&shouted), read(&both));

    let six = Question::new(NAME, Kind::Aaaa).unwrap();
    let answers = [address(NAME, 60, "2001:db8::1"), address(NAME, 60, "fd00::1")];
    let answer = six.read(7, &message(7, ANSWER, &question(NAME, AAAA), &answers));
    assert_eq!(answer, found(&["2001:db8::1", "fd00::1"], 0, 60));
}

#[test]
fn aliases_are_followed_in_any_order() {
    let chain = [
        address("c.example", 900, "192.0.2.3"),
        alias("b.example", 100, "c.example"),
        alias(NAME, 500, "b.example"),
    ];
    assert_eq!(read(&chain), found(&["192.0.2.3"], 2, 100));
    let next = Box::new(Question::new("c.example", Kind::A).unwrap());
    assert_eq!(read(&chain[1..]), Some(Reply::Alias(next, Chain { hops: 2, ttl: 100 })));
    // Round and round, but not for ever.
    let around = [alias(NAME, 5, "b.example"), alias("b.example", 4, NAME)];
    assert!(matches!(read(&around), Some(Reply::Alias(_, Chain { hops: HOPS_MAX, ttl: 4 }))));
}

#[test]
fn records_that_do_not_belong_to_the_chain_are_not_used() {
    let others = [
        address("other.example", 60, "192.0.2.66"),
        address("net", 60, "192.0.2.66"),
        address("x.vpn.example.net", 60, "192.0.2.66"),
        address(NAME, 60, "2001:db8::66"),
        record_of(3, &name(NAME), A, 60, &[192, 0, 2, 66]),
        record_of(0x8001, &name(NAME), A, 60, &[192, 0, 2, 66]),
        alias("other.example", 60, NAME),
        record(&name(NAME), 16, 60, b"\x03txt"),
    ];
    assert_eq!(read(&others), Some(Reply::NoAddress));
    let mut all = others.to_vec();
    all.push(address(NAME, 60, "192.0.2.1"));
    assert_eq!(read(&all), found(&["192.0.2.1"], 0, 60));
    // What stands in the other sections counts for nothing.
    let mut elsewhere = message(7, ANSWER, &question(NAME, A), &all);
    elsewhere[7] = 0;
    elsewhere[11] = 9;
    assert_eq!(read_raw(&elsewhere), Some(Reply::NoAddress));
}

#[test]
fn an_answer_to_something_else_is_none() {
    let good = message(7, ANSWER, &question(NAME, A), &[address(NAME, 60, "192.0.2.1")]);
    assert!(read_raw(&good).is_some());
    let with = |at: usize, byte: u8| {
        let mut message = good.clone();
        message[at] = byte;
        read_raw(&message)
    };
    assert_eq!(with(1, 8), None, "another id");
    assert_eq!(with(2, 0x01), None, "a question, not an answer");
    assert_eq!(with(2, 0x91), None, "another operation");
    assert_eq!(with(5, 0), None, "no question");
    assert_eq!(with(5, 2), None, "two questions");
    let another = |question: &[u8]| {
        read_raw(&message(7, ANSWER, question, &[address(NAME, 60, "192.0.2.1")]))
    };
    assert_eq!(another(&question("vpm.example.net", A)), None);
    assert_eq!(another(&question("vpn.example.ne", A)), None);
    assert_eq!(another(&question("a.vpn.example.net", A)), None);
    assert_eq!(another(&question(NAME, AAAA)), None);
    assert_eq!(another(&[name(NAME), vec![0, 1, 0, 3]].concat()), None, "another class");
}

#[test]
fn damaged_messages_are_none() {
    let good = message(7, ANSWER, &question(NAME, A), &[address(NAME, 60, "192.0.2.1")]);
    for length in 0..good.len() {
        assert_eq!(read_raw(&good[..length]), None, "cut to {length} bytes");
    }
    // Addresses of three and five bytes; a name that refers to itself; one that never ends.
    for data in [&[192, 0, 2][..], &[192, 0, 2, 1, 1]] {
        assert_eq!(read(&[record(&name(NAME), A, 60, data)]), None);
    }
    let here = (message(7, ANSWER, &question(NAME, A), &[]).len()) as u8;
    assert_eq!(read(&[record(&[0xc0, here], A, 60, &[192, 0, 2, 1])]), None);
    assert_eq!(read(&[record(&[0x41, 0], A, 60, &[192, 0, 2, 1])]), None);
    assert_eq!(read(&[alias(NAME, 60, &["a"; 128].join("."))]), None);
}

#[test]
fn what_the_server_says_of_the_question() {
    let code = |flags| read_raw(&message(7, flags, &question(NAME, A), &[]));
    assert_eq!(code(ANSWER), Some(Reply::NoAddress));
    assert_eq!(code(ANSWER | 3), Some(Reply::NoName));
    assert_eq!(code(ANSWER | 2), Some(Reply::Unwilling("SERVFAIL")));
    assert_eq!(code(ANSWER | 5), Some(Reply::Unwilling("REFUSED")));
    assert_eq!(code(ANSWER | 9), Some(Reply::Unwilling("an error")));
    assert_eq!(code(ANSWER | TRUNCATED), Some(Reply::Truncated));
    // Neither asks others (RA) nor knows itself (AA); then one that does know.
    assert_eq!(code(0x8100), Some(Reply::Unwilling("no recursion")));
    assert_eq!(code(0x8500), Some(Reply::NoAddress));
}

#[test]
fn addresses_that_no_endpoint_can_have_are_left_out() {
    let bad = [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.9.9.9",
        "169.254.1.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
    ];
    let records = |addrs: &[&str]| addrs.iter().map(|a| address(NAME, 60, a)).collect::<Vec<_>>();
    assert_eq!(read(&records(&bad)), Some(Reply::Unusable));
    let one = [&bad[..], &["100.64.0.1"]].concat();
    assert_eq!(read(&records(&one)), found(&["100.64.0.1"], 0, 60));

    let bad = ["::", "::1", "::192.0.2.1", "::ffff:192.0.2.1", "fe80::1", "febf::1", "ff02::1"];
    let six = Question::new(NAME, Kind::Aaaa).unwrap();
    let answer = six.read(7, &message(7, ANSWER, &question(NAME, AAAA), &records(&bad)));
    assert_eq!(answer, Some(Reply::Unusable));
}

#[test]
fn lifetimes_and_numbers_are_bounded() {
    // RFC 2181, section 8: what would be negative is nothing.
    assert_eq!(read(&[address(NAME, 1 << 31, "192.0.2.1")]), found(&["192.0.2.1"], 0, 0));
    let many: Vec<_> = (0..2000u32)
        .map(|n| record(&[0xc0, 12], A, 60, &(0xc633_6400 + n).to_be_bytes()))
        .collect();
    let Some(Reply::Addresses(addrs, _)) = read(&many) else { panic!("no addresses") };
    assert_eq!(addrs.len(), ADDRS_MAX);
    let twice = vec![address(NAME, 60, "192.0.2.1"); 5];
    assert_eq!(read(&twice), found(&["192.0.2.1"], 0, 60));
}

/// A record of the model: one of few owners, so that they meet.
#[derive(Clone, Debug)]
struct Fact {
    owner: usize,
    class: u16,
    ttl: u32,
    data: Data,
}

#[derive(Clone, Debug)]
enum Data {
    Four(u8),
    Six(u8),
    Alias(usize),
}

const OWNERS: [&str; 4] = [NAME, "b.example", "c.example", "net"];

fn facts() -> impl Strategy<Value = Vec<Fact>> {
    let data = prop_oneof![
        any::<u8>().prop_map(Data::Four),
        any::<u8>().prop_map(Data::Six),
        (0..OWNERS.len()).prop_map(Data::Alias),
    ];
    let class = prop_oneof![9 => Just(1), 1 => Just(3)];
    let fact = (0..OWNERS.len(), class, 0..900u32, data)
        .prop_map(|(owner, class, ttl, data)| Fact { owner, class, ttl, data });
    proptest::collection::vec(fact, 0..12)
}

impl Fact {
    fn bytes(&self) -> Vec<u8> {
        let (kind, data) = match self.data {
            Data::Four(last) => (A, vec![192, 0, 2, last]),
            Data::Six(last) => {
                (AAAA, Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).octets().to_vec())
            }
            Data::Alias(target) => (CNAME, name(OWNERS[target])),
        };
        record_of(self.class, &name(OWNERS[self.owner]), kind, self.ttl, &data)
    }
}

/// What the facts say of the first owner: addresses, or the owner at which they end.
fn model(facts: &[Fact]) -> Result<Vec<IpAddr>, usize> {
    let mut owner = 0;
    for _ in 0..=HOPS_MAX {
        let of = |f: &&Fact| f.owner == owner && f.class == 1;
        let mut addrs: Vec<IpAddr> = Vec::new();
        for fact in facts.iter().filter(of) {
            if let Data::Four(last) = fact.data {
                let addr = Ipv4Addr::new(192, 0, 2, last).into();
                if !addrs.contains(&addr) {
                    addrs.push(addr);
                }
            }
        }
        if !addrs.is_empty() {
            return Ok(addrs);
        }
        let next = facts.iter().filter(of).find_map(|f| match f.data {
            Data::Alias(target) => Some(target),
            _ => None,
        });
        let Some(next) = next else { return Err(owner) };
        owner = next;
    }
    Err(usize::MAX)
}

/// A change to a message: bytes overwritten, taken out, put in, or the rest cut off.
fn mutate(bytes: &mut Vec<u8>, (what, at, byte): (u8, usize, u8)) {
    let at = at % bytes.len().max(1);
    match what {
        _ if bytes.is_empty() => {}
        0 => bytes.truncate(at),
        1 => drop(bytes.remove(at)),
        2 => bytes.insert(at, byte),
        3 => bytes[at] = [0, 1, 12, 0x3f, 0x40, 0x80, 0xc0, 0xff][usize::from(byte) % 8],
        _ => bytes[at] = byte,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        read_raw(&bytes);
    }

    #[test]
    fn what_is_read_is_what_the_records_say(facts in facts()) {
        let records: Vec<_> = facts.iter().map(Fact::bytes).collect();
        let reply = read(&records).unwrap();
        match (model(&facts), reply) {
            (Ok(expected), Reply::Addresses(addrs, _)) => prop_assert_eq!(addrs, expected),
            (Err(0), Reply::NoAddress | Reply::Alias(..)) => {}
            (Err(end), Reply::Alias(question, chain)) => prop_assert!(
                end == usize::MAX && chain.hops == HOPS_MAX
                    || *question == Question::new(OWNERS[end], Kind::A).unwrap()
            ),
            (expected, reply) => prop_assert!(false, "{:?}, but read {:?}", expected, reply),
        }
    }

    /// Whatever is done to an answer: what still gives addresses is one to our question, and the
    /// addresses are in it.
    #[test]
    fn no_damage_makes_something_else_an_answer(
        facts in facts(),
        changes in proptest::collection::vec((0..8u8, any::<usize>(), any::<u8>()), 1..6),
    ) {
        let records: Vec<_> = facts.iter().map(Fact::bytes).collect();
        let mut bytes = message(7, ANSWER, &question(NAME, A), &records);
        changes.into_iter().for_each(|change| mutate(&mut bytes, change));
        let Some(reply) = read_raw(&bytes) else { return Ok(()) };
        prop_assert_eq!(&bytes[..2], [0, 7]);
        prop_assert_eq!(bytes[2] & 0xf8, 0x80);
        prop_assert_eq!(&bytes[4..6], [0, 1]);
        let asked = question(NAME, A);
        prop_assert!(bytes[12..12 + asked.len()].eq_ignore_ascii_case(&asked));
        if let Reply::Addresses(addrs, chain) = reply {
            prop_assert!((1..=ADDRS_MAX).contains(&addrs.len()) && chain.hops <= HOPS_MAX);
            for addr in addrs {
                let IpAddr::V4(four) = addr else { panic!("IPv6 in an answer about IPv4") };
                prop_assert!(is_usable(addr));
                prop_assert!(bytes.windows(4).any(|w| w == four.octets()));
            }
        }
    }
}
