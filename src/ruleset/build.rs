//! `build`: the one place where order and security live.
//!
//! Reads as the policy does: each chain is an allow-list whose end is a refusal. A rule that another
//! depends on stands directly above it, with the reason. Must not do I/O or know a backend.

mod link;

use super::{Action, Chain, Content, Guarantee, Hook, KeyType, Match, Rule, Ruleset, Set, Verdict};
use crate::config::{DNS_PORTS, ExemptConfig, RouterMode};
use crate::policy::{Endpoint, Policy};
use crate::types::{Family, Net, Ports, Proto};

use Guarantee::{G1, G2, G3, G8, G9, G10, G11};

/// The router's addresses on tunnels, by family digit. Rules only refuse by them, so an address that
/// is still in here when the tunnel has lost it closes too much, never too little.
pub const TUNNEL_ADDRS: [&str; 2] = ["tunnel_addr4", "tunnel_addr6"];
/// Clients that were refused, by family digit.
pub const BLOCKED: [&str; 2] = ["blocked4", "blocked6"];
/// Clients of whom the log has told within the last minute, by family digit.
const LOGGED: [&str; 2] = ["logged4", "logged6"];
/// Local devices whose clients are paused.
pub const PAUSED_DEVICES: &str = "paused_devices";
/// Paused clients, by family digit.
pub const PAUSED: [&str; 2] = ["paused4", "paused6"];

/// The devices that lead to a local network, or what the name of that set begins with.
pub const LOCALS: &str = "locals";

/// The rules that let paused clients out, and their counters.
pub const PAUSE_RULES: [&str; 3] = ["pause_network", "pause_client4", "pause_client6"];

/// Seconds after which a refused client that stays silent leaves the record.
pub const BLOCKED_TIMEOUT_SECS: u64 = 24 * 3600;
/// Refused clients that are remembered, by family. A flood of forged sources fills the record and
/// changes no verdict.
pub const BLOCKED_SIZE: u32 = 1024;
/// Lines a minute about all clients, and how many at once: every client of a house may be refused in
/// the moment in which the tunnel goes. Whoever forges sources cannot write more.
const CLIENT_LINES: (u64, u32) = (30, 20);
/// Likewise for the router itself.
const ROUTER_LINES: (u64, u32) = (10, 5);

/// Before conntrack (−200) and every DNAT (−100): what arrives is judged as it arrived.
const PRIORITY_INBOUND: i32 = -300;
/// Behind DNAT (−100), so that exemptions see where a packet really goes, and behind mangle (−150),
/// so that nobody who restores marks there has the last word.
const PRIORITY_MARK: i32 = -99;
/// Just before SNAT (100), behind everything that may send a packet another way.
const PRIORITY_LEAVING: i32 = 99;
/// Just behind SNAT, which may take a packet out of what an IPsec policy is for.
const PRIORITY_TRANSLATED: i32 = 101;
/// Just before every filter chain (0): our verdict comes before any `ct state established accept`.
const PRIORITY_FILTER: i32 = -5;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Turns a policy into rules.
pub fn build(policy: &Policy) -> Ruleset {
    let mut b = Builder { policy, sets: Vec::new(), tunnels: String::new(), locals: String::new() };
    b.tunnels = b.add(Set::devices("tunnels", &policy.tunnels));
    b.locals = b.add(Set::devices(LOCALS, &policy.locals));
    let mut chains = vec![b.inbound(), b.mark(), b.forward(), b.leaving()];
    if policy.ipsec {
        chains.push(b.translated());
    }
    Ruleset { sets: b.sets, chains }
}

struct Builder<'a> {
    policy: &'a Policy,
    sets: Vec<Set>,
    /// Names of the sets of devices that lead into a tunnel and to a local network.
    tunnels: String,
    locals: String,
}

impl Builder<'_> {
    /// G9: a packet for a tunnel's address that comes in anywhere else.
    fn inbound(&mut self) -> Chain {
        let mut rules = Vec::new();
        for (family, name) in Family::BOTH.into_iter().zip(TUNNEL_ADDRS) {
            let set = self.add(Set::hosts(name, key_of(family), &self.policy.tunnel_addrs));
            rules.push(rule(
                format!("in_tunnel_addr{}", family.digit()),
                G9,
                "for the tunnel's address, but not through the tunnel (CVE-2019-14899)",
                vec![
                    Match::Family(family),
                    Match::DestIn(family, set),
                    self.in_by_tunnel(false),
                    Match::NotFromLoopback,
                ],
                Verdict::Drop,
            ));
        }
        Chain {
            name: "inbound",
            hook: Hook::Prerouting,
            priority: PRIORITY_INBOUND,
            drop_by_default: false,
            rules,
        }
    }

    /// The pass mark: nobody brings it along, only pauses and exemptions of local clients get it.
    fn mark(&mut self) -> Chain {
        let pass = self.policy.pass_mark;
        let origin = self.policy.origin_mark();
        let mut rules = vec![Rule {
            verdict: None,
            actions: vec![Action::ClearMark(pass)],
            ..rule(
                "mark_clear",
                G8,
                "no packet arrives exempt",
                vec![Match::Mark { mask: pass, value: pass }],
                Verdict::Accept,
            )
        }];
        // Set once, by the packet that opens the connection: a connection that came in through a tunnel
        // never gets it, so its answers cannot leave elsewhere when the tunnel is gone. A TCP segment
        // in the middle of a connection that conntrack does not know counts as new too; only a SYN
        // really opens one.
        // The cheapest and rarest condition first: an old connection's packets cost no look-up.
        let mut from_uplink = vec![
            Match::ConnNew,
            self.in_by_tunnel(false),
            self.in_by_local(false),
            Match::NotFromLoopback,
        ];
        if self.policy.ipsec {
            // It came through a tunnel: its answers may not leave in the clear when that is gone.
            from_uplink.push(Match::NotFromIpsec);
        }
        for (id, more) in [
            ("mark_from_uplink_tcp", &[Match::Protocol(TCP), Match::TcpSyn][..]),
            ("mark_from_uplink", &[Match::NotProtocol(TCP)][..]),
        ] {
            rules.push(Rule {
                verdict: None,
                actions: vec![Action::SetConnMark(origin)],
                ..rule(
                    id,
                    G2,
                    "remember that this connection came in through an uplink",
                    [&from_uplink[..], more].concat(),
                    Verdict::Accept,
                )
            });
        }

        let from_local = self.in_by_local(true);
        let exempting = |id: String, comment: &str, mut matches: Vec<Match>| {
            // Last: a client that is not exempt then costs one look-up a rule, not two.
            matches.push(from_local.clone());
            let rule = rule(id, G8, comment, matches, Verdict::Accept);
            Rule { actions: vec![Action::SetMark(pass)], ..rule }
        };
        self.timed(PAUSED_DEVICES, KeyType::Device);
        let [network, client4, client6] = PAUSE_RULES;
        rules.push(exempting(
            network.to_owned(),
            "paused: this network, until the element expires",
            vec![Match::InDevice(PAUSED_DEVICES.to_owned(), true)],
        ));
        for ((family, set), id) in Family::BOTH.into_iter().zip(PAUSED).zip([client4, client6]) {
            self.timed(set, key_of(family));
            rules.push(exempting(
                id.to_owned(),
                "paused: this client, until the element expires",
                vec![Match::Family(family), Match::SourceIn(family, set.to_owned())],
            ));
        }
        for (n, exempt) in (1..).zip(&self.policy.exempts) {
            for (id, matches) in self.exempt(n, exempt) {
                rules.push(exempting(id, &format!("exempt: {}", exempt.name), matches));
            }
        }
        if self.policy.port_forward_replies {
            // Before the answers: an "answer" to port 53 would be a question.
            for (id, matches) in self.dns("mark") {
                let matches = [&[self.in_by_local(true), Match::ConnReply][..], &matches];
                let comment = "DNS is never an answer: not exempt";
                rules.push(rule(id, G3, comment, matches.concat(), Verdict::Accept));
            }
            // Only through a port forward: without its DNAT, a client's own connection that conntrack
            // had forgotten would look like one from outside as soon as the far side sends.
            rules.push(exempting(
                "mark_replies".to_owned(),
                "answer to a port forward (port_forward_replies)",
                vec![Match::ConnReply, Match::ConnMark(origin), Match::ConnDnat],
            ));
        }
        Chain {
            name: "marks",
            hook: Hook::Prerouting,
            priority: PRIORITY_MARK,
            drop_by_default: false,
            rules,
        }
    }

    /// G1: an allow-list. Uplinks are never named in it.
    fn forward(&mut self) -> Chain {
        let p = self.policy;
        let mut rules = vec![
            rule("fwd_tunnel", G1, "through a tunnel", vec![self.out_by_tunnel()], Verdict::Accept),
            rule(
                "fwd_local",
                G10,
                "towards a local network",
                vec![self.out_by_local()],
                Verdict::Accept,
            ),
            rule(
                "fwd_pass",
                G8,
                "exempt or paused",
                vec![self.in_by_local(true), Match::Mark { mask: p.pass_mark, value: p.pass_mark }],
                Verdict::Accept,
            ),
        ];
        if p.ipsec {
            let matches = vec![self.in_by_local(true), Match::IntoIpsec];
            rules.push(rule("fwd_ipsec", G1, "IPsec encrypts it", matches, Verdict::Accept));
        }
        for (family, name) in Family::BOTH.into_iter().zip(BLOCKED) {
            self.recorded(family, name, BLOCKED_TIMEOUT_SECS);
            rules.push(Rule {
                verdict: None,
                optional: true,
                actions: vec![Action::Record(family, name)],
                ..rule(
                    format!("fwd_record{}", family.digit()),
                    G11,
                    "remember the client that was refused",
                    vec![Match::Family(family)],
                    Verdict::Drop,
                )
            });
        }
        if p.log {
            for (family, name) in Family::BOTH.into_iter().zip(LOGGED) {
                self.recorded(family, name, 60);
                rules.push(Rule {
                    matches: vec![Match::Family(family)],
                    ..log(
                        format!("fwd_log{}", family.digit()),
                        "one line a minute for each client, 30 for all",
                        vec![Action::OnceAMinute(family, name)],
                        ("vpn-killswitch: refused forward: ", CLIENT_LINES),
                    )
                });
            }
        }
        if p.reject {
            // Only to who really lives in a local network. To an uplink it would answer strangers, and
            // a client's forged or outdated source would carry what it asked for out of the house.
            for (n, local) in (1..).zip(&p.locals) {
                let at_home = [self.in_by_local(true), Match::SourceVia(local.clone())];
                let tcp = [&at_home[..], &[Match::Protocol(TCP)]].concat();
                for (id, matches, verdict) in [
                    (format!("fwd_reject_tcp_{n}"), tcp, Verdict::RejectTcp),
                    (format!("fwd_reject_{n}"), at_home.to_vec(), Verdict::RejectAdmin),
                ] {
                    let comment = "no tunnel: tell the client at once";
                    rules.push(Rule { optional: true, ..rule(id, G1, comment, matches, verdict) });
                }
            }
        }
        rules.push(rule("fwd_drop", G1, "every other way out is closed", vec![], Verdict::Drop));
        Chain {
            name: "forward",
            hook: Hook::Forward,
            priority: PRIORITY_FILTER,
            drop_by_default: true,
            rules,
        }
    }

    /// G2 and G3: what the router itself sends. What it forwards comes through here as well, having
    /// passed the forward chain, and leaves by a tunnel, to a local network or with the pass mark.
    fn leaving(&mut self) -> Chain {
        let p = self.policy;
        let strict = p.router == RouterMode::Strict;
        let mut rules = Vec::new();
        if p.ipsec {
            // What IPsec made of a packet comes through here as well, with that packet's mark.
            let bit = p.origin_mark();
            rules.push(Rule {
                verdict: None,
                actions: vec![Action::ClearMark(bit)],
                ..rule(
                    "out_unmark",
                    G2,
                    "only out_ipsec sets this bit",
                    vec![Match::Mark { mask: bit, value: bit }],
                    Verdict::Accept,
                )
            });
        }
        rules.extend([
            rule("out_loopback", G10, "to itself", vec![Match::ToLoopback], Verdict::Accept),
            rule("out_tunnel", G2, "through a tunnel", vec![self.out_by_tunnel()], Verdict::Accept),
            rule(
                "out_local",
                G10,
                "towards a local network",
                vec![self.out_by_local()],
                Verdict::Accept,
            ),
            rule(
                "out_pass",
                G2,
                "carries the pass mark",
                vec![Match::Mark { mask: p.pass_mark, value: p.pass_mark }],
                Verdict::Accept,
            ),
        ]);
        if p.ipsec {
            let matches = vec![Match::IntoIpsec];
            rules.push(Rule {
                actions: vec![Action::SetMark(p.origin_mark())],
                ..rule("out_ipsec", G2, "IPsec encrypts it", matches, Verdict::Accept)
            });
        }
        for (n, endpoint) in (1..).zip(&p.endpoints) {
            rules.extend(self.endpoint(n, endpoint));
        }
        if p.router != RouterMode::Open {
            // Before the answers: an "answer" to port 53 would be a question.
            for (id, matches) in self.dns("out") {
                rules.push(rule(id, G3, "no DNS outside the tunnel", matches, Verdict::Drop));
            }
        }
        if strict {
            rules.extend(link::upkeep());
            rules.extend(self.time());
        }
        rules.push(rule(
            "out_replies",
            G2,
            "answer to a connection that came in through an uplink",
            vec![Match::ConnReply, Match::ConnMark(p.origin_mark())],
            Verdict::Accept,
        ));
        if !strict {
            rules.extend(link::quotes());
        }
        if strict {
            if p.log {
                rules.push(log(
                    "out_log".to_owned(),
                    "at most 10 lines a minute",
                    vec![],
                    ("vpn-killswitch: refused output: ", ROUTER_LINES),
                ));
            }
            rules.push(rule(
                "out_drop",
                G2,
                "the router sends nothing else outside the tunnel",
                vec![],
                Verdict::Drop,
            ));
        }
        Chain {
            name: "leaving",
            hook: Hook::Postrouting,
            priority: PRIORITY_LEAVING,
            drop_by_default: strict,
            rules,
        }
    }

    /// What left only because IPsec would encrypt it, and has lost that by the translation of its source.
    fn translated(&self) -> Chain {
        let bit = self.policy.origin_mark();
        let rules = vec![rule(
            "snat_ipsec",
            G1,
            "SNAT took it out of IPsec: it would leave in the clear",
            vec![Match::Mark { mask: bit, value: bit }, Match::NotIntoIpsec],
            Verdict::Drop,
        )];
        Chain {
            name: "translated",
            hook: Hook::Postrouting,
            priority: PRIORITY_TRANSLATED,
            drop_by_default: false,
            rules,
        }
    }

    /// What matches DNS, over UDP and over TCP, with rule ids that begin with `chain`.
    fn dns(&mut self, chain: &str) -> [(String, Vec<Match>); 2] {
        let ports = DNS_PORTS.map(|p| Ports { first: p, last: p });
        let set = self.add(Set::ports("dns_ports", &ports));
        [("udp", UDP), ("tcp", TCP)].map(|(name, proto)| {
            let matches = vec![Match::Protocol(proto), Match::DestPortIn(set.clone())];
            (format!("{chain}_dns_{name}"), matches)
        })
    }

    /// One rule per family and endpoint: address, protocol, port, and whatever else is known.
    fn endpoint(&mut self, n: usize, endpoint: &Endpoint) -> Vec<Rule> {
        let mut rules = Vec::new();
        for family in Family::BOTH {
            // A name may get its first address of either family at any time.
            if !endpoint.by_name && endpoint.addrs_of(family).next().is_none() {
                continue;
            }
            let id = format!("endpoint_{n}_{}", family.digit());
            let set = self.add(Set::hosts(&id, key_of(family), endpoint.addrs_of(family)));
            let mut matches = vec![
                Match::Family(family),
                Match::DestIn(family, set),
                Match::Protocol(endpoint.proto.number()),
            ];
            matches.extend(endpoint.source_port.map(Match::SourcePort));
            matches.extend(endpoint.port.map(Match::DestPort));
            matches.extend(endpoint.mark.map(|value| Match::Mark { mask: u32::MAX, value }));
            matches.extend(endpoint.uid.map(Match::SocketUser));
            let comment = format!("VPN server: {} ({})", endpoint.name, endpoint.host);
            rules.push(rule(id, G2, &comment, matches, Verdict::Accept));
        }
        rules
    }

    fn time(&mut self) -> Vec<Rule> {
        let mut rules = Vec::new();
        for family in Family::BOTH {
            if !self.policy.time_servers.iter().any(|a| Family::of(a) == family) {
                continue;
            }
            let name = format!("time{}", family.digit());
            let set = self.add(Set::hosts(name, key_of(family), &self.policy.time_servers));
            rules.push(rule(
                format!("out_time{}", family.digit()),
                G2,
                "time (NTP) from the listed servers",
                vec![
                    Match::Family(family),
                    Match::DestIn(family, set),
                    Match::Protocol(UDP),
                    Match::DestPort(123),
                ],
                Verdict::Accept,
            ));
        }
        rules
    }

    /// The matches of one exemption: one rule for each family and, where only ports are named, for
    /// each protocol that has them.
    fn exempt(&mut self, n: usize, exempt: &ExemptConfig) -> Vec<(String, Vec<Match>)> {
        let mut base = Vec::new();
        if !exempt.local_devices.is_empty() {
            let set = self.add(Set::devices(format!("exempt_{n}_dev"), &exempt.local_devices));
            base.push(Match::InDevice(set, true));
        }
        if !exempt.src_mac.is_empty() {
            let set = self.add(Set::macs(format!("exempt_{n}_mac"), &exempt.src_mac));
            base.push(Match::SourceMacIn(set));
        }
        let protocols: Vec<Option<Proto>> = match (exempt.proto, exempt.dest_port.is_empty()) {
            (None, false) => vec![Some(Proto::Tcp), Some(Proto::Udp)],
            (proto, _) => vec![proto],
        };
        let ports = (!exempt.dest_port.is_empty())
            .then(|| self.add(Set::ports(format!("exempt_{n}_port"), &exempt.dest_port)));

        let mut variants: Vec<(String, Vec<Match>)> = Vec::new();
        if exempt.src_ip.is_empty() && exempt.dest_ip.is_empty() {
            variants.push((format!("exempt_{n}"), base));
        } else {
            for family in Family::BOTH {
                let of_family =
                    |nets: &[Net]| nets.is_empty() || nets.iter().any(|n| n.family() == family);
                if !of_family(&exempt.src_ip) || !of_family(&exempt.dest_ip) {
                    continue;
                }
                let mut matches = base.clone();
                matches.push(Match::Family(family));
                let mut add = |side: &str, nets: &[Net]| {
                    let name = format!("exempt_{n}_{side}{}", family.digit());
                    (!nets.is_empty()).then(|| self.add(Set::nets(name, key_of(family), nets)))
                };
                let (src, dest) = (add("src", &exempt.src_ip), add("dest", &exempt.dest_ip));
                matches.extend(src.map(|set| Match::SourceIn(family, set)));
                matches.extend(dest.map(|set| Match::DestIn(family, set)));
                variants.push((format!("exempt_{n}_{}", family.digit()), matches));
            }
        }
        let mut rules = Vec::new();
        for (id, matches) in variants {
            for proto in &protocols {
                let (mut id, mut matches) = (id.clone(), matches.clone());
                if let Some(proto) = proto {
                    matches.push(Match::Protocol(proto.number()));
                    if protocols.len() > 1 {
                        id = format!("{id}_{proto}");
                    }
                }
                matches.extend(ports.clone().map(Match::DestPortIn));
                rules.push((id, matches));
            }
        }
        rules
    }

    fn in_by_tunnel(&self, wanted: bool) -> Match {
        Match::InDevice(self.tunnels.clone(), wanted)
    }

    fn in_by_local(&self, wanted: bool) -> Match {
        Match::InDevice(self.locals.clone(), wanted)
    }

    fn out_by_tunnel(&self) -> Match {
        Match::OutDevice(self.tunnels.clone())
    }

    fn out_by_local(&self) -> Match {
        Match::OutDevice(self.locals.clone())
    }

    /// Adds a set once and returns its name. A set with ranges is of another kind to the kernel, so
    /// it has another name: a change of kind is then a change of name, never of a set in use.
    fn add(&mut self, mut set: Set) -> String {
        if set.ranges {
            set.name.push_str("_range");
        }
        let name = set.name.clone();
        if !self.sets.iter().any(|s| s.name == name) {
            self.sets.push(set);
        }
        name
    }

    /// A set of clients that the kernel fills.
    fn recorded(&mut self, family: Family, name: &str, timeout_secs: u64) {
        let content = Content::Recorded { timeout_secs, size: BLOCKED_SIZE };
        let key = key_of(family);
        self.sets.push(Set { name: name.to_owned(), key, ranges: false, content });
    }

    fn timed(&mut self, name: &str, key: KeyType) {
        self.sets.push(Set { name: name.to_owned(), key, ranges: false, content: Content::Timed });
    }
}

/// A rule that writes a line with this prefix, at that rate, if nothing of `before` holds it back.
fn log(
    id: String,
    comment: &str,
    mut before: Vec<Action>,
    (prefix, (per_minute, burst)): (&'static str, (u64, u32)),
) -> Rule {
    before.push(Action::Log { prefix, per_minute, burst });
    let rule = rule(id, G11, comment, vec![], Verdict::Drop);
    Rule { verdict: None, optional: true, actions: before, ..rule }
}

fn rule(
    id: impl Into<String>,
    guarantee: Guarantee,
    comment: &str,
    matches: Vec<Match>,
    verdict: Verdict,
) -> Rule {
    Rule {
        id: id.into(),
        guarantee,
        comment: comment.to_owned(),
        matches,
        actions: Vec::new(),
        verdict: Some(verdict),
        optional: false,
    }
}

fn key_of(family: Family) -> KeyType {
    match family {
        Family::V4 => KeyType::V4,
        Family::V6 => KeyType::V6,
    }
}
