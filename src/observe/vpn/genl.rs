//! WireGuard devices as the kernel tells them: generic netlink, family `wireguard` or `amneziawg`
//! (linux/wireguard.h).
//!
//! Responsible for bytes only. Numbers are in the machine's order but for a socket address's port,
//! which is in network order as in every `struct sockaddr`.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use netlink_bindings::utils::find_attr;

use super::Running;
use super::wireguard::{Live, encode_key};
use crate::netlink::{Refusal, Request, Socket, attr, flag};

/// `NETLINK_GENERIC` (linux/netlink.h).
const NETLINK_GENERIC: u16 = 16;
/// Bytes of a `struct genlmsghdr`.
const HEADER: usize = 4;

/// The family of families: `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_ID` and
/// `CTRL_ATTR_FAMILY_NAME` (linux/genetlink.h).
const CONTROLLER: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// `WG_CMD_GET_DEVICE`, `WGDEVICE_A_*` and `WGPEER_A_*`. AmneziaWG has the same and adds behind them.
const GET_DEVICE: u8 = 0;
const VERSION: u8 = 1;
const IFNAME: u16 = 2;
const LISTEN_PORT: u16 = 6;
const FWMARK: u16 = 7;
const PEERS: u16 = 8;
const PEER_PUBLIC_KEY: u16 = 1;
const PEER_ENDPOINT: u16 = 4;
const PEER_LAST_HANDSHAKE: u16 = 6;
const PEER_TX_BYTES: u16 = 8;

/// How often an interrupted listing is asked for again.
const ATTEMPTS: usize = 8;

/// A socket for generic netlink.
pub fn open() -> io::Result<Socket> {
    Socket::open(NETLINK_GENERIC)
}

/// The number that the kernel gave the family; none when it does not have it.
///
/// # Errors
/// What the kernel said.
pub fn family(socket: &mut Socket, name: &str) -> io::Result<Option<u16>> {
    let mut payload = vec![GET_FAMILY, 1, 0, 0];
    attr::string(&mut payload, FAMILY_NAME, name);
    let mut id = None;
    let asked = socket.request(&Request { kind: CONTROLLER, flags: 0, payload }, |reply| {
        id = id.or_else(|| u16::from_attr(find(reply, FAMILY_ID)?));
        Ok(())
    });
    match asked {
        Err(refusal) if refusal.is(libc::ENOENT) => Ok(None),
        other => other.map(|()| id).map_err(io::Error::from),
    }
}

/// A WireGuard device's own port, mark and peers.
///
/// # Errors
/// What the kernel said; `ENODEV` when the device is gone.
pub fn device(socket: &mut Socket, family: u16, name: &str) -> Result<Live, Refusal> {
    let mut payload = vec![GET_DEVICE, VERSION, 0, 0];
    attr::string(&mut payload, IFNAME, name);
    let request = Request { kind: family, flags: flag(libc::NLM_F_DUMP), payload };
    let mut attempt = 0;
    loop {
        let mut live = Live::default();
        attempt += 1;
        match socket.request(&request, |reply| {
            decode(reply, &mut live);
            Ok(())
        }) {
            Err(refusal) if refusal.is(libc::EINTR) && attempt < ATTEMPTS => {}
            other => return other.map(|()| live),
        }
    }
}

/// Adds what one message says. A device with many peers comes in several, and only the first has the
/// device's own attributes; a peer with many networks comes again, without its endpoint.
fn decode(message: &[u8], live: &mut Live) {
    if let Some(port) = find(message, LISTEN_PORT).and_then(u16::from_attr) {
        live.listen_port = port;
    }
    if let Some(mark) = find(message, FWMARK).and_then(u32::from_attr) {
        live.mark = mark;
    }
    let peers = find(message, PEERS).into_iter().flat_map(attr::each);
    live.peers.extend(peers.filter_map(|(_, peer)| {
        let of = |kind| find_attr(peer, kind);
        // A `struct __kernel_timespec`: 64 bits of seconds come first, on every machine.
        let number = |kind| {
            of(kind).and_then(|bytes| bytes.first_chunk()).map_or(0, |n| u64::from_ne_bytes(*n))
        };
        Some(Running {
            key: encode_key(of(PEER_PUBLIC_KEY)?)?,
            addr: sockaddr(of(PEER_ENDPOINT)?)?,
            handshake: number(PEER_LAST_HANDSHAKE),
            sent: number(PEER_TX_BYTES),
        })
    }));
}

fn find(message: &[u8], kind: u16) -> Option<&[u8]> {
    find_attr(message.get(HEADER..)?, kind)
}

/// `struct sockaddr_in` or `struct sockaddr_in6`.
fn sockaddr(bytes: &[u8]) -> Option<SocketAddr> {
    let [f0, f1, p0, p1, rest @ ..] = bytes else { return None };
    let family = i32::from(u16::from_ne_bytes([*f0, *f1]));
    let addr: IpAddr = match family {
        libc::AF_INET => <[u8; 4]>::try_from(rest.get(..4)?).ok()?.into(),
        // Behind the flow label.
        libc::AF_INET6 => Ipv6Addr::from(<[u8; 16]>::try_from(rest.get(4..20)?).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(addr, u16::from_be_bytes([*p0, *p1])))
}

trait FromAttr: Sized {
    fn from_attr(bytes: &[u8]) -> Option<Self>;
}

impl FromAttr for u16 {
    fn from_attr(bytes: &[u8]) -> Option<Self> {
        Some(Self::from_ne_bytes(bytes.try_into().ok()?))
    }
}

impl FromAttr for u32 {
    fn from_attr(bytes: &[u8]) -> Option<Self> {
        Some(Self::from_ne_bytes(bytes.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 32] = [7; 32];

    /// A peer as the kernel writes it.
    fn peer(out: &mut Vec<u8>, endpoint: Option<&[u8]>) {
        attr::nest(out, 0, |out| {
            attr::bytes(out, PEER_PUBLIC_KEY, &KEY);
            if let Some(endpoint) = endpoint {
                attr::bytes(out, PEER_ENDPOINT, endpoint);
                let time = [1_700_000_000u64.to_ne_bytes(), 5u64.to_ne_bytes()].concat();
                attr::bytes(out, PEER_LAST_HANDSHAKE, &time);
                attr::bytes(out, PEER_TX_BYTES, &296u64.to_ne_bytes());
            }
        });
    }

    /// `struct sockaddr_in`: family in the machine's order, port and address in the network's.
    fn v4() -> Vec<u8> {
        let mut out = u16::try_from(libc::AF_INET).unwrap().to_ne_bytes().to_vec();
        out.extend([0xca, 0x6c, 192, 0, 2, 1]);
        out.extend([0; 8]);
        out
    }

    fn v6() -> Vec<u8> {
        let mut out = u16::try_from(libc::AF_INET6).unwrap().to_ne_bytes().to_vec();
        out.extend([0xca, 0x6c, 9, 9, 9, 9]);
        out.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        out.extend([0; 4]);
        out
    }

    #[test]
    fn a_device_is_read_from_several_messages() {
        let mut first = vec![GET_DEVICE, VERSION, 0, 0];
        attr::bytes(&mut first, 1, &9u32.to_ne_bytes());
        attr::string(&mut first, IFNAME, "wg0");
        attr::bytes(&mut first, LISTEN_PORT, &51820u16.to_ne_bytes());
        attr::bytes(&mut first, FWMARK, &0xca6cu32.to_ne_bytes());
        attr::nest(&mut first, PEERS, |out| {
            peer(out, Some(&v4()));
            peer(out, None);
        });
        let mut second = vec![GET_DEVICE, VERSION, 0, 0];
        attr::string(&mut second, IFNAME, "wg0");
        attr::nest(&mut second, PEERS, |out| {
            peer(out, None);
            peer(out, Some(&v6()));
        });
        let mut live = Live::default();
        decode(&first, &mut live);
        decode(&second, &mut live);
        assert_eq!((live.listen_port, live.mark), (51820, 0xca6c));
        let key = encode_key(&KEY).unwrap();
        let endpoint = |text: &str| Running {
            key: key.clone(),
            addr: text.parse().unwrap(),
            handshake: 1_700_000_000,
            sent: 296,
        };
        assert_eq!(live.peers, [endpoint("192.0.2.1:51820"), endpoint("[2001:db8::1]:51820")]);
    }

    #[test]
    fn the_kernel_is_asked_for_its_families() {
        let mut socket = open().unwrap();
        // The controller is a family itself, in every kernel.
        assert_eq!(family(&mut socket, "nlctrl").unwrap(), Some(CONTROLLER));
        assert_eq!(family(&mut socket, "no such one").unwrap(), None);
    }

    proptest! {
        #[test]
        fn no_message_is_a_surprise(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            decode(&bytes, &mut Live::default());
            sockaddr(&bytes);
        }

        #[test]
        fn nor_one_that_is_almost_right(at in 0usize..120, byte: u8) {
            let mut message = vec![GET_DEVICE, VERSION, 0, 0];
            attr::nest(&mut message, PEERS, |out| {
                peer(out, Some(&v4()));
                peer(out, Some(&v6()));
            });
            if let Some(at) = message.get_mut(at) {
                *at = byte;
            }
            decode(&message, &mut Live::default());
        }
    }
}
