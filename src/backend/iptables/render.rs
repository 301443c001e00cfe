//! The rule model as chains of iptables, for one family.
//!
//! Pure. What cannot be expressed is never made weaker: a rule that only opens is left out and named,
//! any other is an error. A rule that looks into several sets becomes several lines, or a chain for each
//! set. `RETURN` from the first chain leads back behind the jump from the built-in chain: "no objection",
//! as `accept` means in the model.

use std::net::IpAddr;

use super::line::{Line, date};
use crate::ruleset::build::PAUSED_DEVICES;
use crate::ruleset::{
    self, Action, Content, Hook, Key, KeyType, Match, Rule, Ruleset, Set, Verdict,
};
use crate::types::{Family, Net};

/// Lists with more entries are left out: each is a rule of its own here, asked one after the other.
pub const LIST_MAX: usize = 1024;
/// Choices are multiplied out up to so many lines; more become a chain for each list.
const FLAT_MAX: usize = 32;
/// What `LOG` takes as a prefix, less its final NUL.
const PREFIX_MAX: usize = 29;
/// Comments as short as nftables has them.
const COMMENT_MAX: usize = 127;

/// One of our chains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its table.
    pub table: &'static str,
    /// Its name, without what all of ours begin with.
    pub name: String,
    /// The built-in chain whose first rule leads to it.
    pub hook: Option<&'static str>,
    /// Its rules.
    pub rules: Vec<Line>,
}

/// Everything for one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The chains; those of one table stand together.
    pub chains: Vec<Chain>,
    /// Rules that are not there, and why. Without them more is refused.
    pub left_out: Vec<String>,
}

/// An element of a set that commands fill, with its last second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paused {
    /// Its set.
    pub set: String,
    /// Its key.
    pub key: Key,
    /// The last second in which it is open.
    pub last: u64,
}

/// What the rules are made for.
pub struct Here<'a> {
    /// The family.
    pub family: Family,
    /// Whether kernel and program can do something; see `tool`.
    pub has: &'a dyn Fn(&str) -> bool,
    /// Pauses that run.
    pub paused: &'a [Paused],
    /// Networks by the device over which the router sends to them.
    pub routes: &'a [(String, Net)],
}

/// Options of a match, by the module that has them; those that iptables itself knows have none.
type Options = (&'static str, String);

/// One condition.
enum Condition {
    /// Never holds.
    Never,
    /// Holds if these options say so.
    One(Options),
    /// Holds if one of them says so; no packet fits two.
    Any(Vec<Options>),
    /// Likewise; which they are changes without the rules around them.
    Timed(Vec<Options>),
    /// Holds if none of them says so.
    NoneOf(Vec<Options>),
}

/// Translates the model.
///
/// # Errors
/// The first rule that cannot be expressed and must not be left out, and why.
pub fn render(ruleset: &Ruleset, here: &Here<'_>) -> Result<Rendered, String> {
    let mut out = Rendered::default();
    for chain in &ruleset.chains {
        if chain.priority > 100 {
            return Err(format!(
                "{}: iptables has no place behind source translation, so it cannot hold IPsec that has no \
                 device of its own",
                chain.rules.first().map_or(chain.name, |r| &r.id)
            ));
        }
        let raw = chain.priority < -200 && (here.has)("raw");
        let (table, hook) = match chain.hook {
            Hook::Prerouting => (if raw { "raw" } else { "mangle" }, "PREROUTING"),
            Hook::Forward => ("filter", "FORWARD"),
            Hook::Postrouting => ("mangle", "POSTROUTING"),
        };
        Writer::run(ruleset, here, chain, chain.name, (table, hook), &mut out)?;
        if chain.hook == Hook::Prerouting && chain.priority >= -200 {
            // In front of DNAT, for routing, and once more behind it, where a packet's real destination
            // is known and nobody who restores marks can have had the last word.
            let again = ruleset::Chain { rules: again(&chain.rules), ..chain.clone() };
            Writer::run(ruleset, here, &again, "again", ("mangle", "FORWARD"), &mut out)?;
        }
    }
    Ok(out)
}

/// What of the marks is asked again, under names that do not count twice.
fn again(rules: &[Rule]) -> Vec<Rule> {
    let of_packet = rules.iter().filter(|r| !sets_connection(r));
    of_packet.map(|r| Rule { id: format!("again_{}", r.id), ..r.clone() }).collect()
}

fn sets_connection(rule: &Rule) -> bool {
    rule.actions.iter().any(|a| matches!(a, Action::SetConnMark(_)))
}

fn clears(rule: &Rule) -> bool {
    rule.actions.iter().any(|a| matches!(a, Action::ClearMark(_)))
}

/// Writes one chain of the model, and what it needs.
struct Writer<'a> {
    ruleset: &'a Ruleset,
    here: &'a Here<'a>,
    table: &'static str,
    /// What the names of these chains begin with.
    name: &'a str,
    chains: Vec<Chain>,
    /// The chain that rules are added to.
    at: usize,
}

impl<'a> Writer<'a> {
    fn run(
        ruleset: &'a Ruleset,
        here: &'a Here<'a>,
        chain: &ruleset::Chain,
        name: &'a str,
        (table, hook): (&'static str, &'static str),
        out: &mut Rendered,
    ) -> Result<(), String> {
        let first = Chain { table, name: name.to_owned(), hook: Some(hook), rules: Vec::new() };
        let mut writer = Writer { ruleset, here, table, name, chains: vec![first], at: 0 };
        for rule in &chain.rules {
            let Err(why) = writer.rule(rule) else { continue };
            let opens = rule.optional
                || rule.actions.iter().any(|a| matches!(a, Action::SetMark(_)))
                || sets_connection(rule)
                || (rule.verdict == Some(Verdict::Accept) && chain.hook != Hook::Prerouting)
                // Where nothing can ask for the mark, it need not be cleared.
                || (clears(rule) && !(here.has)("mark"));
            let why = format!("{}: {why}", rule.id.strip_prefix("again_").unwrap_or(&rule.id));
            if !opens {
                return Err(why);
            }
            if !out.left_out.contains(&why) {
                out.left_out.push(why);
            }
        }
        if chain.drop_by_default {
            writer.push(Line { text: "-j DROP".to_owned(), ..Line::default() });
        }
        out.chains.append(&mut writer.chains);
        Ok(())
    }

    fn rule(&mut self, rule: &Rule) -> Result<(), String> {
        if rule.actions.iter().any(|a| matches!(a, Action::Record(..))) {
            // Nothing here can list clients with a time of their own.
            return Ok(());
        }
        let mut protocol = String::new();
        let (mut plain, mut any, mut none) = (Vec::<Options>::new(), Vec::new(), Vec::new());
        let mut timed = Vec::new();
        for condition in &rule.matches {
            match condition {
                Match::Protocol(p) => protocol = format!("-p {p} "),
                Match::NotProtocol(p) => protocol = format!("! -p {p} "),
                other => match self.condition(other, rule)? {
                    Condition::Never => return Ok(()),
                    Condition::One(options) => plain.push(options),
                    Condition::Any(list) => any.push(list),
                    Condition::Timed(list) => timed.push(list),
                    Condition::NoneOf(list) => none.extend(list),
                },
            }
        }
        let mut lists: Vec<&Vec<Options>> = timed.iter().chain(&any).collect();
        let plain: Vec<&Options> = plain.iter().collect();
        let target = self.target(rule)?;
        let comment = comment(rule, (self.here.has)("comment"));
        let line = |options: &[&Options], target: &str, comment: &str| Line {
            text: write(&protocol, options, target),
            comment: comment.to_owned(),
            ..Line::default()
        };
        // "No objection" is told by leaving the first chain, so it cannot be said in another one.
        let only_here = rule.verdict == Some(Verdict::Accept) && rule.actions.is_empty();
        let lines = lists.iter().fold(1, |n: usize, list| n.saturating_mul(list.len()));
        let simple = timed.is_empty() && none.is_empty() && !share_an_option(&lists, &plain);
        if simple && lines <= if only_here { LIST_MAX } else { FLAT_MAX } {
            let mut all = vec![plain];
            for list in lists {
                let mut longer = Vec::new();
                for options in &all {
                    longer.extend(list.iter().map(|o| [&options[..], &[o]].concat()));
                }
                all = longer;
            }
            all.iter().for_each(|options| self.push(line(options, &target, &comment)));
        } else if only_here {
            return Err("too many cases for iptables".to_owned());
        } else {
            let home = self.at;
            let (mut early, mut late) =
                if timed.is_empty() { (plain, vec![]) } else { (vec![], plain) };
            let last = if none.is_empty() { lists.pop() } else { None };
            let nothing = Vec::new();
            if lists.is_empty() && !none.is_empty() {
                lists.push(&nothing);
            }
            for list in lists {
                let body = self.chain();
                let to = format!("-j {}", self.chains.get(body).map_or("", |c| &c.name));
                let with = std::mem::take(&mut early);
                if list.is_empty() && timed.is_empty() {
                    self.push(line(&with, &to, ""));
                }
                for choice in list {
                    self.push(line(&[&with[..], &[choice]].concat(), &to, ""));
                }
                self.at = body;
            }
            late.append(&mut early);
            for refused in &none {
                self.push(line(&[refused], "-j RETURN", ""));
            }
            match last {
                None => self.push(line(&late, &target, &comment)),
                Some(list) => {
                    for choice in list {
                        self.push(line(&[&late[..], &[choice]].concat(), &target, &comment));
                    }
                }
            }
            self.at = home;
        }
        if let (Some(Action::SetMark(bit)), Some(_)) = (rule.actions.last(), rule.verdict) {
            // Setting does not end the chain. Before, nothing had it: it was cleared, or came here.
            let text = format!("-m mark --mark {bit:#x}/{bit:#x} -j RETURN");
            self.push(Line { text, ..Line::default() });
        }
        Ok(())
    }

    /// A further chain.
    fn chain(&mut self) -> usize {
        let name = format!("{}_{}", self.name, self.chains.len() + 1);
        self.chains.push(Chain { table: self.table, name, hook: None, rules: Vec::new() });
        self.chains.len() - 1
    }

    fn push(&mut self, line: Line) {
        if let Some(chain) = self.chains.get_mut(self.at) {
            chain.rules.push(line);
        }
    }

    fn need(&self, feature: &str) -> Result<(), String> {
        if (self.here.has)(feature) {
            return Ok(());
        }
        Err(format!("this kernel, or its iptables, lacks '{feature}'"))
    }

    fn target(&self, rule: &Rule) -> Result<String, String> {
        let mark = |option: &str, value: u32| format!("-j MARK {option} {value:#x}");
        Ok(match (rule.actions.last(), rule.verdict) {
            (Some(Action::SetMark(bit)), _) => {
                self.need("mark")?;
                mark("--or-mark", *bit)
            }
            (Some(Action::ClearMark(bit)), None) => {
                self.need("mark")?;
                mark("--and-mark", !bit)
            }
            (Some(Action::SetConnMark(bit)), None) => {
                self.need("connmark")?;
                format!("-j CONNMARK --set-mark {bit:#x}/{bit:#x}")
            }
            (Some(Action::Log { prefix, per_minute, burst }), None) => {
                self.need("log")?;
                let mut prefix = prefix.replace("vpn-killswitch", "VKS");
                prefix.truncate(PREFIX_MAX);
                format!(
                    "-m limit --limit {per_minute}/minute --limit-burst {burst} -j LOG --log-level 6 \
                     --log-prefix \"{prefix}\""
                )
            }
            (None, Some(Verdict::Accept)) => "-j RETURN".to_owned(),
            (None, Some(Verdict::Drop)) => "-j DROP".to_owned(),
            (None, Some(Verdict::RejectTcp)) => {
                self.need("reset")?;
                "-j REJECT --reject-with tcp-reset".to_owned()
            }
            (None, Some(Verdict::RejectAdmin)) => {
                self.need("reject")?;
                let v4 = self.here.family == Family::V4;
                let how = if v4 { "icmp-admin-prohibited" } else { "icmp6-adm-prohibited" };
                format!("-j REJECT --reject-with {how}")
            }
            _ => return Err("iptables cannot do what it asks for".to_owned()),
        })
    }

    fn condition(&self, condition: &Match, rule: &Rule) -> Result<Condition, String> {
        let one = |module, text: String| Condition::One((module, text));
        let family = |f: Family, holds: Condition| {
            if f == self.here.family { holds } else { Condition::Never }
        };
        // Ports belong to a protocol.
        let ports = || -> Result<&'static str, String> {
            let protocols = [(6, "tcp"), (17, "udp")];
            let named = protocols.iter().find(|(n, _)| rule.matches.contains(&Match::Protocol(*n)));
            let (_, module) = named.ok_or("a port without a protocol")?;
            self.need(module).map(|()| *module)
        };
        Ok(match condition {
            Match::Protocol(_) | Match::NotProtocol(_) => Condition::Never,
            // Rules of the other family are not there at all.
            Match::Family(f) => family(*f, Condition::NoneOf(Vec::new())),
            Match::InDevice(set, true) => self.some(set, "-i")?,
            Match::InDevice(set, false) => Condition::NoneOf(self.set(set, "-i")?),
            Match::OutDevice(set) => self.some(set, "-o")?,
            Match::NotFromLoopback => Condition::NoneOf(vec![("", "-i lo".to_owned())]),
            Match::ToLoopback => one("", "-o lo".to_owned()),
            Match::SourceIn(f, _) | Match::DestIn(f, _) if *f != self.here.family => {
                Condition::Never
            }
            Match::SourceIn(_, set) => self.some(set, "-s")?,
            Match::DestIn(_, set) => self.some(set, "-d")?,
            Match::SourceVia(pattern) => {
                let there = self.here.routes.iter().filter(|(device, net)| {
                    pattern.matches(device) && net.family() == self.here.family
                });
                some(there.map(|(_, net)| ("", format!("-s {net}"))).collect())
            }
            Match::SourceNet(net) => family(net.family(), one("", format!("-s {net}"))),
            Match::DestNet(net) => family(net.family(), one("", format!("-d {net}"))),
            Match::SourceMacIn(set) => {
                self.need("mac")?;
                self.some(set, "--mac-source")?
            }
            Match::TcpSyn => {
                self.need("tcp")?;
                one("tcp", "--tcp-flags SYN,ACK,FIN,RST SYN".to_owned())
            }
            Match::SourcePort(number) => one(ports()?, format!("--sport {number}")),
            Match::DestPort(number) => one(ports()?, format!("--dport {number}")),
            Match::DestPortIn(set) => {
                let module = ports()?;
                let list = self.set(set, "--dport")?;
                some(list.into_iter().map(|(_, text)| (module, text)).collect())
            }
            Match::IcmpType(number) => {
                self.need("icmp")?;
                family(Family::V4, one("icmp", format!("--icmp-type {number}")))
            }
            Match::Icmpv6Type(number) => {
                self.need("icmp")?;
                family(Family::V6, one("icmp6", format!("--icmpv6-type {number}")))
            }
            Match::HopLimit(hops) => {
                self.need("hl")?;
                family(Family::V6, one("hl", format!("--hl-eq {hops}")))
            }
            Match::Mark { mask, value } => {
                self.need("mark")?;
                one("mark", format!("--mark {value:#x}/{mask:#x}"))
            }
            Match::SocketUser(uid) => {
                self.need("owner")?;
                one("owner", format!("--uid-owner {uid}"))
            }
            Match::ConnNew if (self.here.has)("conntrack") => {
                one("conntrack", "--ctstate NEW".to_owned())
            }
            Match::ConnNew => {
                self.need("state")?;
                one("state", "--state NEW".to_owned())
            }
            Match::ConnReply => {
                self.need("direction")?;
                one("conntrack", "--ctdir REPLY".to_owned())
            }
            Match::ConnDnat => {
                self.need("dnat")?;
                one("conntrack", "--ctstate DNAT".to_owned())
            }
            Match::ConnMark(bit) => {
                self.need("connmark")?;
                one("connmark", format!("--mark {bit:#x}/{bit:#x}"))
            }
            Match::IntoIpsec => {
                self.need("policy")?;
                one("policy", "--dir out --pol ipsec".to_owned())
            }
            Match::NotIntoIpsec => {
                self.need("policy")?;
                one("policy", "--dir out --pol none".to_owned())
            }
            Match::NotFromIpsec => {
                self.need("policy")?;
                one("policy", "--dir in --pol none".to_owned())
            }
        })
    }

    /// That something is in a set.
    fn some(&self, name: &str, option: &str) -> Result<Condition, String> {
        let list = self.set(name, option)?;
        let timed = self.ruleset.set(name).is_some_and(|s| s.content == Content::Timed);
        Ok(if timed { Condition::Timed(list) } else { some(list) })
    }

    /// The elements of a set as options.
    fn set(&self, name: &str, option: &str) -> Result<Vec<Options>, String> {
        let set = self.ruleset.set(name).ok_or("a set that does not exist")?;
        let paused = self.here.paused.iter().filter(|p| p.set == name);
        let Content::Fixed(ranges) = &set.content else {
            return paused
                .map(|p| {
                    self.need("time")?;
                    let value = element(set, (p.key, p.key))?;
                    Ok(("", format!("{option} {value} -m time --datestop {}", date(p.last))))
                })
                .collect();
        };
        if ranges.len() > LIST_MAX {
            return Err(format!(
                "a list of {} is too long for iptables, which takes {LIST_MAX}",
                ranges.len()
            ));
        }
        let module = if set.key == KeyType::Mac { "mac" } else { "" };
        ranges.iter().map(|r| Ok((module, format!("{option} {}", element(set, *r)?)))).collect()
    }
}

/// Whether a line that has something of each list would have an option twice.
fn share_an_option(lists: &[&Vec<Options>], plain: &[&Options]) -> bool {
    let names = lists.iter().filter_map(|l| l.first()).chain(plain.iter().copied());
    let names: Vec<_> = names.map(|o| o.1.split(' ').next()).collect();
    (1..).zip(&names).any(|(n, name)| names.iter().skip(n).any(|other| other == name))
}

fn some(list: Vec<Options>) -> Condition {
    if list.is_empty() { Condition::Never } else { Condition::Any(list) }
}

/// A range of keys as iptables writes it.
fn element(set: &Set, (first, last): (Key, Key)) -> Result<String, String> {
    let [a, b, c, d, e, f, ..] = first;
    let length = |key: u128, width: u32| {
        let free = (key ^ u128::from_be_bytes(last)).count_ones();
        u8::try_from(width.saturating_sub(free)).unwrap_or(0)
    };
    Ok(match set.key {
        KeyType::Device => device(&first, &last)?,
        KeyType::V4 => {
            let len = length(u128::from_be_bytes(first), 32);
            Net::new(IpAddr::from([a, b, c, d]), len).to_string()
        }
        KeyType::V6 => {
            let len = length(u128::from_be_bytes(first), 128);
            Net::new(IpAddr::from(first), len).to_string()
        }
        KeyType::Mac => {
            format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
        }
        KeyType::Port => {
            let [to, low, ..] = last;
            let (from, to) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([to, low]));
            if from == to { from.to_string() } else { format!("{from}:{to}") }
        }
    })
}

/// A device, or a beginning of names, which iptables writes with a `+`.
fn device(first: &Key, last: &Key) -> Result<String, String> {
    let stem = String::from_utf8_lossy(first);
    let stem = stem.trim_end_matches('\0');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@' | '+');
    if !stem.chars().all(plain) || stem.starts_with('-') || stem.ends_with('+') {
        return Err(format!("iptables cannot name the device '{stem}'"));
    }
    // Of the longest names there is no longer one.
    let prefix = first != last && stem.len() < crate::types::DEVICE_NAME_MAX;
    Ok(if prefix { format!("{stem}+") } else { stem.to_owned() })
}

/// A line: what iptables knows itself, then each module once, then what is done.
fn write(protocol: &str, options: &[&Options], target: &str) -> String {
    let mut out = protocol.to_owned();
    let mut named = vec![""];
    named.extend(options.iter().map(|(module, _)| *module));
    for (n, module) in named.iter().enumerate() {
        if named.iter().take(n).any(|earlier| earlier == module) {
            continue;
        }
        if !module.is_empty() {
            out.push_str(&format!("-m {module} "));
        }
        for (_, text) in options.iter().filter(|(of, _)| of == module) {
            out.push_str(text);
            out.push(' ');
        }
    }
    out + target
}

/// `G1 fwd_tunnel: through a tunnel`, in letters that no version of iptables reads as something else.
fn comment(rule: &Rule, can: bool) -> String {
    if !can {
        return String::new();
    }
    let text = format!("{} {}: {}", rule.guarantee, rule.id, rule.comment);
    let plain = |c: char| c.is_ascii_alphanumeric() || " .,:;()/_-".contains(c);
    text.chars().take(COMMENT_MAX).map(|c| if plain(c) { c } else { '_' }).collect()
}

/// The key of a device or an address as an option's value has it.
pub fn key(set: &str, value: &str) -> Option<Key> {
    if set == PAUSED_DEVICES {
        return Some(crate::types::left_aligned(value.as_bytes()));
    }
    let addr = value.split('/').next()?.parse().ok()?;
    Some(Net::host(addr).bounds().0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ExemptConfig, RouterMode};
    use crate::policy::{Endpoint, Policy};
    use crate::ruleset::build;
    use crate::types::{DevicePattern, Mac, Ports, Proto};

    fn policy() -> Policy {
        let devices = |names: &[&str]| -> Vec<DevicePattern> {
            names.iter().map(|n| DevicePattern::parse(n).unwrap()).collect()
        };
        let addrs = ["192.0.2.9", "2001:db8::9"].map(|a| a.parse().unwrap());
        let endpoint = Endpoint {
            name: "server".to_owned(),
            source: String::new(),
            problem: String::new(),
            host: "vpn.example.net".to_owned(),
            by_name: true,
            addrs: addrs.into(),
            proto: Proto::Udp,
            port: Some(51820),
            source_port: None,
            mark: None,
            uid: Some(0),
        };
        let exempt = ExemptConfig {
            name: "TV\n-A \"x\" \\ é".to_owned(),
            enabled: true,
            local_interfaces: Vec::new(),
            local_devices: devices(&["br-guest"]),
            src_mac: vec![Mac([2, 0, 0, 0, 0, 1])],
            src_ip: Vec::new(),
            dest_ip: vec![Net::parse("198.51.100.0/24").unwrap()],
            dest_port: vec![Ports { first: 1, last: 9 }],
            proto: None,
            line: 1,
        };
        Policy {
            tunnels: devices(&["wg0", "tun*"]),
            locals: devices(&["br-lan", "br-guest"]),
            tunnel_addrs: addrs.into(),
            router: RouterMode::Strict,
            reject: true,
            port_forward_replies: true,
            endpoints: vec![endpoint],
            time_servers: addrs.into(),
            exempts: vec![exempt],
            ..Policy::closed()
        }
    }

    fn rendered(policy: &Policy, family: Family, missing: &str) -> Result<Rendered, String> {
        let routes = [("br-lan".to_owned(), Net::parse("192.168.1.0/24").unwrap())];
        let paused = [Paused {
            set: PAUSED_DEVICES.to_owned(),
            key: *b"br-lan\0\0\0\0\0\0\0\0\0\0",
            last: 9,
        }];
        let has = |feature: &str| feature != missing;
        render(&build(policy), &Here { family, has: &has, paused: &paused, routes: &routes })
    }

    fn lines(rendered: &Rendered) -> Vec<(&str, &str)> {
        let of = |c: &'_ Chain| c.name.split('_').next().map(str::len).unwrap_or(0);
        rendered
            .chains
            .iter()
            .flat_map(|c| c.rules.iter().map(move |r| (&c.name[..of(c)], r.text.as_str())))
            .collect()
    }

    /// Lines that let something out: they leave a chain that would refuse, or set a mark.
    fn opens((chain, text): &(&str, &str)) -> bool {
        text.contains("--or-mark")
            || text.contains("CONNMARK")
            || (matches!(*chain, "forward" | "leaving") && text.ends_with("-j RETURN"))
    }

    #[test]
    fn what_is_missing_never_opens() {
        for family in Family::BOTH {
            let whole = rendered(&policy(), family, "").unwrap();
            assert_eq!(whole.left_out, Vec::<String>::new());
            let whole = lines(&whole);
            for feature in [
                "raw",
                "comment",
                "mark",
                "connmark",
                "conntrack",
                "state",
                "direction",
                "dnat",
                "mac",
                "owner",
                "policy",
                "hl",
                "icmp",
                "udp",
                "tcp",
                "log",
                "reset",
                "reject",
            ] {
                let Ok(part) = rendered(&policy(), family, feature) else { continue };
                for line in lines(&part).into_iter().filter(opens) {
                    let as_state = line.1.replace("-m state --state", "-m conntrack --ctstate");
                    let known = whole.iter().any(|w| w.0 == line.0 && w.1 == as_state);
                    assert!(known, "without {feature}: {line:?}");
                }
                for line in whole.iter().filter(|l| l.1.ends_with("-j DROP")) {
                    assert!(lines(&part).contains(line), "without {feature}: no {line:?}");
                }
            }
        }
    }

    #[test]
    fn what_refuses_and_cannot_be_said_is_an_error() {
        for feature in ["tcp", "udp", "direction"] {
            let error = rendered(&policy(), Family::V4, feature).unwrap_err();
            assert!(error.contains(&format!("'{feature}'")), "{error}");
        }
    }

    #[test]
    fn names_do_nothing_to_the_lines_they_stand_in() {
        let rendered = rendered(&policy(), Family::V4, "").unwrap();
        let all = rendered.chains.iter().flat_map(|c| &c.rules);
        let comments: Vec<_> = all.map(|r| r.comment.as_str()).collect();
        assert!(comments.contains(&"G8 exempt_1_4_tcp: exempt: TV_-A _x_ _ _"));
        assert!(comments.iter().all(|c| !c.contains(['"', '\\', '\n', '\'']) && c.len() < 128));
    }

    #[test]
    fn a_name_that_iptables_takes_for_a_beginning_is_left_out() {
        let tunnels = vec![DevicePattern::parse("eth+").unwrap()];
        let policy = Policy { tunnels, tunnel_addrs: Vec::new(), ..policy() };
        let rendered = rendered(&policy, Family::V4, "").unwrap();
        assert!(rendered.left_out.iter().any(|why| why.starts_with("fwd_tunnel: ")));
        assert!(lines(&rendered).iter().all(|(_, text)| !text.contains("eth+")));
    }

    #[test]
    fn many_choices_are_not_multiplied() {
        let nets = (0..200).map(|n| Net::parse(&format!("10.0.{n}.0/24")).unwrap()).collect();
        let mut policy = policy();
        policy.exempts[0].dest_ip = nets;
        policy.exempts[0].dest_port =
            (0..200).map(|n| Ports { first: n * 3 + 1, last: n * 3 + 1 }).collect();
        let few = lines(&rendered(&policy, Family::V4, "").unwrap()).len();
        assert!(few < 2500, "{few}");
        let nets = (0..2000u32).map(|n| Net::host(IpAddr::from((n * 2).to_be_bytes()))).collect();
        policy.exempts[0].dest_ip = nets;
        let left_out = rendered(&policy, Family::V4, "").unwrap().left_out;
        assert!(
            left_out.iter().any(|why| why.contains("a list of 2000 is too long")),
            "{left_out:?}"
        );
    }
}
