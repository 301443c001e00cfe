//! VPN servers that the system's own VPN configuration, and the tunnels that run, name.
//!
//! Responsible for finding them, and for saying how narrowly each can be told from other traffic
//! (source port, mark, user). Decides nothing: whether one of these tunnels is protected, and what may
//! be sent, is said elsewhere. A file that is broken is a problem for people and never an error; what
//! could not be read is simply not found, so that less is open.

mod genl;
mod netifd;
mod nvram;
pub(super) mod openvpn;
mod ovpn;
mod uapi;
mod wg_quick;
mod wireguard;

use std::net::SocketAddr;
use std::path::Path;

use super::Link;
use super::files;
use crate::config::uci::Package;
use crate::config::{DNS_PORTS, Host};
use crate::types::{DevicePattern, Proto};

/// More endpoints than this are not listed: each one costs rules, and a file that names more is not
/// somebody's VPN.
pub const FOUND_MAX: usize = 256;

/// Longer names, and longer sentences, are cut: files and sections may be called anything.
const NAME_MAX: usize = 48;
const PROBLEM_MAX: usize = 300;

/// The name of root where a rule is for its sockets.
const ROOT: &str = "0";

/// A VPN server, with all that is known about the packets that the tunnel sends to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// For people: `wg0 peer AbCdEfGh`, `openvpn office`.
    pub name: String,
    /// The server.
    pub host: Host,
    /// Destination port; none for protocols without ports.
    pub port: Option<u16>,
    /// Transport protocol.
    pub proto: Proto,
    /// Source port, where the tunnel has a fixed one.
    pub source_port: Option<u16>,
    /// Packet mark that the tunnel sets on its own packets.
    pub mark: Option<u32>,
    /// User of the socket, by name or number. None when packets may have none, or another's.
    pub user: Option<String>,
    /// The netifd interface, where the tunnel is one.
    pub interface: Option<String>,
    /// The device that the tunnel has or will have. None for IPsec, and where nothing says it.
    pub device: Option<DevicePattern>,
    /// Where it was found: `/etc/config/network: wireguard_wg0`, `kernel: wg0`, `/etc/openvpn/a.ovpn:3`.
    pub source: String,
    /// A configured WireGuard peer that runs.
    pub running: Option<Running>,
}

/// A WireGuard peer that runs. Nothing but a command, or its own packets, change where it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its public key in base64.
    pub key: String,
    /// The server's address and port.
    pub addr: SocketAddr,
    /// When it last answered, in seconds since 1970; 0 for never.
    pub handshake: u64,
    /// Bytes that were sent to it.
    pub sent: u64,
}

/// Everything that is found below `root` and, for the devices in `links`, in the kernel; and what a
/// person should know about, such as files that cannot be read.
pub fn find(root: &Path, links: &[Link]) -> (Vec<Found>, Vec<String>) {
    let mut finder = Finder { root, links, found: Vec::new(), problems: Vec::new() };
    let network = finder.load(NETWORK).unwrap_or_default();
    wireguard::find(&mut finder, &network);
    openvpn::find(&mut finder, &network);
    nvram::find_openvpn(&mut finder);
    netifd::find(&mut finder, &network);
    netifd::find_ipsec(&mut finder);
    if finder.found.len() > FOUND_MAX {
        finder.problem(&format!(
            "{} VPN servers are configured; the first {FOUND_MAX} of them can be reached",
            finder.found.len()
        ));
        finder.found.truncate(FOUND_MAX);
    }
    (finder.found, finder.problems)
}

const NETWORK: &str = "etc/config/network";

/// What was found so far.
struct Finder<'a> {
    root: &'a Path,
    links: &'a [Link],
    found: Vec<Found>,
    problems: Vec<String>,
}

impl Finder<'_> {
    /// A UCI file; one that is broken is a problem.
    fn load(&mut self, path: &str) -> Option<Package> {
        files::load(self.root, path).unwrap_or_else(|problem| {
            self.problem(&problem);
            None
        })
    }

    fn problem(&mut self, text: &str) {
        let text = plain(text, PROBLEM_MAX);
        if !self.problems.contains(&text) {
            self.problems.push(text);
        }
    }

    /// The server that `text` names, if it is one that can be reached outside.
    fn host(&mut self, source: &str, name: &str, text: &str) -> Option<Host> {
        let host = Host::parse(text);
        if host.is_none() {
            let what = match text.parse::<std::net::IpAddr>() {
                Ok(addr) if addr.is_loopback() => {
                    "is this router itself: what carries the packets on from there needs a 'config \
                     endpoint'"
                }
                _ => "is not the address or name of a server",
            };
            self.problem(&format!("{source}: {name}: '{}' {what}", text.escape_debug()));
        }
        host
    }

    /// Lists it, unless nothing tells its packets from the router's own DNS questions.
    fn add(&mut self, mut found: Found) {
        found.name = plain(&found.name, NAME_MAX);
        found.source = plain(&found.source, PROBLEM_MAX);
        let narrow = found.source_port.is_some() || found.mark.is_some() || found.user.is_some();
        if !narrow && found.port.is_some_and(|p| DNS_PORTS.contains(&p)) {
            self.problem(&format!(
                "{}: {}: port {} is a DNS port, and nothing tells the tunnel's packets from DNS \
                 questions: use another port",
                found.source,
                found.name,
                found.port.unwrap_or_default()
            ));
            return;
        }
        let same = |other: &Found| Found { source: found.source.clone(), ..other.clone() } == found;
        if !self.found.iter().any(same) {
            self.found.push(found);
        }
    }
}

/// One line that does nothing to a terminal, of at most `max` letters.
fn plain(text: &str, max: usize) -> String {
    let visible = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut out: String = text.chars().map(visible).take(max).collect();
    if text.chars().nth(max).is_some() {
        out.pop();
        out.push('…');
    }
    out
}

/// A port, or the problem that it is none.
fn port(text: &str) -> Result<u16, String> {
    crate::types::port(text).ok_or_else(|| format!("'{}' is not a port", text.escape_debug()))
}

/// Host and port of `host`, `host:port`, `[address]:port` or an address of the web, with any scheme,
/// user and path around them.
fn authority(text: &str) -> (&str, Option<&str>) {
    let text = text.split_once("://").map_or(text, |(_, rest)| rest);
    let text = text.split(['/', '?', '#']).next().unwrap_or_default();
    let text = text.rsplit_once('@').map_or(text, |(_, rest)| rest);
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|t| t.split_once(']')) {
        return (host, rest.strip_prefix(':'));
    }
    match text.split_once(':') {
        // More than one colon: an address of IPv6 without brackets.
        Some((_, port)) if port.contains(':') => (text, None),
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests;
