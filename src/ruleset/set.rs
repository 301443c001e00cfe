//! Sets: what rules look up by name, as sorted, disjoint ranges of keys.
//!
//! One representation for devices, addresses and ports, so that comparing, translating and looking
//! up are each written once.

use crate::types::{DevicePattern, Mac, Net, Ports, left_aligned};
use std::net::IpAddr;

/// A key in network byte order, left-aligned, zero behind its type's length.
pub type Key = [u8; 16];

/// What a set's keys are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// A device's name, NUL-padded (`IFNAMSIZ`).
    Device,
    /// An IPv4 address.
    V4,
    /// An IPv6 address.
    V6,
    /// An Ethernet address.
    Mac,
    /// A port.
    Port,
}

impl KeyType {
    /// Length of a key in bytes.
    pub fn width(self) -> usize {
        match self {
            Self::Device | Self::V6 => 16,
            Self::V4 => 4,
            Self::Mac => 6,
            Self::Port => 2,
        }
    }
}

/// Where a set's elements come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// From the model: ranges from first to last key inclusive, sorted, none overlapping another.
    Fixed(Vec<(Key, Key)>),
    /// Packets put them there (the clients that were refused); an apply leaves them alone.
    Recorded {
        /// Seconds after which a silent client is forgotten.
        timeout_secs: u64,
        /// How many clients at most.
        size: u32,
    },
    /// Commands put them there with an end that the kernel keeps (pauses); an apply leaves them.
    Timed,
}

/// A named set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// What its keys are.
    pub key: KeyType,
    /// Whether an element may be a range; without, look-ups cost the same for any size.
    pub ranges: bool,
    /// Its elements.
    pub content: Content,
}

impl Set {
    fn fixed(name: String, key: KeyType, mut ranges: Vec<(Key, Key)>) -> Self {
        // The kernel refuses overlapping ranges, so they are joined; neighbours are left as they are.
        ranges.sort_unstable();
        let mut joined: Vec<(Key, Key)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match joined.last_mut() {
                Some((_, end)) if first <= *end => *end = last.max(*end),
                _ => joined.push((first, last)),
            }
        }
        let has_ranges = joined.iter().any(|(first, last)| first != last);
        Self { name, key, ranges: has_ranges, content: Content::Fixed(joined) }
    }

    /// Devices by name or prefix.
    pub fn devices(name: impl Into<String>, patterns: &[DevicePattern]) -> Self {
        let ranges = patterns.iter().map(|p| {
            let first = left_aligned(p.stem().as_bytes());
            let mut last = first;
            if p.is_prefix() {
                last.iter_mut().skip(p.stem().len()).for_each(|b| *b = 0xff);
            }
            (first, last)
        });
        Self::fixed(name.into(), KeyType::Device, ranges.collect())
    }

    /// Networks of one family (`key` says which; others are left out).
    pub fn nets<'a>(
        name: impl Into<String>,
        key: KeyType,
        nets: impl IntoIterator<Item = &'a Net>,
    ) -> Self {
        let of_family = nets.into_iter().filter(|n| n.addr().is_ipv4() == (key == KeyType::V4));
        Self::fixed(name.into(), key, of_family.map(Net::bounds).collect())
    }

    /// Single addresses of one family.
    pub fn hosts<'a>(
        name: impl Into<String>,
        key: KeyType,
        addrs: impl IntoIterator<Item = &'a IpAddr>,
    ) -> Self {
        let of_family = addrs.into_iter().filter(|a| a.is_ipv4() == (key == KeyType::V4));
        let nets = of_family.map(|a| Net::host(*a).bounds()).collect();
        Self::fixed(name.into(), key, nets)
    }

    /// Ethernet addresses.
    pub fn macs(name: impl Into<String>, macs: &[Mac]) -> Self {
        let keys = macs.iter().map(|m| (left_aligned(&m.0), left_aligned(&m.0)));
        Self::fixed(name.into(), KeyType::Mac, keys.collect())
    }

    /// Ports.
    pub fn ports(name: impl Into<String>, ports: &[Ports]) -> Self {
        let keys = ports
            .iter()
            .map(|p| (left_aligned(&p.first.to_be_bytes()), left_aligned(&p.last.to_be_bytes())));
        Self::fixed(name.into(), KeyType::Port, keys.collect())
    }

    /// Fills a set that commands fill with the keys that it has in the kernel.
    pub fn fill(&mut self, keys: impl Iterator<Item = Key>) {
        let mut ranges: Vec<(Key, Key)> = keys.map(|k| (k, k)).collect();
        ranges.sort_unstable();
        self.content = Content::Fixed(ranges);
    }

    /// Whether `key` is in the set. A set that the kernel or a command fills is empty in the model.
    pub fn contains(&self, key: &Key) -> bool {
        let Content::Fixed(ranges) = &self.content else { return false };
        let after = ranges.partition_point(|(first, _)| first <= key);
        after.checked_sub(1).and_then(|i| ranges.get(i)).is_some_and(|(_, last)| key <= last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(names: &[&str]) -> Set {
        let patterns: Vec<_> = names.iter().map(|n| DevicePattern::parse(n).unwrap()).collect();
        Set::devices("d", &patterns)
    }

    #[test]
    fn a_device_set_holds_names_and_prefixes() {
        let set = devices(&["wg0", "tun*"]);
        let has = |name: &str| set.contains(&left_aligned(name.as_bytes()));
        assert!(has("wg0") && has("tun0") && has("tun") && has("tun012345678901"));
        assert!(!has("wg01") && !has("wg") && !has("tuo") && !has("tu") && !has(""));
    }

    #[test]
    fn overlapping_ranges_are_joined_and_neighbours_are_not() {
        let set = devices(&["tun*", "tun0", "tun1*"]);
        assert!(matches!(&set.content, Content::Fixed(r) if r.len() == 1));
        let nets = ["10.0.0.0/8", "10.1.0.0/16", "11.0.0.0/8"].map(|n| Net::parse(n).unwrap());
        let set = Set::nets("n", KeyType::V4, &nets);
        assert!(matches!(&set.content, Content::Fixed(r) if r.len() == 2));
        assert!(set.ranges);
    }

    #[test]
    fn single_addresses_need_no_ranges() {
        let addrs: Vec<IpAddr> = ["10.0.0.1", "::1"].iter().map(|a| a.parse().unwrap()).collect();
        let set = Set::hosts("h", KeyType::V4, &addrs);
        assert!(!set.ranges && set.contains(&left_aligned(&[10, 0, 0, 1])));
        assert!(
            Set::hosts("h", KeyType::V6, &addrs)
                .contains(&left_aligned(&std::net::Ipv6Addr::LOCALHOST.octets()))
        );
    }
}
