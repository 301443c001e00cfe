//! What DD-WRT keeps in nvram: the devices of its networks, and its own VPN clients.
//!
//! Reached through the platform's `nvram` program, found below the root directory. Where there is none
//! nothing is known. The names of the settings are those of DD-WRT's own programs.

use std::path::{Path, PathBuf};

use super::netifd::answer;

const PROGRAM: &str = "usr/sbin/nvram";
/// More tunnels, and more peers of one, DD-WRT does not make.
const COUNT_MAX: u16 = 64;

/// The settings.
pub struct Nvram {
    program: PathBuf,
}

/// A peer of one of DD-WRT's WireGuard tunnels.
pub struct Peer {
    /// The server.
    pub host: String,
    /// Its port.
    pub port: String,
    /// The setting that names it.
    pub setting: String,
}

impl Nvram {
    /// Where there is any.
    pub fn open(root: &Path) -> Option<Self> {
        let program = root.join(PROGRAM);
        program.is_file().then_some(Self { program })
    }

    /// A setting; empty where it has none.
    pub fn get(&self, name: &str) -> String {
        let said =
            answer(&[self.program.as_os_str(), "get".as_ref(), name.as_ref()]).unwrap_or_default();
        String::from_utf8_lossy(&said).trim_end_matches(['\n', '\r']).to_owned()
    }

    fn count(&self, name: &str) -> u16 {
        self.get(name).trim().parse().unwrap_or(0).min(COUNT_MAX)
    }

    /// The devices that DD-WRT gives what it calls so: `lan` and `wan`, and by their kind its VPN
    /// clients, `openvpn` and `wireguard`.
    pub fn devices(&self, name: &str) -> Vec<String> {
        match name {
            "openvpn" => self.openvpn_device().into_iter().collect(),
            "wireguard" => self.wireguard().map(|n| format!("oet{n}")).collect(),
            _ => Some(self.get(&format!("{name}_ifname")))
                .filter(|d| !d.is_empty())
                .into_iter()
                .collect(),
        }
    }

    /// The OpenVPN client's device.
    fn openvpn_device(&self) -> Option<String> {
        let kind = self.get("openvpncl_tuntap");
        matches!(kind.as_str(), "tun" | "tap").then(|| format!("{kind}1"))
    }

    /// The OpenVPN client's configuration, as DD-WRT writes it: each line with its setting.
    pub fn openvpn(&self) -> Vec<(String, String)> {
        if self.get("openvpncl_enable") != "1" {
            return Vec::new();
        }
        let mut out = vec![("openvpncl_enable".to_owned(), "client".to_owned())];
        if self.get("openvpncl_nobind") != "0" {
            out.push(("openvpncl_nobind".to_owned(), "nobind".to_owned()));
        }
        let device = self.openvpn_device();
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
        let more = more.lines().map(|line| ("openvpncl_config".to_owned(), line.to_owned()));
        out.extend(more);
        out
    }

    /// The numbers of its WireGuard tunnels that are on.
    pub fn wireguard(&self) -> impl Iterator<Item = u16> + '_ {
        (1..=self.count("oet_tunnels")).filter(|n| {
            self.get(&format!("oet{n}_en")) == "1" && self.get(&format!("oet{n}_proto")) == "2"
        })
    }

    /// A tunnel's own port, and its peers that are servers.
    pub fn peers(&self, tunnel: u16) -> (String, Vec<Peer>) {
        let get = |name: String| self.get(&format!("oet{tunnel}_{name}"));
        let peers = (0..self.count(&format!("oet{tunnel}_peers")))
            .filter(|p| get(format!("endpoint{p}")) == "1")
            .map(|p| Peer {
                host: get(format!("rem{p}")),
                port: get(format!("peerport{p}")),
                setting: format!("oet{tunnel}_rem{p}"),
            });
        let peers = peers.filter(|p| !p.host.is_empty()).collect();
        (get("port".to_owned()), peers)
    }
}
