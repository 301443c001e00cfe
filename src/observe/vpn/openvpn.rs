//! OpenVPN: which configurations there are (the init script's `/etc/config/openvpn`, netifd's protocol
//! `openvpn`, files that a distribution starts), and what their packets can be told by.

use std::path::{Component, Path, PathBuf};

use super::ovpn::Reading;
use super::{Finder, Found, NETWORK, ROOT, files};
use crate::config::uci::{Package, Section, Value};
use crate::types::{DevicePattern, Proto};

const UCI: &str = "etc/config/openvpn";
/// Where a distribution, and OpenWrt's init script, start every `.conf`.
const DIRECTORY: &str = "etc/openvpn";
/// Options without a value.
const SWITCHES: [&str; 5] = ["bind", "client", "disable_dco", "nobind", "pull"];
/// Options with one, and those that may come several times, in the order in which the scripts hand
/// them over: what comes later counts.
const VALUES: [&str; 13] = [
    "dev",
    "http_proxy",
    "local",
    "lport",
    "mark",
    "mode",
    "port",
    "proto",
    "proto_force",
    "rport",
    "server",
    "socks_proxy",
    "user",
];

/// Lists the servers of all configurations.
pub(super) fn find(finder: &mut Finder<'_>, network: &Package) {
    for section in network.sections.iter().filter(|s| s.kind == "interface") {
        if files::scalar(section, "proto").as_deref() == Some("openvpn")
            && !files::flag(section, "disabled")
        {
            netifd(finder, section);
        }
    }
    let mut taken = Vec::new();
    let mut autostart = true;
    // The newer package has no init script; it leaves the old file behind and reads it no more.
    let there = |path: &str| finder.root.join(path).exists();
    let left_behind = there("lib/netifd/proto/openvpn.sh") && !there("etc/init.d/openvpn");
    if left_behind {
        return;
    }
    if let Some(package) = finder.load(UCI) {
        for section in &package.sections {
            match section.kind.as_str() {
                "openvpn" => init_script(finder, section, &mut taken),
                "globals" => {
                    autostart &= files::scalar(section, "autostart").is_none_or(|v| v == "1");
                }
                _ => {}
            }
        }
    }
    if autostart {
        for directory in [DIRECTORY.to_owned(), format!("{DIRECTORY}/client")] {
            started_by_name(finder, &directory, &taken);
        }
    }
}

/// `config interface` with `proto openvpn`.
fn netifd(finder: &mut Finder<'_>, section: &Section) {
    let Some(name) = section.name.as_deref() else { return };
    let root = finder.root.to_owned();
    read_netifd(&root, section, |reading| list(finder, reading, name, Some(name)));
}

/// A configuration whose lines are known, each with where it stands.
pub(super) fn from_lines(finder: &mut Finder<'_>, lines: &[(String, &str)], name: &str) {
    let root = finder.root.to_owned();
    let open = |file: &str| open(&root, None, file);
    let mut reading = Reading::new(&open);
    lines.iter().for_each(|(source, line)| reading.line(line, source));
    list(finder, reading, name, None);
}

/// The device of such an interface: its own name is only netifd's.
pub fn device(root: &Path, section: &Section) -> Option<DevicePattern> {
    read_netifd(root, section, |reading| reading.device())
}

/// Options in the order of the handler's command line.
fn read_netifd<T>(root: &Path, section: &Section, then: impl FnOnce(Reading<'_>) -> T) -> T {
    let source = format!("/{NETWORK}: {}", section.name.as_deref().unwrap_or_default());
    let config = files::value(section, "config");
    let directory = config.as_deref().and_then(|c| Path::new(c).parent());
    let open = |file: &str| open(root, directory, file);
    let mut reading = Reading::new(&open);
    options(&mut reading, section, &source, Some("ovpnproto"));
    if let Some(config) = &config {
        reading.file(config, &source);
    }
    remotes(&mut reading, section, &source);
    then(reading)
}

/// `config openvpn`: with a file, the init script adds nothing to it but the device's name.
fn init_script(finder: &mut Finder<'_>, section: &Section, taken: &mut Vec<PathBuf>) {
    let name = section.name.clone().unwrap_or_else(|| format!("in line {}", section.line));
    let source = format!("/{UCI}: {name}");
    let config = files::value(section, "config");
    // Also when it is switched off: then its file is not started by its name either.
    taken.extend(config.as_deref().and_then(|c| below(None, c)));
    if !files::flag(section, "enabled") && !files::flag(section, "enable") {
        return;
    }
    let directory = config.as_deref().and_then(|c| Path::new(c).parent()).map(Path::to_owned);
    let root = finder.root.to_owned();
    let open = |file: &str| open(&root, directory.as_deref(), file);
    let mut reading = Reading::new(&open);
    match &config {
        Some(config) => {
            reading.file(config, &source);
            if let Some(device) = files::value(section, "dev") {
                reading.line(&format!("dev {device}"), &source);
            }
        }
        None => {
            options(&mut reading, section, &source, None);
            remotes(&mut reading, section, &source);
        }
    }
    list(finder, reading, &name, None);
}

fn started_by_name(finder: &mut Finder<'_>, directory: &str, taken: &[PathBuf]) {
    for name in files::names_of(&finder.root.join(directory), ".conf") {
        let path = format!("/{directory}/{name}.conf");
        if below(None, &path).is_none_or(|path| taken.contains(&path)) {
            continue;
        }
        let root = finder.root.to_owned();
        let from = PathBuf::from(format!("/{directory}"));
        let open = |file: &str| open(&root, Some(&from), file);
        let mut reading = Reading::new(&open);
        reading.file(&path, &path);
        list(finder, reading, name.strip_suffix(".conf").unwrap_or(&name), None);
    }
}

/// Hands the options of a section over; `proto` names the one that stands for OpenVPN's `proto`.
fn options(reading: &mut Reading<'_>, section: &Section, source: &str, proto: Option<&str>) {
    for name in SWITCHES.iter().filter(|name| files::flag(section, name)) {
        reading.line(&name.replace('_', "-"), source);
    }
    for name in VALUES {
        let option = if name == "proto" { proto.unwrap_or(name) } else { name };
        if let Some(value) = files::value(section, option) {
            reading.line(&format!("{} {value}", name.replace('_', "-")), source);
        }
    }
}

fn remotes(reading: &mut Reading<'_>, section: &Section, source: &str) {
    let Some(option) = section.options.iter().find(|o| o.name == "remote") else { return };
    let values: Vec<&[u8]> = match &option.value {
        Value::One(value) => vec![value],
        Value::List(items) => items.iter().map(|i| i.bytes.as_slice()).collect(),
    };
    for value in values {
        reading.line(&format!("remote {}", String::from_utf8_lossy(value)), source);
    }
}

/// Lists the servers of one configuration.
///
/// OpenVPN makes its first socket as root; when it has become another user, further ones as that. With
/// the kernel's data channel (DCO) the packets over UDP come from the kernel: they may have no user, or
/// that of whoever sent what is inside, and not always the mark.
fn list(finder: &mut Finder<'_>, mut reading: Reading<'_>, name: &str, interface: Option<&str>) {
    let targets = reading.targets();
    let device = reading.device();
    let in_kernel = device.as_ref().is_some_and(|device| {
        finder.links.iter().any(|l| l.kind.starts_with("ovpn") && device.matches(&l.name))
    });
    let other_user = reading.user.take().filter(|user| user != "root" && user != ROOT);
    // Older versions lose the right to set the mark together with the user.
    let first = match reading.mark {
        Some(mark) => (Some(mark), None),
        None => (None, Some(ROOT.to_owned())),
    };
    let senders: Vec<_> =
        std::iter::once(first).chain(other_user.map(|user| (None, Some(user)))).collect();
    let name = format!("openvpn {name}");
    for target in targets {
        let Some(host) = finder.host(&target.source, &name, &target.host) else { continue };
        let found = Found {
            name: name.clone(),
            host,
            port: Some(target.port),
            proto: target.proto,
            source_port: target.source_port,
            mark: None,
            user: None,
            interface: interface.map(str::to_owned),
            device: device.clone(),
            source: target.source,
            running: None,
        };
        for (mark, user) in &senders {
            finder.add(Found { mark: *mark, user: user.clone(), ..found.clone() });
        }
        if in_kernel && found.proto == Proto::Udp {
            finder.add(found);
        }
    }
    for problem in std::mem::take(&mut reading.problems) {
        finder.problem(&problem);
    }
}

/// A file below the root, for people and for reading; relative names begin at `directory`.
fn open(root: &Path, directory: Option<&Path>, name: &str) -> Result<(String, String), String> {
    let unreadable = || format!("'{}' is not the name of a file", name.escape_debug());
    let path = below(directory, name).ok_or_else(unreadable)?;
    let path = path.to_str().ok_or_else(unreadable)?;
    match files::read(root, path)? {
        Some(text) => Ok((format!("/{path}"), String::from_utf8_lossy(&text).into_owned())),
        None => Err(format!("/{path} does not exist")),
    }
}

/// The path from the root on, without `.` and `..`.
fn below(directory: Option<&Path>, name: &str) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for part in directory.unwrap_or(Path::new("/")).join(name).components() {
        match part {
            Component::Normal(part) => out.push(part),
            Component::ParentDir => {
                out.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    (!out.as_os_str().is_empty()).then_some(out)
}
