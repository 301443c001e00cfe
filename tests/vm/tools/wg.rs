//! WireGuard devices of the kernel: keys, configuration, and what is asked of them (linux/wireguard.h).

use super::{curve, unknown};
use crate::lab::Res;
use std::io::{Error, Read as _};
use std::net::{IpAddr, SocketAddr};
use vpn_killswitch::netlink::attr::{bytes, each, nest, string};
use vpn_killswitch::netlink::{Request, Socket, flag};

const NETLINK_GENERIC: u16 = 16;
const GET: u8 = 0;
const SET: u8 = 1;
const IFNAME: u16 = 2;
const PRIVATE_KEY: u16 = 3;
const LISTEN_PORT: u16 = 6;
const FWMARK: u16 = 7;
const PEERS: u16 = 8;

type Key = [u8; 32];

pub fn main(args: &[&str]) -> Res<()> {
    match args {
        ["genkey"] => {
            let mut key = Key::default();
            std::fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
            curve::clamp(&mut key);
            println!("{}", encode(&key));
            Ok(())
        }
        ["pubkey"] => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            println!("{}", encode(&curve::public(&decode(text.trim())?)));
            Ok(())
        }
        ["setconf", device, file] => {
            let configuration = configuration(&std::fs::read_to_string(file)?)?;
            set(device, |out| out.extend(configuration))
        }
        ["set", device, "fwmark", mark] => {
            let mark: u32 = mark.parse()?;
            set(device, |out| bytes(out, FWMARK, &mark.to_ne_bytes()))
        }
        ["show", device, what @ ("listen-port" | "endpoints" | "fwmark")] => show(device, what),
        _ => Err(unknown(args)),
    }
}

fn set(device: &str, fill: impl FnOnce(&mut Vec<u8>)) -> Res<()> {
    ask(SET, 0, device, fill).map(drop)
}

fn show(device: &str, what: &str) -> Res<()> {
    for reply in ask(GET, libc::NLM_F_DUMP, device, |_| {})? {
        for (kind, value) in each(&reply) {
            match (kind, what) {
                (LISTEN_PORT, "listen-port") => {
                    println!("{}", u16::from_ne_bytes(value.try_into()?))
                }
                (FWMARK, "fwmark") => println!("{:#x}", u32::from_ne_bytes(value.try_into()?)),
                (PEERS, "endpoints") => {
                    for (_, peer) in each(value) {
                        let of = |wanted| each(peer).find(|(kind, _)| *kind == wanted);
                        let (_, key) = of(1).ok_or("a peer without a key")?;
                        let endpoint = of(4).map(|(_, at)| socket_address(at)).transpose()?;
                        let endpoint = endpoint.map_or("(none)".to_owned(), |at| at.to_string());
                        println!("{}\t{endpoint}", encode(key.try_into()?));
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Asks the family; the attributes of all its replies.
fn ask(
    command: u8,
    flags: i32,
    device: &str,
    fill: impl FnOnce(&mut Vec<u8>),
) -> Res<Vec<Vec<u8>>> {
    let mut socket = Socket::open(NETLINK_GENERIC)?;
    let mut exchange = |kind, flags, payload| -> Res<Vec<Vec<u8>>> {
        let mut replies = Vec::new();
        socket
            .request(&Request { kind, flags, payload }, |reply| {
                replies.push(reply.get(4..).unwrap_or_default().to_vec());
                Ok(())
            })
            .map_err(Error::from)?;
        Ok(replies)
    };
    // The family of families: CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME, CTRL_ATTR_FAMILY_ID.
    let mut payload = vec![3, 1, 0, 0];
    string(&mut payload, 2, "wireguard");
    let replies = exchange(0x10, 0, payload)?;
    let attrs = || replies.iter().flat_map(|reply| each(reply));
    let (_, family) = attrs().find(|(kind, _)| *kind == 1).ok_or("no WireGuard in this kernel")?;
    let family = u16::from_ne_bytes(family.try_into()?);
    let mut payload = vec![command, 1, 0, 0];
    string(&mut payload, IFNAME, device);
    fill(&mut payload);
    exchange(family, flag(flags), payload)
}

/// A configuration with one peer, as attributes. Everything that the device had is replaced.
fn configuration(text: &str) -> Res<Vec<u8>> {
    let mut out = Vec::new();
    let mut peer = Vec::new();
    bytes(&mut out, 5, &1u32.to_ne_bytes());
    for line in text.lines() {
        let (name, value) = line.split_once(" = ").unwrap_or((line, ""));
        match name {
            "[Interface]" | "[Peer]" => {}
            "PrivateKey" => bytes(&mut out, PRIVATE_KEY, &decode(value)?),
            "ListenPort" => bytes(&mut out, LISTEN_PORT, &value.parse::<u16>()?.to_ne_bytes()),
            "PublicKey" => bytes(&mut peer, 1, &decode(value)?),
            "Endpoint" => bytes(&mut peer, 4, &address_bytes(value.parse()?)?),
            "AllowedIPs" => {
                let mut networks = Vec::new();
                for one in value.split(", ") {
                    let (addr, length) = one.split_once('/').ok_or("a network without a length")?;
                    networks.push((addr.parse::<IpAddr>()?, length.parse::<u8>()?));
                }
                nest(&mut peer, 9, |out| networks.into_iter().for_each(|n| network(out, n)));
            }
            other => return Err(unknown(&[other])),
        }
    }
    nest(&mut out, PEERS, |out| nest(out, 0, |out| out.extend(peer)));
    Ok(out)
}

fn network(out: &mut Vec<u8>, (addr, length): (IpAddr, u8)) {
    let (family, addr) = match addr {
        IpAddr::V4(addr) => (libc::AF_INET, addr.octets().to_vec()),
        IpAddr::V6(addr) => (libc::AF_INET6, addr.octets().to_vec()),
    };
    nest(out, 0, |out| {
        bytes(out, 1, &u16::try_from(family).unwrap_or(0).to_ne_bytes());
        bytes(out, 2, &addr);
        bytes(out, 3, &[length]);
    });
}

/// `struct sockaddr_in`; the laboratory's tunnel has no server of IPv6.
fn address_bytes(address: SocketAddr) -> Res<Vec<u8>> {
    let SocketAddr::V4(address) = address else { return Err("no IPv4 address".into()) };
    let family = (libc::AF_INET as u16).to_ne_bytes();
    Ok([&family[..], &address.port().to_be_bytes(), &address.ip().octets(), &[0; 8]].concat())
}

fn socket_address(at: &[u8]) -> Res<SocketAddr> {
    let [f0, f1, p0, p1, a, b, c, d, ..] = *at else { return Err("a short address".into()) };
    if u16::from_ne_bytes([f0, f1]) != libc::AF_INET as u16 {
        return Err("no IPv4 address".into());
    }
    Ok(SocketAddr::new([a, b, c, d].into(), u16::from_be_bytes([p0, p1])))
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64: 32 bytes are ten groups of three, and two.
fn encode(key: &Key) -> String {
    let mut out = String::new();
    for part in key.chunks(3) {
        let bits = part.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        let bits = bits << (8 * (3 - part.len()));
        out.extend((0..=part.len()).map(|n| char::from(DIGITS[bits >> (18 - 6 * n) & 63])));
    }
    out + "="
}

fn decode(text: &str) -> Res<Key> {
    let (mut bits, mut count, mut out) = (0usize, 0, Vec::new());
    for digit in text.trim_end_matches('=').bytes() {
        let value = DIGITS.iter().position(|d| *d == digit).ok_or("no base64")?;
        bits = (bits << 6 | value) & 0xffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out.try_into().map_err(|_| "no key of 32 bytes".into())
}
