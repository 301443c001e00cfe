//! `eval`: what the model does to a packet, with the rules that the packet met.
//!
//! Pure. It is held to the kernel by a differential test; `explain` and the property tests stand on
//! it. It knows the model only, not any backend.

use std::net::IpAddr;

use super::{Action, Chain, Hook, Key, Match, Rule, Ruleset, Verdict};
use crate::types::{Family, Mac, left_aligned};

/// Where a packet goes through the router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    /// Routed through, from one device to another.
    Forward {
        /// Device that it came in by.
        from: String,
        /// Device that it leaves by.
        to: String,
    },
    /// For the router itself.
    Input {
        /// Device that it came in by.
        from: String,
    },
    /// Sent by the router itself.
    Output {
        /// Device that it leaves by.
        to: String,
    },
}

/// A packet as the rules see it. Where a protocol has no ports they are 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its way through the router.
    pub path: Path,
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family, as behind DNAT.
    pub dest: IpAddr,
    /// Transport protocol's number.
    pub proto: u8,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub dest_port: u16,
    /// ICMP or ICMPv6 type, when `proto` is 1 or 58.
    pub icmp_type: u8,
    /// Whether it is a TCP segment that asks for a connection.
    pub tcp_syn: bool,
    /// IPv6 hop limit.
    pub hop_limit: u8,
    /// Source Ethernet address, on packets that come in.
    pub source_mac: Option<Mac>,
    /// The device by which the router would send to the source address, on packets that come in.
    pub source_via: Option<String>,
    /// The packet's mark as it arrives, or as its socket set it.
    pub mark: u32,
    /// User that owns the socket, on packets that the router sends.
    pub uid: Option<u32>,
    /// Whether it is the first packet of its connection.
    pub conn_new: bool,
    /// Whether it goes in the direction of the answers.
    pub conn_reply: bool,
    /// Whether its connection goes through a port forward (DNAT).
    pub conn_dnat: bool,
    /// Its connection's mark.
    pub conn_mark: u32,
    /// Whether IPsec will encrypt it.
    pub into_ipsec: bool,
    /// Whether translation of its source (SNAT) takes it out of that again.
    pub snat_out_of_ipsec: bool,
    /// Whether it came out of IPsec.
    pub from_ipsec: bool,
}

/// A rule that matched.
#[derive(Clone, Debug)]
pub struct Step<'a> {
    /// Its chain.
    pub chain: &'a Chain,
    /// The rule.
    pub rule: &'a Rule,
}

/// What happened to a packet.
#[derive(Clone, Debug)]
pub struct Trace<'a> {
    /// The rules that matched, in order; the last one decided, unless a chain's default did.
    pub steps: Vec<Step<'a>>,
    /// The decision.
    pub verdict: Verdict,
    /// The packet's mark behind all chains.
    pub mark: u32,
    /// The connection's mark behind all chains.
    pub conn_mark: u32,
}

impl Trace<'_> {
    /// The rule that decided, if a rule did.
    pub fn deciding(&self) -> Option<&Rule> {
        self.steps.last().map(|s| s.rule).filter(|r| r.verdict == Some(self.verdict))
    }
}

/// Runs `packet` through the chains that are on its way.
pub fn eval<'a>(ruleset: &'a Ruleset, packet: &Packet) -> Trace<'a> {
    let hooks: &[Hook] = match packet.path {
        Path::Forward { .. } => &[Hook::Prerouting, Hook::Forward, Hook::Postrouting],
        Path::Input { .. } => &[Hook::Prerouting],
        Path::Output { .. } => &[Hook::Postrouting],
    };
    let mut packet = packet.clone();
    let mut steps = Vec::new();
    let mut verdict = Verdict::Accept;
    'hooks: for hook in hooks {
        let mut chains: Vec<_> = ruleset.chains.iter().filter(|c| c.hook == *hook).collect();
        chains.sort_by_key(|c| c.priority);
        for chain in chains {
            verdict = run(ruleset, chain, &mut packet, &mut steps);
            if !verdict.passes() {
                break 'hooks;
            }
        }
    }
    Trace { steps, verdict, mark: packet.mark, conn_mark: packet.conn_mark }
}

fn run<'a>(
    ruleset: &Ruleset,
    chain: &'a Chain,
    packet: &mut Packet,
    steps: &mut Vec<Step<'a>>,
) -> Verdict {
    for rule in &chain.rules {
        if !rule.matches.iter().all(|m| holds(ruleset, m, packet)) {
            continue;
        }
        steps.push(Step { chain, rule });
        for action in &rule.actions {
            match action {
                Action::SetMark(bit) => packet.mark |= bit,
                Action::ClearMark(bit) => packet.mark &= !bit,
                Action::SetConnMark(bit) => packet.conn_mark |= bit,
                Action::Record(..) | Action::OnceAMinute(..) | Action::Log { .. } => {}
            }
        }
        if let Some(verdict) = rule.verdict {
            return verdict;
        }
    }
    if chain.drop_by_default { Verdict::Drop } else { Verdict::Accept }
}

/// Whether one condition holds. What the packet does not have (an output packet's incoming device, a
/// set that does not exist) never matches a positive condition, as in the kernel.
fn holds(ruleset: &Ruleset, condition: &Match, packet: &Packet) -> bool {
    let contains = |set: &str, key: Option<Key>| {
        key.is_some_and(|k| ruleset.set(set).is_some_and(|s| s.contains(&k)))
    };
    let (from, to) = match &packet.path {
        Path::Forward { from, to } => (Some(from.as_str()), Some(to.as_str())),
        Path::Input { from } => (Some(from.as_str()), None),
        Path::Output { to } => (None, Some(to.as_str())),
    };
    let device = |name: Option<&str>| name.map(|n| left_aligned(n.as_bytes()));
    let has_ports = matches!(packet.proto, 6 | 17);
    match condition {
        Match::Family(family) => Family::of(&packet.source) == *family,
        // A packet that the router sends came in by no device; the kernel sees an empty name.
        Match::InDevice(set, wanted) => contains(set, device(from.or(Some("")))) == *wanted,
        Match::OutDevice(set) => contains(set, device(to)),
        Match::NotFromLoopback => from != Some("lo"),
        Match::ToLoopback => to == Some("lo"),
        Match::SourceIn(family, set) => contains(set, address(&packet.source, *family)),
        Match::DestIn(family, set) => contains(set, address(&packet.dest, *family)),
        Match::SourceVia(pattern) => {
            packet.source_via.as_deref().is_some_and(|d| pattern.matches(d))
        }
        Match::SourceNet(net) => net.contains(&packet.source),
        Match::DestNet(net) => net.contains(&packet.dest),
        Match::SourceMacIn(set) => contains(set, packet.source_mac.map(|m| left_aligned(&m.0))),
        Match::Protocol(proto) => packet.proto == *proto,
        Match::NotProtocol(proto) => packet.proto != *proto,
        Match::TcpSyn => packet.proto == 6 && packet.tcp_syn,
        Match::SourcePort(port) => has_ports && packet.source_port == *port,
        Match::DestPort(port) => has_ports && packet.dest_port == *port,
        Match::DestPortIn(set) => {
            has_ports && contains(set, Some(left_aligned(&packet.dest_port.to_be_bytes())))
        }
        Match::IcmpType(kind) => packet.proto == 1 && packet.icmp_type == *kind,
        Match::Icmpv6Type(kind) => packet.proto == 58 && packet.icmp_type == *kind,
        Match::HopLimit(hops) => packet.source.is_ipv6() && packet.hop_limit == *hops,
        Match::Mark { mask, value } => packet.mark & mask == *value,
        Match::SocketUser(uid) => packet.uid == Some(*uid),
        Match::ConnNew => packet.conn_new,
        Match::ConnReply => packet.conn_reply,
        Match::ConnDnat => packet.conn_dnat,
        Match::ConnMark(bit) => packet.conn_mark & bit != 0,
        Match::IntoIpsec => packet.into_ipsec,
        Match::NotIntoIpsec => !packet.into_ipsec || packet.snat_out_of_ipsec,
        Match::NotFromIpsec => !packet.from_ipsec,
    }
}

fn address(addr: &IpAddr, family: Family) -> Option<Key> {
    match (addr, family) {
        (IpAddr::V4(a), Family::V4) => Some(left_aligned(&a.octets())),
        (IpAddr::V6(a), Family::V6) => Some(a.octets()),
        _ => None,
    }
}
