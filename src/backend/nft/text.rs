//! The model as text that `nft -f` reads, for people and for tools that compare.
//!
//! Translates only. The program itself speaks netlink; a test holds both translations to each other
//! by loading each into a kernel.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::table::{self, Set, comment};
use crate::ruleset::{Action, Content, Hook, Key, KeyType, Match, Rule, Ruleset, TABLE, Verdict};
use crate::types::{Family, Mac};

/// The whole table.
pub fn table(ruleset: &Ruleset) -> String {
    let mut out = format!("table inet {TABLE} {{\n");
    for (_, rule) in ruleset.rules() {
        line(&mut out, 1, &format!("counter {} {{", rule.id));
        line(&mut out, 1, "}");
        out.push('\n');
    }
    let lowered = table::lower(ruleset);
    for (set, low) in ruleset.sets.iter().zip(&lowered.sets) {
        line(&mut out, 1, &format!("set {} {{", set.name));
        line(&mut out, 2, &format!("type {}", key_name(set.key)));
        match &set.content {
            Content::Fixed(ranges) => {
                if set.ranges {
                    line(&mut out, 2, "flags interval");
                }
                if !ranges.is_empty() {
                    line(&mut out, 2, &format!("elements = {{ {} }}", elements(low, ranges)));
                }
            }
            Content::Recorded { timeout_secs, size } => {
                line(&mut out, 2, &format!("size {size}"));
                line(&mut out, 2, "flags dynamic,timeout");
                line(&mut out, 2, &format!("timeout {timeout_secs}s"));
            }
            Content::Timed => line(&mut out, 2, "flags timeout"),
        }
        line(&mut out, 1, "}");
        out.push('\n');
    }
    for (n, chain) in ruleset.chains.iter().enumerate() {
        if n > 0 {
            out.push('\n');
        }
        let hook = match chain.hook {
            Hook::Prerouting => "prerouting",
            Hook::Forward => "forward",
            Hook::Postrouting => "postrouting",
        };
        let policy = if chain.drop_by_default { "drop" } else { "accept" };
        line(&mut out, 1, &format!("chain {} {{", chain.name));
        line(
            &mut out,
            2,
            &format!("type filter hook {hook} priority {}; policy {policy};", chain.priority),
        );
        for rule in &chain.rules {
            line(&mut out, 2, &self::rule(rule));
        }
        line(&mut out, 1, "}");
    }
    out.push_str("}\n");
    out
}

/// One rule.
pub fn rule(rule: &Rule) -> String {
    let mut words: Vec<String> =
        rule.matches.iter().map(|m| matched(m, &rule.matches)).filter(|w| !w.is_empty()).collect();
    words.push(format!("counter name \"{}\"", rule.id));
    words.extend(rule.actions.iter().map(action));
    words.extend(rule.verdict.map(|verdict| {
        match verdict {
            Verdict::Accept => "accept",
            Verdict::Drop => "drop",
            Verdict::RejectTcp => "reject with tcp reset",
            Verdict::RejectAdmin => "reject with icmpx type admin-prohibited",
        }
        .to_owned()
    }));
    words.push(format!("comment \"{}\"", comment(rule)));
    words.join(" ")
}

/// What is forwarded, alone and as one chain called `name`, for a table of somebody else's: the rules of
/// the model that decide, without sets and counters, which that table would have to have. `None` if
/// there is a rule that cannot be said so.
pub fn forward_alone(ruleset: &Ruleset, name: &str) -> Option<String> {
    let chain = ruleset.chains.iter().find(|c| c.hook == Hook::Forward)?;
    let policy = if chain.drop_by_default { "drop" } else { "accept" };
    let priority = chain.priority;
    let mut out = format!("chain {name} {{\n");
    line(&mut out, 1, &format!("type filter hook forward priority {priority}; policy {policy};"));
    for rule in chain.rules.iter().filter(|r| !r.optional) {
        let verdict = match rule.verdict? {
            Verdict::Accept => "accept",
            Verdict::Drop => "drop",
            Verdict::RejectTcp | Verdict::RejectAdmin => return None,
        };
        // One line for each device: not every version of nft takes 'tun*' in a set without a name.
        let mut lines = vec![String::new()];
        for condition in &rule.matches {
            let choices: Vec<String> = match condition {
                Match::OutDevice(set) => devices(ruleset, set, "oifname")?,
                Match::InDevice(set, true) => devices(ruleset, set, "iifname")?,
                Match::Mark { .. } => vec![matched(condition, &rule.matches)],
                _ => return None,
            };
            let with =
                |line: &String| choices.iter().map(|c| format!("{line}{c} ")).collect::<Vec<_>>();
            lines = lines.iter().flat_map(with).collect();
        }
        for matches in lines {
            line(&mut out, 1, &format!("{matches}{verdict} comment \"{}\"", comment(rule)));
        }
    }
    out.push_str("}\n");
    Some(out)
}

/// A condition for each device of a set.
fn devices(ruleset: &Ruleset, set: &str, key: &str) -> Option<Vec<String>> {
    let Content::Fixed(ranges) = &ruleset.set(set)?.content else { return None };
    let one = |(first, last): &(Key, Key)| {
        let mut out = format!("{key} ");
        device(&mut out, first, last);
        out
    };
    Some(ranges.iter().map(one).collect())
}

fn matched(condition: &Match, all: &[Match]) -> String {
    // nft spells ports with the protocol's name and adds the check of the protocol by itself.
    let transport = || match all
        .iter()
        .find_map(|m| if let Match::Protocol(p) = m { Some(*p) } else { None })
    {
        Some(6) => "tcp",
        Some(17) => "udp",
        _ => "th",
    };
    let implied = |by: fn(&Match) -> bool| all.iter().any(by);
    match condition {
        Match::Family(_)
            if implied(|m| {
                matches!(
                    m,
                    Match::SourceIn(..)
                        | Match::DestIn(..)
                        | Match::SourceNet(_)
                        | Match::DestNet(_)
                        | Match::HopLimit(_)
                )
            }) =>
        {
            String::new()
        }
        Match::Family(family) => {
            format!("meta nfproto ipv{}", family.digit())
        }
        Match::InDevice(set, true) => format!("iifname @{set}"),
        Match::InDevice(set, false) => format!("iifname != @{set}"),
        Match::OutDevice(set) => format!("oifname @{set}"),
        Match::NotFromLoopback => "iifname != \"lo\"".to_owned(),
        Match::ToLoopback => "oifname \"lo\"".to_owned(),
        Match::SourceIn(family, set) => format!("{} saddr @{set}", ip(*family)),
        Match::DestIn(family, set) => format!("{} daddr @{set}", ip(*family)),
        Match::SourceVia(pattern) => format!("fib saddr oifname \"{pattern}\""),
        Match::SourceNet(net) => format!("{} saddr {net}", ip(net.family())),
        Match::DestNet(net) => format!("{} daddr {net}", ip(net.family())),
        Match::SourceMacIn(set) => format!("ether saddr @{set}"),
        Match::Protocol(_)
            if implied(|m| {
                matches!(
                    m,
                    Match::SourcePort(_)
                        | Match::DestPort(_)
                        | Match::DestPortIn(_)
                        | Match::TcpSyn
                        | Match::IcmpType(_)
                        | Match::Icmpv6Type(_)
                )
            }) =>
        {
            String::new()
        }
        Match::Protocol(proto) => format!("meta l4proto {proto}"),
        Match::NotProtocol(proto) => format!("meta l4proto != {proto}"),
        Match::TcpSyn => "tcp flags & (fin | syn | rst | ack) == syn".to_owned(),
        Match::SourcePort(port) => format!("{} sport {port}", transport()),
        Match::DestPort(port) => format!("{} dport {port}", transport()),
        Match::DestPortIn(set) => format!("{} dport @{set}", transport()),
        Match::IcmpType(kind) => format!("icmp type {kind}"),
        Match::Icmpv6Type(kind) => format!("icmpv6 type {kind}"),
        Match::HopLimit(hops) => format!("ip6 hoplimit {hops}"),
        Match::Mark { mask: u32::MAX, value } => format!("meta mark {value:#010x}"),
        Match::Mark { mask, value } => format!("meta mark & {mask:#010x} == {value:#010x}"),
        Match::SocketUser(uid) => format!("meta skuid {uid}"),
        Match::ConnNew => "ct state new".to_owned(),
        Match::ConnDnat => "ct status dnat".to_owned(),
        Match::ConnReply => "ct direction reply".to_owned(),
        Match::ConnMark(bit) => format!("ct mark & {bit:#010x} == {bit:#010x}"),
        Match::IntoIpsec => "rt ipsec exists".to_owned(),
        Match::NotIntoIpsec => "rt ipsec missing".to_owned(),
        Match::NotFromIpsec => "meta ipsec missing".to_owned(),
    }
}

fn ip(family: Family) -> &'static str {
    if family == Family::V4 { "ip" } else { "ip6" }
}

fn action(action: &Action) -> String {
    match action {
        Action::SetMark(bit) => format!("meta mark set meta mark | {bit:#010x}"),
        Action::ClearMark(bit) => format!("meta mark set meta mark & {:#010x}", !bit),
        Action::SetConnMark(bit) => format!("ct mark set ct mark | {bit:#010x}"),
        Action::Record(family, set) => {
            format!("update @{set} {{ {} saddr counter }}", ip(*family))
        }
        Action::OnceAMinute(family, set) => {
            format!("update @{set} {{ {} saddr limit rate 1/minute burst 1 packets }}", ip(*family))
        }
        Action::Log { prefix, per_minute, burst } => format!(
            "limit rate {per_minute}/minute burst {burst} packets log prefix \"{prefix}\" level info"
        ),
    }
}

/// Elements as nft writes them, separated by commas.
pub fn elements(set: &Set, ranges: &[(Key, Key)]) -> String {
    let mut out = String::new();
    for (first, last) in ranges {
        if !out.is_empty() {
            out.push_str(", ");
        }
        match set.key_type {
            41 => device(&mut out, first, last),
            7 => addresses(&mut out, 32, v4(first), v4(last), |bits| {
                Ipv4Addr::from(u32::try_from(bits).unwrap_or(0)).to_string()
            }),
            8 => {
                let bits = |key: &Key| u128::from_be_bytes(*key);
                addresses(&mut out, 128, bits(first), bits(last), |bits| {
                    Ipv6Addr::from(bits).to_string()
                });
            }
            9 => out.push_str(&mac(first)),
            _ => {
                let port = |k: &Key| u16::from_be_bytes([k[0], k[1]]);
                let _ = write!(out, "{}", port(first));
                if first != last {
                    let _ = write!(out, "-{}", port(last));
                }
            }
        }
    }
    out
}

fn device(out: &mut String, first: &Key, last: &Key) {
    let name = String::from_utf8_lossy(first);
    let star = if first == last { "" } else { "*" };
    let _ = write!(out, "\"{}{star}\"", name.trim_end_matches('\0'));
}

fn addresses(
    out: &mut String,
    width: u32,
    first: u128,
    last: u128,
    print: impl Fn(u128) -> String,
) {
    out.push_str(&print(first));
    if first == last {
        return;
    }
    let span = first ^ last;
    let host_bits = 128 - span.leading_zeros();
    // A network if the last address is the first with all its host bits set.
    let whole = span == u128::MAX || span.wrapping_add(1).is_power_of_two();
    if whole && first & span == 0 {
        let _ = write!(out, "/{}", width - host_bits);
        return;
    }
    let _ = write!(out, "-{}", print(last));
}

fn v4(key: &Key) -> u128 {
    u32::from_be_bytes([key[0], key[1], key[2], key[3]]).into()
}

fn mac(key: &Key) -> String {
    let [a, b, c, d, e, f, ..] = *key;
    Mac([a, b, c, d, e, f]).to_string()
}

fn key_name(key: KeyType) -> &'static str {
    match key {
        KeyType::Device => "ifname",
        KeyType::V4 => "ipv4_addr",
        KeyType::V6 => "ipv6_addr",
        KeyType::Mac => "ether_addr",
        KeyType::Port => "inet_service",
    }
}

fn line(out: &mut String, depth: usize, text: &str) {
    out.extend(std::iter::repeat_n('\t', depth));
    out.push_str(text);
    out.push('\n');
}
