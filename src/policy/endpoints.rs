//! VPN, time and name servers: which of them the router may reach, by which addresses.

use std::net::IpAddr;

use super::{Endpoint, Warning};
use crate::config::{self, Config, DNS_PORTS, ENDPOINT_MAX, EndpointConfig, Host, RouterMode};
use crate::names::Bootstrap;
use crate::observe::Observed;
use crate::observe::netifd::Interface;
use crate::observe::vpn::Found;
use crate::types::DevicePattern;

/// The endpoints of the configuration, and those found in the configuration and state of the VPNs that
/// are listed as tunnels, each with where it was found.
pub fn all(
    config: &Config,
    observed: &Observed,
    tunnels: &[DevicePattern],
    warnings: &mut Vec<Warning>,
) -> Vec<(EndpointConfig, String)> {
    let configured =
        config.endpoints.iter().map(|e| (e.clone(), format!("/{}:{}", config::PATH, e.line)));
    let mut out: Vec<_> = configured.collect();
    for problem in &observed.vpn_problems {
        warnings.push(Warning {
            code: "vpn-unreadable",
            degrades: false,
            message: problem.clone(),
        });
    }
    let mut unlisted: Vec<&str> = Vec::new();
    for found in &observed.vpn {
        if !is_tunnel(found, config, tunnels) {
            // Several servers of one VPN are one matter.
            if !unlisted.contains(&found.source.as_str()) {
                unlisted.push(&found.source);
                warnings.push(Warning {
                    code: "vpn-unlisted",
                    degrades: false,
                    message: format!(
                        "the VPN of {} is not listed as a tunnel, so it may not connect: add it to \
                         tunnel_interface or tunnel_device if clients are to use it",
                        found.source
                    ),
                });
            }
            continue;
        }
        let endpoint = EndpointConfig {
            name: found.name.clone(),
            host: found.host.clone(),
            proto: found.proto,
            port: found.port,
            source_port: found.source_port,
            mark: found.mark,
            user: found.user.clone(),
            line: 0,
        };
        let narrow =
            endpoint.mark.is_some() || endpoint.user.is_some() || endpoint.source_port.is_some();
        // The configuration's own reader refuses the same.
        if endpoint.mark.is_some_and(|m| m & config.pass_mark != 0) {
            warnings.push(Warning {
                code: "endpoint-unsafe",
                degrades: false,
                message: format!(
                    "{}: its packets carry the mark {:#x}, which contains the pass mark: change \
                     one of the two",
                    found.source,
                    endpoint.mark.unwrap_or_default()
                ),
            });
        } else if !narrow && endpoint.port.is_some_and(|p| DNS_PORTS.contains(&p)) {
            warnings.push(Warning {
                code: "endpoint-unsafe",
                degrades: false,
                message: format!(
                    "{}: a server on a DNS port would let the router's own DNS questions out: give \
                     the VPN a mark, or list the server as 'config endpoint' with option user",
                    found.source
                ),
            });
        } else {
            out.push((endpoint, found.source.clone()));
        }
    }
    if out.len() > ENDPOINT_MAX {
        warnings.push(Warning {
            code: "endpoints-too-many",
            degrades: false,
            message: format!(
                "{} VPN servers were found; only the first {ENDPOINT_MAX} may be reached",
                out.len()
            ),
        });
        out.truncate(ENDPOINT_MAX);
    }
    out
}

fn is_tunnel(found: &Found, config: &Config, tunnels: &[DevicePattern]) -> bool {
    // Of IPsec without a device nothing else tells that it is a tunnel.
    let without_device = found.interface.is_none() && found.device.is_none();
    config.ipsec && without_device
        || found.interface.as_ref().is_some_and(|i| config.tunnel_interfaces.contains(i))
        || found.device.as_ref().is_some_and(|d| tunnels.iter().any(|t| t.overlaps(d)))
}

/// Whether `/etc/hosts` has an address for the name.
pub fn in_hosts(observed: &Observed, name: &str) -> bool {
    observed.hosts.get(name).is_some_and(|addrs| !addrs.is_empty())
}

/// All addresses that the name has, or had lately.
fn addrs_of(observed: &Observed, host: &Host) -> Vec<IpAddr> {
    let mut addrs = match host {
        Host::Addr(addr) => vec![*addr],
        Host::Name(name) if in_hosts(observed, name) => {
            observed.hosts.get(name).cloned().unwrap_or_default()
        }
        Host::Name(name) => observed.known.addrs(name),
    };
    addrs.sort_unstable();
    addrs.dedup();
    addrs
}

/// The addresses that the name has now: of these the VPN's programs choose.
pub fn current_addrs(observed: &Observed, name: &str) -> Vec<IpAddr> {
    match observed.hosts.get(name) {
        Some(addrs) if !addrs.is_empty() => addrs.clone(),
        _ => observed.known.current(name),
    }
}

/// The endpoint with its addresses. `None` when nobody could use it.
pub fn endpoint(
    wanted: &EndpointConfig,
    source: &str,
    observed: &Observed,
    bootstrap: &Bootstrap,
    warnings: &mut Vec<Warning>,
) -> Option<Endpoint> {
    let addrs = addrs_of(observed, &wanted.host);
    let (name, problem) = match &wanted.host {
        Host::Name(name) => (Some(name), observed.known.problem(name).to_owned()),
        Host::Addr(_) => (None, String::new()),
    };
    if let Some(name) = name.filter(|_| addrs.is_empty()) {
        let why = match () {
            () if !bootstrap.names.contains(name) => String::new(),
            () if bootstrap.servers.is_empty() => {
                ": no uplink is up with a name server to ask; bootstrap_dns may name one".to_owned()
            }
            () if problem.is_empty() => ": it was not asked for yet".to_owned(),
            () => format!(": {problem}"),
        };
        warnings.push(Warning {
            code: "endpoint-unresolved",
            degrades: false,
            message: format!(
                "endpoint '{}': no address is known for {name}, so the tunnel cannot reach it{why}. \
                 Write its address, or add it to /etc/hosts",
                wanted.name
            ),
        });
    }
    let uid = match &wanted.user {
        None => None,
        Some(user) => match user.parse().ok().or_else(|| observed.users.get(user).copied()) {
            Some(uid) => Some(uid),
            None => {
                warnings.push(Warning {
                    code: "user-unknown",
                    degrades: false,
                    message: format!(
                        "endpoint '{}': there is no user '{user}' here, so nobody may reach it; \
                         correct option user",
                        wanted.name
                    ),
                });
                return None;
            }
        },
    };
    Some(Endpoint {
        name: wanted.name.clone(),
        source: source.to_owned(),
        problem,
        host: wanted.host.to_string(),
        by_name: name.is_some(),
        addrs,
        proto: wanted.proto,
        port: wanted.port,
        source_port: wanted.source_port,
        mark: wanted.mark,
        uid,
    })
}

/// netifd's interfaces that lead neither into a tunnel nor to a local network.
fn outside<'a>(
    observed: &'a Observed,
    tunnels: &'a [DevicePattern],
    locals: &'a [DevicePattern],
) -> impl Iterator<Item = &'a Interface> {
    let ours = move |d: &str| tunnels.iter().chain(locals).any(|p| p.matches(d));
    observed
        .netifd
        .iter()
        .filter(move |i| i.up && i.device != "lo" && !i.device.is_empty() && !ours(&i.device))
}

/// Who may be asked for the names of endpoints: `bootstrap_dns`, or else the uplinks' own servers.
pub fn name_servers(
    config: &Config,
    observed: &Observed,
    tunnels: &[DevicePattern],
    locals: &[DevicePattern],
) -> Vec<(IpAddr, String)> {
    let ours = |d: &str| tunnels.iter().chain(locals).any(|p| p.matches(d));
    let over_uplinks = |servers: &[IpAddr]| -> Vec<(IpAddr, String)> {
        let uplinks = || observed.uplinks.iter().filter(|d| !ours(d));
        servers.iter().flat_map(|s| uplinks().map(|d| (*s, d.clone()))).collect()
    };
    let mut servers = if !config.bootstrap_dns.is_empty() {
        over_uplinks(&config.bootstrap_dns)
    } else if observed.netifd.is_empty() {
        over_uplinks(&observed.resolvers)
    } else {
        // Some network that nobody listed comes behind those that lead to the internet.
        let (mut interfaces, others): (Vec<_>, Vec<_>) =
            outside(observed, tunnels, locals).partition(|i| observed.uplinks.contains(&i.device));
        interfaces.extend(others);
        let of =
            |i: &Interface| -> Vec<_> { i.dns.iter().map(|s| (*s, i.device.clone())).collect() };
        let mut servers: Vec<_> = interfaces.into_iter().flat_map(of).collect();
        servers.retain(|(s, _)| !s.is_loopback() && !s.is_unspecified());
        servers
    };
    let mut seen = Vec::new();
    servers.retain(|server| {
        let new = !seen.contains(server);
        seen.push(server.clone());
        new
    });
    servers
}

/// The time servers that may be asked.
pub fn time_servers(
    config: &Config,
    observed: &Observed,
    tunnels: &[DevicePattern],
    locals: &[DevicePattern],
) -> Vec<IpAddr> {
    if !config.ntp || config.router != RouterMode::Strict {
        return Vec::new();
    }
    let mut out: Vec<IpAddr> =
        observed.time.servers.iter().flat_map(|host| addrs_of(observed, host)).collect();
    if observed.time.from_dhcp {
        out.extend(outside(observed, tunnels, locals).flat_map(|i| &i.time));
    }
    out.sort_unstable();
    out.dedup();
    out
}

#[cfg(test)]
#[path = "endpoint_tests.rs"]
mod tests;
