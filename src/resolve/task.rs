//! One question until it is settled: which server is asked when, how, and what became of it.
//!
//! Nothing here waits. A damaged, foreign or guessed answer changes nothing but a count.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::wire::{Chain, HOPS_MAX, Question, Reply};
use super::{Server, socket};

/// How long one server may take, by the number of the round in which it is asked.
const PATIENCE: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// The same of a connection, whose packets the kernel repeats.
const PATIENCE_TCP: Duration = Duration::from_secs(4);
/// Without an announcement of more (EDNS), which we do not make, 512 bytes are what a server may send;
/// what is longer than this is no answer.
const DATAGRAM_MAX: usize = 4096;
/// Over TCP a message may have 64 KiB, which no honest list of addresses has.
const MESSAGE_MAX: usize = 16 << 10;
/// After so many datagrams that are no answer somebody is guessing: a connection cannot be guessed into.
const WRONG_MAX: usize = 16;

/// What all questions of a lookup share.
pub struct Shared {
    pub servers: Vec<Server>,
    pub mark: u32,
}

/// One question.
pub struct Task {
    question: Question,
    chain: Chain,
    /// The turn: the round and the server in it.
    turn: (usize, usize),
    /// By server: what it did so far.
    standing: Vec<Standing>,
    end: Instant,
    state: State,
}

/// Addresses and how long they hold, in seconds.
pub type Outcome = Result<(Vec<IpAddr>, u32), String>;

enum State {
    /// Nobody was asked yet.
    Waiting,
    Asking(Asking),
    Settled(Outcome),
}

struct Asking {
    id: u16,
    via: Via,
    until: Instant,
    wrong: usize,
}

enum Via {
    Udp(UdpSocket),
    Tcp { stream: TcpStream, unsent: Vec<u8>, reply: Vec<u8> },
}

#[derive(Clone)]
enum Standing {
    Unasked,
    Silent,
    /// May be tried again.
    Failed(String),
    /// Has answered, but not what was asked.
    Answered(String),
}

/// What came.
enum Event {
    Nothing,
    Reply(Reply),
    Guessed,
    Failed(io::Error),
}

impl Task {
    pub fn new(question: Question, servers: usize, end: Instant) -> Self {
        let standing = vec![Standing::Unasked; servers];
        let chain = Chain { hops: 0, ttl: u32::MAX };
        Self { question, chain, turn: (0, 0), standing, end, state: State::Waiting }
    }

    pub fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting)
    }

    pub fn outcome(&self) -> Option<&Outcome> {
        if let State::Settled(outcome) = &self.state { Some(outcome) } else { None }
    }

    /// What to wait for, with the events of poll(2).
    pub fn fd(&self) -> Option<(BorrowedFd<'_>, libc::c_short)> {
        let State::Asking(asking) = &self.state else { return None };
        Some(match &asking.via {
            Via::Udp(socket) => (socket.as_fd(), libc::POLLIN),
            Via::Tcp { stream, unsent, .. } if unsent.is_empty() => (stream.as_fd(), libc::POLLIN),
            Via::Tcp { stream, .. } => (stream.as_fd(), libc::POLLOUT),
        })
    }

    /// When to look without an event.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Waiting => Some(self.end),
            State::Asking(asking) => Some(asking.until.min(self.end)),
            State::Settled(_) => None,
        }
    }

    /// Gives up earlier than planned.
    pub fn hurry(&mut self, end: Instant) {
        self.end = self.end.min(end);
    }

    /// Asks the first server.
    pub fn start(&mut self, shared: &Shared, now: Instant) {
        self.ask_from(self.turn, shared, now);
    }

    /// What became of it. What is still on its way has failed.
    pub fn finish(self, shared: &Shared) -> Outcome {
        let reason = self.reason(shared);
        if let State::Settled(outcome) = self.state { outcome } else { Err(reason) }
    }

    /// Takes what has come, and goes on when it is time.
    pub fn advance(&mut self, shared: &Shared, now: Instant) {
        while let State::Asking(asking) = &mut self.state {
            let turn = self.turn;
            let Some(server) = shared.servers.get(turn.1) else { break };
            match asking.receive(&self.question, server) {
                Event::Nothing if now < asking.until && now < self.end => return,
                Event::Nothing => self.ask_from((turn.0, turn.1 + 1), shared, now),
                Event::Guessed => self.ask_by_tcp(shared, now),
                Event::Reply(reply) => self.take(reply, shared, now),
                Event::Failed(e) => {
                    self.note(turn.1, Standing::Failed(cannot_ask(server, &e)));
                    self.ask_from((turn.0, turn.1 + 1), shared, now);
                }
            }
        }
        if now >= self.end && self.outcome().is_none() {
            self.settle(Err(self.reason(shared)));
        }
    }

    fn take(&mut self, reply: Reply, shared: &Shared, now: Instant) {
        let (round, server) = self.turn;
        let who = shared.servers.get(server).map(|s| s.addr.ip().to_string()).unwrap_or_default();
        let words = match reply {
            Reply::Truncated => return self.ask_by_tcp(shared, now),
            Reply::Addresses(addrs, chain) => {
                return self.settle(Ok((addrs, self.chain.ttl.min(chain.ttl))));
            }
            Reply::Alias(question, chain) if self.chain.hops + chain.hops < HOPS_MAX => {
                self.chain.hops += chain.hops;
                self.chain.ttl = self.chain.ttl.min(chain.ttl);
                self.question = *question;
                return self.ask_from((round, server), shared, now);
            }
            Reply::Alias(..) => {
                return self
                    .settle(Err(format!("{who} says that the name stands for too many others")));
            }
            Reply::NoName => {
                return self.settle(Err(format!("{who} says that the name does not exist")));
            }
            Reply::NoAddress => {
                return self.settle(Err(format!("{who} says that the name has no address")));
            }
            Reply::Unusable => format!("{who} gives no address that an endpoint can have"),
            Reply::Unwilling(word) => format!("{who} does not resolve the name ({word})"),
        };
        self.note(server, Standing::Answered(words));
        self.ask_from((round, server + 1), shared, now);
    }

    /// Asks the first server that can be asked, from this turn on.
    fn ask_from(&mut self, from: (usize, usize), shared: &Shared, now: Instant) {
        let rounds = PATIENCE.iter().enumerate();
        let turns = rounds.flat_map(|(round, patience)| {
            let servers = shared.servers.iter().enumerate();
            servers.map(move |(number, server)| ((round, number), server, *patience))
        });
        for (turn, server, patience) in turns.filter(|(turn, ..)| *turn >= from) {
            // Within the same turn an answer may have led to another question.
            let answered = matches!(self.standing.get(turn.1), Some(Standing::Answered(_)));
            if now >= self.end || answered {
                continue;
            }
            self.turn = turn;
            match self.send(server, shared.mark) {
                Ok((id, socket)) => {
                    self.note(turn.1, Standing::Silent);
                    let via = Via::Udp(socket);
                    let until = now + patience;
                    self.state = State::Asking(Asking { id, via, until, wrong: 0 });
                    return;
                }
                Err(e) => self.note(turn.1, Standing::Failed(cannot_ask(server, &e))),
            }
        }
        self.settle(Err(self.reason(shared)));
    }

    fn send(&self, server: &Server, mark: u32) -> io::Result<(u16, UdpSocket)> {
        let id = socket::random()?;
        let message = self.question.ask(id).ok_or(ErrorKind::InvalidInput)?;
        let socket = socket::udp(server, mark)?;
        socket.send(&message)?;
        Ok((id, socket))
    }

    /// Asks the same server once more.
    fn ask_by_tcp(&mut self, shared: &Shared, now: Instant) {
        let (round, number) = self.turn;
        let Some(server) = shared.servers.get(number) else { return };
        match self.connect(server, shared.mark) {
            Ok((id, via)) => {
                let until = now + PATIENCE_TCP;
                self.state = State::Asking(Asking { id, via, until, wrong: 0 });
            }
            Err(e) => {
                self.note(number, Standing::Failed(cannot_ask(server, &e)));
                self.ask_from((round, number + 1), shared, now);
            }
        }
    }

    fn connect(&self, server: &Server, mark: u32) -> io::Result<(u16, Via)> {
        let id = socket::random()?;
        let message = self.question.ask(id).ok_or(ErrorKind::InvalidInput)?;
        let length = u16::try_from(message.len()).map_err(io::Error::other)?;
        let unsent = [&length.to_be_bytes(), message.as_slice()].concat();
        Ok((id, Via::Tcp { stream: socket::tcp(server, mark)?, unsent, reply: Vec::new() }))
    }

    fn note(&mut self, server: usize, standing: Standing) {
        if let Some(slot) = self.standing.get_mut(server) {
            *slot = standing;
        }
    }

    fn settle(&mut self, outcome: Outcome) {
        self.state = State::Settled(outcome);
    }

    /// Why there is no address, for a person.
    fn reason(&self, shared: &Shared) -> String {
        let (mut silent, mut words) = (Vec::new(), Vec::new());
        for (server, standing) in shared.servers.iter().zip(&self.standing) {
            match standing {
                Standing::Unasked => {}
                Standing::Silent => silent.push(server.addr.ip().to_string()),
                Standing::Failed(why) | Standing::Answered(why) => words.push(why.clone()),
            }
        }
        if !silent.is_empty() {
            words.push(format!("no answer from {}", silent.join(", ")));
        }
        if words.is_empty() { "there was no time to ask".to_owned() } else { words.join("; ") }
    }
}

fn cannot_ask(server: &Server, error: &io::Error) -> String {
    format!("{} cannot be asked: {error}", server.addr.ip())
}

impl Asking {
    fn receive(&mut self, question: &Question, server: &Server) -> Event {
        let id = self.id;
        match &mut self.via {
            Via::Udp(socket) => {
                let mut buffer = [0; DATAGRAM_MAX + 1];
                while self.wrong < WRONG_MAX {
                    let (length, from) = match socket.recv_from(&mut buffer) {
                        Ok(received) => received,
                        Err(e) => return nothing_or(e),
                    };
                    // A connected socket hears only its server, but before it was connected it heard all.
                    let heard = from.ip() == server.addr.ip() && from.port() == server.addr.port();
                    let message = buffer.get(..length).filter(|m| heard && m.len() <= DATAGRAM_MAX);
                    if let Some(reply) = message.and_then(|m| question.read(id, m)) {
                        return Event::Reply(reply);
                    }
                    self.wrong += 1;
                }
                Event::Guessed
            }
            Via::Tcp { stream, unsent, reply } => match exchange(stream, unsent, reply) {
                // Nobody else can speak here, so a wrong answer is the server's own.
                Ok(message) => question
                    .read(id, message)
                    .filter(|reply| *reply != Reply::Truncated)
                    .map_or_else(|| Event::Failed(damaged()), Event::Reply),
                Err(e) => nothing_or(e),
            },
        }
    }
}

/// Sends what is left of the question, then reads until the answer is whole (RFC 1035, section 4.2.2).
fn exchange<'a>(
    stream: &mut TcpStream,
    unsent: &mut Vec<u8>,
    reply: &'a mut Vec<u8>,
) -> io::Result<&'a [u8]> {
    while !unsent.is_empty() {
        let sent = stream.write(unsent)?;
        unsent.drain(..sent.min(unsent.len()));
    }
    loop {
        let wanted = match reply.first_chunk() {
            None => 2,
            Some(length) => 2 + usize::from(u16::from_be_bytes(*length)),
        };
        if wanted > MESSAGE_MAX {
            return Err(damaged());
        }
        let have = reply.len();
        if have == wanted && wanted > 2 {
            return Ok(reply.get(2..).unwrap_or_default());
        }
        if have == wanted {
            return Err(damaged());
        }
        reply.resize(wanted, 0);
        let got = stream.read(reply.get_mut(have..).unwrap_or_default());
        reply.truncate(have + got.as_ref().ok().copied().unwrap_or(0));
        if got? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
}

fn nothing_or(error: io::Error) -> Event {
    match error.kind() {
        // A connection that is on its way is "not connected" on some kernels.
        ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotConnected => Event::Nothing,
        _ => Event::Failed(error),
    }
}

fn damaged() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "what it sends is no answer")
}
