//! Names of VPN and time servers: which addresses are known for them, and when to ask again.
//!
//! Responsible for remembering between one process and the next, in memory of the router
//! ([`Known::load`], [`Known::save`]), and for telling the router's own resolver ([`publish`]), so that
//! the VPN's programs find their server without a question that leaves. Old addresses stay until new
//! ones are there. Asks nobody: that is [`crate::resolve`]'s part, and who may be asked for what is
//! [`crate::policy`]'s.

pub mod ask;
pub mod publish;

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use crate::config::edit::write_atomic;
use crate::resolve::Answer;
use crate::types::Sorted;

/// Where it is kept, below the root directory: in memory, so that a reboot forgets it.
const PATH: &str = "var/run/vpn-killswitch/names";
/// A file of ours is never longer.
const FILE_MAX: u64 = 256 << 10;

/// A name is asked again after its lifetime (TTL), or earlier: whoever moves a server while the tunnel
/// is down must be found again soon.
const REFRESH_MAX: Duration = Duration::from_secs(600);
/// And not before.
const REFRESH_MIN: Duration = Duration::from_secs(60);
/// After a failure the pauses double, from the first to the last of these.
const RETRY: (u64, u64) = (2, 60);
/// An address that the name no longer has stays allowed for so long: the tunnel may still use it.
const KEEP_SECS: u64 = 24 * 3600;
/// At most so many addresses are kept for a name, the latest ones.
const ADDRS_MAX: usize = 32;

/// The only questions that leave outside the tunnel, and who is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bootstrap {
    /// Names of VPN and time servers, sorted.
    pub names: Vec<String>,
    /// Name servers, the preferred one first, each with the device that it is asked over.
    pub servers: Vec<(IpAddr, String)>,
    /// The pass mark, which the questions carry.
    pub mark: u32,
    /// The addresses that the names have now, for the router's own resolver.
    pub addrs: Vec<(String, Vec<IpAddr>)>,
}

/// What is known about one name. Times are seconds since the start of the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    /// Addresses, and when each was last in an answer.
    addrs: Vec<(IpAddr, u64)>,
    /// When the last good answer came.
    answered: u64,
    /// When to ask again.
    due: u64,
    /// Failures since the last good answer.
    failures: u32,
    /// Why the last one failed; empty when it did not.
    problem: String,
}

/// What is known about all names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known(Sorted<String, Entry>);

impl Known {
    /// What was saved below `root`. What cannot be read is not known.
    pub fn load(root: &Path, now: u64) -> Self {
        let path = root.join(PATH);
        let text = match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_file() && meta.len() <= FILE_MAX => fs::read(&path),
            _ => return Self::default(),
        };
        Self::parse(&String::from_utf8_lossy(&text.unwrap_or_default()), now)
    }

    /// Keeps it for the next process.
    ///
    /// # Errors
    /// Why it could not be written; what was there is still there then.
    pub fn save(&self, root: &Path) -> io::Result<()> {
        let path = root.join(PATH);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        write_atomic(&path, self.text().as_bytes())
    }

    fn text(&self) -> String {
        let mut out = String::new();
        for (name, entry) in self.0.iter() {
            let Entry { answered, due, failures, problem, .. } = entry;
            let _ = writeln!(out, "name {name} {answered} {due} {failures}");
            for (addr, seen) in &entry.addrs {
                let _ = writeln!(out, "addr {addr} {seen}");
            }
            if !problem.is_empty() {
                let _ = writeln!(out, "problem {problem}");
            }
        }
        out
    }

    fn parse(text: &str, now: u64) -> Self {
        let mut out = Self::default();
        let mut current = None;
        for line in text.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let mut words = rest.split(' ');
            if word == "name" {
                let name = words.next().unwrap_or_default().to_owned();
                // Times of another start of the kernel lie ahead: then it is time to ask.
                let mut time =
                    || words.next().and_then(|w| w.parse::<u64>().ok()).unwrap_or_default();
                let (answered, due) = (time().min(now), time());
                let due = if due > now + REFRESH_MAX.as_secs() { now } else { due };
                let failures = u32::try_from(time()).unwrap_or(0);
                let entry = Entry { answered, due, failures, ..Entry::default() };
                out.0.insert(name.clone(), entry);
                current = Some(name);
                continue;
            }
            let Some(entry) = current.as_deref().and_then(|name| out.0.get_mut(name)) else {
                continue;
            };
            match word {
                "addr" => {
                    let addr = words.next().and_then(|w| w.parse().ok());
                    let seen: Option<u64> = words.next().and_then(|w| w.parse().ok());
                    if let (Some(addr), Some(seen)) = (addr, seen) {
                        entry.addrs.push((addr, seen.min(now)));
                    }
                }
                "problem" => rest.clone_into(&mut entry.problem),
                _ => {}
            }
        }
        out
    }

    /// The addresses that belong to `name`, or did so lately.
    pub fn addrs(&self, name: &str) -> Vec<IpAddr> {
        self.0.get(name).map(|e| e.addrs.iter().map(|(a, _)| *a).collect()).unwrap_or_default()
    }

    /// Those of the last answer.
    pub fn current(&self, name: &str) -> Vec<IpAddr> {
        let of = |e: &Entry| {
            e.addrs.iter().filter(|(_, seen)| *seen >= e.answered).map(|(a, _)| *a).collect()
        };
        self.0.get(name).map(of).unwrap_or_default()
    }

    /// Why the last question failed; empty when it did not, or nobody was asked.
    pub fn problem(&self, name: &str) -> &str {
        self.0.get(name).map_or("", |e| &e.problem)
    }

    /// Those of `names` that are to be asked now; with `again`, also those that wait since a failure.
    pub fn due(&self, names: &[String], now: u64, again: bool) -> Vec<String> {
        let is_due = |name: &&String| {
            self.0.get(name.as_str()).is_none_or(|e| e.due <= now || again && e.failures > 0)
        };
        names.iter().filter(is_due).cloned().collect()
    }

    /// Seconds until one of `names` is to be asked; `None` without names.
    pub fn next(&self, names: &[String], now: u64) -> Option<u64> {
        let left =
            |name: &String| self.0.get(name.as_str()).map_or(0, |e| e.due.saturating_sub(now));
        names.iter().map(left).min()
    }

    /// Takes answers in; whether an address came or went, or a problem did.
    pub fn take(&mut self, answers: &[Answer], now: u64) -> bool {
        let before: Vec<_> = answers.iter().map(|a| self.shown(&a.name)).collect();
        for answer in answers {
            let mut entry = self.0.remove(answer.name.as_str()).unwrap_or_default();
            match &answer.result {
                Ok(found) => {
                    let wait = found.ttl.clamp(REFRESH_MIN, REFRESH_MAX).as_secs();
                    // Otherwise two answers within a second would both count as the last one.
                    let now = now.max(entry.answered + 1);
                    entry.addrs.retain(|(addr, seen)| {
                        seen + KEEP_SECS > now && !found.addrs.contains(addr)
                    });
                    entry.addrs.splice(0..0, found.addrs.iter().map(|addr| (*addr, now)));
                    entry.addrs.truncate(ADDRS_MAX);
                    (entry.answered, entry.due) = (now, now + wait);
                    (entry.failures, entry.problem) = (0, String::new());
                }
                Err(problem) => {
                    entry.due = now + (RETRY.0 << entry.failures.min(5)).min(RETRY.1);
                    entry.failures = entry.failures.saturating_add(1);
                    entry.problem = problem.lines().next().unwrap_or_default().to_owned();
                }
            }
            self.0.insert(answer.name.clone(), entry);
        }
        let after: Vec<_> = answers.iter().map(|a| self.shown(&a.name)).collect();
        before != after
    }

    /// Forgets all names but these.
    pub fn keep_only(&mut self, names: &[String]) {
        self.0.retain(|name, _| names.contains(name));
    }

    fn shown(&self, name: &str) -> (Vec<IpAddr>, Vec<IpAddr>, String) {
        let (mut all, mut current) = (self.addrs(name), self.current(name));
        all.sort_unstable();
        current.sort_unstable();
        (all, current, self.problem(name).to_owned())
    }
}

/// Seconds since the start of the kernel: nobody sets this clock.
pub fn now() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split('.').next().and_then(|whole| whole.parse().ok()).unwrap_or(0)
}

/// These addresses as if they had just been answered.
#[cfg(test)]
pub(crate) fn tests_known(answers: &[(&str, &[&str])]) -> Known {
    let answer = |(name, addrs): &(&str, &[&str])| Answer {
        name: (*name).to_owned(),
        result: Ok(crate::resolve::Found {
            addrs: addrs.iter().filter_map(|a| a.parse().ok()).collect(),
            ttl: REFRESH_MIN,
        }),
    };
    let mut known = Known::default();
    known.take(&answers.iter().map(answer).collect::<Vec<_>>(), 1);
    known
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
