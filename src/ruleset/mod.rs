//! The rule model: chains, rules with an identity and a guarantee, matches, actions and verdicts.
//!
//! Plain data. [`build`](build::build) is the only place where order and security live;
//! [`eval`](eval::eval) says what the model does to a packet; the backends translate it. Nothing in
//! here does input or output.

pub mod build;
pub mod eval;
mod set;

use std::fmt;

pub use build::build;
pub use set::{Content, Key, KeyType, Set};

use crate::types::{DevicePattern, Family, Net};

/// The table's name in every backend that has tables.
pub const TABLE: &str = "vpn_killswitch";

/// The guarantees of docs/guarantees.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Guarantee {
    /// Forwarding.
    G1,
    /// The router itself.
    G2,
    /// Names.
    G3,
    /// Only the user opens it.
    G8,
    /// Inbound.
    G9,
    /// Never locks the owner out.
    G10,
    /// Honest: counting, recording, logging.
    G11,
}

impl fmt::Display for Guarantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not by Debug: routers' builds have no such texts.
        f.write_str(match self {
            Self::G1 => "G1",
            Self::G2 => "G2",
            Self::G3 => "G3",
            Self::G8 => "G8",
            Self::G9 => "G9",
            Self::G10 => "G10",
            Self::G11 => "G11",
        })
    }
}

/// Everything that is to be in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// Sets that rules refer to, by name.
    pub sets: Vec<Set>,
    /// Base chains; the model has no others, so that reading one chain is reading the truth.
    pub chains: Vec<Chain>,
}

impl Ruleset {
    /// The set called `name`.
    pub fn set(&self, name: &str) -> Option<&Set> {
        self.sets.iter().find(|s| s.name == name)
    }

    /// All rules in order, with their chains.
    pub fn rules(&self) -> impl Iterator<Item = (&Chain, &Rule)> {
        self.chains.iter().flat_map(|c| c.rules.iter().map(move |r| (c, r)))
    }
}

/// Where a chain is attached (`enum nf_inet_hooks`, linux/netfilter.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Packets that arrive, before routing.
    Prerouting,
    /// Packets that are routed through.
    Forward,
    /// Packets that leave, the router's own and those that it forwards. Behind every rerouting: in the
    /// output hook the kernel still names the device of the first routing decision, which a mark or a
    /// DNAT there may have changed.
    Postrouting,
}

/// A base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: &'static str,
    /// Where it is attached.
    pub hook: Hook,
    /// Its place among the chains of that hook; lower comes first.
    pub priority: i32,
    /// Whether a packet that no rule decided is dropped.
    pub drop_by_default: bool,
    /// The rules, in order.
    pub rules: Vec<Rule>,
}

/// A rule: when all matches hold, the actions are done and the verdict, if any, is final for the
/// chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Unique name; also the name of the counter that the rule increments.
    pub id: String,
    /// The guarantee that it serves.
    pub guarantee: Guarantee,
    /// What it does, for people who read the kernel's listing.
    pub comment: String,
    /// Conditions, all of which must hold.
    pub matches: Vec<Match>,
    /// What is done before the verdict.
    pub actions: Vec<Action>,
    /// The decision; without one the next rule is asked.
    pub verdict: Option<Verdict>,
    /// Whether leaving the rule out could never let a packet pass that would not pass with it: a
    /// kernel that cannot do it (no logging, no reject) is protected all the same.
    pub optional: bool,
}

/// One condition on a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// The packet's family.
    Family(Family),
    /// The device it came in by is in the set (or, `false`, is not).
    InDevice(String, bool),
    /// The device it leaves by is in the set.
    OutDevice(String),
    /// It did not come in by the loopback device.
    NotFromLoopback,
    /// It leaves by the loopback device.
    ToLoopback,
    /// Source address in the set.
    SourceIn(Family, String),
    /// Destination address in the set.
    DestIn(Family, String),
    /// The router would send to the source address by such a device.
    SourceVia(DevicePattern),
    /// Source address in a constant network.
    SourceNet(Net),
    /// Destination address in a constant network.
    DestNet(Net),
    /// Source Ethernet address in the set.
    SourceMacIn(String),
    /// Transport protocol.
    Protocol(u8),
    /// Any other transport protocol.
    NotProtocol(u8),
    /// A TCP segment that asks for a connection: SYN, without ACK, FIN and RST.
    TcpSyn,
    /// Source port; the rule also has a [`Match::Protocol`] with ports.
    SourcePort(u16),
    /// Destination port, likewise.
    DestPort(u16),
    /// Destination port in the set, likewise.
    DestPortIn(String),
    /// ICMP type.
    IcmpType(u8),
    /// ICMPv6 type.
    Icmpv6Type(u8),
    /// IPv6 hop limit.
    HopLimit(u8),
    /// The packet's mark under the mask equals the value.
    Mark {
        /// Bits to look at.
        mask: u32,
        /// What they must be.
        value: u32,
    },
    /// User that owns the sending socket.
    SocketUser(u32),
    /// First packet of a connection.
    ConnNew,
    /// Packet of a connection in the direction of its answers.
    ConnReply,
    /// The connection's destination was rewritten: it goes through a port forward.
    ConnDnat,
    /// The connection's mark has the bit.
    ConnMark(u32),
    /// IPsec will encrypt it before it leaves (the kernel's policies and keys, ip-xfrm(8)).
    IntoIpsec,
    /// IPsec will not encrypt it. Asked behind source translation only, which may take a packet out of
    /// what a policy is for.
    NotIntoIpsec,
    /// It did not come out of IPsec.
    NotFromIpsec,
}

/// What a rule does besides deciding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Sets a bit of the packet's mark.
    SetMark(u32),
    /// Clears a bit of the packet's mark.
    ClearMark(u32),
    /// Sets a bit of the connection's mark.
    SetConnMark(u32),
    /// Adds the source address to a set that the kernel fills.
    Record(Family, &'static str),
    /// Ends the rule here unless it is the source address's first packet within a minute, by a set that
    /// the kernel fills. Also when the set is full.
    OnceAMinute(Family, &'static str),
    /// Writes a line to the kernel's log.
    Log {
        /// What the line begins with.
        prefix: &'static str,
        /// Lines a minute at most.
        per_minute: u64,
        /// Lines at once, before the rate counts.
        burst: u32,
    },
}

/// The decision of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This table has no objection; other tables' chains still decide.
    Accept,
    /// Gone, without a word.
    Drop,
    /// Gone, and the sender of a TCP segment gets a reset.
    RejectTcp,
    /// Gone, and the sender gets ICMP "administratively prohibited".
    RejectAdmin,
}

impl Verdict {
    /// Whether the packet lives.
    pub fn passes(self) -> bool {
        self == Self::Accept
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accept => "accept",
            Self::Drop => "drop",
            Self::RejectTcp => "reject (tcp reset)",
            Self::RejectAdmin => "reject (admin-prohibited)",
        })
    }
}
