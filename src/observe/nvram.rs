//! What DD-WRT, FreshTomato and Asuswrt-Merlin keep in nvram: the devices of their networks, and their
//! own VPN clients.
//!
//! Reached through the platform's `nvram` program, found below the root directory. Where there is none
//! nothing is known. The names of the settings are those of the firmwares' own programs.

use std::fs;
use std::path::{Path, PathBuf};

use super::netifd::answer;
use crate::types;

/// Where DD-WRT has it, and where the others do.
const PROGRAMS: [&str; 2] = ["usr/sbin/nvram", "bin/nvram"];
/// More tunnels, and more peers of one, DD-WRT does not make.
const COUNT_MAX: u16 = 64;
/// Bridges `br0` to `br7` are the most that FreshTomato makes; Merlin makes fewer.
const BRIDGES: u16 = 8;
/// The setting that says by which device the router is connected: FreshTomato, DD-WRT, Merlin.
const WAN: [&str; 3] = ["wan_iface", "wan_ifname", "wan0_ifname"];

/// OpenVPN clients of FreshTomato and Merlin, whose settings begin with `prefix`, the client's number
/// and `_`. Client 1 has device 11.
struct Clients {
    prefix: &'static str,
    /// The setting that lists those that are started, by their numbers.
    started: &'static str,
    count: u16,
    /// Whether they have no port of their own unless `nobind` says something else.
    nobind: bool,
}

const CLIENTS: [Clients; 3] = [
    // Merlin.
    Clients { prefix: "vpn_client", started: "vpn_clientx_eas", count: 5, nobind: true },
    // FreshTomato, and since it gave them shorter names.
    Clients { prefix: "vpn_client", started: "vpn_client_eas", count: 3, nobind: false },
    Clients { prefix: "vpnc", started: "vpnc_eas", count: 3, nobind: false },
];
const FIRST_DEVICE: u16 = 10;
/// Where Merlin keeps what the user added to client N: `vpn_clientN_custom3`.
const MERLIN_FOLDER: &str = "jffs/openvpn";

/// WireGuard units of Merlin and FreshTomato: their devices are called like the beginning of their
/// settings.
const WIREGUARD: [(&str, std::ops::RangeInclusive<u16>); 2] = [("wgc", 1..=5), ("wg", 0..=3)];
/// FreshTomato's port of unit 0.
const WIREGUARD_PORT: u16 = 51820;

fn count(text: &str) -> u16 {
    text.trim().parse().unwrap_or(0).min(COUNT_MAX)
}

/// The networks that nvram has, if there is any.
pub fn networks(root: &Path) -> Networks {
    Nvram::open(root).map(|nvram| nvram.networks()).unwrap_or_default()
}

/// The settings.
pub struct Nvram {
    root: PathBuf,
    program: PathBuf,
}

/// The devices of a firmware's own networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    /// Bridges of local networks, each with the network's name.
    pub locals: Vec<(String, String)>,
    /// VPN clients.
    pub tunnels: Vec<String>,
    /// What the router is connected by.
    pub wan: Vec<String>,
}

/// An OpenVPN client.
pub struct OpenVpn {
    /// What it is called.
    pub name: String,
    /// Its configuration, as the firmware writes it: each line with its setting.
    pub lines: Vec<(String, String)>,
}

/// A WireGuard tunnel.
pub struct WireGuard {
    /// Its device.
    pub device: String,
    /// Its own port, where it has a fixed one.
    pub port: Option<u16>,
    /// Its peers that are servers.
    pub peers: Vec<Peer>,
}

/// A peer of a WireGuard tunnel.
pub struct Peer {
    /// The server, as the setting says, maybe with a port.
    pub host: String,
    /// The port, where `host` has none.
    pub port: String,
    /// The setting that names it.
    pub setting: String,
}

impl Nvram {
    /// Where there is any.
    pub fn open(root: &Path) -> Option<Self> {
        let program = PROGRAMS.iter().map(|p| root.join(p)).find(|p| p.is_file())?;
        Some(Self { root: root.to_owned(), program })
    }

    /// A setting; empty where it has none.
    pub fn get(&self, name: &str) -> String {
        let said =
            answer(&[self.program.as_os_str(), "get".as_ref(), name.as_ref()]).unwrap_or_default();
        String::from_utf8_lossy(&said).trim_end_matches(['\n', '\r']).to_owned()
    }

    /// The devices that the firmware gives what it calls so: `lan`, `lan1`, …, and `wan`; and by their
    /// kind its VPN clients, `openvpn` and `wireguard`.
    pub fn devices(&self, name: &str) -> Vec<String> {
        let mut devices = match name {
            "openvpn" => self.openvpn_devices(self.clients(false)),
            "wireguard" => self.wireguard().into_iter().map(|w| w.device).collect(),
            "wan" => WAN.map(|setting| self.get(setting)).into(),
            _ => vec![self.get(&format!("{name}_ifname"))],
        };
        devices.retain(|device| !device.is_empty());
        if name == "wan" {
            devices.truncate(1);
        }
        devices
    }

    /// The devices of its networks, and of its VPN clients, also of those that are not started.
    pub fn networks(&self) -> Networks {
        let lan = |n| if n == 0 { "lan".to_owned() } else { format!("lan{n}") };
        let device = |name: String| Some((self.devices(&name).pop()?, name));
        let mut tunnels = self.openvpn_devices(self.clients(true));
        tunnels.extend(self.devices("wireguard"));
        tunnels.sort_unstable();
        tunnels.dedup();
        Networks {
            locals: (0..BRIDGES).map(lan).filter_map(device).collect(),
            tunnels,
            wan: self.devices("wan"),
        }
    }

    /// DD-WRT has one OpenVPN client.
    fn ddwrt_device(&self) -> Option<String> {
        let kind = self.get("openvpncl_tuntap");
        matches!(kind.as_str(), "tun" | "tap").then(|| format!("{kind}1"))
    }

    fn openvpn_devices(&self, clients: Vec<(&Clients, u16)>) -> Vec<String> {
        let others = clients.into_iter();
        let others =
            others.filter_map(|(of, n)| self.client_device(&format!("{}{n}_", of.prefix), n));
        self.ddwrt_device().into_iter().chain(others).collect()
    }

    /// Those of FreshTomato and Merlin that are started, by their numbers; or all that have a server.
    fn clients(&self, all: bool) -> Vec<(&'static Clients, u16)> {
        // Each question is a process; DD-WRT need not be asked for the others' settings.
        if !self.get("openvpncl_enable").is_empty() {
            return Vec::new();
        }
        let listed = |of: &'static Clients| {
            let list = self.get(of.started);
            let on = move |n: &u16| list.split(',').any(|word| word.trim().parse() == Ok(*n));
            let server = move |n: &u16| !self.get(&format!("{}{n}_addr", of.prefix)).is_empty();
            (1..=of.count).filter(move |n| on(n) || (all && server(n))).map(move |n| (of, n))
        };
        CLIENTS.iter().flat_map(listed).collect()
    }

    fn client_device(&self, prefix: &str, number: u16) -> Option<String> {
        let kind = self.get(&format!("{prefix}if"));
        matches!(kind.as_str(), "tun" | "tap")
            .then(|| format!("{kind}{}", number.saturating_add(FIRST_DEVICE)))
    }

    /// The OpenVPN clients that are on.
    pub fn openvpn(&self) -> Vec<OpenVpn> {
        let ddwrt = self.ddwrt_openvpn().into_iter();
        ddwrt.chain(self.clients(false).into_iter().map(|(of, n)| self.client(of, n))).collect()
    }

    fn client(&self, of: &Clients, number: u16) -> OpenVpn {
        let prefix = format!("{}{number}_", of.prefix);
        let mut lines = Vec::new();
        let mut line =
            |setting: &str, text: String| lines.push((format!("{prefix}{setting}"), text));
        let get = |setting: &str| self.get(&format!("{prefix}{setting}"));
        if !matches!(get("crypt").as_str(), "secret" | "custom") {
            line("crypt", "client".to_owned());
        }
        if let Some(device) = self.client_device(&prefix, number) {
            line("if", format!("dev {device}"));
        }
        let nobind = get("nobind");
        if nobind.parse().map_or(of.nobind, |n: i32| n > 0) {
            line("nobind", "nobind".to_owned());
        }
        for (setting, text) in [
            ("proto", format!("proto {}", get("proto"))),
            ("addr", format!("remote {} {}", get("addr"), get("port"))),
        ] {
            if !get(setting).is_empty() {
                line(setting, text);
            }
        }
        let added = format!("{MERLIN_FOLDER}/{prefix}custom3");
        let added = fs::read(self.root.join(added)).unwrap_or_default();
        let added = format!("{}\n{}", String::from_utf8_lossy(&added), get("custom"));
        added.lines().for_each(|text| line("custom", text.to_owned()));
        OpenVpn { name: format!("client {number}"), lines }
    }

    fn ddwrt_openvpn(&self) -> Option<OpenVpn> {
        if self.get("openvpncl_enable") != "1" {
            return None;
        }
        let mut out = vec![("openvpncl_enable".to_owned(), "client".to_owned())];
        if self.get("openvpncl_nobind") != "0" {
            out.push(("openvpncl_nobind".to_owned(), "nobind".to_owned()));
        }
        let device = self.ddwrt_device();
        out.extend(device.map(|d| ("openvpncl_tuntap".to_owned(), format!("dev {d}"))));
        let proto = self.get("openvpncl_proto");
        if !proto.is_empty() {
            out.push(("openvpncl_proto".to_owned(), format!("proto {proto}")));
        }
        let several = self.get("openvpncl_multirem") == "1";
        for n in ["", "2", "3", "4", "5"].iter().take(if several { 5 } else { 1 }) {
            let setting = format!("openvpncl_remoteip{n}");
            let (host, port) = (self.get(&setting), self.get(&format!("openvpncl_remoteport{n}")));
            if !host.is_empty() {
                out.push((setting, format!("remote {host} {port}")));
            }
        }
        let more = self.get("openvpncl_config");
        out.extend(more.lines().map(|line| ("openvpncl_config".to_owned(), line.to_owned())));
        Some(OpenVpn { name: "client".to_owned(), lines: out })
    }

    /// The WireGuard tunnels that are on.
    pub fn wireguard(&self) -> Vec<WireGuard> {
        let tunnels = self.get("oet_tunnels");
        let others = if tunnels.is_empty() { &WIREGUARD[..] } else { &[] };
        let ddwrt = (1..=count(&tunnels)).filter_map(|n| {
            let prefix = format!("oet{n}_");
            let get = |name: &str| self.get(&format!("{prefix}{name}"));
            (get("en") == "1" && get("proto") == "2").then(|| {
                let peers = (0..count(&get("peers")))
                    .filter(|p| get(&format!("endpoint{p}")) == "1")
                    .map(|p| Peer {
                        host: get(&format!("rem{p}")),
                        port: get(&format!("peerport{p}")),
                        setting: format!("{prefix}rem{p}"),
                    });
                WireGuard {
                    device: format!("oet{n}"),
                    port: types::port(&get("port")),
                    peers: peers.collect(),
                }
            })
        });
        let others = others.iter().flat_map(|(kind, units)| {
            let on = move |n: &u16| self.get(&format!("{kind}{n}_enable")) == "1";
            units.clone().filter(on).map(move |n| self.wireguard_unit(kind, n))
        });
        let mut all: Vec<WireGuard> = ddwrt.chain(others).collect();
        all.iter_mut().for_each(|w| w.peers.retain(|peer| !peer.host.is_empty()));
        all
    }

    fn wireguard_unit(&self, kind: &str, number: u16) -> WireGuard {
        let device = format!("{kind}{number}");
        let get = |name: &str| self.get(&format!("{device}_{name}"));
        let setting = |name: &str| format!("{device}_{name}");
        if kind == "wgc" {
            // It chooses a port when it starts.
            let peer =
                Peer { host: get("ep_addr"), port: get("ep_port"), setting: setting("ep_addr") };
            return WireGuard { device, port: None, peers: vec![peer] };
        }
        let port = types::port(&get("port")).unwrap_or(WIREGUARD_PORT.saturating_add(number));
        // Each peer: whether its key is a private one, its name, its server, and what is no concern here.
        let peers = get("peers");
        let host = |peer: &str| peer.split('<').nth(2).unwrap_or_default().to_owned();
        let peers = peers.split('>').map(|peer| Peer {
            host: host(peer),
            port: port.to_string(),
            setting: setting("peers"),
        });
        WireGuard { port: Some(port), peers: peers.collect(), device }
    }
}
