//! The other VPN protocols of `/etc/config/network`, and IPsec in `/etc/config/ipsec`: options, ports and
//! senders as in their handlers (`/lib/netifd/proto/*.sh`, `/etc/init.d/swanctl`, `/etc/init.d/ipsec`).
//!
//! The programs run as root, so their sockets have user 0. What the kernel itself sends (GRE, ESP, the
//! data of L2TP) has no user.

use super::{Finder, Found, NETWORK, ROOT, authority, files, port};
use crate::config::uci::{Package, Section};
use crate::types::{DevicePattern, Proto};

/// What tells the packets of one kind from others.
#[derive(Clone, Copy)]
struct Flow {
    proto: Proto,
    port: Option<u16>,
    source_port: Option<u16>,
    root: bool,
}

/// From a socket of root.
const fn of_root(proto: Proto, port: u16) -> Flow {
    Flow { proto, port: Some(port), source_port: None, root: true }
}

/// From the kernel, between fixed ports.
const fn between(source_port: u16, port: u16) -> Flow {
    Flow { proto: Proto::Udp, port: Some(port), source_port: Some(source_port), root: false }
}

/// From the kernel, without ports.
const fn without_ports(proto: Proto) -> Flow {
    Flow { proto, port: None, source_port: None, root: false }
}

/// IANA's ports: PPTP, L2TP, HTTPS, IKE, IPsec over UDP.
const PPTP: u16 = 1723;
const L2TP: u16 = 1701;
const HTTPS: u16 = 443;
const IKE: u16 = 500;
const IPSEC_UDP: u16 = 4500;
/// IPsec over UDP as GlobalProtect has it (openconnect, gpst.c).
const GLOBALPROTECT: u16 = 4501;
/// IPsec over UDP as Cisco had it, where the server says nothing else (vpnc, config.c).
const CISCO_UDP: u16 = 10_000;

/// Lists the servers of all interfaces of these protocols.
pub(super) fn find(finder: &mut Finder<'_>, network: &Package) {
    for section in network.sections.iter().filter(|s| s.kind == "interface") {
        let (Some(name), Some(proto)) = (&section.name, files::scalar(section, "proto")) else {
            continue;
        };
        if files::flag(section, "disabled") {
            continue;
        }
        let source = format!("/{NETWORK}: {name}");
        if let Err(why) = interface(finder, network, section, &proto, &source) {
            finder.problem(&format!("{source}: {proto}: {why}"));
        }
    }
}

fn interface(
    finder: &mut Finder<'_>,
    network: &Package,
    section: &Section,
    proto: &str,
    source: &str,
) -> Result<(), String> {
    let text = |option: &str| files::value(section, option);
    let number = |option: &str, default: u16| {
        text(option).map_or(Ok(default), |value| port(&value).map_err(|e| format!("{option}: {e}")))
    };
    let server = text(if proto == "openfortivpn" { "peeraddr" } else { "server" });
    let (server, flows) = match (proto, server) {
        ("pptp", Some(server)) => {
            (server, vec![of_root(Proto::Tcp, PPTP), without_ports(Proto::Gre)])
        }
        ("l2tp", Some(server)) => {
            let (host, at) = authority(&server);
            // One socket for everything; the program opens it, and the kernel sends the data from it.
            let at = at.map_or(Ok(L2TP), port)?;
            (host.to_owned(), vec![between(l2tp_port(finder), at)])
        }
        ("sstp", Some(server)) => (server, vec![of_root(Proto::Tcp, number("port", HTTPS)?)]),
        ("openfortivpn", Some(server)) => {
            (server, vec![of_root(Proto::Tcp, number("port", HTTPS)?)])
        }
        ("vpnc", Some(server)) => {
            // ESP too comes from the program, by a raw socket.
            let esp = Flow { root: true, ..without_ports(Proto::Esp) };
            let mut flows = vec![of_root(Proto::Udp, IKE), of_root(Proto::Udp, IPSEC_UDP), esp];
            if text("natt_mode").as_deref() == Some("cisco-udp") {
                flows.push(of_root(Proto::Udp, number("udp_port", CISCO_UDP)?));
            }
            (server, flows)
        }
        ("openconnect", server) => match openconnect(section, server)? {
            Some(found) => found,
            None => return Ok(()),
        },
        _ => return Ok(()),
    };
    let name = section.name.as_deref().unwrap_or_default();
    let device = files::interface_devices(finder.root, network, name)
        .first()
        .and_then(|device| DevicePattern::parse(device).ok());
    let label = format!("{proto} {name}");
    let place = Place { label: &label, source, interface: Some(name), device };
    place.list(finder, &server, &flows);
    Ok(())
}

/// `uri` goes before `server` and `port`. TLS over TCP; its data over UDP where the server can.
fn openconnect(
    section: &Section,
    server: Option<String>,
) -> Result<Option<(String, Vec<Flow>)>, String> {
    let text = |option: &str| files::value(section, option);
    if let Some(proxy) = text("proxy") {
        let (host, at) = authority(&proxy);
        let at = at.ok_or("proxy: a port is needed")?;
        return Ok(Some((host.to_owned(), vec![of_root(Proto::Tcp, port(at)?)])));
    }
    let (host, at) = match text("uri") {
        Some(uri) => {
            let (host, at) = authority(&uri);
            (host.to_owned(), at.map(str::to_owned))
        }
        None => match server {
            // The handler joins them, and the server may have a path.
            Some(server) => {
                let (host, at) = authority(&server);
                (host.to_owned(), at.map(str::to_owned).or_else(|| text("port")))
            }
            None => return Ok(None),
        },
    };
    let tls = at.as_deref().map_or(Ok(HTTPS), port)?;
    let juniper = text("juniper").is_some_and(|j| j.parse().is_ok_and(|n: u32| n > 0));
    let data = match text("vpn_protocol").as_deref() {
        Some("gp") => GLOBALPROTECT,
        Some("nc" | "pulse") => IPSEC_UDP,
        None if juniper => IPSEC_UDP,
        _ => tls,
    };
    let mut flows = vec![of_root(Proto::Tcp, tls)];
    if !files::flag(section, "no_dtls") {
        flows.push(of_root(Proto::Udp, data));
    }
    Ok(Some((host, flows)))
}

/// xl2tpd's own port: from UCI, unless that says that it reads its own file, where it is 1701 as well
/// unless somebody changed it.
fn l2tp_port(finder: &mut Finder<'_>) -> u16 {
    let package = finder.load("etc/config/xl2tp").unwrap_or_default();
    let global = package.sections.iter().find(|s| s.kind == "global");
    if let Some(global) = global.filter(|s| !files::flag(s, "use_legacy_config")) {
        return files::scalar(global, "port").and_then(|p| port(&p).ok()).unwrap_or(L2TP);
    }
    let text = files::read(finder.root, "etc/xl2tpd/xl2tpd.conf").ok().flatten();
    let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
    text.lines()
        .filter_map(|line| line.split_once('='))
        .find(|(key, _)| key.trim() == "port")
        .and_then(|(_, value)| port(value.trim()).ok())
        .unwrap_or(L2TP)
}

/// IPsec, by strongSwan's UCI file: IKE from the program's own ports, and ESP from the kernel, bare or
/// in UDP between the ports 4500.
pub(super) fn find_ipsec(finder: &mut Finder<'_>) {
    const PATH: &str = "etc/config/ipsec";
    let Some(package) = finder.load(PATH) else { return };
    let flows = [
        Flow { source_port: Some(IKE), ..of_root(Proto::Udp, IKE) },
        between(IPSEC_UDP, IPSEC_UDP),
        without_ports(Proto::Esp),
    ];
    for section in package.sections.iter().filter(|s| s.kind == "remote") {
        if !files::flag(section, "enabled") {
            continue;
        }
        let name = section.name.clone().unwrap_or_else(|| format!("in line {}", section.line));
        let label = format!("ipsec {name}");
        let source = format!("/{PATH}: {name}");
        let mut gateways = files::words(section, "remote_addrs");
        gateways.extend(files::words(section, "gateway"));
        // Anybody may call, nobody is called.
        let named = gateways.iter().flat_map(|g| g.split(',')).map(str::trim);
        for gateway in named.filter(|g| !["", "any", "%any", "%any4", "%any6"].contains(g)) {
            let place = Place { label: &label, source: &source, interface: None, device: None };
            place.list(finder, gateway, &flows);
        }
    }
}

/// Whose server it is.
struct Place<'a> {
    label: &'a str,
    source: &'a str,
    interface: Option<&'a str>,
    device: Option<DevicePattern>,
}

impl Place<'_> {
    fn list(&self, finder: &mut Finder<'_>, server: &str, flows: &[Flow]) {
        let Some(host) = finder.host(self.source, self.label, server) else { return };
        for flow in flows {
            finder.add(Found {
                name: self.label.to_owned(),
                host: host.clone(),
                port: flow.port,
                proto: flow.proto,
                source_port: flow.source_port,
                mark: None,
                user: flow.root.then(|| ROOT.to_owned()),
                interface: self.interface.map(str::to_owned),
                device: self.device.clone(),
                source: self.source.to_owned(),
                running: None,
            });
        }
    }
}
