//! What exists now: links, their addresses, uplinks, names and users.
//!
//! Responsible for reading; decides nothing.

mod files;
mod kernel;
pub mod netifd;
mod nvram;
mod shortcut;
pub mod vpn;

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::{Config, Host};
use crate::names::{self, Known};
use crate::types::Sorted;
use netifd::Interface;

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The kernel's name for it.
    pub name: String,
    /// The kernel's number for it; another one when it is created again.
    pub index: u32,
    /// Its interface group (`ip link set … group`).
    pub group: u32,
    /// What the kernel calls its kind (`wireguard`, `bridge`, …); empty for hardware.
    pub kind: String,
    /// Whether it is part of another device: a bridge's port, which has no network of its own.
    pub port: bool,
    /// Whether it is switched on and can carry packets (`IFF_UP` and `IFF_LOWER_UP`).
    pub up: bool,
    /// The router's addresses on it.
    pub addrs: Vec<IpAddr>,
}

/// The device that the routing layer sends refused packets to. It is nobody's network, so it is not
/// among the [`Observed::links`].
pub const SINK: &str = "vks-refused";
/// The routing table whose only routes lead there.
pub const SINK_TABLE: u32 = 0x766b;

/// What there is of the sink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    pub foreign: bool,
}

/// Everything that was seen, at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// All devices but the loopback.
    pub links: Vec<Link>,
    /// Devices that a default route leaves by, or half of one (`0.0.0.0/1`), in any table.
    pub uplinks: Vec<String>,
    /// Devices of each route that leads over several.
    pub multipath: Vec<Vec<String>>,
    /// The device for refused packets.
    pub sink: Sink,
    /// Devices of netifd interfaces and of firewall zones, by name.
    pub interfaces: Sorted<String, Vec<String>>,
    /// netifd's interfaces, where it was asked and answered.
    pub netifd: Vec<Interface>,
    /// Name servers of `/etc/resolv.conf` on other hosts, where there is no netifd.
    pub resolvers: Vec<IpAddr>,
    /// VPN servers in the VPNs' own configuration and state.
    pub vpn: Vec<vpn::Found>,
    /// What of these could not be made sense of, for a person.
    pub vpn_problems: Vec<String>,
    /// Addresses of names that are known without asking anyone (`/etc/hosts`).
    pub hosts: Sorted<String, Vec<IpAddr>>,
    /// What was asked before, for names that are not in [`Self::hosts`].
    pub known: Known,
    /// Where time comes from.
    pub time: TimeSources,
    /// Whether the kernel has keys for IPsec; looked for only where IPsec is a tunnel.
    pub ipsec_keys: bool,
    /// Whether OpenWrt's service is there and is not started at boot.
    pub not_at_boot: bool,
    /// Whether OpenWrt's firewall is told to let flows pass beside its rules.
    pub offload: bool,
    /// Engines in the kernel that forward established connections beside its rules.
    pub shortcuts: Vec<&'static Shortcut>,
    /// The clock, in seconds since 1970.
    pub clock: u64,
    /// Whether it shows a time before this program was written.
    pub clock_is_early: bool,
    /// User numbers by name (`/etc/passwd`).
    pub users: Sorted<String, u32>,
}

/// The time servers of `/etc/config/system`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimeSources {
    /// Listed servers, by address or name.
    pub servers: Vec<Host>,
    /// Whether those that DHCP gives are used too.
    pub from_dhcp: bool,
}

/// 2026-01-01, in seconds since 1970: a router without a battery starts in its past.
const CLOCK_FLOOR_SECS: u64 = 1_767_225_600;

pub(crate) use files::{flag, interface_devices, package, scalar, words};
pub use kernel::{Seen, look};
pub use nvram::{Networks, networks};
pub use shortcut::Shortcut;

impl Observed {
    /// Looks at the kernel of this network namespace and at the files below `root`, for what `config`
    /// needs. netifd is asked only if `ask_netifd`: before it runs there is nothing to wait for.
    ///
    /// # Errors
    /// What the kernel said. A file that cannot be read says nothing.
    pub fn gather(root: &Path, config: &Config, ask_netifd: bool) -> io::Result<Self> {
        let Seen { links, uplinks, multipath, sink } = look()?;
        let netifd = if ask_netifd { netifd::interfaces(root) } else { Vec::new() };
        let exempts = config.exempts.iter().flat_map(|e| &e.local_interfaces);
        let interfaces =
            config.tunnel_interfaces.iter().chain(&config.local_interfaces).chain(exempts);
        let (vpn, vpn_problems) = vpn::find(root, &links);
        let time = if config.ntp { files::time_sources(root) } else { TimeSources::default() };
        let hosts = config.endpoints.iter().map(|e| &e.host);
        let names =
            hosts.chain(vpn.iter().map(|f| &f.host)).chain(&time.servers).filter_map(|host| {
                match host {
                    Host::Name(name) => Some(name),
                    Host::Addr(_) => None,
                }
            });
        let hosts = files::hosts(root, names);
        let users = config.endpoints.iter().map(|e| &e.user).chain(vpn.iter().map(|f| &f.user));
        let users = files::users(root, users.flatten());
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Ok(Self {
            interfaces: files::interfaces(root, &netifd, interfaces),
            resolvers: if netifd.is_empty() { files::resolvers(root) } else { Vec::new() },
            known: Known::load(root, names::now()),
            ipsec_keys: config.ipsec && kernel::ipsec_keys().unwrap_or(false),
            not_at_boot: files::not_at_boot(root),
            offload: files::offload(root),
            shortcuts: shortcut::running(root),
            clock,
            clock_is_early: clock < CLOCK_FLOOR_SECS,
            links,
            uplinks,
            multipath,
            sink,
            netifd,
            vpn,
            vpn_problems,
            hosts,
            time,
            users,
        })
    }
}
