//! Connections that the rules would refuse now: which entries of connection tracking must go (G7).
//!
//! The rules judge every packet, so a connection that is no longer allowed stops without this. What is
//! left are flows that the kernel forwards past the rules (a flowtable), which end with their entry,
//! and address translations that were chosen for another way out and would stay.
//!
//! This module decides about one entry, from its addresses, the routes and the rules themselves:
//! [`eval`] says what becomes of its packets, so there is no second policy here. Pure; [`kernel`] lists
//! and deletes.

pub mod kernel;

use std::net::IpAddr;

use crate::observe::Link;
use crate::policy::Policy;
use crate::ruleset::Ruleset;
use crate::ruleset::eval::{Packet, Path, eval};
use crate::types::Mac;

const TCP: u8 = 6;

/// One direction of a connection, as its packets arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub dest: IpAddr,
    /// Transport protocol's number.
    pub proto: u8,
    /// Source port; 0 without ports.
    pub source_port: u16,
    /// Destination port; 0 without ports.
    pub dest_port: u16,
    /// ICMP or ICMPv6 type; 0 otherwise.
    pub icmp_type: u8,
}

/// A connection that the kernel knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As it began.
    pub orig: Tuple,
    /// As its answers arrive. Its source is where the packets really go (behind DNAT), its destination
    /// the address under which they leave (behind SNAT).
    pub reply: Tuple,
    /// Whether its destination was rewritten.
    pub dnat: bool,
    /// Its mark.
    pub mark: u32,
}

/// A question to the kernel's routing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    /// Where to.
    pub dest: IpAddr,
    /// Where from, if that is to count.
    pub source: Option<IpAddr>,
    /// Index of the device that the packet came in by; 0 for the router's own.
    pub from: u32,
    /// The packet's mark.
    pub mark: u32,
}

/// Where a packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the router itself.
    Here,
    /// Out of a device, the sink of refused packets among them.
    Device(String),
    /// A rule or route refuses it.
    Refused,
    /// Nobody knows.
    Nowhere,
}

/// Who knows what the decision depends on besides rules and devices.
pub trait Oracle {
    /// Where such a packet would go.
    fn route(&mut self, question: &Question) -> Way;
    /// The Ethernet address of a neighbour.
    fn mac(&mut self, addr: &IpAddr) -> Option<Mac>;
}

/// What is in force.
pub struct World<'a> {
    /// What is a tunnel and what is local.
    pub policy: &'a Policy,
    /// The rules, with the pauses that run filled in.
    pub rules: &'a Ruleset,
    /// The devices with the router's addresses.
    pub links: &'a [Link],
}

/// Whether the entry must go: its packets leave the router outside, and the rules refuse them.
///
/// When nothing tells for certain, a forwarded connection goes, for its client can open a new one.
/// Connections of which neither end lies outside stay: they use tunnels, local networks and the router.
///
/// Of the router's own connections only TCP goes. Behind a deleted entry of anything else the far
/// side's next packet would count as one that opens a connection from outside, and answers to it are
/// allowed; while the entry is there they are refused. For TCP only a SYN opens one.
pub fn doomed(entry: &Entry, world: &World<'_>, oracle: &mut dyn Oracle) -> bool {
    let (orig, reply) = (&entry.orig, &entry.reply);
    if [orig.source, orig.dest, reply.source, reply.dest].iter().any(stays_on_the_link) {
        return false;
    }
    let near = world.near(entry, oracle);
    let far = world.far(entry, &near, oracle);
    match (&near, &far) {
        _ if world.is_inside(&near) && world.is_inside(&far) => false,
        (Way::Here, _) => orig.proto == TCP && !world.router_may_send(entry, false, &far),
        (_, Way::Here) => orig.proto == TCP && !world.router_may_send(entry, true, &near),
        _ if !world.is_inside(&far) => !world.may_be_forwarded(entry, false, &near, &far, oracle),
        // Came in from outside: its answers are what leaves.
        _ => !world.may_be_forwarded(entry, true, &far, &near, oracle),
    }
}

/// What routers do not forward, and what no route tells the device of.
fn stays_on_the_link(addr: &IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => {
            a.is_multicast() || a.is_broadcast() || a.is_unspecified() || a.is_link_local()
        }
        IpAddr::V6(a) => a.is_multicast() || a.is_unspecified() || a.is_unicast_link_local(),
    }
}

impl World<'_> {
    /// Where the side that opened the connection is.
    fn near(&self, entry: &Entry, oracle: &mut dyn Oracle) -> Way {
        let plain = Question { dest: entry.orig.source, source: None, from: 0, mark: 0 };
        let way = oracle.route(&plain);
        match &way {
            Way::Here => way,
            Way::Device(device) if self.policy.is_local(device) => way,
            // The default route may lead elsewhere than where a stranger came from; what was sent to
            // an address of the router came in by that address's device.
            _ => match self.device_of(&entry.orig.dest) {
                Some(device) => Way::Device(device.to_owned()),
                None => way,
            },
        }
    }

    /// Where the other side is. An address that the packets leave under tells it for certain.
    fn far(&self, entry: &Entry, near: &Way, oracle: &mut dyn Oracle) -> Way {
        let (source, under) = (entry.orig.source, entry.reply.dest);
        if under != source
            && let Some(device) = self.device_of(&under)
        {
            return Way::Device(device.to_owned());
        }
        let (mut from, mut mark) = (0, 0);
        if let Way::Device(device) = near {
            from = self.links.iter().find(|l| l.name == *device).map_or(0, |l| l.index);
            // Exempt packets are routed by their mark.
            let path = Path::Input { from: device.clone() };
            mark = eval(self.rules, &packet(entry, false, path, oracle.mac(&source))).mark;
        }
        oracle.route(&Question { dest: entry.reply.source, source: Some(source), from, mark })
    }

    /// The device with that address; if there are several, one that lies outside.
    fn device_of(&self, addr: &IpAddr) -> Option<&str> {
        let mut names = self.links.iter().filter(|l| l.addrs.contains(addr)).map(|l| &l.name);
        let first = names.clone().next();
        let outside = names.find(|n| !self.policy.is_tunnel(n) && !self.policy.is_local(n));
        outside.or(first).map(String::as_str)
    }

    fn is_inside(&self, way: &Way) -> bool {
        match way {
            Way::Here => true,
            Way::Device(name) => self.policy.is_tunnel(name) || self.policy.is_local(name),
            Way::Refused | Way::Nowhere => false,
        }
    }

    /// Whether the rules let packets of one direction through from one device to another.
    fn may_be_forwarded(
        &self,
        entry: &Entry,
        answers: bool,
        from: &Way,
        to: &Way,
        oracle: &mut dyn Oracle,
    ) -> bool {
        let path = Path::Forward { from: name(from), to: name(to) };
        let source = if answers { &entry.reply.source } else { &entry.orig.source };
        eval(self.rules, &packet(entry, answers, path, oracle.mac(source))).verdict.passes()
    }

    /// Whether the rules let the router send packets of one direction. Who owns the socket and which
    /// mark it sets is not known here, so what any endpoint allows counts.
    fn router_may_send(&self, entry: &Entry, answers: bool, to: &Way) -> bool {
        let plain = packet(entry, answers, Path::Output { to: name(to) }, None);
        let endpoints = self.policy.endpoints.iter().map(|e| (e.mark.unwrap_or(0), e.uid));
        std::iter::once((0, None)).chain(endpoints).any(|(mark, uid)| {
            let packet = Packet { mark, uid, ..plain.clone() };
            eval(self.rules, &packet).verdict.passes()
        })
    }
}

/// The device's name for the rules; no rule knows a device without one.
fn name(way: &Way) -> String {
    match way {
        Way::Device(name) => name.clone(),
        Way::Here | Way::Refused | Way::Nowhere => String::new(),
    }
}

/// A packet in the middle of the connection.
fn packet(entry: &Entry, answers: bool, path: Path, source_mac: Option<Mac>) -> Packet {
    let (from, to) =
        if answers { (&entry.reply, &entry.orig) } else { (&entry.orig, &entry.reply) };
    Packet {
        path,
        source: from.source,
        // Where the other side's packets come from is where these go, behind all translation.
        dest: to.source,
        proto: from.proto,
        source_port: from.source_port,
        dest_port: to.source_port,
        icmp_type: from.icmp_type,
        tcp_syn: false,
        hop_limit: 0,
        source_mac,
        source_via: None,
        mark: 0,
        uid: None,
        conn_new: false,
        conn_reply: answers,
        conn_dnat: entry.dnat,
        conn_mark: entry.mark,
        // Not to be known from here; the rules judge each packet.
        into_ipsec: false,
        snat_out_of_ipsec: false,
        from_ipsec: false,
    }
}

#[cfg(test)]
mod tests;
