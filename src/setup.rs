//! The first configuration, from the router's own networks: OpenWrt's interfaces and firewall zones, or
//! the devices that another firmware has in nvram.
//!
//! Pure. Proposes, switched off, with everything explained: who it is for looks through it before it is
//! switched on. What is in doubt is left out, and what is left out is closed.

use std::fmt::Write as _;

use crate::config::uci::{Package, Section};
use crate::observe::{Link, Networks, flag, scalar, words};

/// Protocols of netifd by which a router dials into a VPN. (PPTP, L2TP and SSTP may be the provider's.)
const TUNNELS: [&str; 4] = ["openvpn", "openconnect", "vpnc", "xfrm"];
/// Those that have peers: they are a way out when one has an address to call.
const WITH_PEERS: [&str; 2] = ["wireguard", "amneziawg"];
/// Protocols of a network that others configure, or nobody.
const PLAIN: [&str; 3] = ["static", "none", "unmanaged"];
/// Devices that a VPN makes by itself; their interface has no protocol.
const VPN_DEVICES: [&str; 5] = ["tun", "tap", "wg", "ipsec", "xfrm"];

/// What is known of one interface.
struct Network {
    name: String,
    proto: String,
    devices: Vec<String>,
    zone: Option<String>,
    role: Role,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Tunnel,
    Local,
    /// An uplink, or nobody knows.
    Other,
}

/// The words in which they are told.
struct Words {
    /// What it was proposed from.
    from: &'static str,
    tunnels: &'static str,
    locals: &'static str,
    /// What the options' names end in.
    option: &'static str,
}

const INTERFACES: Words = Words {
    from: "networks and firewall zones",
    tunnels: "interfaces, as in /etc/config/network, by which clients may leave. A tunnel without an\n\
              \t# interface is named by its device: list tunnel_device 'tun0', or 'tun*' for all of them.",
    locals: "interfaces or firewall zones. All of them reach each other as before, and\n\
             \t# the router. Never list an uplink here. Without an interface: list local_device 'br-lan'.",
    option: "interface",
};
const DEVICES: Words = Words {
    from: "settings in nvram",
    tunnels: "devices by which clients may leave; 'tun1*' stands for all that begin with tun1.",
    locals: "bridges, and other devices. All of them reach each other as before, and\n\
             \t# the router. Never list an uplink here.",
    option: "device",
};

/// The first configuration, as text. `devices` tells the devices of an interface of `network`.
pub fn first(
    network: &Package,
    firewall: &Package,
    devices: impl Fn(&str) -> Vec<String>,
) -> String {
    text(&classify(network, firewall, devices), &INTERFACES)
}

/// The first configuration of a firmware with nvram, as text.
pub fn of_nvram(networks: &Networks, links: &[Link]) -> String {
    let network = |name: &str, about: &str, role| Network {
        name: name.to_owned(),
        proto: about.to_owned(),
        devices: Vec::new(),
        zone: None,
        role,
    };
    let tunnels = networks.tunnels.iter().map(|d| network(d, "VPN client", Role::Tunnel));
    let locals = networks.locals.iter();
    let locals = locals.map(|(d, name)| network(d, &format!("network {name}"), Role::Local));
    let wan = networks.wan.iter().map(|d| network(d, "uplink", Role::Other));
    let mut all: Vec<Network> = tunnels.chain(locals).chain(wan).collect();
    for link in links.iter().filter(|l| !l.port && !l.addrs.is_empty()) {
        if !all.iter().any(|n| n.name == link.name) {
            all.push(network(&link.name, "nothing says what it is", Role::Other));
        }
    }
    // What is called twice is in doubt: an uplink is never local. And nothing may break out of its quotes.
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    all.retain(|n| {
        n.name.chars().all(plain) && (n.role == Role::Other || !networks.wan.contains(&n.name))
    });
    text(&all, &DEVICES)
}

fn text(networks: &[Network], words: &Words) -> String {
    let of = |role| networks.iter().filter(move |n| n.role == role);
    let mut out = format!(
        "# The kill switch, as it was proposed once from this router's {}.\n\
         # Nothing writes this file again but you, LuCI, and `vpn-killswitch enable` and `disable`.\n\
         # Look through it, then switch it on: vpn-killswitch enable\n\
         # (`uci commit` and LuCI take comments away.)\n\n\
         config killswitch 'main'\n\
         \t# 1 closes every way out but the tunnels, now and after each boot. Until then, all is open.\n\
         \toption enabled '0'\n\
         \toption schema '1'\n\n\
         \t# The VPN: {}\n",
        words.from, words.tunnels
    );
    list(&mut out, "tunnel", words, of(Role::Tunnel));
    let _ = writeln!(out, "\n\t# Your own networks: {}", words.locals);
    list(&mut out, "local", words, of(Role::Local));
    let mut others = of(Role::Other).peekable();
    if others.peek().is_some() {
        out.push_str("\n\t# Left out, so nobody gets out there beside the tunnel:\n");
        others.for_each(|n| out.push_str(&format!("\t#   {}\n", n.about())));
    }
    out.push_str(
        "\n\t# What the router itself may send beside the tunnel: strict (only what the tunnel needs),\n\
         \t# dns (everything but DNS) or open.\n\
         \toption router 'strict'\n\
         \t# 1 tells clients at once that they were refused; 0 lets them wait.\n\
         \toption reject '1'\n\
         \t# 1 lets answers to port forwards out beside the tunnel.\n\
         \toption port_forward_replies '0'\n\
         \t# The router may ask its time servers: without the time, some tunnels never come up.\n\
         \toption ntp '1'\n\
         \t# Refused packets go to the log, at most ten lines a minute.\n\
         \toption log '1'\n\n\
         # A VPN server that is not in the VPN's own configuration; the router may reach it beside the tunnel.\n\
         #config endpoint\n\
         #\toption host 'vpn.example.net'\n\
         #\toption port '51820'\n\
         #\toption proto 'udp'\n\n\
         # A device that may always go out beside the tunnel.\n\
         #config exempt\n\
         #\toption name 'TV'\n\
         #\tlist src_mac '00:11:22:33:44:55'\n",
    );
    out
}

fn list<'a>(
    out: &mut String,
    what: &str,
    words: &Words,
    networks: impl Iterator<Item = &'a Network>,
) {
    let option = format!("{what}_{}", words.option);
    let before = out.len();
    for network in networks {
        let _ = writeln!(out, "\t# {}\n\tlist {option} '{}'", network.about(), network.name);
    }
    if out.len() == before {
        let _ =
            writeln!(out, "\t# None was found; add yours, one line each.\n\t#list {option} '…'");
    }
}

impl Network {
    /// For a comment, from which nothing in a name may break out.
    fn about(&self) -> String {
        let mut out = format!("{}: {}", self.name, self.proto);
        if !self.devices.is_empty() {
            let _ = write!(out, ", device {}", self.devices.join(" "));
        }
        if let Some(zone) = &self.zone {
            let _ = write!(out, ", zone {zone}");
        }
        out.retain(|c| !c.is_control());
        out
    }
}

fn classify(
    network: &Package,
    firewall: &Package,
    devices_of: impl Fn(&str) -> Vec<String>,
) -> Vec<Network> {
    let zones: Vec<&Section> = firewall.sections.iter().filter(|s| s.kind == "zone").collect();
    let interfaces = network.sections.iter().filter(|s| s.kind == "interface");
    let mut out: Vec<Network> = interfaces
        .filter(|s| !flag(s, "disabled"))
        .filter_map(|section| {
            let name = section.name.clone().filter(|n| n != "loopback")?;
            let devices = devices_of(&name);
            let zone = zones.iter().find(|z| {
                words(z, "network").contains(&name)
                    || words(z, "device").iter().any(|d| devices.contains(d))
            });
            let role = role(network, section, &name, &devices, zone.copied(), zones.is_empty());
            Some(Network {
                proto: scalar(section, "proto").unwrap_or_else(|| "none".to_owned()),
                zone: zone.and_then(|z| scalar(z, "name")),
                name,
                devices,
                role,
            })
        })
        .collect();
    // A zone is one side of the firewall: where one of its networks leads out, none is local.
    let outside: Vec<String> = out
        .iter()
        .filter(|n| {
            let inner = PLAIN.contains(&&*n.proto) || WITH_PEERS.contains(&&*n.proto);
            n.role == Role::Tunnel || !inner
        })
        .filter_map(|n| n.zone.clone())
        .collect();
    for network in out.iter_mut().filter(|n| n.role == Role::Local) {
        if network.zone.as_ref().is_some_and(|z| outside.contains(z)) {
            network.role = Role::Other;
        }
    }
    out
}

fn role(
    network: &Package,
    section: &Section,
    name: &str,
    devices: &[String],
    zone: Option<&Section>,
    no_firewall: bool,
) -> Role {
    let proto = scalar(section, "proto").unwrap_or_else(|| "none".to_owned());
    let masked = zone.is_some_and(|z| flag(z, "masq") || flag(z, "masq6"));
    if WITH_PEERS.contains(&proto.as_str()) {
        let kind = format!("{proto}_{name}");
        let mut peers = network.sections.iter().filter(|s| s.kind == kind && !flag(s, "disabled"));
        if peers.any(|peer| scalar(peer, "endpoint_host").is_some()) {
            return Role::Tunnel;
        }
        // Only others call: a network of people on the road.
    } else if TUNNELS.contains(&proto.as_str()) {
        return Role::Tunnel;
    } else if !PLAIN.contains(&proto.as_str())
        || ["gateway", "ip6gw"].iter().any(|o| scalar(section, o).is_some())
    {
        return Role::Other;
    } else if masked && devices.iter().any(|d| VPN_DEVICES.iter().any(|v| d.starts_with(v))) {
        return Role::Tunnel;
    }
    let inside = zone.map_or(no_firewall, |z| scalar(z, "name").is_some_and(|n| n != "wan"));
    // Without a device of its own ('@lan'), it is another one's.
    if inside && !masked && !devices.is_empty() { Role::Local } else { Role::Other }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{self, uci};
    use crate::observe::interface_devices;

    const NETWORK: &str = "
config interface loopback
	option device lo
	option proto static
config interface lan
	option device br-lan
	option proto static
	option ipaddr 192.168.1.1
config interface lan6
	option device @lan
	option proto static
config interface guest
	option device br-guest
	option proto static
config interface iot
	option device br-iot
	option proto static
config interface wan
	option device eth1
	option proto dhcp
config interface wan6
	option device eth1
	option proto dhcpv6
config interface modem
	option device eth1.2
	option proto static
config interface wg0
	option proto wireguard
config wireguard_wg0
	option endpoint_host vpn.example.net
config interface road
	option proto wireguard
config wireguard_road
	option public_key x
config interface ovpn
	option device tun0
	option proto none
config interface old
	option device tun9
	option proto none
	option disabled 1
config interface second
	option device eth2
	option proto static
	option gateway 192.0.2.1
";
    const FIREWALL: &str = "
config zone
	option name lan
	list network lan
	list network lan6
	list network road
config zone
	option name guest
	option input REJECT
	option network guest
config zone
	option name wan
	list network wan
	list network wan6
	list network modem
	option masq 1
config zone
	option name vpn
	list network wg0
	list device tun0
	option masq 1
config zone
	option name second
	list network second
";

    fn lists(network: &str, firewall: &str) -> (Vec<String>, Vec<String>) {
        let package = |text: &str| uci::parse(text.as_bytes()).unwrap();
        let network = package(network);
        let devices = |name: &str| interface_devices(Path::new("/nonexistent"), &network, name);
        let text = first(&network, &package(firewall), devices);
        let config = config::parse(text.as_bytes()).unwrap();
        assert!(!config.enabled);
        let defaults = config::parse(b"config killswitch\n option enabled 0\n").unwrap();
        let (tunnels, locals) = (config.tunnel_interfaces.clone(), config.local_interfaces.clone());
        let bare = config::Config { tunnel_interfaces: vec![], local_interfaces: vec![], ..config };
        assert_eq!(bare, defaults, "what is proposed is what would be without it");
        // The examples are right as soon as somebody takes the '#' away.
        let all = text.replace("\n#config", "\nconfig").replace("\n#\t", "\n\t");
        assert_eq!(config::parse(all.as_bytes()).unwrap().exempts.len(), 1);
        (tunnels, locals)
    }

    #[test]
    fn a_house_with_everything() {
        let (tunnels, locals) = lists(NETWORK, FIREWALL);
        assert_eq!(tunnels, ["wg0", "ovpn"]);
        // 'iot' is in no zone, 'lan6' is lan's device: in doubt, out.
        assert_eq!(locals, ["lan", "guest", "road"]);
    }

    #[test]
    fn a_zone_with_an_uplink_in_it_is_not_local() {
        let network = "config interface lan\n option device br-lan\n option proto static\n\
                       config interface lte\n option device wwan0\n option proto qmi\n";
        let firewall = "config zone\n option name lan\n list network lan\n list network lte\n";
        assert_eq!(lists(network, firewall), (vec![], vec![]));
    }

    #[test]
    fn without_anything_or_without_a_firewall() {
        assert_eq!(lists("", ""), (vec![], vec![]));
        let network = "config interface lan\n option device br-lan\n option proto static\n";
        assert_eq!(lists(network, "").1, ["lan"]);
    }

    #[test]
    fn a_firmware_with_nvram() {
        let own = |items: &[&str]| items.iter().map(|i| (*i).to_owned()).collect::<Vec<_>>();
        let networks = Networks {
            locals: vec![
                ("br0".to_owned(), "lan".to_owned()),
                ("br1".to_owned(), "lan1".to_owned()),
                ("vlan2".to_owned(), "lan2".to_owned()),
                ("br2'\nconfig endpoint".to_owned(), "lan3".to_owned()),
            ],
            tunnels: own(&["tun11", "wg0"]),
            wan: own(&["vlan2"]),
        };
        let addrs = vec!["192.168.9.1".parse().unwrap()];
        let link = |name: &str, port| Link {
            name: name.to_owned(),
            port,
            addrs: addrs.clone(),
            ..Link::default()
        };
        let text =
            of_nvram(&networks, &[link("br0", false), link("wl0.1", false), link("eth1", true)]);
        let config = config::parse(text.as_bytes()).unwrap();
        let names = |devices: &[crate::types::DevicePattern]| {
            devices.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(!config.enabled);
        assert_eq!(names(&config.tunnel_devices), ["tun11", "wg0"]);
        assert_eq!(names(&config.local_devices), ["br0", "br1"]);
        let left_out: Vec<&str> = text.lines().filter(|l| l.starts_with("\t#   ")).collect();
        assert_eq!(left_out, ["\t#   vlan2: uplink", "\t#   wl0.1: nothing says what it is"]);
        // Without any of them it is still one, with what to fill in.
        let text = of_nvram(&Networks::default(), &[]);
        assert!(config::parse(text.as_bytes()).unwrap().local_devices.is_empty());
        assert!(text.contains("#list tunnel_device") && text.contains("#list local_device"));
    }

    #[test]
    fn a_name_cannot_break_out_of_its_comment() {
        let network =
            "config interface lan\n option device 'br\nconfig endpoint'\n option proto static\n";
        lists(network, "");
    }
}
