//! Lists and deletes entries of connection tracking (ctnetlink), and asks for routes and neighbours
//! (rtnetlink) what the decision needs.

use std::io;
use std::net::IpAddr;

use netlink_bindings::utils::find_attr;

use super::{Entry, Oracle, Question, Tuple, Way, World, doomed};
use crate::netlink::attr::{addr, bytes, nest, word};
use crate::netlink::{Request, Socket, again};
use crate::observe::{Link, SINK, Sink};
use crate::policy::Policy;
use crate::ruleset::Ruleset;
use crate::types::{Mac, Sorted};

/// How many connections this network namespace has.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
/// On DD-WRT, whose kernels may lack ctnetlink: who reads one of these makes the kernel forget all
/// connections (so does its `start_firewall`).
const FLUSH: [&str; 2] =
    ["/proc/net/ip_conntrack_flush", "/proc/sys/net/netfilter/nf_conntrack_flush"];
/// `NETLINK_ROUTE`.
const ROUTE: u16 = 0;
/// `IPCTNL_MSG_CT_GET`, `IPCTNL_MSG_CT_DELETE` of `NFNL_SUBSYS_CTNETLINK`.
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
/// Bytes of a `struct nfgenmsg`; the first is the family.
const NFGENMSG: usize = 4;
/// linux/netfilter/nfnetlink_conntrack.h.
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_MARK: u16 = 8;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
/// `CTA_IP_V4_SRC` and `_DST`, then those of IPv6.
const CTA_IP: [(u16, u16); 2] = [(1, 2), (3, 4)];
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTO_ICMP_TYPE: u16 = 5;
const CTA_PROTO_ICMPV6_TYPE: u16 = 8;
/// `IPS_DST_NAT` (linux/netfilter/nf_conntrack_common.h).
const IPS_DST_NAT: u32 = 1 << 5;
/// `RTM_GETROUTE`, `RTM_GETNEIGH`; `RTA_*`, `NDA_*`, `RTN_*` (linux/rtnetlink.h, linux/neighbour.h).
const GETROUTE: u16 = 26;
const GETNEIGH: u16 = 30;
const RTMSG: usize = 12;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_IIF: u16 = 3;
const RTA_OIF: u16 = 4;
const RTA_MARK: u16 = 16;
const RTN_UNICAST: u8 = 1;
/// `RTN_LOCAL`, `RTN_BROADCAST`, `RTN_ANYCAST`, `RTN_MULTICAST`.
const RTN_HERE: std::ops::RangeInclusive<u8> = 2..=5;
const NDMSG: usize = 12;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

/// Entries that are deleted between two listings: a bound for memory.
const AT_ONCE: usize = 4096;
/// Listings at most; 64 times 4096 is as many entries as any router keeps.
const ROUNDS: usize = 64;
/// Answers about routes that are remembered: clients have many connections each.
const REMEMBERED: usize = 1024;

/// What was done.
#[derive(Debug, Default)]
pub struct Cut {
    /// Connections that were removed.
    pub removed: usize,
    /// Connections that the kernel did not let go. Before Linux 6.4 it keeps offloaded ones (`EBUSY`).
    pub kept: usize,
    /// Why, of the last one.
    pub why: Option<io::Error>,
}

/// Removes the connections that the rules refuse now.
/// `socket` is the one that the rules were sent by: closing another would wait for what the transaction
/// deleted. `links` are the devices as they were seen for the rules.
///
/// # Errors
/// What the kernel said when it was to list them; `EINVAL` or `EPROTONOSUPPORT` without ctnetlink.
pub fn cut(
    socket: &mut Socket,
    policy: &Policy,
    rules: &Ruleset,
    links: &[Link],
) -> io::Result<Cut> {
    // Walking an empty table takes milliseconds all the same: the kernel looks into every bucket.
    if std::fs::read_to_string(COUNT).is_ok_and(|count| count.trim() == "0") {
        return Ok(Cut::default());
    }
    let mut kernel = Kernel::open(policy, links, Sink::default())?;
    let world = World { policy, rules, links };
    let mut cut = Cut::default();
    for _ in 0..ROUNDS {
        let list = Request::list(GET, vec![0; NFGENMSG]);
        let found = again(|| {
            let mut found: Vec<Request> = Vec::new();
            socket.request(&list, |reply| {
                // What does not fit is found again by the next listing.
                if found.len() < AT_ONCE
                    && let Some(entry) = decode(reply)
                    && doomed(&entry, &world, &mut kernel)
                {
                    found.extend(deletion(reply));
                }
                Ok(())
            })?;
            Ok(found)
        })?;
        let (before, full) = (cut.removed, found.len() == AT_ONCE);
        cut.kept = 0;
        for request in found {
            match socket.request(&request, |_| Ok(())) {
                Ok(()) => cut.removed += 1,
                Err(refusal) if refusal.is(libc::ENOENT) => {}
                Err(refusal) => {
                    cut.kept += 1;
                    cut.why = Some(refusal.into());
                }
            }
        }
        if !full || cut.removed == before {
            break;
        }
    }
    Ok(cut)
}

/// Removes all connections, where there is no way to choose. `None` where there is none to do that either.
pub fn flush() -> Option<Cut> {
    let removed = std::fs::read_to_string(COUNT).ok().and_then(|n| n.trim().parse().ok());
    let read = FLUSH.iter().filter(|file| std::fs::read(file).is_ok()).count();
    (read > 0).then(|| Cut { removed: removed.unwrap_or(0), ..Cut::default() })
}

/// An entry; `None` for a family or shape that is not known here.
fn decode(reply: &[u8]) -> Option<Entry> {
    let attrs = reply.get(NFGENMSG..)?;
    Some(Entry {
        orig: tuple(find_attr(attrs, CTA_TUPLE_ORIG)?)?,
        reply: tuple(find_attr(attrs, CTA_TUPLE_REPLY)?)?,
        dnat: word(attrs, CTA_STATUS).unwrap_or(0) & IPS_DST_NAT != 0,
        mark: word(attrs, CTA_MARK).unwrap_or(0),
    })
}

fn tuple(attrs: &[u8]) -> Option<Tuple> {
    let ip = find_attr(attrs, CTA_TUPLE_IP)?;
    let (source, dest) =
        CTA_IP.iter().find_map(|(source, dest)| Some((addr(ip, *source)?, addr(ip, *dest)?)))?;
    let l4 = find_attr(attrs, CTA_TUPLE_PROTO)?;
    let byte = |kind| find_attr(l4, kind).and_then(|b| b.first().copied());
    let port = |kind| {
        let value = find_attr(l4, kind).and_then(|p| p.try_into().ok());
        value.map_or(0, u16::from_be_bytes)
    };
    Some(Tuple {
        source,
        dest,
        proto: byte(CTA_PROTO_NUM)?,
        source_port: port(CTA_PROTO_SRC_PORT),
        dest_port: port(CTA_PROTO_DST_PORT),
        icmp_type: byte(CTA_PROTO_ICMP_TYPE).or(byte(CTA_PROTO_ICMPV6_TYPE)).unwrap_or(0),
    })
}

/// The request that deletes this entry and no later one of the same addresses: by its number.
fn deletion(reply: &[u8]) -> Option<Request> {
    let (header, attrs) = reply.split_at_checked(NFGENMSG)?;
    let mut payload = vec![*header.first()?, 0, 0, 0];
    nest(&mut payload, CTA_TUPLE_ORIG, |out| {
        out.extend(find_attr(attrs, CTA_TUPLE_ORIG).unwrap_or_default());
    });
    for kind in [CTA_ZONE, CTA_ID] {
        if let Some(value) = find_attr(attrs, kind) {
            bytes(&mut payload, kind, value);
        }
    }
    Some(Request { kind: DELETE, flags: 0, payload })
}

/// Where the router itself would send a packet for this address.
///
/// # Errors
/// What the kernel said.
pub fn way_to(dest: IpAddr, links: &[Link]) -> io::Result<Way> {
    let socket = Socket::open(ROUTE)?;
    let (ways, macs) = (Sorted::default(), Sorted::default());
    let mut kernel = Kernel { socket, links, sink: 0, ways, macs };
    Ok(kernel.ask(&Question { dest, source: None, from: 0, mark: 0 }))
}

/// Answers from the kernel's routing and neighbour tables.
pub struct Kernel<'a> {
    socket: Socket,
    links: &'a [Link],
    /// The index of the device for refused packets.
    sink: u32,
    ways: Sorted<Question, Way>,
    macs: Sorted<IpAddr, Mac>,
}

impl<'a> Kernel<'a> {
    /// Reads the neighbours, where an exemption asks for them. `sink` is the device for refused packets,
    /// where a way to it is to have its name.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn open(policy: &Policy, links: &'a [Link], sink: Sink) -> io::Result<Self> {
        let mut socket = Socket::open(ROUTE)?;
        let mut macs = Sorted::default();
        if policy.exempts.iter().any(|e| !e.src_mac.is_empty()) {
            let list = Request::list(GETNEIGH, vec![0; NDMSG]);
            again(|| {
                socket.request(&list, |reply| {
                    let attrs = reply.get(NDMSG..).unwrap_or_default();
                    let mac = find_attr(attrs, NDA_LLADDR).and_then(|m| m.try_into().ok());
                    if let (Some(addr), Some(mac)) = (addr(attrs, NDA_DST), mac) {
                        macs.insert(addr, Mac(mac));
                    }
                    Ok(())
                })
            })?;
        }
        Ok(Self { socket, links, sink: sink.index, ways: Sorted::default(), macs })
    }

    fn ask(&mut self, question: &Question) -> Way {
        let mut way = Way::Nowhere;
        let (links, sink) = (self.links, self.sink);
        // A route that refuses is told as an error.
        let answer = self.socket.request(&encode(question), |reply| {
            let kind = reply.get(7).copied().unwrap_or(0);
            let attrs = reply.get(RTMSG..).unwrap_or_default();
            let out = find_attr(attrs, RTA_OIF).and_then(|i| i.try_into().ok());
            let index = out.map(u32::from_ne_bytes);
            way = match (kind, links.iter().find(|l| Some(l.index) == index)) {
                (RTN_UNICAST, Some(link)) => Way::Device(link.name.clone()),
                (RTN_UNICAST, None) if sink != 0 && index == Some(sink) => {
                    Way::Device(SINK.to_owned())
                }
                (kind, _) if RTN_HERE.contains(&kind) => Way::Here,
                _ => Way::Nowhere,
            };
            Ok(())
        });
        if answer.is_err_and(|refusal| refusal.is(libc::EACCES)) {
            return Way::Refused;
        }
        way
    }
}

impl Oracle for Kernel<'_> {
    fn route(&mut self, question: &Question) -> Way {
        if let Some(way) = self.ways.get(question) {
            return way.clone();
        }
        if self.ways.len() >= REMEMBERED {
            self.ways.clear();
        }
        let way = self.ask(question);
        self.ways.insert(question.clone(), way.clone());
        way
    }

    fn mac(&mut self, addr: &IpAddr) -> Option<Mac> {
        self.macs.get(addr).copied()
    }
}

fn encode(question: &Question) -> Request {
    let number = if question.dest.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let [family, ..] = number.to_le_bytes();
    let length = |addr: &IpAddr| if addr.is_ipv4() { 32 } else { 128 };
    // struct rtmsg: family, dst_len, src_len, and zeros.
    let mut payload = vec![0; RTMSG];
    let source_len = question.source.as_ref().map_or(0, length);
    for (byte, value) in payload.iter_mut().zip([family, length(&question.dest), source_len]) {
        *byte = value;
    }
    let mut address = |kind, addr: &IpAddr| match addr {
        IpAddr::V4(a) => bytes(&mut payload, kind, &a.octets()),
        IpAddr::V6(a) => bytes(&mut payload, kind, &a.octets()),
    };
    address(RTA_DST, &question.dest);
    if let Some(source) = &question.source {
        address(RTA_SRC, source);
    }
    for (kind, value) in [(RTA_IIF, question.from), (RTA_MARK, question.mark)] {
        if value != 0 {
            bytes(&mut payload, kind, &value.to_ne_bytes());
        }
    }
    Request { kind: GETROUTE, flags: 0, payload }
}
