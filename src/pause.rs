//! Pauses: what opens for how long.
//!
//! Pure: reads what was asked for and says which elements of which sets that is, and what a set's
//! element is called. The kernel keeps the time and closes; nothing here, and no process, has to.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::observe::Link;
use crate::policy::Policy;
use crate::ruleset::Key;
use crate::ruleset::build::{PAUSED, PAUSED_DEVICES};
use crate::types::left_aligned;

/// The shortest and the longest pause: long enough to be of use, and never one that is forgotten.
const LIMITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));

/// The sets that pauses are elements of.
pub const SETS: [&str; 3] = [PAUSED_DEVICES, PAUSED[0], PAUSED[1]];

/// One element of a pause set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Its set.
    pub set: &'static str,
    /// Its key.
    pub key: Key,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addr() {
            Some(addr) => addr.fmt(f),
            None => f.write_str(String::from_utf8_lossy(&self.key).trim_end_matches('\0')),
        }
    }
}

impl Target {
    /// The client's address; `None` for a network.
    pub fn addr(&self) -> Option<IpAddr> {
        let [a, b, c, d, ..] = self.key;
        let v4 = PAUSED.first() == Some(&self.set);
        let addr = if v4 { [a, b, c, d].into() } else { self.key.into() };
        (self.set != PAUSED_DEVICES).then_some(addr)
    }

    /// A client.
    pub fn client(addr: IpAddr) -> Self {
        let [v4, v6] = PAUSED;
        match addr {
            IpAddr::V4(a) => Self { set: v4, key: left_aligned(&a.octets()) },
            IpAddr::V6(a) => Self { set: v6, key: a.octets() },
        }
    }

    /// A local network, by its device.
    fn device(name: &str) -> Self {
        Self { set: PAUSED_DEVICES, key: left_aligned(name.as_bytes()) }
    }
}

/// The local networks that exist now. One that appears later stays closed.
pub fn networks(policy: &Policy, links: &[Link]) -> Vec<Target> {
    let local = links.iter().filter(|l| policy.is_local(&l.name));
    local.map(|l| Target::device(&l.name)).collect()
}

/// Reads `90s`, `10m` or `2h`.
///
/// # Errors
/// What is wrong, for a person.
pub fn duration(text: &str) -> Result<Duration, String> {
    let form = || format!("'{text}' is not a duration: write 90s, 10m or 2h");
    let unit = match text.chars().next_back() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        _ => return Err(form()),
    };
    let digits = text.trim_end_matches(['s', 'm', 'h']);
    // One letter, and none of the signs that `parse` would take.
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if digits.len() + 1 != text.len() || !plain {
        return Err(form());
    }
    let (least, most) = LIMITS;
    let seconds = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    seconds
        .map(Duration::from_secs)
        .filter(|d| (least..=most).contains(d))
        .ok_or_else(|| format!("'{text}' is no possible pause: from 1s to 24h"))
}

/// Reads the address of a client.
///
/// # Errors
/// What is wrong, for a person.
pub fn client(text: &str) -> Result<Target, String> {
    let addr: IpAddr = text.parse().map_err(|_| {
        format!("'{text}' is not an address: write one client's, as 192.168.1.50 or 2001:db8::50")
    })?;
    let wrong = match addr {
        IpAddr::V4(a) if a.is_broadcast() || a.octets().starts_with(&[0]) => Some("nobody's"),
        IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => Some("an IPv4 address in disguise"),
        _ if addr.is_unspecified() => Some("nobody's"),
        _ if addr.is_multicast() => Some("a group's"),
        _ if addr.is_loopback() => Some("the router's own"),
        // Nothing that comes from one is ever forwarded, so there is nothing to open.
        IpAddr::V4(a) if a.is_link_local() => Some("link-local"),
        IpAddr::V6(a) if a.is_unicast_link_local() => Some("link-local"),
        _ => None,
    };
    match wrong {
        Some(what) => Err(format!("'{text}' is {what}: write the address of one client")),
        None => Ok(Target::client(addr)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_number_and_a_unit() {
        for (text, seconds) in
            [("1s", 1), ("90s", 90), ("10m", 600), ("2h", 7200), ("24h", 86400), ("007m", 420)]
        {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "", "10", "s", "h", "10d", "1.5h", "1h30m", "10 m", " 10m", "10m ", "-1s", "+1s",
            "1ss", "10M", "0x1s", "1e1s", "١m", "m10",
        ] {
            let error = duration(text).unwrap_err();
            assert!(error.contains("write 90s, 10m or 2h"), "{text}: {error}");
        }
    }

    #[test]
    fn durations_have_limits_which_the_message_names() {
        for text in [
            "0s",
            "0h",
            "25h",
            "1441m",
            "86401s",
            "18446744073709551615s",
            "18446744073709551616s",
            // 2^64 seconds and one more, in hours: wraps to little where nothing checks.
            "5124095576030432h",
            "99999999999999999999999999999999h",
        ] {
            let error = duration(text).unwrap_err();
            assert!(error.contains("from 1s to 24h"), "{text}: {error}");
        }
        assert_eq!(duration("1440m"), duration("24h"));
        assert_eq!(duration("86400s"), duration("24h"));
    }

    #[test]
    fn clients_are_single_unicast_addresses() {
        for text in ["192.168.1.50", "10.0.0.255", "2001:db8::50", "fd00::1", "8.8.8.8"] {
            assert_eq!(client(text).unwrap().to_string(), text);
        }
        assert_eq!(client("192.168.1.50").unwrap().set, "paused4");
        assert_eq!(client("2001:db8::50").unwrap().set, "paused6");
        for text in [
            "",
            "br-lan",
            "192.168.1.0/24",
            "192.168.1",
            "192.168.1.050",
            "fe80::1%br-lan",
            "2001:db8::/64",
            "[2001:db8::1]",
            "0.0.0.0",
            "0.1.2.3",
            "255.255.255.255",
            "224.0.0.1",
            "127.0.0.1",
            "169.254.1.1",
            "::",
            "::1",
            "ff02::1",
            "fe80::1",
            "::ffff:192.168.1.50",
        ] {
            let error = client(text).unwrap_err();
            assert!(error.starts_with(&format!("'{text}' is ")), "{error}");
        }
    }

    #[test]
    fn keys_are_called_as_they_were_written() {
        assert_eq!(Target::device("br-lan").to_string(), "br-lan");
        // A name of the longest kind leaves one NUL.
        assert_eq!(Target::device("abcdefghijklmno").to_string(), "abcdefghijklmno");
    }
}
