//! What a link needs from the router to stay usable, and what the router must not say there.
//!
//! Constant rules; where they stand is [`super`]'s decision.

use std::net::{IpAddr, Ipv6Addr};

use super::{ICMP, ICMPV6, UDP, rule};
use crate::ruleset::Guarantee::{G1, G2};
use crate::ruleset::{Match, Rule, Verdict};
use crate::types::{Family, Net};

/// DHCP, DHCPv6, neighbour discovery and multicast listening: what a link needs to stay usable, with
/// the ports, types and hop limits of the protocols; a router never forwards any of it.
pub fn upkeep() -> Vec<Rule> {
    let link_local = Net::new(IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10);
    let multicast = Net::new(IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8);
    let udp = |from, to| [Match::Protocol(UDP), Match::SourcePort(from), Match::DestPort(to)];
    let mut rules = vec![
        rule(
            "out_dhcp4",
            G2,
            "DHCP client (RFC 2131)",
            [&[Match::Family(Family::V4)][..], &udp(68, 67)].concat(),
            Verdict::Accept,
        ),
        rule(
            "out_dhcp6",
            G2,
            "DHCPv6 client (RFC 8415)",
            [&[Match::Family(Family::V6), Match::SourceNet(link_local)][..], &udp(546, 547)]
                .concat(),
            Verdict::Accept,
        ),
    ];
    let icmpv6 = [
        ("out_nd_rs", 133, 255, None, "router solicitation (RFC 4861)"),
        ("out_nd_ns", 135, 255, None, "neighbour solicitation (RFC 4861)"),
        ("out_nd_na", 136, 255, None, "neighbour advertisement (RFC 4861)"),
        ("out_mld_report", 131, 1, Some(multicast), "multicast listener report (RFC 2710)"),
        ("out_mld_done", 132, 1, Some(multicast), "multicast listener done (RFC 2710)"),
        ("out_mld2_report", 143, 1, Some(multicast), "multicast listener report (RFC 3810)"),
    ];
    for (id, icmp_type, hop_limit, dest, comment) in icmpv6 {
        let mut matches = vec![Match::Family(Family::V6), Match::HopLimit(hop_limit)];
        matches.extend(dest.map(Match::DestNet));
        matches.extend([Match::Protocol(ICMPV6), Match::Icmpv6Type(icmp_type)]);
        rules.push(rule(id, G2, comment, matches, Verdict::Accept));
    }
    rules
}

/// ICMP errors quote the packet that they are about. One about a client's packet with a forged or
/// outdated source would carry it out of an uplink, whatever mode the router is in.
pub fn quotes() -> Vec<Rule> {
    let v4 = [3, 11, 12].map(|kind| (Family::V4, ICMP, Match::IcmpType(kind), kind));
    let v6 = [1, 2, 3, 4].map(|kind| (Family::V6, ICMPV6, Match::Icmpv6Type(kind), kind));
    v4.into_iter()
        .chain(v6)
        .map(|(family, proto, of_type, kind)| {
            rule(
                format!("out_quote{}_{kind}", family.digit()),
                G1,
                "an ICMP error would quote a client's packet",
                vec![Match::Family(family), Match::Protocol(proto), of_type],
                Verdict::Drop,
            )
        })
        .collect()
}
