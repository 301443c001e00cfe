//! What every backend may rely on in any ruleset, whatever the policy.

use std::collections::BTreeSet;

use proptest::prelude::*;
use vpn_killswitch::ruleset::{
    Action, Chain, Content, Hook, KeyType, Match, Rule, Ruleset, Verdict, build,
};
use vpn_killswitch::types::Family;

use crate::oracle::closed;
use crate::runs;
use crate::world::{DEVICES, policy};

/// An identifier that nft reads without quotes and the kernel stores (`NFT_NAME_MAXLEN` is far
/// longer; 31 is what ipset and old kernels take).
fn identifier(name: &str) -> bool {
    name.len() <= 31
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The sets that a rule looks up, with the type of key that it looks them up by.
fn lookups(rule: &Rule) -> Vec<(&str, KeyType)> {
    let addr = |family: &Family| match family {
        Family::V4 => KeyType::V4,
        Family::V6 => KeyType::V6,
    };
    fn of_match(m: &Match) -> Option<(&str, KeyType)> {
        let addr = |family: &Family| match family {
            Family::V4 => KeyType::V4,
            Family::V6 => KeyType::V6,
        };
        match m {
            Match::InDevice(set, _) | Match::OutDevice(set) => {
                Some((set.as_str(), KeyType::Device))
            }
            Match::SourceIn(f, set) | Match::DestIn(f, set) => Some((set.as_str(), addr(f))),
            Match::SourceMacIn(set) => Some((set.as_str(), KeyType::Mac)),
            Match::DestPortIn(set) => Some((set.as_str(), KeyType::Port)),
            _ => None,
        }
    }
    let of_action = |a| match a {
        &Action::Record(ref f, set) => Some((set, addr(f))),
        _ => None,
    };
    rule.matches
        .iter()
        .filter_map(of_match)
        .chain(rule.actions.iter().filter_map(of_action))
        .collect()
}

/// Matches that read a transport header need the protocol before them, and matches that read an
/// address need the family: in an `inet` table the same bytes mean something else otherwise.
fn misread(rule: &Rule) -> Option<String> {
    let (mut family, mut proto) = (None, None);
    for m in &rule.matches {
        let needs_family = |f| (family != Some(f)).then(|| format!("{m:?} without its family"));
        let problem = match m {
            Match::Family(f) => {
                family = Some(*f);
                None
            }
            Match::Protocol(p) => {
                proto = Some(*p);
                None
            }
            Match::SourceIn(f, _) | Match::DestIn(f, _) => needs_family(*f),
            Match::SourceNet(net) | Match::DestNet(net) => needs_family(net.family()),
            Match::HopLimit(_) => needs_family(Family::V6),
            Match::SourcePort(_) | Match::DestPort(_) | Match::DestPortIn(_) => {
                (!matches!(proto, Some(6 | 17))).then(|| format!("{m:?} without tcp or udp"))
            }
            Match::TcpSyn => (proto != Some(6)).then(|| format!("{m:?} without tcp")),
            Match::IcmpType(_) => (proto != Some(1) || family != Some(Family::V4))
                .then(|| format!("{m:?} without IPv4 and ICMP")),
            Match::Icmpv6Type(_) => (proto != Some(58) || family != Some(Family::V6))
                .then(|| format!("{m:?} without IPv6 and ICMPv6")),
            _ => None,
        };
        if problem.is_some() {
            return problem;
        }
    }
    None
}

fn chain<'a>(rules: &'a Ruleset, name: &str) -> Option<&'a Chain> {
    rules.chains.iter().find(|c| c.name == name)
}

proptest! {
    #![proptest_config(runs(1000))]

    #[test]
    fn rules_and_sets_are_well_formed(policy in policy()) {
        let rules = build(&policy);
        let ids: BTreeSet<_> = rules.rules().map(|(_, r)| &r.id).collect();
        prop_assert_eq!(ids.len(), rules.rules().count());
        let names: BTreeSet<_> = rules.sets.iter().map(|s| &s.name).collect();
        prop_assert_eq!(names.len(), rules.sets.len());
        for name in ids.iter().chain(&names) {
            prop_assert!(identifier(name), "{name}");
        }
        for (_, rule) in rules.rules() {
            prop_assert!(!rule.comment.is_empty() && !rule.comment.contains(char::is_control));
            prop_assert!(rule.comment.len() <= 120, "{:?}", rule.comment);
            prop_assert_eq!(misread(rule), None, "{:?}", rule);
            for (name, key) in lookups(rule) {
                prop_assert_eq!(rules.set(name).map(|s| s.key), Some(key), "{:?}", rule);
            }
            prop_assert!(rule.verdict.is_some() || !rule.actions.is_empty(), "{rule:?}");
            // Nothing that opens may be left out, and nothing that closes for good.
            prop_assert!(
                !rule.optional || !matches!(rule.verdict, Some(Verdict::Accept | Verdict::Drop))
            );
            let changes = |a: &Action| {
                matches!(a, Action::SetMark(_) | Action::ClearMark(_) | Action::SetConnMark(_))
            };
            prop_assert!(!rule.optional || !rule.actions.iter().any(changes), "{rule:?}");
            // Restoring a connection's mark to its packets, as others do, must not exempt them.
            for action in &rule.actions {
                let Action::SetConnMark(bit) = action else { continue };
                prop_assert!(bit.count_ones() == 1 && bit & policy.pass_mark == 0, "{rule:?}");
            }
        }
        for set in &rules.sets {
            let Content::Fixed(ranges) = &set.content else { continue };
            for (first, last) in ranges {
                prop_assert!(first <= last && (set.ranges || first == last), "{set:?}");
                prop_assert!(first[set.key.width()..].iter().all(|b| *b == 0), "{set:?}");
            }
            prop_assert!(ranges.windows(2).all(|w| w[0].1 < w[1].0), "{set:?}");
        }
    }

    /// A backend without our `eval` sees the same: the closing chains end in a refusal of everything,
    /// and name devices only through the two sets, neither of which holds an uplink.
    #[test]
    fn the_closing_chains_end_closed_and_name_no_uplink(policy in policy()) {
        let rules = build(&policy);
        let forward = chain(&rules, "forward").unwrap();
        prop_assert!(forward.drop_by_default && forward.hook == Hook::Forward);
        let strict = chain(&rules, "leaving").filter(|c| c.drop_by_default);
        for chain in [forward].into_iter().chain(strict) {
            let last = chain.rules.last().unwrap();
            prop_assert!(last.matches.is_empty() && last.verdict == Some(Verdict::Drop));
        }
        for chain in rules.chains.iter().filter(|c| c.hook != Hook::Prerouting) {
            // Before every filter chain; what leaves, before SNAT and behind every rerouting.
            let in_place = match chain.hook {
                // This one only refuses.
                Hook::Postrouting if chain.name == "translated" => {
                    let drops = |r: &Rule| r.verdict == Some(Verdict::Drop);
                    chain.priority > 100 && chain.rules.iter().all(drops)
                }
                Hook::Postrouting => (0..100).contains(&chain.priority),
                _ => chain.priority < 0,
            };
            prop_assert!(in_place, "{} stands in the wrong place", chain.name);
            for rule in &chain.rules {
                for (set, _) in lookups(rule).into_iter().filter(|(_, k)| *k == KeyType::Device) {
                    prop_assert!(set.starts_with("tunnels") || set.starts_with("locals"), "{rule:?}");
                }
            }
        }
        for device in DEVICES.iter().filter(|d| closed(&policy, d)) {
            let key = vpn_killswitch::types::left_aligned(device.as_bytes());
            // An exemption's own devices are asked for beside the local ones, never instead.
            let device_sets = rules
                .sets
                .iter()
                .filter(|s| s.key == KeyType::Device && !s.name.starts_with("exempt_"));
            prop_assert!(device_sets.into_iter().all(|s| !s.contains(&key)), "{device}");
        }
    }

    /// What arrives is judged by the address that it was sent to, and marked after others marked it.
    #[test]
    fn the_chains_stand_where_their_order_protects(policy in policy()) {
        let rules = build(&policy);
        let priority = |name| chain(&rules, name).map(|c| (c.hook, c.priority)).unwrap();
        let (hook, inbound) = priority("inbound");
        prop_assert!(hook == Hook::Prerouting && inbound < -200, "before conntrack and DNAT");
        let (hook, mark) = priority("marks");
        prop_assert!(hook == Hook::Prerouting && mark > -100, "behind mangle and DNAT");
        let first = &chain(&rules, "marks").unwrap().rules[0];
        prop_assert!(matches!(first.actions[..], [Action::ClearMark(m)] if m == policy.pass_mark));
    }
}
