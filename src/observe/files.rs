//! What the system's own files say: netifd interfaces and firewall zones, host names, users, time
//! servers. A file that is missing or unreadable says nothing: then less is open.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use super::TimeSources;
use super::netifd::Interface;
use super::nvram::Nvram;
use super::vpn;
use crate::config::Host;
use crate::config::uci::{self, Package, Section, Value};
use crate::types::Sorted;

/// Files longer than this are not read; a list of blocked names may have megabytes.
const FILE_MAX: u64 = 4 << 20;

/// The devices of the named netifd interfaces and firewall zones: as netifd has them now, or else as
/// `/etc/config/network` and `/etc/config/firewall` say. An interface goes before a zone of the same
/// name.
pub fn interfaces<'a>(
    root: &Path,
    netifd: &[Interface],
    names: impl Iterator<Item = &'a String>,
) -> Sorted<String, Vec<String>> {
    let network = Network { root, netifd, file: package(root, "etc/config/network") };
    let firewall = package(root, "etc/config/firewall");
    let nvram = Nvram::open(root);
    names
        .map(|name| {
            let mut devices = network.devices(name);
            if devices.is_empty() {
                devices = zone_devices(&firewall, &network, name);
            }
            if let Some(nvram) = nvram.as_ref().filter(|_| devices.is_empty()) {
                devices = nvram.devices(name);
            }
            devices.sort_unstable();
            devices.dedup();
            (name.clone(), devices)
        })
        .collect()
}

/// What is known about netifd's interfaces.
struct Network<'a> {
    root: &'a Path,
    /// What netifd says.
    netifd: &'a [Interface],
    /// What it was told.
    file: Package,
}

impl Network<'_> {
    fn devices(&self, name: &str) -> Vec<String> {
        match self.netifd.iter().find(|i| i.name == name && !i.device.is_empty()) {
            Some(interface) => vec![interface.device.clone()],
            None => interface_devices(self.root, &self.file, name),
        }
    }
}

/// The layer 3 devices that netifd gives the interface, by its protocol (netifd's proto handlers and
/// /lib/netifd/proto/*.sh).
pub(crate) fn interface_devices(root: &Path, network: &Package, name: &str) -> Vec<String> {
    let of_name = |s: &&Section| s.kind == "interface" && s.name.as_deref() == Some(name);
    let Some(section) = network.sections.iter().find(of_name) else { return Vec::new() };
    match scalar(section, "proto").as_deref() {
        Some("wireguard" | "amneziawg") => vec![name.to_owned()],
        Some("openvpn") => {
            vpn::openvpn::device(root, section).iter().map(ToString::to_string).collect()
        }
        Some(proto @ ("pppoe" | "pppoa" | "pptp" | "l2tp" | "6in4" | "sstp")) => {
            vec![format!("{proto}-{name}")]
        }
        Some("openconnect" | "vpnc" | "openfortivpn") => vec![format!("vpn-{name}")],
        _ if scalar(section, "type").as_deref() == Some("bridge") => vec![format!("br-{name}")],
        _ => {
            let mut devices = words(section, "device");
            if devices.is_empty() {
                devices = words(section, "ifname");
            }
            // '@lan' is another interface's device; it is resolved when that one is listed.
            devices.retain(|d| !d.starts_with('@'));
            devices
        }
    }
}

fn zone_devices(firewall: &Package, network: &Network<'_>, name: &str) -> Vec<String> {
    let zone = firewall
        .sections
        .iter()
        .find(|s| s.kind == "zone" && scalar(s, "name").as_deref() == Some(name));
    let Some(zone) = zone else { return Vec::new() };
    let mut devices: Vec<String> =
        words(zone, "network").iter().flat_map(|n| network.devices(n)).collect();
    // firewall4 writes a prefix as 'tun+'.
    devices.extend(words(zone, "device").into_iter().map(|d| match d.strip_suffix('+') {
        Some(stem) => format!("{stem}*"),
        None => d,
    }));
    devices
}

/// Addresses of the wanted names in `/etc/hosts`.
pub fn hosts<'a>(
    root: &Path,
    wanted: impl Iterator<Item = &'a String>,
) -> Sorted<String, Vec<IpAddr>> {
    let mut out: Sorted<String, Vec<IpAddr>> =
        wanted.map(|name| (name.clone(), Vec::new())).collect();
    if out.is_empty() {
        return out;
    }
    for line in text(root, "etc/hosts").lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let Some(Ok(addr)) = words.next().map(str::parse::<IpAddr>) else { continue };
        if addr.is_loopback() || addr.is_unspecified() || addr.is_multicast() {
            continue;
        }
        for name in words {
            if let Some(addrs) = out.get_mut(name.to_ascii_lowercase().as_str()) {
                addrs.push(addr);
            }
        }
    }
    out
}

/// What a folder has with this end of its name, in order and without the end.
pub(super) fn names_of(folder: &Path, end: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let name = |e: fs::DirEntry| e.file_name().to_str()?.strip_suffix(end).map(str::to_owned);
    let mut names: Vec<String> = entries.filter_map(name).collect();
    names.sort_unstable();
    names
}

/// Whether there is a service of ours that nothing starts at boot.
pub fn not_at_boot(root: &Path) -> bool {
    let started = |entry: io::Result<fs::DirEntry>| {
        entry.is_ok_and(|e| {
            let name = e.file_name();
            let name = name.to_string_lossy();
            name.starts_with('S') && name.ends_with("vpn-killswitch")
        })
    };
    root.join("etc/init.d/vpn-killswitch").exists()
        && !fs::read_dir(root.join("etc/rc.d")).is_ok_and(|mut found| found.any(started))
}

/// Whether firewall4 is told to offload flows, which then meet no rules; without `flow_offloading` it does
/// not heed `flow_offloading_hw`.
pub fn offload(root: &Path) -> bool {
    let firewall = package(root, "etc/config/firewall");
    let mut defaults = firewall.sections.iter().filter(|s| s.kind == "defaults");
    defaults.any(|section| flag(section, "flow_offloading"))
}

/// Numbers of the wanted users in `/etc/passwd`.
pub fn users<'a>(root: &Path, wanted: impl Iterator<Item = &'a String>) -> Sorted<String, u32> {
    let wanted: Vec<&String> = wanted.collect();
    if wanted.is_empty() {
        return Sorted::default();
    }
    text(root, "etc/passwd")
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|n| wanted.iter().any(|w| w.as_str() == *n))?;
            Some((name.to_owned(), fields.nth(1)?.parse().ok()?))
        })
        .collect()
}

/// Time servers from `/etc/config/system`, as OpenWrt's `sysntpd` reads them.
pub fn time_sources(root: &Path) -> TimeSources {
    let mut out = TimeSources::default();
    for section in &package(root, "etc/config/system").sections {
        let on =
            |name| !matches!(scalar(section, name).as_deref(), Some("0" | "off" | "no" | "false"));
        if section.kind != "timeserver" || !on("enabled") {
            continue;
        }
        out.servers.extend(words(section, "server").iter().filter_map(|s| Host::parse(s)));
        out.from_dhcp |= on("use_dhcp");
    }
    out
}

/// Name servers of `/etc/resolv.conf` that are not this host itself.
pub fn resolvers(root: &Path) -> Vec<IpAddr> {
    text(root, "etc/resolv.conf")
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok())?
        })
        .filter(|addr: &IpAddr| !addr.is_loopback() && !addr.is_unspecified())
        .collect()
}

/// Whether the option is on, as OpenWrt's `config_get_bool` says.
pub(crate) fn flag(section: &Section, name: &str) -> bool {
    let on = ["1", "on", "true", "yes", "enabled"];
    scalar(section, name).is_some_and(|value| on.contains(&value.as_str()))
}

/// A UCI file; none when there is none, or when it has no business being read.
///
/// # Errors
/// Why it cannot be read, with its name and line.
pub(super) fn load(root: &Path, path: &str) -> Result<Option<Package>, String> {
    match read(root, path)? {
        None => Ok(None),
        Some(text) => {
            uci::parse(&text).map(Some).map_err(|e| format!("/{path}:{}: {}", e.line, e.message))
        }
    }
}

/// A file below the root; none when there is none.
///
/// # Errors
/// Why it cannot be read, with its name.
pub(super) fn read(root: &Path, path: &str) -> Result<Option<Vec<u8>>, String> {
    let full = root.join(path);
    let meta = match fs::metadata(&full) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(format!("/{path}: {e}")),
    };
    if !meta.is_file() {
        return Err(format!("/{path}: not a file"));
    }
    if meta.len() > FILE_MAX {
        return Err(format!(
            "/{path}: {} bytes, more than the {FILE_MAX} that are read",
            meta.len()
        ));
    }
    fs::read(&full).map(Some).map_err(|e| format!("/{path}: {e}"))
}

/// A UCI file; one that is missing or not valid says nothing.
pub(crate) fn package(root: &Path, path: &str) -> Package {
    uci::parse(&bytes(root, path)).unwrap_or_default()
}

fn text(root: &Path, path: &str) -> String {
    String::from_utf8_lossy(&bytes(root, path)).into_owned()
}

fn bytes(root: &Path, path: &str) -> Vec<u8> {
    read(root, path).ok().flatten().unwrap_or_default()
}

/// The option's first word.
pub(crate) fn scalar(section: &Section, name: &str) -> Option<String> {
    words(section, name).into_iter().next()
}

/// The option's whole value; of a list its first entry.
pub(super) fn value(section: &Section, name: &str) -> Option<String> {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match &section.options.iter().find(|o| o.name == name)?.value {
        Value::List(items) => items.first().map(|i| lossy(&i.bytes)),
        Value::One(bytes) => Some(lossy(bytes)),
    }
}

/// A list's items, or an option's words.
pub(crate) fn words(section: &Section, name: &str) -> Vec<String> {
    let Some(option) = section.options.iter().find(|o| o.name == name) else { return Vec::new() };
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match &option.value {
        Value::List(items) => items.iter().map(|i| lossy(&i.bytes)).collect(),
        Value::One(bytes) => lossy(bytes).split_whitespace().map(str::to_owned).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(text: &str) -> Package {
        uci::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn interfaces_lead_to_the_devices_that_netifd_gives_them() {
        let network = package(
            "config interface lan\n option device br-lan\n option proto static\n\
             config interface old\n option type bridge\n option ifname 'eth0.1 eth1'\n\
             config interface dsl\n option proto pppoe\n option device eth0.7\n\
             config interface wg0\n option proto wireguard\n\
             config interface work\n option proto openvpn\n option dev tun7\n\
             config interface home\n option proto openvpn\n option dev tun\n\
             config interface alias\n option device @lan\n",
        );
        let of = |name| interface_devices(Path::new("/nonexistent"), &network, name);
        assert_eq!(of("lan"), ["br-lan"]);
        assert_eq!(of("old"), ["br-old"]);
        assert_eq!(of("dsl"), ["pppoe-dsl"]);
        assert_eq!(of("wg0"), ["wg0"]);
        assert_eq!(of("work"), ["tun7"]);
        assert_eq!(of("home"), ["tun*"]);
        assert!(of("alias").is_empty() && of("nothing").is_empty());
    }

    #[test]
    fn zones_lead_to_their_networks_and_devices() {
        let network = package("config interface a\n option device br-a\n");
        let firewall = package(
            "config zone\n option name home\n list network a\n list network gone\n list device 'tun+'\n",
        );
        let network = Network { root: Path::new("/nonexistent"), netifd: &[], file: network };
        assert_eq!(zone_devices(&firewall, &network, "home"), ["br-a", "tun*"]);
        assert!(zone_devices(&firewall, &network, "a").is_empty());
    }

    #[test]
    fn netifd_knows_better_than_its_file() {
        let root = Path::new("/nonexistent");
        let file = package("config interface a\n option device br-a\n");
        let up = Interface { name: "a".into(), device: "br-b".into(), ..Interface::default() };
        let down = Interface { device: String::new(), ..up.clone() };
        assert_eq!(Network { root, netifd: &[up], file: file.clone() }.devices("a"), ["br-b"]);
        assert_eq!(Network { root, netifd: &[down], file }.devices("a"), ["br-a"]);
    }

    #[test]
    fn flows_that_the_firewall_is_told_to_offload_are_seen() {
        let root = std::env::temp_dir().join(format!("vks-files-offload-{}", std::process::id()));
        fs::create_dir_all(root.join("etc/config")).unwrap();
        for (text, offload) in [
            ("config defaults\n option flow_offloading 1\n", true),
            ("config defaults\n option flow_offloading 0\n", false),
            ("config defaults\n option flow_offloading_hw 1\n", false),
            ("config zone\n option flow_offloading 1\n", false),
        ] {
            fs::write(root.join("etc/config/firewall"), text).unwrap();
            assert_eq!(super::offload(&root), offload, "{text}");
        }
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_service_that_nothing_starts_is_seen() {
        let root = std::env::temp_dir().join(format!("vks-files-boot-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        assert!(!not_at_boot(&root));
        fs::create_dir_all(root.join("etc/init.d")).unwrap();
        fs::write(root.join("etc/init.d/vpn-killswitch"), "").unwrap();
        assert!(not_at_boot(&root));
        fs::create_dir_all(root.join("etc/rc.d")).unwrap();
        fs::write(root.join("etc/rc.d/S19firewall"), "").unwrap();
        assert!(not_at_boot(&root));
        fs::write(root.join("etc/rc.d/S15vpn-killswitch"), "").unwrap();
        assert!(!not_at_boot(&root));
        fs::remove_dir_all(&root).unwrap();
    }
}
