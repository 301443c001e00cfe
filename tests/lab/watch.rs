//! What is watched in the network, and what the captures amount to.

use super::capture::Capture;
use super::ns::Ns;
use super::packet::{Packet, UDP};
use super::topology::{ENDPOINT_PORT, Lab, endpoint};
use super::traffic::{Flow, Sent};
use super::{Error, Res};
use std::collections::HashSet;

impl Lab {
    /// Begins to watch the uplinks, the VPN server's way out and the internet host.
    pub fn watch(&self) -> Res<Watch> {
        Ok(Watch {
            uplinks: vec![Capture::start(&self.provider, "isp0")?],
            vpn: Capture::start(&self.vpn, "eth0")?,
            internet: Capture::start(&self.internet, "eth0")?,
        })
    }
}

/// Captures of all places that matter.
pub struct Watch {
    uplinks: Vec<Capture>,
    vpn: Capture,
    internet: Capture,
}

impl Watch {
    /// Watches another uplink, by its far end in `ns`.
    pub fn also(&mut self, ns: &Ns, device: &str) -> Res<()> {
        self.uplinks.push(Capture::start(ns, device)?);
        Ok(())
    }

    /// Lets everything arrive and stops.
    pub fn finish(self) -> Res<Seen> {
        let incoming = |c: Capture| -> Res<Vec<Packet>> {
            Ok(c.finish()?.into_iter().filter(|p| !p.outgoing).collect())
        };
        let mut uplink = Vec::new();
        for capture in self.uplinks {
            uplink.extend(incoming(capture)?);
        }
        let vpn = self.vpn.finish()?.into_iter().filter(|p| p.outgoing).collect();
        Ok(Seen { uplink, vpn, internet: incoming(self.internet)? })
    }
}

/// What was seen where.
pub struct Seen {
    /// Everything that came out of the router's uplinks.
    pub uplink: Vec<Packet>,
    /// Everything that the VPN server sent on.
    pub vpn: Vec<Packet>,
    /// Everything that reached the internet host.
    pub internet: Vec<Packet>,
}

/// The count of one step.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Packets that the sources tried to send.
    pub sent: u32,
    /// Of these, how many went on from the VPN server.
    pub tunnel: u32,
    /// Packets on the uplink that had no business there.
    pub leaked: u32,
}

impl Seen {
    /// Packets on the uplink that are neither for the VPN endpoint nor housekeeping. A marked
    /// packet has no business there even if it is addressed to the endpoint.
    pub fn strays(&self) -> impl Iterator<Item = &Packet> {
        self.uplink.iter().filter(|p| {
            let tunnel = p.is_to(&endpoint(), UDP, ENDPOINT_PORT) && p.mark.is_none();
            !(tunnel || p.is_housekeeping())
        })
    }

    /// How many different packets of these flows are among `packets`.
    pub fn distinct(packets: &[Packet], sent: &[Sent]) -> u32 {
        let flows: HashSet<u16> = sent.iter().map(|s| s.flow.id).collect();
        let of_flows = packets.iter().filter(|p| !p.is_icmp_error());
        let marks: HashSet<_> =
            of_flows.filter_map(|p| p.mark).filter(|m| flows.contains(&m.flow)).collect();
        marks.len() as u32
    }

    /// An error unless every packet of each flow is among `packets`.
    pub fn all_arrived<'a>(
        packets: &[Packet],
        sent: impl IntoIterator<Item = &'a Sent>,
    ) -> Res<()> {
        for s in sent {
            let arrived = Self::distinct(packets, std::slice::from_ref(s));
            if arrived != s.sent {
                return Err(missing(s, s.sent, arrived));
            }
        }
        Ok(())
    }

    /// Counts a step in which these flows were sent.
    pub fn tally(&self, sent: &[Sent]) -> Tally {
        Tally {
            sent: sent.iter().map(|s| s.sent).sum(),
            tunnel: Self::distinct(&self.vpn, sent),
            leaked: self.strays().count() as u32,
        }
    }
}

/// Lost packets, as an error.
pub fn missing(sent: &Sent, expected: u32, arrived: u32) -> Error {
    let Flow { kind, to, id } = &sent.flow;
    format!("flow {id} {kind:?} to {to}: of {expected} packets only {arrived} arrived").into()
}
