//! DNS messages: one question as bytes, and what an answer to exactly that question says.
//!
//! Pure. The format is the crate `domain`'s part; which of a message's records may be believed is
//! decided here. An answer that is not one to our question is no answer at all: whoever waits keeps
//! waiting, because it may have been sent by somebody else.

use std::fmt;
use std::net::IpAddr;

use domain::base::iana::{Class, Opcode, Rcode, Rtype};
use domain::base::name::{Name, ParsedName, ToName};
use domain::base::{Message, MessageBuilder};
use domain::dep::octseq::array::Array;
use domain::rdata::{A, Aaaa, Cname};

/// Addresses that are taken of one answer.
pub const ADDRS_MAX: usize = 16;
/// Aliases (CNAME) between a name and its addresses; more are a loop.
pub const HOPS_MAX: usize = 16;
/// Records that are looked at in one answer; it has room for thousands over TCP.
const RECORDS_MAX: usize = 256;
/// A question: header, name, type and class.
const QUESTION_BYTES: usize = 12 + 255 + 4;

/// A name as it is sent.
type HostName = Name<Array<255>>;
type Alias<'a> = Cname<ParsedName<&'a [u8]>>;

/// Which addresses are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4.
    A,
    /// IPv6.
    Aaaa,
}

/// What is asked.
#[derive(Clone)]
pub struct Question {
    name: HostName,
    kind: Kind,
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It does not fit into a datagram; ask by TCP.
    Truncated,
    /// There is no such name.
    NoName,
    /// There is such a name, but it has no address of this kind.
    NoAddress,
    /// All its addresses are some that no host outside can have.
    Unusable,
    /// The server does not answer this question, in its words (`SERVFAIL`, …).
    Unwilling(&'static str),
    /// The name stands for another one, whose addresses are not in the answer.
    Alias(Box<Question>, Chain),
    /// Addresses, at most [`ADDRS_MAX`].
    Addresses(Vec<IpAddr>, Chain),
}

/// How the records that were used hang together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Aliases that were followed.
    pub hops: usize,
    /// The shortest lifetime on the way, in seconds, as the server said it.
    pub ttl: u32,
}

impl Question {
    /// Nothing if `name` is not one that a host can have.
    pub fn new(name: &str, kind: Kind) -> Option<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let name = name.chars().all(plain).then(|| HostName::from_chars(name.chars()).ok())??;
        (!name.is_root()).then_some(Self { name, kind })
    }

    fn rtype(&self) -> Rtype {
        match self.kind {
            Kind::A => Rtype::A,
            Kind::Aaaa => Rtype::AAAA,
        }
    }

    /// The message to send; there is always room for it.
    pub fn ask(&self, id: u16) -> Option<Vec<u8>> {
        let mut message = MessageBuilder::from_target(Array::<QUESTION_BYTES>::new()).ok()?;
        message.header_mut().set_id(id);
        message.header_mut().set_rd(true);
        let mut message = message.question();
        message.push((&self.name, self.rtype(), Class::IN)).ok()?;
        Some(message.finish().as_ref().to_vec())
    }

    /// What the answer `bytes` to the question with this `id` says; nothing if it is none.
    pub fn read(&self, id: u16, bytes: &[u8]) -> Option<Reply> {
        let message = Message::from_slice(bytes).ok()?;
        let header = message.header();
        let asked = message.sole_question().ok()?;
        let ours = header.id() == id
            && header.qr()
            && header.opcode() == Opcode::QUERY
            && asked.qname().name_eq(&self.name)
            && asked.qtype() == self.rtype()
            && asked.qclass() == Class::IN;
        if !ours {
            return None;
        }
        if header.tc() {
            return Some(Reply::Truncated);
        }
        match header.rcode() {
            Rcode::NOERROR => {}
            Rcode::NXDOMAIN => return Some(Reply::NoName),
            Rcode::SERVFAIL => return Some(Reply::Unwilling("SERVFAIL")),
            Rcode::REFUSED => return Some(Reply::Unwilling("REFUSED")),
            Rcode::NOTIMP => return Some(Reply::Unwilling("NOTIMP")),
            Rcode::FORMERR => return Some(Reply::Unwilling("FORMERR")),
            _ => return Some(Reply::Unwilling("an error")),
        }
        let records = Records::read(message, self.kind)?;
        // Of a server that only knows its own zones: it says where else to ask, which we do not.
        if records.is_empty() && !header.aa() && !header.ra() {
            return Some(Reply::Unwilling("no recursion"));
        }
        self.follow(&records)
    }

    /// From the name over its aliases to addresses. Only records that hang on this chain are looked at.
    fn follow(&self, records: &Records<'_>) -> Option<Reply> {
        let mut chain = Chain { hops: 0, ttl: u32::MAX };
        let mut owner: Option<ParsedName<&[u8]>> = None;
        loop {
            let is_owner = |name: &ParsedName<&[u8]>| match &owner {
                Some(owner) => name == owner,
                None => name == &self.name,
            };
            let mut all = records.addrs.iter().filter(|r| is_owner(&r.owner)).peekable();
            if all.peek().is_some() {
                let mut addrs = Vec::new();
                for record in all {
                    if is_usable(record.data) && !addrs.contains(&record.data) {
                        addrs.push(record.data);
                        chain.ttl = chain.ttl.min(record.ttl);
                    }
                }
                addrs.truncate(ADDRS_MAX);
                let none = addrs.is_empty();
                return Some(if none { Reply::Unusable } else { Reply::Addresses(addrs, chain) });
            }
            let alias = records.aliases.iter().find(|r| is_owner(&r.owner));
            let Some(alias) = alias.filter(|_| chain.hops < HOPS_MAX) else { break };
            chain = Chain { hops: chain.hops + 1, ttl: chain.ttl.min(alias.ttl) };
            owner = Some(alias.data);
        }
        let Some(target) = owner else { return Some(Reply::NoAddress) };
        let name = target.try_to_name().ok()?;
        Some(Reply::Alias(Box::new(Self { name, kind: self.kind }), chain))
    }
}

impl PartialEq for Question {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.kind == other.kind
    }
}

impl Eq for Question {}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.name, self.kind)
    }
}

struct Record<'a, T> {
    owner: ParsedName<&'a [u8]>,
    ttl: u32,
    data: T,
}

/// What an answer section holds of the types that matter.
struct Records<'a> {
    addrs: Vec<Record<'a, IpAddr>>,
    aliases: Vec<Record<'a, ParsedName<&'a [u8]>>>,
}

impl<'a> Records<'a> {
    fn is_empty(&self) -> bool {
        self.addrs.is_empty() && self.aliases.is_empty()
    }

    /// Nothing if a record is damaged: then nothing else in the message is to be believed either.
    fn read(message: &'a Message<[u8]>, kind: Kind) -> Option<Self> {
        let mut out = Self { addrs: Vec::new(), aliases: Vec::new() };
        for record in message.answer().ok()?.take(RECORDS_MAX) {
            let record = record.ok()?;
            if record.class() != Class::IN {
                continue;
            }
            // A lifetime with the highest bit is none (RFC 2181, section 8).
            let ttl = record.ttl().as_secs();
            let ttl = if ttl > i32::MAX.unsigned_abs() { 0 } else { ttl };
            let owner = record.owner();
            if let Some(alias) = record.to_record::<Alias<'_>>().ok()? {
                out.aliases.push(Record { owner, ttl, data: alias.into_data().into_cname() });
                continue;
            }
            let addr = match kind {
                Kind::A => record.to_record::<A>().ok()?.map(|r| r.data().addr().into()),
                Kind::Aaaa => record.to_record::<Aaaa>().ok()?.map(|r| r.data().addr().into()),
            };
            out.addrs.extend(addr.map(|data| Record { owner, ttl, data }));
        }
        Some(out)
    }
}

/// Whether an endpoint can have this address. Private ones are fine: a tunnel's other end may be in the
/// same house, or behind the provider's translation.
fn is_usable(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => {
            let [first, ..] = addr.octets();
            // "This network", and from multicast to broadcast.
            first != 0 && first < 224 && !addr.is_loopback() && !addr.is_link_local()
        }
        IpAddr::V6(addr) => {
            let [a, b, c, d, e, ..] = addr.segments();
            // Unspecified, loopback, and what holds an IPv4 address (::/96, ::ffff:0:0/96).
            let holds_ipv4 = [a, b, c, d, e] == [0; 5];
            !holds_ipv4 && !addr.is_multicast() && !addr.is_unicast_link_local()
        }
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
pub mod tests;
