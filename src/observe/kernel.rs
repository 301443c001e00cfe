//! Links, addresses and default routes, as the kernel tells them (rtnetlink).

use std::io;

use netlink_bindings::rt_addr::{Ifaddrmsg, OpGetaddrDump};
use netlink_bindings::rt_link::{Ifinfomsg, OpGetlinkDump};
use netlink_bindings::rt_route::{OpGetrouteDump, Rtmsg};
use netlink_bindings::traits::NetlinkRequest;
use netlink_bindings::utils::find_attr;

use super::{Link, SINK, SINK_TABLE, Sink};
use crate::netlink::attr::{addr, native, text};
use crate::netlink::{Refusal, Request, Socket, again};

/// `IFF_UP`, `IFF_LOOPBACK` and `IFF_LOWER_UP` (linux/if.h).
const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 1 << 3;
const IFF_LOWER_UP: u32 = 1 << 16;
/// linux/netlink.h and linux/xfrm.h.
const NETLINK_XFRM: u16 = 6;
const XFRM_MSG_GETSA: u16 = 18;
/// `RTN_UNICAST` (linux/rtnetlink.h).
const RTN_UNICAST: u8 = 1;
/// `IFLA_IFNAME` (linux/if_link.h).
const IFLA_IFNAME: u16 = 3;
/// `IFLA_MASTER`.
const IFLA_MASTER: u16 = 10;
/// `IFLA_GROUP`.
const IFLA_GROUP: u16 = 27;
/// `IFLA_LINKINFO` and `IFLA_INFO_KIND`.
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
/// `IFA_ADDRESS` and `IFA_LOCAL` (linux/if_addr.h).
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// `RTA_OIF`, `RTA_MULTIPATH` and `RTA_TABLE` (linux/rtnetlink.h).
const RTA_OIF: u16 = 4;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
/// Bytes of a `struct rtnexthop` before its attributes; its device's index is at byte 4.
const NEXTHOP: usize = 8;

/// What the kernel told.
pub struct Seen {
    /// All devices but the loopback and the sink, with their addresses, by name.
    pub links: Vec<Link>,
    /// Those that a default route leaves by.
    pub uplinks: Vec<String>,
    /// The devices of each route that leads over several.
    pub multipath: Vec<Vec<String>>,
    /// The sink.
    pub sink: Sink,
}

/// Looks.
///
/// # Errors
/// What the kernel said.
pub fn look() -> io::Result<Seen> {
    let mut socket = Socket::open(0)?;
    Ok(again(|| read(&mut socket))?)
}

/// Whether the kernel has keys for IPsec.
///
/// # Errors
/// What the kernel said; `EPROTONOSUPPORT` when it knows no IPsec.
pub fn ipsec_keys() -> io::Result<bool> {
    let mut socket = Socket::open(NETLINK_XFRM)?;
    let keys = again(|| {
        let mut keys = false;
        socket.request(&Request::list(XFRM_MSG_GETSA, Vec::new()), |_| {
            keys = true;
            Ok(())
        })?;
        Ok(keys)
    })?;
    Ok(keys)
}

fn read(socket: &mut Socket) -> Result<Seen, Refusal> {
    let mut sink = Sink::default();
    let mut links: Vec<Link> = Vec::new();
    // All three requests are a header of zeros: everything, of both families.
    let list = |kind, header| Request::list(kind, vec![0; header]);
    socket.request(&list(libc::RTM_GETLINK, Ifinfomsg::len()), |reply| {
        let (header, _) = OpGetlinkDump::decode_reply(reply);
        if header.ifi_flags & IFF_LOOPBACK != 0 {
            return Ok(());
        }
        let attrs = reply.get(Ifinfomsg::len()..).unwrap_or_default();
        let group = native(attrs, IFLA_GROUP).unwrap_or(0);
        let kind = find_attr(attrs, IFLA_LINKINFO).and_then(|info| text(info, IFLA_INFO_KIND));
        if let (Some(name), Ok(index)) = (text(attrs, IFLA_IFNAME), u32::try_from(header.ifi_index))
        {
            let up = header.ifi_flags & (IFF_UP | IFF_LOWER_UP) == IFF_UP | IFF_LOWER_UP;
            let kind = kind.unwrap_or_default();
            // Another device of that name is somebody's.
            if name == SINK && kind == "bridge" {
                sink = Sink { index, up: header.ifi_flags & IFF_UP != 0, ..sink };
                return Ok(());
            }
            let port = find_attr(attrs, IFLA_MASTER).is_some();
            let link = Link { name, index, group, kind, port, up, addrs: Vec::new() };
            links.push(link);
        }
        Ok(())
    })?;

    socket.request(&list(libc::RTM_GETADDR, Ifaddrmsg::len()), |reply| {
        let (header, _) = OpGetaddrDump::decode_reply(reply);
        let attrs = reply.get(Ifaddrmsg::len()..).unwrap_or_default();
        // On a point-to-point link "address" is the other side's; IPv6 has no "local".
        let own = addr(attrs, IFA_LOCAL).or_else(|| addr(attrs, IFA_ADDRESS));
        let link = links.iter_mut().find(|l| l.index == header.ifa_index);
        if let (Some(link), Some(own)) = (link, own) {
            link.addrs.push(own);
        }
        Ok(())
    })?;

    let mut uplinks: Vec<u32> = Vec::new();
    let mut several: Vec<Vec<u32>> = Vec::new();
    socket.request(&list(libc::RTM_GETROUTE, Rtmsg::len()), |reply| {
        let (header, _) = OpGetrouteDump::decode_reply(reply);
        if header.rtm_type != RTN_UNICAST {
            return Ok(());
        }
        let attrs = reply.get(Rtmsg::len()..).unwrap_or_default();
        let table = native(attrs, RTA_TABLE).unwrap_or(header.rtm_table.into());
        let mut devices = next_hops(find_attr(attrs, RTA_MULTIPATH).unwrap_or_default());
        devices.extend(native(attrs, RTA_OIF));
        if table == SINK_TABLE {
            let to_sink = header.rtm_dst_len == 0 && devices == [sink.index];
            let v4 = i32::from(header.rtm_family) == libc::AF_INET;
            match (to_sink, v4) {
                (true, true) => sink.route4 = true,
                (true, false) => sink.route6 = true,
                (false, _) => sink.foreign = true,
            }
            return Ok(());
        }
        if devices.len() > 1 {
            several.push(devices.clone());
        }
        // Half of everything counts as well: 0.0.0.0/1 and 128.0.0.0/1 are how VPNs write a default.
        if header.rtm_dst_len <= 1 {
            uplinks.extend(devices);
        }
        Ok(())
    })?;

    let name = |index: &u32| links.iter().find(|l| l.index == *index).map(|l| l.name.clone());
    let multipath = several.iter().map(|of| of.iter().filter_map(name).collect()).collect();
    let mut names: Vec<String> = uplinks.iter().filter_map(name).collect();
    names.sort_unstable();
    names.dedup();
    links.iter_mut().for_each(|l| l.addrs.sort_unstable());
    links.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(Seen { links, uplinks: names, multipath, sink })
}

/// The devices of a route over several (`struct rtnexthop`, linux/rtnetlink.h).
fn next_hops(mut hops: &[u8]) -> Vec<u32> {
    let mut out = Vec::new();
    while let Some([l0, l1, _, _, a, b, c, d]) = hops.get(..NEXTHOP) {
        let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
        out.push(u32::from_ne_bytes([*a, *b, *c, *d]));
        if length < NEXTHOP {
            break;
        }
        hops = hops.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    out
}
