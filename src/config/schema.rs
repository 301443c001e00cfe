//! What the sections and options of `/etc/config/vpn-killswitch` mean.
//!
//! Responsible for turning a parsed file into a [`Config`], or into every error in it at once: with
//! line, section, option, what was found, what is allowed and, for a misspelt word, which one was
//! probably meant. Must not skip a section, guess a value or look at the system.

use std::net::IpAddr;

use super::reader::{Reader, meant};
use super::uci::{Package, Section};
use super::{Config, ConfigError, EndpointConfig, ExemptConfig, Host, RouterMode};
use crate::types::{DevicePattern, Family, Mac, Net, Ports, Proto, port};

/// The pass mark when none is configured: outside the masks of pbr (`0x00ff0000`) and mwan3
/// (`0x3f00`).
pub const DEFAULT_PASS_MARK: u32 = 0x1000_0000;

/// More `config exempt` sections than this are refused: each is a rule that every packet of a client
/// meets. One section may list any number of addresses, which cost one lookup.
pub const EXEMPT_MAX: usize = 64;

/// More `config endpoint` sections than this are refused, for the same reason.
pub const ENDPOINT_MAX: usize = 64;

/// Ports that carry DNS: plain and over TLS/QUIC (RFC 1035, 7858, 9250), multicast DNS (RFC 6762)
/// and LLMNR (RFC 4795).
pub const DNS_PORTS: [u16; 4] = [53, 853, 5353, 5355];

/// Bits of the packet mark that pbr (`0x00ff0000`) and mwan3 (`0x3f00`) set on packets, the router's
/// own among them: none of them may exempt.
const TAKEN_MARKS: u32 = 0x00ff_3f00;

/// The widest network that an exemption may name, as a prefix length: two halves of everything are
/// everything.
const EXEMPT_MIN_PREFIX: u8 = 8;
/// An exemption by ports alone may name at most so many.
const EXEMPT_MAX_PORTS: u32 = 1000;

const KILLSWITCH_OPTIONS: [&str; 15] = [
    "enabled",
    "tunnel_interface",
    "tunnel_device",
    "ipsec",
    "local_interface",
    "local_device",
    "router",
    "reject",
    "port_forward_replies",
    "ntp",
    "bootstrap_dns",
    "log",
    "pass_mark",
    "survive_sysupgrade",
    "schema",
];
const ENDPOINT_OPTIONS: [&str; 7] =
    ["name", "host", "port", "proto", "mark", "user", "source_port"];
const EXEMPT_OPTIONS: [&str; 9] = [
    "name",
    "enabled",
    "local_interface",
    "local_device",
    "src_mac",
    "src_ip",
    "dest_ip",
    "dest_port",
    "proto",
];
const SECTION_KINDS: [&str; 3] = ["killswitch", "endpoint", "exempt"];

/// The one layout of the file that this version knows.
const SCHEMA: u32 = 1;

/// Gives the file its meaning.
///
/// # Errors
/// Every error in it, in the order of its lines.
pub fn interpret(package: &Package) -> Result<Config, Vec<ConfigError>> {
    let mut errors = Vec::new();
    let mut config = Config::default();
    let mut main: Option<&Section> = None;
    let (mut endpoints, mut exempts) = (0usize, 0usize);

    for section in &package.sections {
        match section.kind.as_str() {
            "killswitch" => match main {
                None => {
                    main = Some(section);
                    killswitch(section, &mut config, &mut errors);
                }
                Some(first) => errors.push(ConfigError::of(
                    section,
                    format!(
                        "a second 'config killswitch'; the first is in line {}: join them",
                        first.line
                    ),
                )),
            },
            "endpoint" => {
                endpoints += 1;
                if let Some(endpoint) = endpoint(section, endpoints, &mut errors) {
                    config.endpoints.push(endpoint);
                }
            }
            "exempt" => {
                exempts += 1;
                if let Some(exempt) = exempt(section, exempts, &mut errors) {
                    config.exempts.push(exempt);
                }
            }
            other => errors.push(ConfigError::of(
                section,
                format!(
                    "unknown section type '{other}'{}; known are {}",
                    meant(other, &SECTION_KINDS),
                    SECTION_KINDS.join(", ")
                ),
            )),
        }
    }

    match main {
        None => {
            errors.push(ConfigError::file("there is no section 'config killswitch'".to_owned()))
        }
        Some(section) => contradictions(section, &config, &mut errors),
    }
    for (count, max, kind) in
        [(endpoints, ENDPOINT_MAX, "endpoint"), (exempts, EXEMPT_MAX, "exempt")]
    {
        if count > max {
            errors.push(ConfigError::file(format!(
                "{count} sections 'config {kind}', at most {max} are allowed; one section may list \
                 many addresses"
            )));
        }
    }

    errors.sort_by_key(|e| e.line);
    if errors.is_empty() { Ok(config) } else { Err(errors) }
}

fn killswitch(section: &Section, config: &mut Config, errors: &mut Vec<ConfigError>) {
    let mut read = Reader::new(section, &KILLSWITCH_OPTIONS, errors);
    read.scalar("schema", "the number 1", |t| (t.parse() == Ok(SCHEMA)).then_some(()));
    // Said, never assumed: a file that lost its end must not read as "off".
    match read.boolean("enabled") {
        Some(enabled) => config.enabled = enabled,
        None if read.has("enabled") => {}
        None => read.error("enabled", "missing; say 1 for on or 0 for off".to_owned()),
    }
    config.tunnel_interfaces = read.list("tunnel_interface", interface_name);
    config.tunnel_devices = read.list("tunnel_device", DevicePattern::parse);
    config.ipsec = read.boolean("ipsec").unwrap_or(false);
    config.local_interfaces = read.list("local_interface", interface_name);
    config.local_devices = read.list("local_device", DevicePattern::parse);
    config.router = read
        .scalar("router", "strict, dns or open", |t| match t {
            "strict" => Some(RouterMode::Strict),
            "dns" => Some(RouterMode::Dns),
            "open" => Some(RouterMode::Open),
            _ => None,
        })
        .unwrap_or(RouterMode::Strict);
    config.reject = read.boolean("reject").unwrap_or(true);
    config.port_forward_replies = read.boolean("port_forward_replies").unwrap_or(false);
    config.ntp = read.boolean("ntp").unwrap_or(true);
    config.bootstrap_dns = read.list("bootstrap_dns", |t| {
        t.parse::<IpAddr>().map_err(|_| "it is not an address").and_then(unicast)
    });
    config.log = read.boolean("log").unwrap_or(true);
    config.pass_mark = read
        .scalar(
            "pass_mark",
            "one bit that pbr and mwan3 leave alone (0x1 to 0x40, 0x4000, 0x1000000 to 0x80000000)",
            |t| {
                let of_others = |n: u32| (n | origin_mark(n)) & TAKEN_MARKS != 0;
                number(t).filter(|n| n.count_ones() == 1 && !of_others(*n))
            },
        )
        .unwrap_or(DEFAULT_PASS_MARK);
    config.survive_sysupgrade = read.boolean("survive_sysupgrade").unwrap_or(false);
}

/// What is wrong only when options are seen together.
fn contradictions(section: &Section, config: &Config, errors: &mut Vec<ConfigError>) {
    for tunnel in &config.tunnel_devices {
        for local in &config.local_devices {
            if tunnel.overlaps(local) {
                errors.push(ConfigError::of(
                    section,
                    format!(
                        "tunnel_device '{tunnel}' and local_device '{local}' name the same device: \
                         a tunnel's far side is not a local network"
                    ),
                ));
            }
        }
    }
    for name in &config.tunnel_interfaces {
        if config.local_interfaces.contains(name) {
            errors.push(ConfigError::of(
                section,
                format!("interface '{name}' is listed as tunnel_interface and as local_interface"),
            ));
        }
    }
    for endpoint in &config.endpoints {
        // Which packets IPsec will encrypt is kept in the neighbour of the pass mark.
        let origin = if config.ipsec { origin_mark(config.pass_mark) } else { 0 };
        if endpoint.mark.is_some_and(|m| m & origin != 0) {
            errors.push(ConfigError {
                line: endpoint.line,
                section: Some("endpoint".to_owned()),
                option: Some("mark".to_owned()),
                message: format!("it contains the bit {origin:#x}, which option ipsec needs"),
            });
        }
        if endpoint.mark.is_some_and(|m| m & config.pass_mark != 0) {
            errors.push(ConfigError {
                line: endpoint.line,
                section: Some("endpoint".to_owned()),
                option: Some("mark".to_owned()),
                message: format!(
                    "it contains the pass mark {:#x}, which would let such packets go anywhere",
                    config.pass_mark
                ),
            });
        }
    }
    if config.enabled {
        if config.tunnel_devices.is_empty() && config.tunnel_interfaces.is_empty() && !config.ipsec
        {
            errors.push(ConfigError::of(
                section,
                "enabled without a tunnel: add list tunnel_interface or list tunnel_device (or option \
                 ipsec)"
                    .to_owned(),
            ));
        }
        if config.local_devices.is_empty() && config.local_interfaces.is_empty() {
            errors.push(ConfigError::of(
                section,
                "enabled without a local network, which would lock you out: add list \
                 local_interface or list local_device"
                    .to_owned(),
            ));
        }
    }
}

fn endpoint(
    section: &Section,
    ordinal: usize,
    errors: &mut Vec<ConfigError>,
) -> Option<EndpointConfig> {
    let before = errors.len();
    let mut read = Reader::new(section, &ENDPOINT_OPTIONS, errors);
    let name = read.scalar("name", "a name of at most 32 printable characters", label);
    let host = read.scalar("host", "an address or a host name", Host::parse);
    let proto = read
        .scalar("proto", "udp, tcp, gre, esp, ah, 6in4 or a protocol number", Proto::parse)
        .unwrap_or(Proto::Udp);
    let port_number = read.scalar("port", "a port from 1 to 65535", port);
    let source_port = read.scalar("source_port", "a port from 1 to 65535", port);
    let mark = read.scalar("mark", "a packet mark other than 0, such as 0xca6c", |t| {
        number(t).filter(|n| *n != 0)
    });
    let user =
        read.scalar("user", "a user's name or number", |t| user_name(t).then(|| t.to_owned()));

    if host.is_none() && !read.has("host") {
        read.missing("host", "the VPN server's address or name");
    }
    if proto.has_ports() && port_number.is_none() && !read.has("port") {
        read.missing("port", "the VPN server's port, from 1 to 65535");
    }
    if !proto.has_ports() && (read.has("port") || read.has("source_port")) {
        read.error(
            if read.has("port") { "port" } else { "source_port" },
            format!("protocol {proto} has no ports: remove it, or set proto to udp or tcp"),
        );
    }
    if proto.has_ports()
        && port_number.is_some_and(|p| DNS_PORTS.contains(&p))
        && mark.is_none()
        && user.is_none()
    {
        read.error(
            "port",
            "an endpoint on a DNS port would let the router's own DNS questions out: add option \
             mark (WireGuard's fwmark) or option user (the VPN's own user)"
                .to_owned(),
        );
    }
    if errors.len() > before {
        return None;
    }
    Some(EndpointConfig {
        name: name.unwrap_or_else(|| format!("endpoint {ordinal}")),
        host: host?,
        proto,
        port: port_number,
        source_port,
        mark,
        user,
        line: section.line,
    })
}

fn exempt(
    section: &Section,
    ordinal: usize,
    errors: &mut Vec<ConfigError>,
) -> Option<ExemptConfig> {
    let before = errors.len();
    let mut read = Reader::new(section, &EXEMPT_OPTIONS, errors);
    let exempt = ExemptConfig {
        name: read
            .scalar("name", "a name of at most 32 printable characters", label)
            .unwrap_or_else(|| format!("exempt {ordinal}")),
        enabled: read.boolean("enabled").unwrap_or(true),
        local_interfaces: read.list("local_interface", interface_name),
        local_devices: read.list("local_device", DevicePattern::parse),
        src_mac: read.list("src_mac", Mac::parse),
        src_ip: read.list("src_ip", exempt_net),
        dest_ip: read.list("dest_ip", exempt_net),
        dest_port: read.list("dest_port", Ports::parse),
        proto: read.scalar("proto", "tcp, udp, icmp, icmpv6, gre, esp or a number", Proto::parse),
        line: section.line,
    };
    if exempt.src_mac.is_empty()
        && exempt.src_ip.is_empty()
        && exempt.dest_ip.is_empty()
        && exempt.dest_port.is_empty()
        && !["src_mac", "src_ip", "dest_ip", "dest_port"].iter().any(|o| read.has(o))
    {
        read.error_here(
            "it names nothing and would exempt everyone: add src_mac, src_ip, dest_ip or dest_port"
                .to_owned(),
        );
    }
    let ports: u32 =
        exempt.dest_port.iter().map(|p| u32::from(p.last) - u32::from(p.first) + 1).sum();
    if exempt.src_mac.is_empty()
        && exempt.src_ip.is_empty()
        && exempt.dest_ip.is_empty()
        && ports > EXEMPT_MAX_PORTS
    {
        read.error(
            "dest_port",
            format!(
                "{ports} ports of everyone: at most {EXEMPT_MAX_PORTS} without src_mac, src_ip or \
                 dest_ip"
            ),
        );
    }
    if exempt.proto.is_some_and(|p| !p.has_ports()) && !exempt.dest_port.is_empty() {
        read.error(
            "dest_port",
            "only tcp and udp have ports: change proto or remove it".to_owned(),
        );
    }
    // Empty means any, so of both families.
    let of = |nets: &[Net], family| nets.is_empty() || nets.iter().any(|n| n.family() == family);
    if !Family::BOTH.iter().any(|f| of(&exempt.src_ip, *f) && of(&exempt.dest_ip, *f)) {
        read.error(
            "dest_ip",
            "src_ip and dest_ip are of different families: no packet has both".to_owned(),
        );
    }
    (errors.len() == before).then_some(exempt)
}

fn exempt_net(text: &str) -> Result<Net, &'static str> {
    match Net::parse(text) {
        Ok(net) if net.prefix_len() < EXEMPT_MIN_PREFIX => {
            Err("it is too wide for an exemption; the widest is /8")
        }
        other => other,
    }
}

/// The bit of the connection's mark that remembers "came in through an uplink": the pass mark's
/// neighbour, so that restoring a connection's whole mark to its packets never exempts one.
pub fn origin_mark(pass_mark: u32) -> u32 {
    if pass_mark == 1 << 31 { 1 << 30 } else { pass_mark << 1 }
}

pub(super) fn unicast(addr: IpAddr) -> Result<IpAddr, &'static str> {
    if addr.is_unspecified() || addr.is_multicast() || addr.is_loopback() {
        return Err("it is not the address of another host");
    }
    if matches!(addr, IpAddr::V6(a) if a.to_ipv4_mapped().is_some()) {
        return Err("it is an IPv4 address in IPv6 clothes: write it as IPv4");
    }
    if matches!(addr, IpAddr::V4(a) if a.is_broadcast()) {
        return Err("it is the broadcast address");
    }
    Ok(addr)
}

/// A netifd interface or firewall zone: what `uci` accepts as a section name.
fn interface_name(text: &str) -> Result<String, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > 64 || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.@".contains(&b)) {
        return Err("an interface's name is made of letters, digits and . - _ @");
    }
    Ok(text.to_owned())
}

fn label(text: &str) -> Option<String> {
    let fits = !text.trim().is_empty() && text.chars().count() <= 32;
    // Marks that change the direction of writing would rearrange the line that the name stands in.
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    (fits && !text.chars().any(hidden)).then(|| text.to_owned())
}

/// What a user's name or number may be made of.
pub(crate) fn user_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 32
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.$".contains(&b))
}

/// A 32-bit number, decimal or with `0x`.
pub(crate) fn number(text: &str) -> Option<u32> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None => (text, 10),
    };
    digits
        .bytes()
        .all(|b| b.is_ascii_hexdigit())
        .then(|| u32::from_str_radix(digits, radix).ok())?
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
