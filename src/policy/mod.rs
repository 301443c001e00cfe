//! Policy: what is a tunnel, what is local, which endpoints and exemptions there are.
//!
//! Pure: a [`Config`] and what was [`Observed`] go in, a [`Policy`] comes out. Knows no rule syntax
//! and decides nothing about order: that is [`crate::ruleset`]'s.

mod endpoints;

pub use endpoints::current_addrs;

use std::fmt;
use std::net::IpAddr;

use crate::config::{Config, DEFAULT_PASS_MARK, DNS_PORTS, ExemptConfig, Host, RouterMode};
use crate::names::Bootstrap;
use crate::observe::Observed;
use crate::types::{DevicePattern, Family, Proto};

/// Everything that the rules are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Devices that lead into a tunnel.
    pub tunnels: Vec<DevicePattern>,
    /// Devices that lead to a local network.
    pub locals: Vec<DevicePattern>,
    /// The router's own addresses on tunnel devices (not link-local ones).
    pub tunnel_addrs: Vec<IpAddr>,
    /// Whether what IPsec encrypts by a policy, without a device of its own, is in a tunnel.
    pub ipsec: bool,
    /// What the router itself may send.
    pub router: RouterMode,
    /// Refuse loudly towards local clients.
    pub reject: bool,
    /// Let answers to connections from outside out again.
    pub port_forward_replies: bool,
    /// Log refused packets.
    pub log: bool,
    /// The exempting bit of the packet mark.
    pub pass_mark: u32,
    /// VPN servers that the router may reach.
    pub endpoints: Vec<Endpoint>,
    /// Time servers that the router may ask (NTP, udp 123).
    pub time_servers: Vec<IpAddr>,
    /// What may be asked in the clear.
    pub bootstrap: Bootstrap,
    /// Exemptions that are in force.
    pub exempts: Vec<ExemptConfig>,
}

/// A VPN server with the addresses known for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// For people.
    pub name: String,
    /// Where it was found, as a person would look it up.
    pub source: String,
    /// Why its name could not be asked for, the last time; empty when there is no problem.
    pub problem: String,
    /// Address or name as configured.
    pub host: String,
    /// Whether [`Self::host`] is a name, so that its addresses may change.
    pub by_name: bool,
    /// Its addresses; empty while the name is unresolved.
    pub addrs: Vec<IpAddr>,
    /// Transport protocol.
    pub proto: Proto,
    /// Destination port.
    pub port: Option<u16>,
    /// Source port that packets must have.
    pub source_port: Option<u16>,
    /// Packet mark that packets must have.
    pub mark: Option<u32>,
    /// User that must own the sending socket.
    pub uid: Option<u32>,
}

/// Something that the user should know; it never opens anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Stable word for programs.
    pub code: &'static str,
    /// Whether the guarantees are affected, so that the posture is `degraded`.
    pub degrades: bool,
    /// What is the matter and what to do, for a person.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The configuration asks for something that cannot be known here; nothing may be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError(pub String);

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Joins what is wanted with what exists.
///
/// # Errors
/// When a device is both tunnel and local once names are resolved, or no local network has a device.
/// What is merely missing (a tunnel that is down, a name that does not resolve, a user who is gone) is
/// a warning: without it less is open, never more.
pub fn derive(
    config: &Config,
    observed: &Observed,
) -> Result<(Policy, Vec<Warning>), Vec<PolicyError>> {
    let mut errors = Vec::new();
    let mut warnings = Vec::new();

    let mut tunnels = config.tunnel_devices.clone();
    resolve(&config.tunnel_interfaces, "tunnel_interface", observed, &mut tunnels, &mut warnings);
    let mut locals = config.local_devices.clone();
    resolve(&config.local_interfaces, "local_interface", observed, &mut locals, &mut warnings);
    for list in [&mut tunnels, &mut locals] {
        list.sort_unstable();
        list.dedup();
    }

    for tunnel in &tunnels {
        for local in locals.iter().filter(|l| l.overlaps(tunnel)) {
            errors.push(PolicyError(format!(
                "device '{tunnel}' is a tunnel and a local network ('{local}'): remove one of them"
            )));
        }
    }
    if config.enabled && locals.is_empty() {
        errors.push(PolicyError(
            "none of the local networks has a device here, which would lock you out: correct \
             local_interface, or name the device with list local_device"
                .to_owned(),
        ));
    }

    let is = |patterns: &[DevicePattern], name: &str| patterns.iter().any(|p| p.matches(name));
    if config.enabled && observed.not_at_boot {
        warnings.push(Warning {
            code: "not-at-boot",
            degrades: true,
            message:
                "the service is not started at boot, so this router is open from the next boot on: \
                      run '/etc/init.d/vpn-killswitch enable'"
                    .to_owned(),
        });
    }
    if config.enabled && !observed.shortcuts.is_empty() {
        let names: Vec<&str> = observed.shortcuts.iter().map(|s| s.name).collect();
        warnings.push(Warning {
            code: "shortcuts",
            degrades: false,
            message: format!(
                "the kernel forwards established connections beside its rules ({}): where that cannot be \
                 ended when protection begins, one that was there before goes on. Switch shortcut \
                 forwarding off",
                names.join(", ")
            ),
        });
    }
    if config.enabled && observed.offload {
        warnings.push(Warning {
            code: "offload",
            degrades: false,
            message: "flow offloading is on in /etc/config/firewall: connections that the kernel or the \
                      hardware forwards by itself meet no rules, so one that began during a pause may go \
                      on behind it. Switch flow_offloading off to be safe"
                .to_owned(),
        });
    }
    for name in observed.uplinks.iter().filter(|u| is(&locals, u)) {
        warnings.push(Warning {
            code: "local-is-uplink",
            degrades: true,
            message: format!(
                "the default route leaves through '{name}', which is listed as a local network: \
                 clients can reach the internet there without the tunnel. Remove it from the local \
                 networks, or remove that route"
            ),
        });
    }
    for link in observed.links.iter().filter(|l| is(&tunnels, &l.name)) {
        // A tunnel is made of software; `pppoe-wan` fits the pattern `ppp*` all the same.
        let hardware = ["", "bridge", "vlan", "bond", "dsa"].contains(&link.kind.as_str());
        if hardware || link.name.starts_with("pppoe-") {
            warnings.push(Warning {
                code: "tunnel-is-uplink",
                degrades: true,
                message: format!(
                    "'{}' is listed as a tunnel and is not one: what leaves there is not encrypted. \
                     Name the VPN's own device in tunnel_interface or tunnel_device",
                    link.name
                ),
            });
        }
    }
    let dns = |e: &&ExemptConfig| {
        e.src_mac.is_empty()
            && e.src_ip.is_empty()
            && DNS_PORTS.iter().any(|p| e.dest_port.iter().any(|r| (r.first..=r.last).contains(p)))
    };
    for exempt in config.exempts.iter().filter(|e| e.enabled).filter(dns) {
        warnings.push(Warning {
            code: "exempt-dns",
            degrades: false,
            message: format!(
                "exemption '{}' lets every client's DNS questions out beside the tunnel: name the \
                 clients with src_ip or src_mac, or take the DNS port out",
                exempt.name
            ),
        });
    }
    for pattern in locals.iter().filter(|p| !observed.links.iter().any(|l| p.matches(&l.name))) {
        warnings.push(Warning {
            code: "local-missing",
            degrades: false,
            message: format!("no device '{pattern}' exists for a local network"),
        });
    }

    let mut tunnel_addrs: Vec<IpAddr> = observed
        .links
        .iter()
        .filter(|l| is(&tunnels, &l.name))
        .flat_map(|l| l.addrs.iter().copied())
        .filter(|a| !matches!(a, IpAddr::V6(a) if a.is_unicast_link_local()))
        .collect();
    // An address that the router also has in a local network is reached there by right. One that an
    // uplink has too is not: a provider may lease us any address, the tunnel's own included.
    tunnel_addrs
        .retain(|a| !observed.links.iter().any(|l| is(&locals, &l.name) && l.addrs.contains(a)));
    tunnel_addrs.sort_unstable();
    tunnel_addrs.dedup();

    if !errors.is_empty() {
        return Err(errors);
    }
    let servers = endpoints::name_servers(config, observed, &tunnels, &locals);
    let found = endpoints::all(config, observed, &tunnels, &mut warnings);
    let mut names: Vec<String> = found
        .iter()
        .map(|(e, _)| &e.host)
        .chain(&observed.time.servers)
        .filter_map(|host| match host {
            Host::Name(name) if !endpoints::in_hosts(observed, name) => Some(name.clone()),
            _ => None,
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    // In mode open the VPN's programs may ask for themselves.
    if config.router == RouterMode::Open {
        names.clear();
    }
    let addrs = names.iter().map(|n| (n.clone(), observed.known.current(n))).collect();
    let bootstrap = Bootstrap { names, servers, mark: config.pass_mark, addrs };
    let endpoints: Vec<Endpoint> = found
        .iter()
        .filter_map(|(wanted, source)| {
            endpoints::endpoint(wanted, source, observed, &bootstrap, &mut warnings)
        })
        .collect();
    if config.enabled && config.router == RouterMode::Strict && endpoints.is_empty() {
        warnings.push(Warning {
            code: "no-endpoint",
            degrades: false,
            message:
                "mode strict without an endpoint: the router cannot reach its VPN server. Add \
                      a 'config endpoint', or set option router to dns"
                    .to_owned(),
        });
    }
    let time_servers = endpoints::time_servers(config, observed, &tunnels, &locals);
    if config.enabled && observed.clock_is_early {
        warnings.push(Warning {
            code: "clock-early",
            degrades: false,
            message: format!(
                "the clock is in the past, and WireGuard does not connect until it is right: {}",
                if config.router != RouterMode::Strict {
                    "set it with date, or wait for the time service".to_owned()
                } else if time_servers.is_empty() {
                    "no time server is known, so set it with date, or list one in \
                     /etc/config/system and leave option ntp on"
                        .to_owned()
                } else {
                    format!("{} time servers may be asked", time_servers.len())
                }
            ),
        });
    }
    let policy = Policy {
        tunnels,
        locals,
        tunnel_addrs,
        ipsec: config.ipsec,
        router: config.router,
        reject: config.reject,
        port_forward_replies: config.port_forward_replies,
        log: config.log,
        pass_mark: config.pass_mark,
        endpoints,
        time_servers,
        bootstrap,
        exempts: config
            .exempts
            .iter()
            .filter(|e| e.enabled)
            .filter_map(|e| exempt(e, observed, &mut warnings))
            .collect(),
    };
    Ok((policy, warnings))
}

/// Adds the devices of netifd interfaces and firewall zones to `devices`.
fn resolve(
    names: &[String],
    option: &str,
    observed: &Observed,
    devices: &mut Vec<DevicePattern>,
    warnings: &mut Vec<Warning>,
) {
    for name in names {
        let found = observed.interfaces.get(name).map(Vec::as_slice).unwrap_or_default();
        let patterns: Vec<_> = found.iter().filter_map(|d| DevicePattern::parse(d).ok()).collect();
        if patterns.is_empty() {
            warnings.push(Warning {
                code: "interface-unknown",
                degrades: false,
                message: format!(
                    "{option} '{name}': no interface or zone of that name has a device here; \
                     nothing is open for it"
                ),
            });
        }
        devices.extend(patterns);
    }
}

/// The exemption with its networks' devices. `None` when it is for a network that has none: without
/// this it would be for all.
fn exempt(
    wanted: &ExemptConfig,
    observed: &Observed,
    warnings: &mut Vec<Warning>,
) -> Option<ExemptConfig> {
    let mut devices = wanted.local_devices.clone();
    let names = &wanted.local_interfaces;
    resolve(names, "exempt: local_interface", observed, &mut devices, warnings);
    devices.sort_unstable();
    devices.dedup();
    let for_some = !wanted.local_interfaces.is_empty() || !wanted.local_devices.is_empty();
    (!for_some || !devices.is_empty())
        .then(|| ExemptConfig { local_devices: devices, ..wanted.clone() })
}

impl Policy {
    /// What is in force where nothing is known: nothing is forwarded, and the router asks no names.
    /// It may answer its local networks, since nobody knows which they are.
    pub fn closed() -> Self {
        Self {
            tunnels: Vec::new(),
            locals: Vec::new(),
            tunnel_addrs: Vec::new(),
            ipsec: false,
            router: RouterMode::Dns,
            reject: false,
            port_forward_replies: false,
            log: true,
            pass_mark: DEFAULT_PASS_MARK,
            endpoints: Vec::new(),
            time_servers: Vec::new(),
            bootstrap: Bootstrap::default(),
            exempts: Vec::new(),
        }
    }

    /// See [`crate::config::origin_mark`].
    pub fn origin_mark(&self) -> u32 {
        crate::config::origin_mark(self.pass_mark)
    }

    /// Whether a device of that name leads into a tunnel.
    pub fn is_tunnel(&self, device: &str) -> bool {
        self.tunnels.iter().any(|p| p.matches(device))
    }

    /// Whether a device of that name leads to a local network.
    pub fn is_local(&self, device: &str) -> bool {
        self.locals.iter().any(|p| p.matches(device))
    }
}

impl Endpoint {
    /// The addresses of one family.
    pub fn addrs_of(&self, family: Family) -> impl Iterator<Item = &IpAddr> {
        self.addrs.iter().filter(move |a| Family::of(a) == family)
    }
}
