//! WireGuard and AmneziaWG: `/etc/config/network` as their protocol handlers read it, or wg-quick's
//! files, joined with what the kernel, or the program that owns the device, says about it.
//!
//! The configuration has the server's name. What runs has the port and the mark that tell the tunnel's
//! packets from all others, and the address that is really used.

use super::{Finder, Found, NETWORK, ROOT, Running, files, genl, nvram, port, uapi, wg_quick};
use crate::config::uci::{Package, Section};
use crate::config::{Host, number};
use crate::netlink::Socket;
use crate::types::{DevicePattern, Proto, Sorted};

/// The port where a peer has none (wireguard.sh).
const DEFAULT_PORT: u16 = 51820;
/// The kinds of device, and the families, that speak WireGuard's netlink.
const KINDS: [&str; 2] = ["wireguard", "amneziawg"];

/// A device that runs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Its own port; 0 before it is up.
    pub listen_port: u16,
    /// The mark of its packets; 0 for none.
    pub mark: u32,
    /// Each peer that has an address.
    pub peers: Vec<Running>,
}

/// A device that is configured.
pub(super) struct Configured {
    /// Its name.
    pub name: String,
    /// Whether it is a netifd interface.
    pub netifd: bool,
    /// Its own port, where one is set.
    pub listen_port: Option<u16>,
    /// The mark of its packets, where one is set.
    pub mark: Option<u32>,
    /// Those with a server.
    pub peers: Vec<Peer>,
}

/// A peer that is a server.
pub(super) struct Peer {
    /// Its public key in base64.
    pub key: String,
    /// The server.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// Where it is configured.
    pub source: String,
}

/// Lists the peers of all interfaces, configured and running.
pub(super) fn find(finder: &mut Finder<'_>, network: &Package) {
    let mut configured = configured(finder, network);
    for other in wg_quick::configured(finder).into_iter().chain(nvram::wireguard(finder)) {
        // netifd makes its devices by its own configuration only.
        if !configured.iter().any(|c| c.name == other.name) {
            configured.push(other);
        }
    }
    let mut live = running(finder);
    for interface in configured {
        let of_device = live.remove(interface.name.as_str());
        join(finder, interface, of_device);
    }
    for (name, (live, source)) in live {
        let nothing =
            Configured { name, netifd: false, listen_port: None, mark: None, peers: Vec::new() };
        join(finder, nothing, Some((live, source)));
    }
}

fn join(finder: &mut Finder<'_>, configured: Configured, live: Option<(Live, String)>) {
    let Configured { name, netifd, listen_port, mark, peers } = configured;
    // What runs knows better; but before it is up it may not have chosen its port.
    let (listen_port, mark) = match &live {
        Some((live, _)) => {
            (Some(live.listen_port).filter(|p| *p != 0).or(listen_port), Some(live.mark))
        }
        None => (listen_port, mark),
    };
    let mark = mark.filter(|m| *m != 0);
    // Where neither is known there is no device yet, or a program that cannot be asked. Its sockets are
    // root's. The kernel's own packets have no user, but it sends none without a device.
    let user = (listen_port.is_none() && mark.is_none()).then(|| ROOT.to_owned());
    let interface = netifd.then(|| name.clone());
    let mut add = |key: &str, host: Host, port: u16, source: String, running| {
        finder.add(Found {
            name: label(&name, key),
            host,
            port: Some(port),
            proto: Proto::Udp,
            source_port: listen_port,
            mark,
            user: user.clone(),
            interface: interface.clone(),
            device: DevicePattern::parse(&name).ok(),
            source,
            running,
        });
    };
    for peer in &peers {
        let live = live.iter().flat_map(|(live, _)| &live.peers).find(|l| l.key == peer.key);
        let running = live.cloned();
        add(&peer.key, peer.host.clone(), peer.port, peer.source.clone(), running);
    }
    let Some((live, source)) = live else { return };
    for Running { key, addr: endpoint, .. } in live.peers {
        // A server on the router itself, or an address that means nothing, needs no rule.
        let Some(host) = Host::parse(&endpoint.ip().to_canonical().to_string()) else { continue };
        let known = |p: &Peer| p.key == key && p.host == host && p.port == endpoint.port();
        if endpoint.port() != 0 && !peers.iter().any(known) {
            add(&key, host, endpoint.port(), source.clone(), None);
        }
    }
}

/// For people: the device, and as much of the key as tells peers apart.
pub(super) fn label(device: &str, key: &str) -> String {
    format!("{device} peer {}", key.get(..8).unwrap_or(key))
}

/// A mark as wg reads it.
pub(super) fn read_mark(text: &str) -> Option<u32> {
    if text == "off" { Some(0) } else { number(text) }
}

/// The interfaces that netifd would make, with those peers that have a server.
fn configured(finder: &mut Finder<'_>, network: &Package) -> Vec<Configured> {
    let mut out = Vec::new();
    for section in network.sections.iter().filter(|s| s.kind == "interface") {
        let Some(name) = section.name.clone() else { continue };
        let kind = files::scalar(section, "proto").filter(|p| KINDS.contains(&p.as_str()));
        let Some(kind) = kind.filter(|_| !files::flag(section, "disabled")) else { continue };
        let source = format!("/{NETWORK}: {name}");
        let mut value = |option, read: fn(&str) -> Option<u32>| {
            let text = files::scalar(section, option)?;
            let value = read(&text);
            if value.is_none() {
                let text = text.escape_debug();
                finder.problem(&format!("{source}: '{text}' is no value for {option}"));
            }
            value.filter(|v| *v != 0)
        };
        let listen_port = value("listen_port", |t| Some(t.parse::<u16>().ok()?.into()));
        let mark = value("fwmark", read_mark);
        let peer_kind = format!("{kind}_{name}");
        let sections = network.sections.iter().filter(|s| s.kind == peer_kind);
        let peers = sections.filter_map(|s| peer(finder, s, &name)).collect();
        let listen_port = listen_port.and_then(|p| u16::try_from(p).ok());
        out.push(Configured { name, netifd: true, listen_port, mark, peers });
    }
    out
}

fn peer(finder: &mut Finder<'_>, section: &Section, device: &str) -> Option<Peer> {
    if files::flag(section, "disabled") {
        return None;
    }
    // The handler skips a peer without a key; one without a server waits to be called.
    let key = files::scalar(section, "public_key")?;
    let server = files::value(section, "endpoint_host")?;
    let source = format!("/{NETWORK}: {}", section.kind);
    let name = label(device, &key);
    let port = match files::scalar(section, "endpoint_port").as_deref().map(port) {
        None => DEFAULT_PORT,
        Some(Ok(port)) => port,
        Some(Err(why)) => {
            finder.problem(&format!("{source}: {name}: {why}"));
            return None;
        }
    };
    let host = finder.host(&source, &name, &server)?;
    Some(Peer { key, host, port, source })
}

/// Every WireGuard device that runs, with where that was learned.
fn running(finder: &mut Finder<'_>) -> Sorted<String, (Live, String)> {
    let mut out = Sorted::default();
    for kind in KINDS {
        let of_kind = |l: &&super::Link| l.kind == kind;
        let names: Vec<String> =
            finder.links.iter().filter(of_kind).map(|l| l.name.clone()).collect();
        if !names.is_empty() {
            in_kernel(finder, kind, &names, &mut out);
        }
    }
    for dir in ["var/run/wireguard", "var/run/amneziawg"] {
        for name in files::names_of(&finder.root.join(dir), ".sock") {
            // What a program that is gone left behind.
            if out.get(&name).is_some() || !finder.links.iter().any(|l| l.name == name) {
                continue;
            }
            let source = format!("/{dir}/{name}.sock");
            match uapi::get(&finder.root.join(dir).join(format!("{name}.sock"))) {
                Ok(live) => out.insert(name, (live, source)),
                Err(e) => finder.problem(&format!("{source}: {e}")),
            }
        }
    }
    out
}

fn in_kernel(
    finder: &mut Finder<'_>,
    kind: &str,
    names: &[String],
    out: &mut Sorted<String, (Live, String)>,
) {
    let opened = genl::open().and_then(|mut socket: Socket| {
        let family = genl::family(&mut socket, kind)?;
        Ok((socket, family))
    });
    let (mut socket, family) = match opened {
        Ok((socket, Some(family))) => (socket, family),
        Ok((_, None)) => {
            finder.problem(&format!("kernel: {kind}: there are devices, but no netlink family"));
            return;
        }
        Err(e) => {
            finder.problem(&format!("kernel: {kind}: {e}"));
            return;
        }
    };
    for name in names {
        match genl::device(&mut socket, family, name) {
            Ok(live) => {
                out.insert(name.clone(), (live, format!("kernel: {name}")));
            }
            // Gone since the links were listed.
            Err(refusal) if refusal.is(libc::ENODEV) => {}
            Err(refusal) => finder.problem(&format!("kernel: {name}: {refusal}")),
        }
    }
}

/// A public key as people and configuration files write it: base64 of 32 bytes.
pub(super) fn encode_key(key: &[u8]) -> Option<String> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if key.len() != 32 {
        return None;
    }
    let mut out = String::with_capacity(44);
    for part in key.chunks(3) {
        let bits = part.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - part.len()));
        for n in 0..=part.len() {
            let digit = usize::try_from(bits >> (18 - 6 * n) & 63).ok()?;
            out.push(char::from(*DIGITS.get(digit)?));
        }
    }
    // 32 bytes are ten groups of three, and two.
    out.push('=');
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "jZ1gkGv9p35OTToGnC8tPMMw4ev7zvZqhe3T5sH39nM=";
    const OTHER: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

    fn network(text: &str) -> Package {
        crate::config::uci::parse(text.as_bytes()).unwrap()
    }

    fn peer(key: &str, addr: &str) -> Running {
        Running { key: key.to_owned(), addr: addr.parse().unwrap(), handshake: 7, sent: 148 }
    }

    /// What is found with this configuration and with `wg0` running as given.
    fn found(text: &str, live: Option<Live>) -> (Vec<Found>, Vec<String>) {
        let root = std::path::Path::new("/nonexistent");
        let mut finder = Finder { root, links: &[], found: Vec::new(), problems: Vec::new() };
        let mut live = live.map(|live| (live, "kernel: wg0".to_owned()));
        for interface in configured(&mut finder, &network(text)) {
            join(&mut finder, interface, live.take());
        }
        (finder.found, finder.problems)
    }

    fn brief(found: &[Found]) -> Vec<String> {
        let brief = |f: &Found| {
            let of = |n: Option<String>| n.unwrap_or_else(|| "-".to_owned());
            format!(
                "{} {} {} from {} mark {} user {} by {}",
                f.name,
                f.host,
                of(f.port.map(|p| p.to_string())),
                of(f.source_port.map(|p| p.to_string())),
                of(f.mark.map(|m| format!("{m:#x}"))),
                of(f.user.clone()),
                f.source
            )
        };
        found.iter().map(brief).collect()
    }

    #[test]
    fn a_configuration_as_a_provider_shows_it() {
        let text = format!(
            "config interface 'wg0'\n option proto 'wireguard'\n option private_key 'x'\n\
             list addresses '10.64.0.2/32'\n\
             config wireguard_wg0\n option public_key '{KEY}'\n option endpoint_host '192.0.2.7'\n\
             option endpoint_port '3000'\n list allowed_ips '0.0.0.0/0'\n option route_allowed_ips '1'\n\
             config wireguard_wg0\n option public_key '{OTHER}'\n\
             option endpoint_host 'VPN.example.net'\n\
             config wireguard_wg0\n option public_key '{OTHER}'\n option disabled '1'\n\
             option endpoint_host 'off.example.net'\n\
             config wireguard_wg0\n option endpoint_host 'no-key.example.net'\n\
             config wireguard_wg9\n option public_key '{KEY}'\n option endpoint_host '192.0.2.9'\n"
        );
        let (found, problems) = found(&text, None);
        assert_eq!(
            brief(&found),
            [
                "wg0 peer jZ1gkGv9 192.0.2.7 3000 from - mark - user 0 by /etc/config/network: wireguard_wg0",
                "wg0 peer BwcHBwcH vpn.example.net 51820 from - mark - user 0 by /etc/config/network: wireguard_wg0",
            ]
        );
        assert_eq!(found[0].interface.as_deref(), Some("wg0"));
        assert_eq!(found[0].device, DevicePattern::parse("wg0").ok());
        assert!(problems.is_empty(), "{problems:?}");
    }

    #[test]
    fn what_is_configured_narrows_and_what_runs_knows_better() {
        let text = format!(
            "config interface 'wg0'\n option proto 'amneziawg'\n option listen_port '51821'\n\
             option fwmark '0xca6c'\n\
             config amneziawg_wg0\n option public_key '{KEY}'\n option endpoint_host 'vpn.example.net'\n"
        );
        let uci = "by /etc/config/network: amneziawg_wg0";
        let (cold, _) = found(&text, None);
        assert_eq!(
            brief(&cold),
            [format!(
                "wg0 peer jZ1gkGv9 vpn.example.net 51820 from 51821 mark 0xca6c user - {uci}"
            )]
        );
        let peers = vec![
            peer(KEY, "192.0.2.7:51820"),
            peer(OTHER, "[2001:db8::1]:1000"),
            peer(OTHER, "127.0.0.1:1000"),
            peer(OTHER, "[::ffff:192.0.2.8]:1000"),
        ];
        let (warm, _) = found(&text, Some(Live { listen_port: 40000, mark: 0, peers }));
        assert_eq!(
            brief(&warm),
            [
                format!("wg0 peer jZ1gkGv9 vpn.example.net 51820 from 40000 mark - user - {uci}"),
                "wg0 peer jZ1gkGv9 192.0.2.7 51820 from 40000 mark - user - by kernel: wg0".into(),
                "wg0 peer BwcHBwcH 2001:db8::1 1000 from 40000 mark - user - by kernel: wg0".into(),
                "wg0 peer BwcHBwcH 192.0.2.8 1000 from 40000 mark - user - by kernel: wg0".into(),
            ]
        );
        // Where the configured one is called now is known; the others are that themselves.
        assert_eq!(warm[0].running, Some(peer(KEY, "192.0.2.7:51820")));
        assert!(warm.iter().skip(1).all(|f| f.running.is_none()));
    }

    #[test]
    fn the_address_that_was_configured_is_not_listed_twice() {
        let text = format!(
            "config interface wg0\n option proto wireguard\n\
             config wireguard_wg0\n option public_key '{KEY}'\n option endpoint_host 2001:db8::1\n"
        );
        let peers = vec![peer(KEY, "[2001:db8::1]:51820")];
        let (found, _) = found(&text, Some(Live { listen_port: 0, mark: 0xca6c, peers }));
        assert_eq!(
            brief(&found),
            [
                "wg0 peer jZ1gkGv9 2001:db8::1 51820 from - mark 0xca6c user - by /etc/config/network: wireguard_wg0"
            ]
        );
    }

    #[test]
    fn what_cannot_be_understood_is_said() {
        let text = format!(
            "config interface wg0\n option proto wireguard\n option fwmark 12x\n option listen_port 70000\n\
             config wireguard_wg0\n option public_key '{KEY}'\n option endpoint_host '127.0.0.1'\n\
             config wireguard_wg0\n option public_key '{KEY}'\n option endpoint_host 'a b'\n\
             config wireguard_wg0\n option public_key '{KEY}'\n option endpoint_host '192.0.2.400'\n\
             config wireguard_wg0\n option public_key '{KEY}'\n option endpoint_host x\n option endpoint_port 0\n\
             config interface gone\n option proto wireguard\n option disabled 1\n\
             config wireguard_gone\n option public_key '{KEY}'\n option endpoint_host '1.2'\n"
        );
        let (found, problems) = found(&text, None);
        assert!(found.is_empty(), "{found:?}");
        let say = |n: usize, what: &str| {
            assert!(problems[n].contains(what), "{n}: {problems:?}");
        };
        assert_eq!(problems.len(), 6);
        say(0, "'70000' is no value for listen_port");
        say(1, "'12x' is no value for fwmark");
        say(2, "'127.0.0.1' is this router itself");
        say(3, "'a b' is not the address or name");
        say(4, "'192.0.2.400' is not the address or name");
        say(5, "'0' is not a port");
    }

    #[test]
    fn keys_are_written_as_wg_writes_them() {
        let key = [
            0x8d, 0x9d, 0x60, 0x90, 0x6b, 0xfd, 0xa7, 0x7e, 0x4e, 0x4d, 0x3a, 0x06, 0x9c, 0x2f,
            0x2d, 0x3c, 0xc3, 0x30, 0xe1, 0xeb, 0xfb, 0xce, 0xf6, 0x6a, 0x85, 0xed, 0xd3, 0xe6,
            0xc1, 0xf7, 0xf6, 0x73,
        ];
        assert_eq!(encode_key(&key).as_deref(), Some(KEY));
        assert_eq!(encode_key(&[7; 32]).as_deref(), Some(OTHER));
        assert_eq!(encode_key(&[7; 31]), None);
    }
}
