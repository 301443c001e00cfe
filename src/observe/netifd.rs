//! What netifd says about its interfaces (`ubus call network.interface dump`).
//!
//! Reached through the platform's own `ubus` client, found below the root directory. Where there is
//! none, or it does not answer, nothing is known: the files say what they say.

use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::Path;
use std::slice;
use std::time::Duration;

use crate::json::{self, Value};
use crate::program::{self, Environment};

/// The client, below the root directory.
const UBUS: &str = "bin/ubus";
/// netifd answers in some 3 ms; a bus that hangs must not hold up an apply.
const PATIENCE: Duration = Duration::from_secs(2);

/// An interface of netifd.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Whether netifd has it up.
    pub up: bool,
    /// The kernel's device that carries its addresses; empty while there is none.
    pub device: String,
    /// Name servers that it brought, in their order.
    pub dns: Vec<IpAddr>,
    /// Time servers that DHCP gave on it.
    pub time: Vec<IpAddr>,
}

/// All interfaces, or none where netifd cannot be asked.
pub fn interfaces(root: &Path) -> Vec<Interface> {
    let answer = ubus(root, &["call", "network.interface", "dump"]);
    answer.map(|bytes| parse(&bytes)).unwrap_or_default()
}

/// What the bus answers. None when there is none, it does not answer in time, or says no.
pub(crate) fn ubus(root: &Path, args: &[&str]) -> Option<Vec<u8>> {
    let client = root.join(UBUS);
    if !client.is_file() {
        return None;
    }
    let patience = PATIENCE.as_secs().to_string();
    let mut words = vec![client.as_os_str()];
    words.extend(["-t", &patience, "-S"].into_iter().chain(args.iter().copied()).map(OsStr::new));
    answer(&words)
}

/// What a program of the platform's writes, if it ends well and in time.
pub(crate) fn answer(words: &[&OsStr]) -> Option<Vec<u8>> {
    let patience = PATIENCE + Duration::from_millis(500);
    let said = program::run(words, Environment::Empty, &[], patience).ok()?;
    said.well.then_some(said.out)
}

fn parse(answer: &[u8]) -> Vec<Interface> {
    let Ok(answer) = json::read(answer) else { return Vec::new() };
    let Some(Value::List(list)) = answer.get("interface") else { return Vec::new() };
    let text =
        |of: &Value, key: &str| of.get(key).and_then(Value::text).unwrap_or_default().to_owned();
    list.iter()
        .map(|entry| Interface {
            name: text(entry, "interface"),
            up: entry.get("up").is_some_and(Value::is_true),
            device: text(entry, "l3_device"),
            dns: addresses(entry.get("dns-server")),
            time: addresses(entry.get("data").and_then(|d| d.get("ntpserver"))),
        })
        .filter(|i| !i.name.is_empty())
        .collect()
}

/// Those in a list, or in words.
fn addresses(value: Option<&Value>) -> Vec<IpAddr> {
    let items = match value {
        Some(Value::List(items)) => items.as_slice(),
        other => other.map(slice::from_ref).unwrap_or_default(),
    };
    let words = items.iter().filter_map(Value::text).flat_map(str::split_whitespace);
    words.filter_map(|word| word.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_is_read() {
        let dump = br#"{"interface":[
            {"interface":"loopback","up":true,"l3_device":"lo","dns-server":[],"data":{}},
            {"interface":"wan","up":true,"l3_device":"pppoe-wan","device":"eth1","proto":"pppoe",
             "dns-server":["192.0.2.53","2001:db8::53","nonsense"],
             "data":{"ntpserver":"192.0.2.123 192.0.2.124"}},
            {"interface":"wg0","up":false},
            {"up":true}]}"#;
        let found = parse(dump);
        let names: Vec<_> = found.iter().map(|i| (i.name.as_str(), i.up)).collect();
        assert_eq!(names, [("loopback", true), ("wan", true), ("wg0", false)]);
        assert_eq!(found[1].device, "pppoe-wan");
        assert_eq!(found[1].dns.len(), 2);
        assert_eq!(found[1].time.len(), 2);
        assert_eq!(found[2].device, "");
    }

    #[test]
    fn anything_else_is_nothing() {
        for bytes in [&b""[..], b"{}", b"[]", b"{\"interface\":{}}", b"\xff"] {
            assert!(parse(bytes).is_empty());
        }
    }

    #[test]
    fn without_a_client_nothing_is_known() {
        assert!(interfaces(Path::new("/nonexistent")).is_empty());
    }
}
