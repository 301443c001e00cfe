//! What exists now: links, their addresses, uplinks, names and users.
//!
//! Responsible for reading; decides nothing.

mod files;
mod kernel;
pub mod vpn;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use crate::config::{Config, Host};

use serde::{Deserialize, Serialize};

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The kernel's name for it.
    pub name: String,
    /// The kernel's number for it; another one when it is created again.
    #[serde(default)]
    pub index: u32,
    /// Its interface group (`ip link set … group`).
    #[serde(default)]
    pub group: u32,
    /// What the kernel calls its kind (`wireguard`, `bridge`, …); empty for hardware.
    #[serde(default)]
    pub kind: String,
    /// Whether it is part of another device: a bridge's port, which has no network of its own.
    #[serde(default)]
    pub port: bool,
    /// Whether it is switched on and can carry packets (`IFF_UP` and `IFF_LOWER_UP`).
    pub up: bool,
    /// The router's addresses on it.
    #[serde(default)]
    pub addrs: Vec<IpAddr>,
}

/// The device that the routing layer sends refused packets to. It is nobody's network, so it is not
/// among the [`Observed::links`].
pub const SINK: &str = "vks-refused";
/// The routing table whose only routes lead there.
pub const SINK_TABLE: u32 = 0x766b;

/// What there is of the sink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sink {
    /// Its number; 0 when it does not exist.
    pub index: u32,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether the IPv4 default route of its table leads to it.
    pub route4: bool,
    /// Likewise for IPv6.
    pub route6: bool,
    /// Whether its table has other routes as well.
    #[serde(default)]
    pub foreign: bool,
}

/// Everything that was seen, at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// All devices but the loopback.
    pub links: Vec<Link>,
    /// Devices that a default route leaves by, or half of one (`0.0.0.0/1`), in any table.
    #[serde(default)]
    pub uplinks: Vec<String>,
    /// Devices of each route that leads over several.
    #[serde(default)]
    pub multipath: Vec<Vec<String>>,
    /// The device for refused packets.
    #[serde(default)]
    pub sink: Sink,
    /// Devices of netifd interfaces and of firewall zones, by name.
    #[serde(default)]
    pub interfaces: BTreeMap<String, Vec<String>>,
    /// Addresses of names that are known without asking anyone (`/etc/hosts`).
    #[serde(default)]
    pub hosts: BTreeMap<String, Vec<IpAddr>>,
    /// Time servers by address.
    #[serde(default)]
    pub time_servers: Vec<IpAddr>,
    /// User numbers by name (`/etc/passwd`).
    #[serde(default)]
    pub users: BTreeMap<String, u32>,
}

pub use kernel::{Seen, look};

impl Observed {
    /// Looks at the kernel of this network namespace and at the files below `root`, for what `config`
    /// needs.
    ///
    /// # Errors
    /// What the kernel said. A file that cannot be read says nothing.
    pub fn gather(root: &Path, config: &Config) -> io::Result<Self> {
        let Seen { links, uplinks, multipath, sink } = look()?;
        let exempts = config.exempts.iter().flat_map(|e| &e.local_interfaces);
        let interfaces =
            config.tunnel_interfaces.iter().chain(&config.local_interfaces).chain(exempts);
        let names = config.endpoints.iter().filter_map(|e| match &e.host {
            Host::Name(name) => Some(name),
            Host::Addr(_) => None,
        });
        Ok(Self {
            links,
            uplinks,
            multipath,
            sink,
            interfaces: files::interfaces(root, interfaces),
            hosts: files::hosts(root, names),
            time_servers: if config.ntp { files::time_servers(root) } else { Vec::new() },
            users: files::users(root, config.endpoints.iter().filter_map(|e| e.user.as_ref())),
        })
    }
}
