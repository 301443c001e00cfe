//! What the guarantees say about a packet, written from their text and not from the rules.
//!
//! Uses nothing of `ruleset`, no sets and no order: every way out is one `||`.

use std::net::IpAddr;

use vpn_killswitch::config::{ExemptConfig, RouterMode};
use vpn_killswitch::policy::Policy;
use vpn_killswitch::ruleset::eval::{Packet, Path};
use vpn_killswitch::types::DevicePattern;

use crate::world::Flow;

fn named(patterns: &[DevicePattern], device: &str) -> bool {
    patterns.iter().map(ToString::to_string).any(|p| match p.strip_suffix('*') {
        Some(stem) => device.get(..stem.len()) == Some(stem),
        None => p == device,
    })
}

pub fn tunnel(policy: &Policy, device: &str) -> bool {
    named(&policy.tunnels, device)
}

pub fn local(policy: &Policy, device: &str) -> bool {
    named(&policy.locals, device)
}

/// Neither tunnel nor local: where nothing of the clients' may leave.
pub fn closed(policy: &Policy, device: &str) -> bool {
    !tunnel(policy, device) && !local(policy, device)
}

/// A DNS question, plain or over TLS/QUIC, multicast or link-local.
pub fn dns(packet: &Packet) -> bool {
    matches!(packet.proto, 6 | 17) && matches!(packet.dest_port, 53 | 853 | 5353 | 5355)
}

/// G9: for a tunnel's address, but it came in elsewhere.
pub fn misdirected(policy: &Policy, packet: &Packet) -> bool {
    match &packet.path {
        Path::Forward { from, .. } | Path::Input { from } => {
            policy.tunnel_addrs.contains(&packet.dest) && !tunnel(policy, from) && from != "lo"
        }
        Path::Output { .. } => false,
    }
}

fn fits(exempt: &ExemptConfig, packet: &Packet) -> bool {
    let ports = matches!(packet.proto, 6 | 17);
    let port = packet.dest_port;
    (exempt.src_mac.is_empty()
        || packet.source_mac.is_some_and(|mac| exempt.src_mac.contains(&mac)))
        && (exempt.src_ip.is_empty() || exempt.src_ip.iter().any(|n| n.contains(&packet.source)))
        && (exempt.dest_ip.is_empty() || exempt.dest_ip.iter().any(|n| n.contains(&packet.dest)))
        && (exempt.dest_port.is_empty()
            || ports && exempt.dest_port.iter().any(|r| (r.first..=r.last).contains(&port)))
        && exempt.proto.is_none_or(|p| p.number() == packet.proto)
}

/// G8: it came from a local client that the user let out.
pub fn exempted(policy: &Policy, packet: &Packet) -> bool {
    let (Path::Forward { from, .. } | Path::Input { from }) = &packet.path else { return false };
    let here = |e: &ExemptConfig| e.local_devices.is_empty() || named(&e.local_devices, from);
    local(policy, from)
        && !misdirected(policy, packet)
        && policy.exempts.iter().any(|e| here(e) && fits(e, packet))
}

/// IPsec is a tunnel, a policy of it is for the packet, and still is when its source was translated.
pub fn encrypted(policy: &Policy, packet: &Packet) -> bool {
    policy.ipsec && packet.into_ipsec && !packet.snat_out_of_ipsec
}

/// It answers a connection that came in through neither tunnel nor local network.
pub fn answers_outside(policy: &Policy, flow: &Flow) -> bool {
    let outside = |device| closed(policy, device) && device != "lo";
    // A segment in the middle of a connection opens nothing, whatever conntrack thinks of it.
    let opens = |o: &Packet| o.proto != 6 || o.tcp_syn;
    flow.packet.conn_reply
        && flow.opened_at().is_some_and(outside)
        && !(policy.ipsec && flow.opener.as_ref().is_some_and(|o| o.from_ipsec))
        && flow.opener.as_ref().is_none_or(opens)
        && !flow.opener.as_ref().is_some_and(|o| misdirected(policy, o))
}

/// Address, protocol, port, and mark and user where given.
pub fn to_endpoint(policy: &Policy, packet: &Packet) -> bool {
    // With IPsec as a tunnel, the origin bit is ours in the packet's mark as well.
    let mark = packet.mark & !if policy.ipsec { policy.origin_mark() } else { 0 };
    policy.endpoints.iter().any(|e| {
        let ports = matches!(packet.proto, 6 | 17);
        e.addrs.contains(&packet.dest)
            && e.proto.number() == packet.proto
            && e.port.is_none_or(|p| ports && p == packet.dest_port)
            && e.source_port.is_none_or(|p| ports && p == packet.source_port)
            && e.mark.is_none_or(|m| m == mark)
            && e.uid.is_none_or(|u| packet.uid == Some(u))
    })
}

/// DHCP, DHCPv6 and the neighbour set.
fn link_upkeep(p: &Packet) -> bool {
    let udp = |from, to| p.proto == 17 && p.source_port == from && p.dest_port == to;
    let IpAddr::V6(source) = p.source else { return udp(68, 67) };
    let icmp =
        |kinds: &[u8], hops| p.proto == 58 && kinds.contains(&p.icmp_type) && p.hop_limit == hops;
    udp(546, 547) && source.is_unicast_link_local()
        || icmp(&[133, 135, 136], 255)
        || icmp(&[131, 132, 143], 1) && p.dest.is_multicast()
}

fn to_time_server(policy: &Policy, p: &Packet) -> bool {
    p.proto == 17 && p.dest_port == 123 && policy.time_servers.contains(&p.dest)
}

/// An ICMP error, which quotes the packet that it is about.
fn quotes(p: &Packet) -> bool {
    match p.source {
        IpAddr::V4(_) => p.proto == 1 && matches!(p.icmp_type, 3 | 11 | 12),
        IpAddr::V6(_) => p.proto == 58 && matches!(p.icmp_type, 1..=4),
    }
}

/// G1: an answer to a connection from outside that goes through a port forward, where that is allowed.
pub fn port_forward_reply(policy: &Policy, flow: &Flow) -> bool {
    policy.port_forward_replies
        && flow.from().is_some_and(|d| local(policy, d))
        && answers_outside(policy, flow)
        && flow.packet.conn_dnat
        && !dns(&flow.packet)
}

/// G2 and G3: whether the router may send it on a device that is neither tunnel nor local.
fn router_sends(policy: &Policy, flow: &Flow) -> bool {
    let p = &flow.packet;
    if policy.ipsec && p.into_ipsec && p.mark & policy.pass_mark == 0 {
        return encrypted(policy, p);
    }
    p.mark & policy.pass_mark != 0
        || to_endpoint(policy, p)
        || match policy.router {
            RouterMode::Open => !quotes(p) || answers_outside(policy, flow),
            RouterMode::Dns => !dns(p) && (!quotes(p) || answers_outside(policy, flow)),
            RouterMode::Strict => {
                !dns(p)
                    && (link_upkeep(p)
                        || to_time_server(policy, p)
                        || answers_outside(policy, flow))
            }
        }
}

/// Whether the guarantees let the packet pass.
pub fn passes(policy: &Policy, flow: &Flow) -> bool {
    let p = &flow.packet;
    match &p.path {
        Path::Input { .. } => !misdirected(policy, p),
        Path::Forward { to, .. } => {
            !misdirected(policy, p)
                && (!closed(policy, to)
                    || exempted(policy, p)
                    || port_forward_reply(policy, flow)
                    || flow.from().is_some_and(|d| local(policy, d)) && encrypted(policy, p)
                    // Of what the router keeps to itself nothing is translated.
                    || flow.from().is_some_and(|d| local(policy, d) && to == "lo")
                        && policy.ipsec
                        && p.into_ipsec)
        }
        Path::Output { to } => to == "lo" || !closed(policy, to) || router_sends(policy, flow),
    }
}
