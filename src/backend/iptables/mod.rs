//! The iptables backend, for kernels without nftables: chains `VKS…`, through `iptables` and `ip6tables`.
//!
//! Translates the model, applies it, reads back what `iptables-save` says and compares. No policy. Every
//! change is a whole new set of chains (a generation): the jumps from the built-in chains go to the new
//! one before those to the old one go, in one step of each table where `iptables-restore` works, and
//! otherwise so that what is refused in between is refused by either.
//!
//! Pauses are rules with a last second, which the kernel's clock ends.

pub mod line;
pub mod render;
mod tool;
mod v6;

use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Applied;
use super::nft::read::{Counter, Element};
use crate::netlink::Socket;
use crate::ruleset::build::{PAUSED, PAUSED_DEVICES, TUNNEL_ADDRS};
use crate::ruleset::{Content, Key, Ruleset};
use crate::types::{Family, Net};
use line::{Line, normal, ours};
use render::{Chain, Here, Paused, Rendered, render};
use tool::Tool;

/// How often an apply starts again when what it reads back differs.
const ATTEMPTS: usize = 4;
/// The tables in which rules are, in the order in which they are changed.
const TABLES: [&str; 3] = ["raw", "mangle", "filter"];
/// Whether the kernel has IPv6.
const HAS_IPV6: &str = "if_inet6";
const ROUTES: [&str; 2] = ["route", "ipv6_route"];
/// `RTF_REJECT` (linux/route.h, linux/ipv6_route.h).
const REJECTS: u32 = 0x200;

/// The iptables of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Iptables {
    tools: Vec<Tool>,
    /// Why IPv6 has no rules though the kernel has IPv6.
    without_v6: Option<String>,
    protocols: String,
    socket: Option<Socket>,
    memory: PathBuf,
    /// What was read last, of each family; empty when something was changed since.
    seen: Vec<Installed>,
}

/// What is in the kernel, of one family.
#[derive(Debug, Default)]
struct Installed {
    chains: Vec<Chained>,
    /// The rules of the built-in chains: table, chain, rule.
    hooks: Vec<(String, String, Line)>,
}

/// One of our chains.
#[derive(Debug)]
struct Chained {
    table: String,
    generation: char,
    name: String,
    rules: Vec<Line>,
}

impl Iptables {
    /// Looks for what it needs. `memory` is a folder that is empty after a reboot.
    ///
    /// # Errors
    /// Why IPv4 cannot be closed by iptables, for a person.
    pub fn open(memory: &Path) -> Result<Self, String> {
        Self::open_in(&tool::folders(), memory)
    }

    /// As [`Self::open`], with the programs in one of these folders, written as `PATH` is.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_in(folders: &OsStr, memory: &Path) -> Result<Self, String> {
        let mut tools = vec![Tool::open(Family::V4, folders, memory)?];
        let mut without_v6 = None;
        if net(HAS_IPV6).is_some() {
            match Tool::open(Family::V6, folders, memory) {
                Ok(tool) => tools.push(tool),
                Err(why) => without_v6 = Some(why),
            }
        }
        let protocols = fs::read_to_string("/etc/protocols").unwrap_or_default();
        let memory = memory.to_owned();
        Ok(Self { tools, without_v6, protocols, socket: None, memory, seen: Vec::new() })
    }

    /// Removes what this backend has left behind where another one is in force. Whether there was any.
    ///
    /// # Errors
    /// What iptables said.
    pub fn remove_leftovers(memory: &Path) -> Result<bool, String> {
        // Written where this backend was in use since the last boot.
        let used = Family::BOTH.map(|family| tool::memory(family, memory));
        if !used.iter().any(|file| file.exists()) {
            return Ok(false);
        }
        let removed = Self::open(memory)?.remove()?;
        used.iter().for_each(|file| drop(fs::remove_file(file)));
        Ok(removed)
    }

    /// Makes the kernel agree, and reads back that it does.
    ///
    /// # Errors
    /// Why it does not, for a person. Each family is the old or the new one then, or, without
    /// `iptables-restore`, something that is no more open than either.
    pub fn apply(&mut self, ruleset: &Ruleset) -> Result<Applied, String> {
        self.seen.clear();
        let now = now();
        let mut applied = Applied::default();
        let mut failed = Vec::new();
        // One family is closed whatever becomes of the other.
        for tool in &mut self.tools {
            let done = install(tool, ruleset, &self.protocols, |old| {
                let mut paused = pauses(old);
                paused.retain(|p| p.last >= now);
                paused
            });
            match done {
                Ok((changes, left_out)) => {
                    applied.changes.extend(changes);
                    applied.unavailable.extend(left_out);
                }
                Err(why) => failed.push(why),
            }
        }
        match &self.without_v6 {
            Some(why) => {
                match v6::close(ruleset, &self.memory) {
                    Ok(changes) => applied.changes.extend(changes),
                    Err(why) => failed.push(format!("IPv6 could not be switched off: {why}")),
                }
                applied.unavailable.push(off(why));
            }
            None if failed.is_empty() => v6::give_back(&self.memory),
            None => {}
        }
        if !failed.is_empty() {
            return Err(failed.join("; "));
        }
        applied.narrower = !applied.changes.is_empty();
        Ok(applied)
    }

    /// Removes everything of ours. `false` when there was nothing.
    ///
    /// # Errors
    /// What iptables said.
    pub fn remove(&mut self) -> Result<bool, String> {
        self.seen.clear();
        let mut any = false;
        v6::give_back(&self.memory);
        for tool in &self.tools {
            let installed = read(tool)?;
            any |= installed.any();
            for table in TABLES {
                let commands = installed.removal(table, |_| true);
                if !commands.is_empty() {
                    tool.change(table, &commands)?;
                }
            }
        }
        Ok(any)
    }

    /// What is there, what differs, and what is left out.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn check(&mut self, ruleset: Option<&Ruleset>) -> Result<super::Found, String> {
        let mut found = super::Found::default();
        self.seen.clear();
        self.look()?;
        for (tool, installed) in self.tools.iter().zip(&self.seen) {
            found.installed |= installed.any();
            if let Some(ruleset) = ruleset {
                let paused = pauses(installed);
                let wanted = rendered(tool, &still_refusing(ruleset, installed), &paused)?;
                for (matters, what) in differences(tool, &wanted, installed, &self.protocols) {
                    let list =
                        if matters { &mut found.differences } else { &mut found.unavailable };
                    list.push(what);
                }
                found.unavailable.extend(wanted.left_out);
            }
        }
        if let (Some(why), Some(ruleset)) = (&self.without_v6, ruleset) {
            found.differences.extend(v6::differences(ruleset));
            found.unavailable.push(off(why));
        }
        Ok(found)
    }

    /// Reads what is there, if that is not known.
    fn look(&mut self) -> Result<(), String> {
        if self.seen.is_empty() {
            self.seen = self.tools.iter().map(read).collect::<Result<_, _>>()?;
        }
        Ok(())
    }

    /// Opens for `elements`, while the rules of `ruleset` are in force.
    ///
    /// # Errors
    /// Why not; nothing was opened then.
    pub fn add_timed(
        &mut self,
        ruleset: &Ruleset,
        elements: &[(&str, Key)],
        ms: u64,
    ) -> Result<(), String> {
        let found = self.check(Some(ruleset))?;
        if let Some((first, more)) = found.differences.split_first() {
            let more = if more.is_empty() { String::new() } else { format!(" and {}", more.len()) };
            return Err(format!(
                "the rules in the kernel are not as they should be: {first}{more}; run \
                 'vpn-killswitch apply' first"
            ));
        }
        if let Some(tool) = self.tools.iter().find(|t| !t.has("time")) {
            return Err(format!(
                "a pause needs an end that the kernel keeps, and {} here lacks the match 'time'",
                name(tool)
            ));
        }
        self.seen.clear();
        // The last second is one in which it is still open, to its end.
        let last = (now_ms().saturating_add(ms) / 1000).saturating_sub(1);
        for tool in &mut self.tools {
            install(tool, ruleset, &self.protocols, |old| {
                let mut paused = pauses(old);
                let renewed = |p: &Paused| {
                    elements.iter().any(|(set, key)| (*set, *key) == (p.set.as_str(), p.key))
                };
                paused.retain(|p| !renewed(p));
                let new = elements.iter().map(|(set, key)| Paused {
                    set: (*set).to_owned(),
                    key: *key,
                    last,
                });
                paused.extend(new);
                paused
            })?;
        }
        Ok(())
    }

    /// Ends those pauses that `which` names, and returns them: each of their rules goes.
    ///
    /// # Errors
    /// What iptables said; the others may have ended then.
    pub fn remove_elements<'a>(
        &mut self,
        sets: &[&'a str],
        which: impl Fn(&str, &Key) -> bool,
    ) -> Result<Vec<(&'a str, Key)>, String> {
        self.seen.clear();
        let mut removed: Vec<(&str, Key)> = Vec::new();
        for tool in &self.tools {
            let installed = read(tool)?;
            let mut commands = Vec::new();
            for chain in installed.chains.iter().filter(|c| c.table == "mangle") {
                let full = chain.full();
                // From the last: the numbers of those before stay.
                for (n, line) in (1..).zip(&chain.rules).collect::<Vec<_>>().into_iter().rev() {
                    let Some(pause) = paused(line) else { continue };
                    let Some(set) = sets.iter().find(|set| **set == pause.set) else { continue };
                    if which(set, &pause.key) {
                        commands.push(format!("-D {full} {n}"));
                        if pause.last >= now() && !removed.contains(&(*set, pause.key)) {
                            removed.push((*set, pause.key));
                        }
                    }
                }
            }
            if !commands.is_empty() {
                tool.change("mangle", &commands)?;
            }
        }
        Ok(removed)
    }

    /// Packets and bytes of each rule of the model.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn counters(&mut self) -> Result<Vec<Counter>, String> {
        let mut out: Vec<Counter> = Vec::new();
        // What `check` has read is as good, once.
        self.look()?;
        for installed in std::mem::take(&mut self.seen) {
            for line in installed.chains.iter().flat_map(|c| &c.rules) {
                let Some(name) = line.comment.split(' ').nth(1) else { continue };
                let name = name.trim_end_matches(':').to_owned();
                let (packets, bytes) = line.counts;
                match out.iter_mut().find(|c| c.name == name) {
                    Some(c) => (c.packets, c.bytes) = (c.packets + packets, c.bytes + bytes),
                    None => out.push(Counter { name, packets, bytes }),
                }
            }
        }
        Ok(out)
    }

    /// The elements of a set that commands fill.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn elements(&mut self, set: &str) -> Result<Vec<Element>, String> {
        let mut out: Vec<Element> = Vec::new();
        self.look()?;
        for installed in &self.seen {
            for pause in pauses(installed) {
                let left =
                    pause.last.saturating_add(1).saturating_mul(1000).saturating_sub(now_ms());
                if left > 0 && pause.set == set && !out.iter().any(|e| e.key == pause.key) {
                    let expires = Some(Duration::from_millis(left));
                    out.push(Element { key: pause.key, expires, ..Element::default() });
                }
            }
        }
        Ok(out)
    }

    /// A connection to the kernel, for what speaks netlink (connection tracking).
    ///
    /// # Errors
    /// When the kernel has no netfilter netlink.
    pub fn socket(&mut self) -> std::io::Result<&mut Socket> {
        if self.socket.is_none() {
            let protocol = u16::try_from(libc::NETLINK_NETFILTER).unwrap_or(12);
            self.socket = Some(Socket::open(protocol)?);
        }
        self.socket.as_mut().ok_or_else(|| std::io::ErrorKind::NotConnected.into())
    }
}

fn off(why: &str) -> String {
    format!("IPv6 is switched off on all devices but the local ones: {why}")
}

fn name(tool: &Tool) -> &'static str {
    if tool.family == Family::V4 { "iptables" } else { "ip6tables" }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(0)
}

fn now() -> u64 {
    now_ms() / 1000
}

fn rendered(tool: &Tool, ruleset: &Ruleset, paused: &[Paused]) -> Result<Rendered, String> {
    let routes = routes(tool.family);
    let has = |feature: &str| tool.has(feature);
    let here = Here { family: tool.family, has: &has, paused, routes: &routes };
    let named = |why: String| format!("{}: {why}", name(tool));
    let mut rendered = render(ruleset, &here).map_err(named)?;
    rendered.left_out = rendered.left_out.into_iter().map(named).collect();
    Ok(rendered)
}

/// Installs a new generation, if the one in force differs. What was different, and what was left out.
fn install(
    tool: &mut Tool,
    ruleset: &Ruleset,
    protocols: &str,
    paused: impl Fn(&Installed) -> Vec<Paused>,
) -> Result<(Vec<String>, Vec<String>), String> {
    let mut changes = Vec::new();
    let mut found = Vec::new();
    for _ in 0..ATTEMPTS {
        let installed = read(tool)?;
        let wanted = match rendered(tool, ruleset, &paused(&installed)) {
            Ok(wanted) => wanted,
            // What was missing once may be there now.
            Err(why) => match tool.probe_again()? {
                true => continue,
                false => return Err(why),
            },
        };
        let differences = differences(tool, &wanted, &installed, protocols);
        found = differences.into_iter().map(|(_, what)| what).collect();
        if found.is_empty() {
            return Ok((changes, wanted.left_out));
        }
        if changes.is_empty() {
            changes.clone_from(&found);
        }
        let new = ('1'..='9').find(|g| !installed.chains.iter().any(|c| c.generation == *g));
        let new = new.ok_or("too many chains were left behind; remove those called VKS…")?;
        for table in TABLES {
            let commands = installed.replacement(table, new, &wanted.chains);
            if commands.is_empty() {
                continue;
            }
            if let Err(why) = tool.change(table, &commands) {
                match tool.probe_again()? {
                    true => break,
                    false => return Err(why),
                }
            }
        }
    }
    Err(format!("{} does not have what it was told: {}", name(tool), found.join("; ")))
}

impl Chained {
    fn full(&self) -> String {
        full(self.generation, &self.name)
    }
}

fn full(generation: char, name: &str) -> String {
    format!("VKS{generation}_{name}")
}

impl Installed {
    fn any(&self) -> bool {
        !self.chains.is_empty()
    }

    /// What makes `wanted` of one table the generation in force, and removes all others.
    fn replacement(&self, table: &str, new: char, wanted: &[Chain]) -> Vec<String> {
        let wanted: Vec<&Chain> = wanted.iter().filter(|c| c.table == table).collect();
        let mut out: Vec<String> =
            wanted.iter().map(|c| format!("-N {}", full(new, &c.name))).collect();
        for chain in &wanted {
            let name = full(new, &chain.name);
            for line in &chain.rules {
                // What is done stands last, as in what is read.
                let jump = line.text.as_bytes().windows(3).rposition(|part| part == b"-j ");
                let (conditions, target) = line.text.split_at(jump.unwrap_or(0));
                let target = target.strip_prefix("-j ").unwrap_or(target);
                let comment = match line.comment.as_str() {
                    "" => String::new(),
                    text => format!("-m comment --comment \"{text}\" "),
                };
                let own = wanted.iter().any(|c| c.name == target);
                let target = if own { full(new, target) } else { target.to_owned() };
                out.push(format!("-A {name} {conditions}{comment}-j {target}"));
            }
        }
        // The last one first: of two in one hook, the one that comes first in the model stands first.
        for (chain, hook) in wanted.iter().rev().filter_map(|c| Some((c, c.hook?))) {
            out.push(format!("-I {hook} 1 -j {}", full(new, &chain.name)));
        }
        out.extend(self.removal(table, |generation| generation != new));
        out
    }

    /// What removes chains of these generations, and the jumps to them.
    fn removal(&self, table: &str, which: impl Fn(char) -> bool) -> Vec<String> {
        let mut out = Vec::new();
        for (_, hook, line) in self.hooks.iter().filter(|(t, ..)| t == table) {
            let to = line.value("-j");
            if to.as_deref().and_then(ours).is_some_and(|(generation, _)| which(generation)) {
                out.push(format!("-D {hook} {}", line.text));
            }
        }
        let own = self.chains.iter().filter(|c| c.table == table && which(c.generation));
        for command in ["-F", "-X"] {
            out.extend(own.clone().map(|c| format!("{command} {}", c.full())));
        }
        out
    }

    /// The generation to which the first rule of a built-in chain leads, and what stands before it.
    fn entered(&self, table: &str, hook: &str, name: &str) -> (Option<char>, Vec<&Line>) {
        let mut before = Vec::new();
        for (_, _, line) in self.hooks.iter().filter(|(t, h, _)| t == table && h == hook) {
            match jump(line).filter(|(_, to)| *to == name) {
                Some((generation, _)) => return (Some(generation), before),
                None => before.push(line),
            }
        }
        (None, Vec::new())
    }
}

/// The chain of ours to which the line leads everything.
fn jump(line: &Line) -> Option<(char, &str)> {
    line.text.strip_prefix("-j ").and_then(ours)
}

/// Reads everything of one family that is ours, or stands where ours must.
fn read(tool: &Tool) -> Result<Installed, String> {
    let mut out = Installed::default();
    let mut table = String::new();
    for text in tool.listing()?.lines() {
        if let Some(name) = text.strip_prefix('*') {
            name.trim().clone_into(&mut table);
        }
        let declared = text.strip_prefix(':').or_else(|| text.strip_prefix("-N "));
        if let Some((generation, name)) = declared.and_then(|t| t.split(' ').next()).and_then(ours)
        {
            out.chains.push(Chained {
                table: table.clone(),
                generation,
                name: name.to_owned(),
                rules: Vec::new(),
            });
        }
        let (counts, rule) = match text.strip_prefix('[').and_then(|t| t.split_once("] ")) {
            Some((counts, rule)) => (counts, rule),
            None => ("0:0", text),
        };
        let Some(rule) = rule.strip_prefix("-A ") else { continue };
        let (chain, text) = rule.split_once(' ').unwrap_or((rule, ""));
        let counts = counts.split_once(':').unwrap_or_default();
        let counts = (counts.0.parse().unwrap_or(0), counts.1.parse().unwrap_or(0));
        let mut line = Line { text: text.trim().to_owned(), comment: String::new(), counts };
        line.comment = line.value("--comment").unwrap_or_default();
        match ours(chain) {
            Some((generation, name)) => {
                let found = out.chains.iter_mut().find(|c| {
                    (c.table.as_str(), c.generation, c.name.as_str()) == (&table, generation, name)
                });
                if let Some(found) = found {
                    found.rules.push(line);
                }
            }
            None => out.hooks.push((table.clone(), chain.to_owned(), line)),
        }
    }
    Ok(out)
}

/// How what is installed differs from what is wanted, and whether it matters: a refusal with or without
/// a word, or a line in a log, does not.
fn differences(
    tool: &Tool,
    wanted: &Rendered,
    installed: &Installed,
    protocols: &str,
) -> Vec<(bool, String)> {
    let mut out = Vec::new();
    if !installed.any() {
        return vec![(true, format!("{}: the chains are missing", name(tool)))];
    }
    let decides = |line: &Line| !matches!(line.value("-j").as_deref(), Some("REJECT" | "LOG"));
    let mut known: Vec<(&str, char, &str)> = Vec::new();
    let mut generation = None;
    // In one hook of one table there may be several of ours, one behind the other.
    let mut allowed: Vec<&str> = Vec::new();
    for chain in &wanted.chains {
        let place = format!("{} table {}", name(tool), chain.table);
        if let Some(hook) = chain.hook {
            let (entered, before) = installed.entered(chain.table, hook, &chain.name);
            generation = entered;
            if entered.is_none() {
                let what = format!("{place}: nothing leads from {hook} to chain {}", chain.name);
                out.push((true, what));
            }
            let own = |line: &&&Line| {
                jump(line).is_some_and(|(g, to)| Some(g) == entered && allowed.contains(&to))
            };
            if let Some(line) = before.iter().find(|line| !own(line)) {
                let text = line.name();
                out.push((
                    true,
                    format!("{place}: another rule stands before ours in {hook}: {text}"),
                ));
            }
            allowed.push(&chain.name);
        }
        let Some(generation) = generation else { continue };
        known.push((chain.table, generation, &chain.name));
        let found = installed.chains.iter().find(|c| {
            (c.table.as_str(), c.generation, c.name.as_str())
                == (chain.table, generation, chain.name.as_str())
        });
        let Some(found) = found else {
            out.push((true, format!("{place}: chain {} is missing", chain.name)));
            continue;
        };
        let form = |line: &Line| (normal(&line.text, protocols), line.comment.clone());
        let new: Vec<_> = chain.rules.iter().map(form).collect();
        let old: Vec<_> = found.rules.iter().map(form).collect();
        if new == old {
            continue;
        }
        let before = out.len();
        for (line, _) in chain.rules.iter().zip(&new).filter(|(_, form)| !old.contains(form)) {
            let what = format!("{place}: chain {} lacks the rule {}", chain.name, line.name());
            out.push((decides(line), what));
        }
        for (line, _) in found.rules.iter().zip(&old).filter(|(_, form)| !new.contains(form)) {
            let text = &line.text;
            let what = format!(
                "{place}: chain {} has a rule that should not be there: {text}",
                chain.name
            );
            out.push((decides(line), what));
        }
        if out.len() == before {
            out.push((true, format!("{place}: the rules of chain {} are in disorder", chain.name)));
        }
    }
    for chain in &installed.chains {
        if !known.contains(&(chain.table.as_str(), chain.generation, chain.name.as_str())) {
            let table = &chain.table;
            out.push((
                true,
                format!("{} table {table}: chain {} is not ours", name(tool), chain.full()),
            ));
        }
    }
    out
}

/// The rules with the addresses that a tunnel had when they were installed. Refusing what is sent to
/// them still, when the tunnel has lost them, is no difference that matters.
fn still_refusing(ruleset: &Ruleset, installed: &Installed) -> Ruleset {
    let mut out = ruleset.clone();
    let inbound = installed.chains.iter().filter(|c| c.name == "inbound").flat_map(|c| &c.rules);
    for addr in inbound.filter_map(|line| line.value("-d")) {
        let [v4, v6] = TUNNEL_ADDRS;
        let name = if addr.contains(':') { v6 } else { v4 };
        let Some(set) = out.sets.iter_mut().find(|set| set.name == name) else { continue };
        if let (Some(key), Content::Fixed(ranges)) = (render::key(name, &addr), &mut set.content) {
            ranges.push((key, key));
            ranges.sort_unstable();
            ranges.dedup();
        }
    }
    out
}

/// The pauses that rules hold, also those that are over.
fn pauses(installed: &Installed) -> Vec<Paused> {
    let mut out: Vec<Paused> = Vec::new();
    for pause in installed.chains.iter().flat_map(|c| &c.rules).filter_map(paused) {
        if !out.iter().any(|p| (&p.set, p.key) == (&pause.set, pause.key)) {
            out.push(pause);
        }
    }
    out
}

fn paused(line: &Line) -> Option<Paused> {
    let last = line::seconds(&line.value("--datestop")?)?;
    let (set, value) = match (line.value("-i"), line.value("-s")) {
        (_, Some(addr)) => {
            let [v4, v6] = PAUSED;
            (if addr.contains(':') { v6 } else { v4 }, addr)
        }
        (Some(device), None) => (PAUSED_DEVICES, device),
        (None, None) => return None,
    };
    Some(Paused { set: set.to_owned(), key: render::key(set, &value)?, last })
}

/// What the kernel says of this thread's network; before Linux 3.17 only of the process's.
fn net(file: &str) -> Option<String> {
    let read = |folder: &str| fs::read_to_string(format!("/proc/{folder}/{file}")).ok();
    read("thread-self/net").or_else(|| read("net"))
}

/// The networks to which the router sends over a device, default routes left out.
fn routes(family: Family) -> Vec<(String, Net)> {
    let [v4, v6] = ROUTES;
    let text = net(if family == Family::V4 { v4 } else { v6 }).unwrap_or_default();
    let hex = |text: &str| u32::from_str_radix(text, 16).ok();
    let route = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (device, net, flags) = match (family, words.as_slice()) {
            (Family::V4, [device, dest, _, flags, _, _, _, mask, ..]) => {
                let addr = Ipv4Addr::from(hex(dest)?.to_ne_bytes());
                let len = u8::try_from(hex(mask)?.count_ones()).ok()?;
                (*device, Net::new(IpAddr::V4(addr), len), hex(flags)?)
            }
            (Family::V6, [dest, len, _, _, _, _, _, _, flags, device]) => {
                let addr = Ipv6Addr::from(u128::from_str_radix(dest, 16).ok()?);
                let len = u8::from_str_radix(len, 16).ok()?;
                (*device, Net::new(IpAddr::V6(addr), len), hex(flags)?)
            }
            _ => return None,
        };
        let elsewhere = net.is_everything() || net.addr().is_multicast() || flags & REJECTS != 0;
        (!elsewhere).then(|| (device.to_owned(), net))
    };
    let mut out: Vec<_> = text.lines().filter_map(route).collect();
    out.sort_unstable();
    out.dedup();
    out
}

/// What `iptables-restore` and `ip6tables-restore` would be told, where kernel and programs can do
/// everything.
///
/// # Errors
/// What can be expressed nowhere.
pub fn text(ruleset: &Ruleset) -> Result<String, String> {
    let mut out = String::new();
    for family in Family::BOTH {
        let routes = routes(family);
        let here = Here { family, has: &|_| true, paused: &[], routes: &routes };
        let wanted = render(ruleset, &here)?;
        out.push_str(&format!("# IPv{}\n", family.digit()));
        for table in TABLES {
            let commands = Installed::default().replacement(table, '1', &wanted.chains);
            out.push_str(&tool::script(table, &commands));
        }
        out.extend(wanted.left_out.iter().map(|why| format!("# left out: {why}\n")));
    }
    Ok(out)
}
