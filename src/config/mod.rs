//! Configuration: text of `/etc/config/vpn-killswitch` → a complete, validated [`Config`].
//!
//! Responsible for saying what the file means, or naming every error in it. Never skips a section:
//! a file with an error yields errors only, so that what is in force stays in force.

pub mod edit;
mod reader;
mod schema;
pub mod uci;

use std::fmt;
use std::net::IpAddr;

use crate::types::{DevicePattern, Mac, Net, Ports, Proto};

pub use schema::{DEFAULT_PASS_MARK, DNS_PORTS, ENDPOINT_MAX, EXEMPT_MAX, origin_mark};
pub(crate) use schema::{number, user_name};

/// Where the configuration lies, below the root directory, where that lasts.
pub const PATH: &str = "etc/config/vpn-killswitch";

/// What the router itself may send outside the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RouterMode {
    /// Only what G2 lists.
    #[default]
    Strict,
    /// Everything but DNS.
    Dns,
    /// Everything.
    Open,
}

impl fmt::Display for RouterMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strict => "strict",
            Self::Dns => "dns",
            Self::Open => "open",
        })
    }
}

/// The whole configuration, valid in itself; nothing in it has been looked up yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Whether protection is switched on.
    pub enabled: bool,
    /// Tunnels by netifd name.
    pub tunnel_interfaces: Vec<String>,
    /// Tunnels by kernel device.
    pub tunnel_devices: Vec<DevicePattern>,
    /// Whether IPsec policies are a tunnel too.
    pub ipsec: bool,
    /// Local networks by netifd name or firewall zone.
    pub local_interfaces: Vec<String>,
    /// Local networks by kernel device.
    pub local_devices: Vec<DevicePattern>,
    /// What the router itself may send.
    pub router: RouterMode,
    /// Tell local clients at once that a packet was refused, else drop in silence.
    pub reject: bool,
    /// Let answers to connections that came in through an uplink out again.
    pub port_forward_replies: bool,
    /// Let the router ask its time servers.
    pub ntp: bool,
    /// Servers that resolve endpoint names; empty means the uplink's own.
    pub bootstrap_dns: Vec<IpAddr>,
    /// Log refused packets, at a limited rate.
    pub log: bool,
    /// The one bit of the packet mark that exempts a packet.
    pub pass_mark: u32,
    /// Leave a block to the firewall for the time after a sysupgrade, when the package is gone.
    pub survive_sysupgrade: bool,
    /// VPN servers beside those found in the VPN's own configuration.
    pub endpoints: Vec<EndpointConfig>,
    /// Clients and destinations that bypass the tunnel.
    pub exempts: Vec<ExemptConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: false,
            tunnel_interfaces: Vec::new(),
            tunnel_devices: Vec::new(),
            ipsec: false,
            local_interfaces: Vec::new(),
            local_devices: Vec::new(),
            router: RouterMode::Strict,
            reject: true,
            port_forward_replies: false,
            ntp: true,
            bootstrap_dns: Vec::new(),
            log: true,
            pass_mark: DEFAULT_PASS_MARK,
            survive_sysupgrade: false,
            endpoints: Vec::new(),
            exempts: Vec::new(),
        }
    }
}

/// A VPN server, by address or name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Addr(IpAddr),
    /// A name in lower case without a final dot.
    Name(String),
}

impl Host {
    /// Reads an address of another host, or a name by the rules of RFC 1123 section 2.1.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(addr) = text.parse::<IpAddr>() {
            return schema::unicast(addr).ok().map(Self::Addr);
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let labels_fit = name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        });
        // "1.2.3" or "300.1.1.1" is a mistyped address, not a name: no top-level domain is numeric.
        let numeric_end =
            name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
        (name.len() <= 253 && labels_fit && !numeric_end)
            .then(|| Self::Name(name.to_ascii_lowercase()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(addr) => write!(f, "{addr}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// One `config endpoint`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointConfig {
    /// For people.
    pub name: String,
    /// The server.
    pub host: Host,
    /// Transport protocol.
    pub proto: Proto,
    /// Destination port; always there for protocols that have ports.
    pub port: Option<u16>,
    /// Source port, where the VPN uses a fixed one.
    pub source_port: Option<u16>,
    /// Packet mark that the VPN sets on its own packets.
    pub mark: Option<u32>,
    /// User that the VPN runs as, by name or number.
    pub user: Option<String>,
    /// Line of the section.
    pub line: u32,
}

/// One `config exempt`. Every list that is not empty must match; within a list any entry does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExemptConfig {
    /// For people.
    pub name: String,
    /// Whether it is in force.
    pub enabled: bool,
    /// Only from these local networks, by netifd name or firewall zone; with [`Self::local_devices`]
    /// empty too: from all.
    pub local_interfaces: Vec<String>,
    /// Only from these local networks, by device.
    pub local_devices: Vec<DevicePattern>,
    /// Source Ethernet addresses.
    pub src_mac: Vec<Mac>,
    /// Source addresses.
    pub src_ip: Vec<Net>,
    /// Destination addresses.
    pub dest_ip: Vec<Net>,
    /// Destination ports.
    pub dest_port: Vec<Ports>,
    /// Transport protocol; with ports and without it: TCP and UDP.
    pub proto: Option<Proto>,
    /// Line of the section.
    pub line: u32,
}

/// One error in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Line, from 1; 0 when it concerns the whole file.
    pub line: u32,
    /// `killswitch 'main'`, where there is a section.
    pub section: Option<String>,
    /// The option, where there is one.
    pub option: Option<String>,
    /// What was found and what is allowed.
    pub message: String,
}

impl ConfigError {
    fn file(message: String) -> Self {
        Self { line: 0, section: None, option: None, message }
    }

    fn of(section: &uci::Section, message: String) -> Self {
        let name = match &section.name {
            Some(name) => format!("{} '{name}'", section.kind),
            None => section.kind.clone(),
        };
        Self { line: section.line, section: Some(name), option: None, message }
    }

    fn of_option(section: &uci::Section, option: &uci::Opt, line: u32, message: String) -> Self {
        Self { line, option: Some(option.name.clone()), ..Self::of(section, message) }
    }

    /// The error with the file's name before it, as compilers write them.
    pub fn in_file(&self, file: &str) -> String {
        let mut out = file.to_owned();
        if self.line > 0 {
            out.push_str(&format!(":{}", self.line));
        }
        if let Some(section) = &self.section {
            out.push_str(&format!(": {section}"));
        }
        if let Some(option) = &self.option {
            out.push_str(&format!(": {option}"));
        }
        out.push_str(": ");
        out.push_str(&self.message);
        out
    }
}

/// Reads the whole configuration.
///
/// # Errors
/// Every error of meaning at once, or the first one of syntax (behind it nothing can be read).
pub fn parse(text: &[u8]) -> Result<Config, Vec<ConfigError>> {
    match uci::parse(text) {
        Ok(package) => schema::interpret(&package),
        Err(e) => {
            Err(vec![ConfigError { line: e.line, section: None, option: None, message: e.message }])
        }
    }
}
