//! One rule of iptables as words, and the form in which two rules that do the same are equal.
//!
//! Pure. Every version prints rules a little differently: names or numbers, masks or lengths, `min` or
//! `minute`. What is wanted and what `iptables-save` said are compared in one form, so that only real
//! differences count.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// What stands behind the chain's name on the command line. A wanted one has no comment in it.
    pub text: String,
    /// `G1 fwd_drop: …` where the rule of the model decides; empty where lines only lead there.
    pub comment: String,
    /// Packets and bytes so far, as read.
    pub counts: (u64, u64),
}

impl Line {
    /// The value of an option; of one that stands there several times, the first.
    pub fn value(&self, option: &str) -> Option<String> {
        let mut words = split(&self.text).into_iter();
        words.find(|word| word == option)?;
        words.next()
    }

    /// As a person reads it.
    pub fn name(&self) -> String {
        if self.comment.is_empty() { self.text.clone() } else { format!("'{}'", self.comment) }
    }
}

/// Splits a line of `iptables-save` into words.
pub fn split(text: &str) -> Vec<String> {
    let (mut out, mut word, mut quoted, mut any) = (Vec::new(), String::new(), false, false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => (quoted, any) = (!quoted, true),
            '\\' => word.extend(chars.next()),
            c if c.is_whitespace() && !quoted => {
                if any || !word.is_empty() {
                    out.push(std::mem::take(&mut word));
                }
                any = false;
            }
            c => word.push(c),
        }
    }
    if any || !word.is_empty() {
        out.push(word);
    }
    out
}

/// One of our chains in a line of `iptables-save`: its generation, and its name without that.
pub fn ours(chain: &str) -> Option<(char, &str)> {
    let rest = chain.strip_prefix("VKS")?;
    let mut chars = rest.chars();
    let generation = chars.next().filter(char::is_ascii_digit)?;
    Some((generation, chars.as_str().strip_prefix('_')?))
}

/// The rule's conditions and target, in one form whoever wrote them. `protocols` is the text of
/// `/etc/protocols`.
pub fn normal(text: &str, protocols: &str) -> Vec<String> {
    let mut out = Vec::new();
    let words = split(text);
    let mut words = words.iter().map(String::as_str).peekable();
    let mut not = "";
    while let Some(word) = words.next() {
        match word {
            "!" => not = "! ",
            // What a match is called follows from its options.
            "-m" | "--match" | "--comment" => drop(words.next()),
            "--utc" => {}
            // What it is unless it is said is not said.
            "--limit-burst" if words.peek() == Some(&"5") => drop(words.next()),
            option => {
                let mut value = Vec::new();
                while let Some(next) = words.next_if(|w| !w.starts_with('-') && *w != "!") {
                    value.push(next);
                }
                let form = canonical(option, &value.join(" "), protocols);
                // Every address is said by saying nothing.
                if !(matches!(option, "-s" | "-d") && form.ends_with("/0")) {
                    out.push(format!("{not}{form}"));
                }
                not = "";
            }
        }
    }
    out.sort_unstable();
    out
}

fn canonical(option: &str, value: &str, protocols: &str) -> String {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    let masked = |text: &str| {
        let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
        Some((number(value)?, number(mask)?))
    };
    let changed = |(value, mask): (u32, u32)| format!("--set {value:x}/{mask:x}");
    let own = match option {
        "-p" | "--protocol" => Some(format!("-p {}", protocol(value, protocols))),
        "-s" | "-d" => network(value).map(|n| format!("{option} {n}")),
        "-j" | "-g" => Some(format!("{option} {}", ours(value).map_or(value, |(_, name)| name))),
        "--mark" => masked(value).map(|(v, m)| format!("--mark {v:x}/{m:x}")),
        "--set-xmark" | "--set-mark" => masked(value).map(changed),
        "--or-mark" => number(value).map(|v| changed((v, v))),
        "--and-mark" => number(value).map(|v| changed((0, !v))),
        "--limit" => value
            .split_once('/')
            .map(|(n, unit)| format!("--limit {n}/{}", unit.chars().take(3).collect::<String>())),
        "--log-level" if value == "info" => Some("--log-level 6".to_owned()),
        "--tcp-flags" => {
            let mut parts: Vec<&str> = value.split([',', ' ']).collect();
            parts.sort_unstable();
            Some(format!("--tcp-flags {}", parts.join(",")))
        }
        "--mac-source" => Some(format!("--mac-source {}", value.to_ascii_lowercase())),
        _ => None,
    };
    own.unwrap_or_else(|| format!("{option} {value}"))
}

/// A protocol's number.
fn protocol(name: &str, protocols: &str) -> String {
    // Those that iptables knows by itself.
    let known = [
        ("icmp", "1"),
        ("tcp", "6"),
        ("udp", "17"),
        ("esp", "50"),
        ("ah", "51"),
        ("ipv6-icmp", "58"),
        ("icmpv6", "58"),
        ("sctp", "132"),
        ("udplite", "136"),
    ];
    if let Some((_, number)) = known.iter().find(|(known, _)| *known == name) {
        return (*number).to_owned();
    }
    let listed = protocols.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == name).then(|| words.next()).flatten()
    });
    listed.unwrap_or(name).to_owned()
}

/// `192.0.2.0/24`, whether its length was written as one or as a mask.
fn network(text: &str) -> Option<String> {
    let (addr, len) = text.split_once('/').unwrap_or((text, ""));
    let addr: IpAddr = addr.parse().ok()?;
    let width = if addr.is_ipv4() { 32 } else { 128 };
    let len = match len {
        "" => width,
        _ => match (len.parse::<u32>(), len.parse::<Ipv4Addr>(), len.parse::<Ipv6Addr>()) {
            (Ok(len), ..) => len,
            (_, Ok(mask), _) => u32::from(mask).count_ones(),
            (_, _, Ok(mask)) => u128::from(mask).count_ones(),
            _ => return None,
        },
    };
    Some(format!("{addr}/{len}"))
}

/// A moment as `--datestop` takes it, in UTC; `seconds` since 1970.
pub fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86400, seconds % 86400);
    // Howard Hinnant's civil_from_days, with years that begin in March.
    let z = days + 719_468;
    let (era, day) = (z / 146_097, z % 146_097);
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let m = (5 * of_year + 2) / 153;
    let (d, month) = (of_year - (153 * m + 2) / 5 + 1, if m < 10 { m + 3 } else { m - 9 });
    let year = year + era * 400 + u64::from(month <= 2);
    let (h, min, s) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{d:02}T{h:02}:{min:02}:{s:02}")
}

/// Reads what [`date`] wrote.
pub fn seconds(date: &str) -> Option<u64> {
    let mut parts = date.split(['-', 'T', ':']).map(|p| p.parse::<u64>().ok());
    let mut next = || parts.next().flatten();
    let (year, month, d, h, min, s) = (next()?, next()?, next()?, next()?, next()?, next()?);
    let year = year.checked_sub(u64::from(month <= 2))?;
    let (era, y) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + d.checked_sub(1)?;
    let days = era * 146_097 + y * 365 + y / 4 - y / 100 + of_year;
    Some(days.checked_sub(719_468)? * 86400 + h * 3600 + min * 60 + s)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> Vec<String> {
        normal(text, "gre\t47\tGRE\nipv6 41 IPv6\n")
    }

    #[test]
    fn what_versions_write_differently_is_the_same() {
        for (one, other) in [
            ("-s 10.0.0.0/8 -j DROP", "-s 10.0.0.0/255.0.0.0 -j DROP"),
            ("-s 10.0.0.1", "-s 10.0.0.1/32"),
            ("-d 2001:db8::/32", "-d 2001:db8::/ffff:ffff::"),
            ("-p 6 --dport 80", "-p tcp -m tcp --dport 80"),
            ("-p 47", "-p gre"),
            ("-p 58 -m icmp6 --icmpv6-type 133", "-p ipv6-icmp -m icmp6 --icmpv6-type 133"),
            ("-j MARK --or-mark 16", "-j MARK --set-xmark 0x10/0x10"),
            ("-j MARK --and-mark 0xffffffef", "-j MARK --set-xmark 0x0/0x10"),
            ("-m mark --mark 5", "-m mark --mark 0x5/0xffffffff"),
            ("-m limit --limit 30/minute", "-m limit --limit 30/min"),
            ("! -i lo -o eth0", "-o eth0 ! -i lo"),
            ("-p tcp --tcp-flags SYN,ACK,FIN,RST SYN", "-p 6 --tcp-flags FIN,SYN,RST,ACK SYN"),
            ("-j VKS1_forward_2", "-j VKS2_forward_2"),
            ("-s 0.0.0.0/0 -j DROP", "-j DROP"),
        ] {
            assert_eq!(form(one), form(other), "{one}");
        }
        for (one, other) in [
            ("-i eth0", "! -i eth0"),
            ("-i eth0", "-o eth0"),
            ("-i eth0", "-i eth0 -p tcp"),
            ("-j RETURN", "-j ACCEPT"),
            ("-j VKS1_marks", "-g VKS1_marks"),
            ("-s 10.0.0.0/8", "-s 10.0.0.0/9"),
            ("-m mark --mark 0x1/0x1", "-m mark --mark 0x1"),
            ("-j MARK --or-mark 1", "-j MARK --and-mark 1"),
            ("-m state --state NEW -j DROP", "-j DROP"),
        ] {
            assert_ne!(form(one), form(other), "{one}");
        }
    }

    #[test]
    fn words_may_be_quoted() {
        assert_eq!(split(r#"-m comment --comment "a \"b\" c" -j X"#)[3], "a \"b\" c");
        assert_eq!(split("a  b\t\"\" c"), ["a", "b", "", "c"]);
        assert_eq!(ours("VKS3_forward_12"), Some(('3', "forward_12")));
        assert_eq!(
            (ours("VKS_x"), ours("FORWARD"), ours("VKS3"), ours("VKS")),
            (None, None, None, None)
        );
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds_, text) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (951_868_800, "2000-03-01T00:00:00"),
            (1_795_355_045, "2026-11-22T13:44:05"),
            (2_147_483_647, "2038-01-19T03:14:07"),
        ] {
            assert_eq!(date(seconds_), text);
            assert_eq!(seconds(text), Some(seconds_));
        }
        for day in 0..30_000 {
            assert_eq!(seconds(&date(day * 86400 + 4711)), Some(day * 86400 + 4711));
        }
        assert_eq!(seconds("yesterday"), None);
    }
}
