//! Status: what is true in the kernel, in words and as JSON.
//!
//! Pure. Everything about protection in it comes from what was read back (G11); the configuration only
//! says what to compare it with. The JSON keeps its shape: every key is always there.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::backend::nft::read::{Counter, Element, address};
use crate::config::Config;
use crate::json;
use crate::observe::{Link, Observed};
use crate::policy::{Policy, Warning};
use crate::ruleset::build::BLOCKED_TIMEOUT_SECS;
use crate::types::DevicePattern;

/// What a person wants to know first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posture {
    /// Switched off: nothing is protected.
    Disabled,
    /// In force, and a tunnel is up.
    Protecting,
    /// In force, and no tunnel is up: nothing leaves.
    Blocking,
    /// In force, with a pause that the kernel ends.
    Paused,
    /// Not what it should be.
    Degraded,
}

impl Posture {
    /// The exit code of `status` and `check`.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Protecting => 0,
            Self::Disabled => 3,
            Self::Blocking => 4,
            Self::Paused => 5,
            Self::Degraded => 6,
        }
    }
}

/// Everything that `status` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Version of this program.
    pub version: &'static str,
    /// In one word.
    pub posture: Posture,
    /// Whether the configuration asks for protection.
    pub enabled: bool,
    /// What the router itself may send: strict, dns or open.
    pub router: String,
    /// Whether answers to connections that came in by an uplink may leave by it.
    pub port_forward_replies: bool,
    /// The independent layers of protection and whether each is in force.
    pub layers: Vec<Layer>,
    /// Tunnel devices.
    pub tunnels: Vec<Device>,
    /// Local devices.
    pub locals: Vec<Device>,
    /// Devices that a default route leaves by.
    pub uplinks: Vec<String>,
    /// Devices that are up and are none of these: closed.
    pub unclassified: Vec<String>,
    /// VPN servers.
    pub endpoints: Vec<EndpointStatus>,
    /// Who is asked for the names of VPN and time servers, outside the tunnel.
    pub name_servers: Vec<NameServer>,
    /// Time servers that the router may ask.
    pub time_servers: Vec<IpAddr>,
    /// Exemptions that are in force.
    pub exempts: Vec<ExemptStatus>,
    /// Packets, since the table was installed.
    pub packets: Packets,
    /// Clients that were refused, the latest first.
    pub blocked: Vec<Blocked>,
    /// Pauses that run.
    pub pauses: Vec<Pause>,
    /// How the kernel differs from what it should have.
    pub differences: Vec<String>,
    /// What the user should know.
    pub warnings: Vec<Notice>,
    /// Errors in the configuration; with any, nothing was compared.
    pub errors: Vec<String>,
}

/// A layer of protection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// `netfilter` or `routing`.
    pub name: &'static str,
    /// Whether there is anything of it in the kernel.
    pub installed: bool,
    /// Whether it is complete in the kernel.
    pub in_force: bool,
    /// What this kernel cannot do, or why it is not in force; empty when all is well.
    pub detail: String,
}

/// A device of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// The device, or the pattern that no device fits; `ipsec` for IPsec without a device, which exists
    /// and is up while the kernel has keys for it.
    pub device: String,
    /// Whether it exists.
    pub exists: bool,
    /// Whether it is up and can carry packets.
    pub up: bool,
    /// The router's addresses on it.
    pub addresses: Vec<IpAddr>,
    /// Whether it is WireGuard, with a peer of the configuration whose handshakes are known.
    pub shakes_hands: bool,
    /// Seconds since the last handshake with any of these; `None` also when there was none yet.
    pub handshake_seconds_ago: Option<u64>,
}

/// A VPN server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointStatus {
    /// For people.
    pub name: String,
    /// Where it was found: a file with a line or section, or the kernel.
    pub source: String,
    /// Address or name, as it was found.
    pub host: String,
    /// Whether an address is known.
    pub resolved: bool,
    /// Why its name could not be asked for, the last time; empty when it could.
    pub problem: String,
    /// Known addresses; empty while unresolved.
    pub addresses: Vec<IpAddr>,
    /// Transport protocol.
    pub proto: String,
    /// Destination port, where the protocol has one.
    pub port: Option<u16>,
    /// Source port that packets must have.
    pub source_port: Option<u16>,
    /// Packet mark that packets must have.
    pub mark: Option<u32>,
    /// Number of the user who must own the sending socket.
    pub uid: Option<u32>,
    /// Packets that the router sent it.
    pub packets: u64,
}

/// A name server that is asked outside the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameServer {
    /// Its address.
    pub address: IpAddr,
    /// The device over which it is asked.
    pub device: String,
}

/// An exemption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExemptStatus {
    /// For people.
    pub name: String,
    /// Packets of clients that it marked as exempt.
    pub packets: u64,
}

/// Packets by what was decided about them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packets {
    /// Forwarded into a tunnel.
    pub through_tunnel: u64,
    /// Forwarded to a local network.
    pub to_local: u64,
    /// Forwarded because exempt or paused.
    pub exempt: u64,
    /// Refused on their way through.
    pub refused_forward: u64,
    /// Refused from the router itself, DNS not counted.
    pub refused_router: u64,
    /// DNS that was refused.
    pub refused_dns: u64,
    /// For a tunnel's address, but from elsewhere.
    pub refused_inbound: u64,
}

/// A client that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// Its address.
    pub address: IpAddr,
    /// Packets that were refused since it is remembered.
    pub packets: u64,
    /// Seconds since the last one.
    pub seconds_ago: u64,
}

/// A pause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// A device or a client's address.
    pub what: String,
    /// Seconds until the kernel ends it.
    pub seconds_left: u64,
}

/// A warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Stable word for programs.
    pub code: &'static str,
    /// For people: what is the matter and what to do.
    pub message: String,
}

json::fields!(Status: version, posture, enabled, router, port_forward_replies, layers, tunnels, locals, uplinks, unclassified, endpoints, name_servers, time_servers, exempts, packets, blocked, pauses, differences, warnings, errors);
json::fields!(Layer: name, installed, in_force, detail);
json::fields!(Device: device, exists, up, addresses, shakes_hands, handshake_seconds_ago);
json::fields!(EndpointStatus: name, source, host, resolved, problem, addresses, proto, port, source_port, mark, uid, packets);
json::fields!(NameServer: address, device);
json::fields!(ExemptStatus: name, packets);
json::fields!(Packets: through_tunnel, to_local, exempt, refused_forward, refused_router, refused_dns, refused_inbound);
json::fields!(Blocked: address, packets, seconds_ago);
json::fields!(Pause: what, seconds_left);
json::fields!(Notice: code, message);

impl json::Write for Posture {
    fn write(&self, out: &mut String) {
        let word = match self {
            Self::Disabled => "disabled",
            Self::Protecting => "protecting",
            Self::Blocking => "blocking",
            Self::Paused => "paused",
            Self::Degraded => "degraded",
        };
        word.write(out);
    }
}

/// What of one layer was read from the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerReadback {
    /// Whether there is anything of it.
    pub installed: bool,
    /// Differences that matter.
    pub differences: Vec<String>,
    /// What is missing and never decides: the kernel cannot do it.
    pub unavailable: Vec<String>,
    /// Why the layer is not to be there, though protection is on.
    pub left_out: Option<String>,
}

/// What was read from the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readback {
    /// Our table.
    pub netfilter: LayerReadback,
    /// Our routing rules, groups and sink.
    pub routing: LayerReadback,
    /// The rules' counters.
    pub counters: Vec<Counter>,
    /// The elements of the sets of refused clients, with the width of their keys in bytes.
    pub blocked: Vec<(u32, Element)>,
    /// The elements of the pause sets, likewise; 0 stands for a device.
    pub paused: Vec<(u32, Element)>,
}

/// More clients than this are not listed.
const BLOCKED_LISTED: usize = 256;

/// Puts the status together. `policy` is `None` when the configuration could not be made sense of;
/// `errors` says why then.
pub fn build(
    config: Option<&Config>,
    policy: Option<&Policy>,
    observed: &Observed,
    warnings: &[Warning],
    errors: Vec<String>,
    kernel: &Readback,
) -> Status {
    let enabled = config.is_some_and(|c| c.enabled);
    let none: &[DevicePattern] = &[];
    let mut tunnels = devices(policy.map_or(none, |p| &p.tunnels), &observed.links);
    tunnels.iter_mut().for_each(|tunnel| shaken(tunnel, observed));
    if policy.is_some_and(|p| p.ipsec) {
        let (device, up) = ("ipsec".to_owned(), observed.ipsec_keys);
        tunnels.push(Device { device, exists: up, up, ..Device::default() });
    }
    let locals = devices(policy.map_or(none, |p| &p.locals), &observed.links);
    let known = |name: &str| {
        policy.is_some_and(|p| p.is_tunnel(name) || p.is_local(name))
            || observed.uplinks.iter().any(|u| u == name)
    };
    let unclassified = observed
        .links
        .iter()
        .filter(|l| l.up && !l.port && !l.addrs.is_empty() && !known(&l.name))
        .map(|l| l.name.clone())
        .collect();

    let judged = |name, read: &LayerReadback| layer(name, read, enabled, !errors.is_empty());
    let (netfilter, mut differences) = judged("netfilter", &kernel.netfilter);
    let (routing, more) = judged("routing", &kernel.routing);
    differences.extend(more);
    let layers = vec![netfilter, routing];
    let installed = layers.iter().any(|l| l.installed);
    let in_force = layers.iter().all(|l| l.in_force);
    let pauses = pauses(&kernel.paused);
    let posture = if !errors.is_empty() {
        Posture::Degraded
    } else if !enabled && !installed {
        Posture::Disabled
    } else if !in_force || warnings.iter().any(|w| w.degrades) {
        Posture::Degraded
    } else if !pauses.is_empty() {
        Posture::Paused
    } else if tunnels.iter().any(|t| t.up) {
        Posture::Protecting
    } else {
        Posture::Blocking
    };

    // First what degrades: of all warnings it is why.
    let mut worst: Vec<&Warning> = warnings.iter().collect();
    worst.sort_by_key(|w| !w.degrades);

    Status {
        version: env!("CARGO_PKG_VERSION"),
        posture,
        enabled,
        router: config.map(|c| c.router.to_string()).unwrap_or_default(),
        port_forward_replies: policy.is_some_and(|p| p.port_forward_replies),
        layers,
        tunnels,
        locals,
        uplinks: observed
            .uplinks
            .iter()
            .filter(|u| !policy.is_some_and(|p| p.is_tunnel(u)))
            .cloned()
            .collect(),
        unclassified,
        endpoints: policy.map(|p| endpoints(p, &kernel.counters)).unwrap_or_default(),
        name_servers: policy.map(name_servers).unwrap_or_default(),
        time_servers: policy.map(|p| p.time_servers.clone()).unwrap_or_default(),
        exempts: policy.map(|p| exempts(p, &kernel.counters)).unwrap_or_default(),
        packets: packets(&kernel.counters),
        blocked: blocked(&kernel.blocked),
        pauses,
        differences,
        warnings: worst
            .into_iter()
            .map(|w| Notice { code: w.code, message: w.message.clone() })
            .collect(),
        errors,
    }
}

/// What to say of one layer, and its differences.
fn layer(
    name: &'static str,
    read: &LayerReadback,
    enabled: bool,
    unknown: bool,
) -> (Layer, Vec<String>) {
    if let Some(why) = read.left_out.as_ref().filter(|_| enabled && !unknown) {
        let layer = Layer { name, installed: read.installed, in_force: false, detail: why.clone() };
        return (layer, vec![why.clone()]);
    }
    let mut differences = read.differences.clone();
    let apply = "run 'vpn-killswitch apply'";
    if !unknown && enabled && !read.installed {
        differences = vec![format!("layer {name} is missing: {apply}")];
    }
    if !unknown && !enabled && read.installed {
        differences = vec![format!(
            "switched off in the configuration, but layer {name} still closes everything: {apply}"
        )];
    }
    let in_force = enabled && !unknown && read.installed && differences.is_empty();
    let detail = match (read.installed, in_force) {
        (_, true) => read.unavailable.join("; "),
        (false, false) => "not installed".to_owned(),
        (true, false) if unknown => {
            "installed; what it should be cannot be told while the configuration has errors"
                .to_owned()
        }
        (true, false) => "installed, but not as it should be".to_owned(),
    };
    (Layer { name, installed: read.installed, in_force, detail }, differences)
}

fn devices(patterns: &[DevicePattern], links: &[Link]) -> Vec<Device> {
    let mut out = Vec::new();
    for pattern in patterns {
        let mut found = links.iter().filter(|l| pattern.matches(&l.name)).peekable();
        if found.peek().is_none() {
            let device = pattern.to_string();
            out.push(Device { device, ..Device::default() });
        }
        out.extend(found.map(|link| Device {
            device: link.name.clone(),
            exists: true,
            up: link.up,
            addresses: link.addrs.clone(),
            ..Device::default()
        }));
    }
    out.dedup();
    out
}

/// When the far side was last heard of.
fn shaken(tunnel: &mut Device, observed: &Observed) {
    let peers = observed.vpn.iter().filter(|found| {
        found.device.as_ref().is_some_and(|d| !d.is_prefix() && d.matches(&tunnel.device))
    });
    for running in peers.filter_map(|found| found.running.as_ref()) {
        tunnel.shakes_hands = true;
        // 0 is never; a clock that was set back tells nothing.
        let ago = observed.clock.checked_sub(running.handshake).filter(|_| running.handshake != 0);
        tunnel.handshake_seconds_ago = tunnel.handshake_seconds_ago.into_iter().chain(ago).min();
    }
}

fn endpoints(policy: &Policy, counters: &[Counter]) -> Vec<EndpointStatus> {
    (1..)
        .zip(&policy.endpoints)
        .map(|(n, endpoint)| EndpointStatus {
            name: endpoint.name.clone(),
            source: endpoint.source.clone(),
            host: endpoint.host.clone(),
            resolved: !endpoint.addrs.is_empty(),
            problem: endpoint.problem.clone(),
            addresses: endpoint.addrs.clone(),
            proto: endpoint.proto.to_string(),
            port: endpoint.port,
            source_port: endpoint.source_port,
            mark: endpoint.mark,
            uid: endpoint.uid,
            packets: sum(counters, |id| {
                id == format!("endpoint_{n}_4") || id == format!("endpoint_{n}_6")
            }),
        })
        .collect()
}

/// Nobody is asked while there is no name to ask for.
fn name_servers(policy: &Policy) -> Vec<NameServer> {
    let servers = policy.bootstrap.servers.iter().filter(|_| !policy.bootstrap.names.is_empty());
    servers
        .map(|(address, device)| NameServer { address: *address, device: device.clone() })
        .collect()
}

fn exempts(policy: &Policy, counters: &[Counter]) -> Vec<ExemptStatus> {
    (1..)
        .zip(&policy.exempts)
        .map(|(n, exempt)| {
            let (id, prefix) = (format!("exempt_{n}"), format!("exempt_{n}_"));
            let packets = sum(counters, |rule| rule == id || rule.starts_with(&prefix));
            ExemptStatus { name: exempt.name.clone(), packets }
        })
        .collect()
}

fn packets(counters: &[Counter]) -> Packets {
    let exactly = |wanted: &[&str]| sum(counters, |id| wanted.contains(&id));
    Packets {
        through_tunnel: exactly(&["fwd_tunnel"]),
        to_local: exactly(&["fwd_local"]),
        exempt: exactly(&["fwd_pass"]),
        refused_forward: sum(counters, |id| id == "fwd_drop" || id.starts_with("fwd_reject")),
        refused_router: exactly(&["out_drop"]),
        refused_dns: sum(counters, |id| {
            ["out_dns_udp", "out_dns_tcp", "fwd_dns_udp", "fwd_dns_tcp"].contains(&id)
        }),
        refused_inbound: exactly(&["in_tunnel_addr4", "in_tunnel_addr6"]),
    }
}

fn sum(counters: &[Counter], wanted: impl Fn(&str) -> bool) -> u64 {
    counters.iter().filter(|c| wanted(&c.name)).map(|c| c.packets).sum()
}

fn blocked(elements: &[(u32, Element)]) -> Vec<Blocked> {
    let mut out: Vec<Blocked> = elements
        .iter()
        .map(|(width, e)| Blocked {
            address: address(&e.key, *width),
            packets: e.packets,
            seconds_ago: e.expires.map_or(0, |left| {
                // The kernel does not repeat what the set says.
                let whole = e.timeout.unwrap_or(Duration::from_secs(BLOCKED_TIMEOUT_SECS));
                whole.saturating_sub(left).as_secs()
            }),
        })
        .collect();
    out.sort_unstable_by_key(|b| (b.seconds_ago, b.address));
    out.truncate(BLOCKED_LISTED);
    out
}

fn pauses(elements: &[(u32, Element)]) -> Vec<Pause> {
    elements
        .iter()
        .map(|(width, e)| Pause {
            what: match width {
                0 => String::from_utf8_lossy(&e.key).trim_end_matches('\0').to_owned(),
                _ => address(&e.key, *width).to_string(),
            },
            // A pause whose last second runs is not over yet.
            seconds_left: e
                .expires
                .map_or(0, |left| left.as_secs() + u64::from(left.subsec_nanos() > 0)),
        })
        .collect()
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.headline())?;
        for error in &self.errors {
            writeln!(f, "  error: {error}")?;
        }
        for difference in &self.differences {
            writeln!(f, "  differs: {difference}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "  warning: {}", warning.message)?;
        }
        for layer in &self.layers {
            let state = if layer.in_force { "in force" } else { "not in force" };
            let detail = if layer.detail.is_empty() {
                String::new()
            } else {
                format!(" ({})", layer.detail)
            };
            writeln!(f, "Layer {}: {state}{detail}", layer.name)?;
        }
        if !self.router.is_empty() {
            writeln!(f, "Router itself: {}", self.router)?;
        }
        if self.port_forward_replies {
            writeln!(f, "Answers to port forwards may leave outside the tunnel")?;
        }
        for (what, devices) in [("Tunnel", &self.tunnels), ("Local", &self.locals)] {
            for d in devices {
                let state = match (d.exists, d.up) {
                    (false, _) => "does not exist",
                    (true, false) => "down",
                    (true, true) => "up",
                };
                let addresses: Vec<String> = d.addresses.iter().map(IpAddr::to_string).collect();
                let shaken = match (d.shakes_hands, d.handshake_seconds_ago) {
                    (false, _) => String::new(),
                    (true, None) => ", no handshake yet".to_owned(),
                    (true, Some(ago)) => format!(", last handshake {ago} s ago"),
                };
                writeln!(f, "{what} {}: {state} {}{shaken}", d.device, addresses.join(" "))?;
            }
        }
        if !self.uplinks.is_empty() {
            writeln!(f, "Uplinks: {}", self.uplinks.join(" "))?;
        }
        if !self.unclassified.is_empty() {
            writeln!(
                f,
                "Not classified, so closed: {} (add what is yours as local_device)",
                self.unclassified.join(" ")
            )?;
        }
        for e in &self.endpoints {
            let addresses = match e.addresses.as_slice() {
                [] => "unresolved".to_owned(),
                some => some.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" "),
            };
            let port = e.port.map(|p| format!(" port {p}")).unwrap_or_default();
            let only = [
                e.source_port.map(|p| format!(" from port {p}")),
                e.mark.map(|m| format!(" with mark {m:#x}")),
                e.uid.map(|u| format!(" of user {u}")),
            ];
            let only: String = only.into_iter().flatten().collect();
            writeln!(
                f,
                "Endpoint {}: {addresses} {}{port}{only}, {} packets ({})",
                e.name, e.proto, e.packets, e.source
            )?;
            if !e.problem.is_empty() {
                writeln!(f, "  {} was asked for in vain: {}", e.host, e.problem)?;
            }
        }
        if !self.name_servers.is_empty() {
            let servers =
                self.name_servers.iter().map(|s| format!("{} over {}", s.address, s.device));
            let servers: Vec<String> = servers.collect();
            writeln!(f, "Asked for these names only: {}", servers.join(", "))?;
        }
        for e in &self.exempts {
            writeln!(f, "Exempt {}: {} packets", e.name, e.packets)?;
        }
        let p = &self.packets;
        writeln!(
            f,
            "Passed: {} through the tunnel, {} local, {} exempt",
            p.through_tunnel, p.to_local, p.exempt
        )?;
        writeln!(
            f,
            "Refused: {} from clients, {} from the router, {} DNS, {} inbound",
            p.refused_forward, p.refused_router, p.refused_dns, p.refused_inbound
        )?;
        for b in self.blocked.iter().take(10) {
            writeln!(f, "  {}: {} packets, last {} s ago", b.address, b.packets, b.seconds_ago)?;
        }
        for pause in &self.pauses {
            writeln!(f, "Paused: {}, closes in {} s", pause.what, pause.seconds_left)?;
        }
        Ok(())
    }
}

impl Status {
    /// The posture in a sentence.
    pub fn headline(&self) -> String {
        match self.posture {
            Posture::Disabled => "OFF: nothing is protected.".to_owned(),
            Posture::Protecting => {
                let up: Vec<&str> =
                    self.tunnels.iter().filter(|t| t.up).map(|t| t.device.as_str()).collect();
                format!("PROTECTED through {}.", up.join(", "))
            }
            Posture::Blocking => "BLOCKING: no tunnel is up; nothing leaves.".to_owned(),
            Posture::Paused => "PAUSED: open for a while.".to_owned(),
            Posture::Degraded if !self.layers.iter().any(|l| l.installed) => {
                "OPEN: nothing is in force.".to_owned()
            }
            Posture::Degraded if !self.errors.is_empty() => {
                "DEGRADED: the configuration has errors; what was in force still is.".to_owned()
            }
            Posture::Degraded => "DEGRADED: not what it should be.".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_degrades_is_warned_of_first() {
        let warning = |code, degrades| Warning { code, degrades, message: String::new() };
        let warnings = [warning("a", false), warning("b", true), warning("c", false)];
        let status =
            build(None, None, &Observed::default(), &warnings, Vec::new(), &Readback::default());
        let codes: Vec<&str> = status.warnings.iter().map(|w| w.code).collect();
        assert_eq!(codes, ["b", "a", "c"]);
    }

    #[test]
    fn the_last_packet_is_as_long_ago_as_the_element_has_aged() {
        let element = |timeout: Option<u64>, left| Element {
            timeout: timeout.map(Duration::from_secs),
            expires: Some(Duration::from_secs(left)),
            ..Element::default()
        };
        // An element with the set's own time comes without one.
        let found = [(4, element(None, BLOCKED_TIMEOUT_SECS - 30)), (4, element(Some(90), 70))];
        let ago: Vec<u64> = blocked(&found).iter().map(|b| b.seconds_ago).collect();
        assert_eq!(ago, [20, 30]);
    }
}
