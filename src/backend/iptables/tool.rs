//! The programs iptables and ip6tables: finding them, running them, and what they can do here.
//!
//! Never through a shell, and bounded in time. Decides nothing about rules.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::line::split;
use crate::program::{self, Environment};
use crate::types::Family;

/// Where these programs are on the routers that are known, behind `PATH`.
const FOLDERS: &str = "/usr/sbin:/sbin:/usr/bin:/bin:/opt/sbin:/opt/bin:/jffs/sbin:/jffs/bin";
/// How long one call may take. iptables may wait for the lock of another one.
const PATIENCE: Duration = Duration::from_secs(20);
/// A chain that nothing leads to: what is tried there has no effect.
const SCRATCH: &str = "VKS_probe";

/// What rules may need, and the words that show whether kernel and program have it. Where the families
/// differ, the words behind `|` are those of IPv6.
const PROBES: [(&str, &str, &str); 19] = [
    ("raw", "raw", "-j RETURN"),
    ("comment", "mangle", "-m comment --comment x"),
    ("mark", "mangle", "-m mark --mark 1/1 -j MARK --or-mark 1"),
    ("connmark", "mangle", "-m connmark --mark 1/1 -j CONNMARK --set-mark 1/1"),
    ("conntrack", "mangle", "-m conntrack --ctstate NEW"),
    ("state", "mangle", "-m state --state NEW"),
    ("direction", "mangle", "-m conntrack --ctdir REPLY"),
    ("dnat", "mangle", "-m conntrack --ctstate DNAT"),
    ("mac", "mangle", "-m mac --mac-source 02:00:00:00:00:01"),
    ("owner", "mangle", "-m owner --uid-owner 1"),
    ("policy", "mangle", "-m policy --dir out --pol ipsec"),
    ("hl", "mangle", "-m ttl --ttl-eq 255|-m hl --hl-eq 255"),
    ("icmp", "mangle", "-p 1 -m icmp --icmp-type 3|-p 58 -m icmp6 --icmpv6-type 3"),
    ("udp", "mangle", "-p 17 -m udp --dport 53:54"),
    ("tcp", "mangle", "-p 6 -m tcp --tcp-flags SYN,ACK,FIN,RST SYN --dport 53"),
    ("time", "mangle", "-m time --datestop 2030-01-01T00:00:00"),
    ("log", "filter", "-m limit --limit 30/minute --limit-burst 20 -j LOG --log-prefix x"),
    ("reset", "filter", "-p 6 -j REJECT --reject-with tcp-reset"),
    (
        "reject",
        "filter",
        "-j REJECT --reject-with icmp-admin-prohibited|-j REJECT --reject-with icmp6-adm-prohibited",
    ),
];

/// The programs of one family.
#[derive(Debug)]
pub struct Tool {
    /// Whose rules they keep.
    pub family: Family,
    program: PathBuf,
    save: Option<PathBuf>,
    restore: Option<PathBuf>,
    /// What is missing, of [`PROBES`]; beside those `wait` and `restore`.
    missing: Vec<String>,
    /// Whether [`Self::missing`] was found out now, and not remembered.
    fresh: bool,
    memory: PathBuf,
}

impl Tool {
    /// Looks for the programs, and not yet at what they can do.
    ///
    /// # Errors
    /// Which one there is not.
    fn find(family: Family, folders: &OsStr, memory: &Path) -> Result<Self, String> {
        let name = name(family);
        let program = find(folders, name).ok_or_else(|| format!("{name} is not installed"))?;
        let beside = |suffix: &str| {
            Some(program.with_file_name(format!("{name}{suffix}"))).filter(|p| p.is_file())
        };
        Ok(Self {
            family,
            // Of the same kind: another folder's may keep other rules.
            save: beside("-save"),
            restore: beside("-restore"),
            program,
            missing: Vec::new(),
            fresh: false,
            memory: self::memory(family, memory),
        })
    }

    /// Looks for the programs and at what they can do. `memory` is a folder that is empty after a
    /// reboot.
    ///
    /// # Errors
    /// Why there is none that works, for a person.
    pub fn open(family: Family, folders: &OsStr, memory: &Path) -> Result<Self, String> {
        let mut tool = Self::find(family, folders, memory)?;
        let remembered = fs::read_to_string(&tool.memory).unwrap_or_default();
        let mut lines = remembered.lines();
        if lines.next().is_some_and(|first| first == tool.kind()) {
            tool.missing = lines.map(str::to_owned).collect();
            return Ok(tool);
        }
        tool.probe()?;
        Ok(tool)
    }

    /// What the memory is about: other programs may be able to do other things.
    fn kind(&self) -> String {
        let mut out = env!("CARGO_PKG_VERSION").to_owned();
        for path in [Some(&self.program), self.save.as_ref(), self.restore.as_ref()] {
            out.push(' ');
            out.push_str(&path.map_or_else(|| "-".to_owned(), |p| p.display().to_string()));
        }
        out
    }

    /// Whether kernel and program can do this.
    pub fn has(&self, feature: &str) -> bool {
        !self.missing.iter().any(|m| m == feature)
    }

    /// Finds out again what is missing, if that was remembered; whether there is anything new.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn probe_again(&mut self) -> Result<bool, String> {
        let before = std::mem::take(&mut self.missing);
        if std::mem::replace(&mut self.fresh, true) {
            self.missing = before;
            return Ok(false);
        }
        self.probe()?;
        Ok(self.missing != before)
    }

    fn probe(&mut self) -> Result<(), String> {
        (self.missing, self.fresh) = (Vec::new(), true);
        let list = ["-t", "mangle", "-n", "-L", "POSTROUTING"];
        if self.iptables(&list).is_err() {
            self.missing.push("wait".to_owned());
            self.iptables(&list)?;
        }
        for table in ["raw", "mangle", "filter"] {
            let scratch = |command: &str| drop(self.iptables(&["-t", table, command, SCRATCH]));
            // One that a crash has left behind is as good.
            scratch("-N");
            let mut missing = Vec::new();
            for (name, _, words) in PROBES.iter().filter(|(_, of, _)| *of == table) {
                let (v4, v6) = words.split_once('|').unwrap_or((words, words));
                let words = if self.family == Family::V4 { v4 } else { v6 };
                let rule: Vec<&str> =
                    ["-t", table, "-A", SCRATCH].into_iter().chain(words.split(' ')).collect();
                if self.iptables(&rule).is_err() {
                    missing.push((*name).to_owned());
                }
            }
            scratch("-F");
            scratch("-X");
            self.missing.extend(missing);
        }
        if self.restore.as_ref().is_none_or(|p| self.restored(p, "*mangle\nCOMMIT\n").is_err()) {
            self.missing.push("restore".to_owned());
        }
        let text = [&[self.kind()][..], &self.missing].concat().join("\n");
        // Where it cannot be kept, it is found out each time.
        let _ = fs::write(&self.memory, text);
        Ok(())
    }

    /// Everything, as `iptables-save` prints it, with counters where they are printed.
    ///
    /// # Errors
    /// What the program said.
    pub fn listing(&self) -> Result<String, String> {
        if let Some(save) = &self.save {
            return run(save, &["-c"], "");
        }
        let mut out = String::new();
        for table in ["raw", "mangle", "filter"] {
            let listed = self.iptables(&["-t", table, "-S"]);
            match listed {
                Ok(text) => out.push_str(&format!("*{table}\n{text}\n")),
                Err(_) if table == "raw" && !self.has("raw") => {}
                Err(why) => return Err(why),
            }
        }
        Ok(out)
    }

    /// Does these commands in a table, in order; in one step where that can be.
    ///
    /// # Errors
    /// What the program said. Without `iptables-restore` those before the one that failed are done.
    pub fn change(&self, table: &str, commands: &[String]) -> Result<(), String> {
        if let Some(restore) = self.restore.as_ref().filter(|_| self.has("restore")) {
            return self.restored(restore, &script(table, commands));
        }
        for command in commands {
            let words = split(command);
            let words = words.iter().map(String::as_str);
            let words: Vec<&str> = ["-t", table].into_iter().chain(words).collect();
            self.iptables(&words).map_err(|why| format!("{command}: {why}"))?;
        }
        Ok(())
    }

    fn restored(&self, program: &Path, text: &str) -> Result<(), String> {
        // It learnt to wait later than iptables did.
        let waiting = run(program, &["-w", "--noflush"], text);
        let said = match waiting {
            Ok(_) => return Ok(()),
            Err(said) if !said.contains("line") => run(program, &["--noflush"], text),
            Err(said) => Err(said),
        };
        said.map(drop).map_err(|said| {
            let mut numbers = said.rsplit(|c: char| !c.is_ascii_digit());
            let number = numbers.find_map(|n| n.parse().ok());
            let at = number.and_then(|n: usize| text.lines().nth(n.checked_sub(1)?));
            format!("{said} ({})", at.unwrap_or_default())
        })
    }

    fn iptables(&self, words: &[&str]) -> Result<String, String> {
        let wait = if self.has("wait") { &["-w"][..] } else { &[] };
        run(&self.program, &[wait, words].concat(), "")
    }
}

/// Commands as `iptables-restore` reads them.
pub fn script(table: &str, commands: &[String]) -> String {
    format!("*{table}\n{}\nCOMMIT\n", commands.join("\n"))
}

fn name(family: Family) -> &'static str {
    if family == Family::V4 { "iptables" } else { "ip6tables" }
}

/// The file that remembers what the programs can do.
pub fn memory(family: Family, folder: &Path) -> PathBuf {
    folder.join(format!("vpn-killswitch.{}", name(family)))
}

fn find(folders: &OsStr, name: &str) -> Option<PathBuf> {
    let folders = std::env::split_paths(folders).filter(|f| f.is_absolute());
    folders.map(|f| f.join(name)).find(|p| p.is_file())
}

/// The folders to look into: those of `PATH`, then those that are known.
pub fn folders() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":");
    path.push(FOLDERS);
    path
}

/// Runs a program; what it printed, or what it complained of.
fn run(program: &Path, words: &[&str], input: &str) -> Result<String, String> {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let all: Vec<&OsStr> =
        [program.as_os_str()].into_iter().chain(words.iter().map(OsStr::new)).collect();
    let said = program::run(&all, Environment::Same, input.as_bytes(), PATIENCE).map_err(|e| {
        match e.kind() {
            io::ErrorKind::TimedOut => format!("{name} does not end"),
            _ => format!("{name}: {e}"),
        }
    })?;
    let out = String::from_utf8_lossy(&said.out).into_owned();
    if said.well {
        return Ok(out);
    }
    let text = String::from_utf8_lossy(&said.errors).into_owned() + &out;
    let said = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with("Try "));
    Err(format!("{name}: {}", said.collect::<Vec<_>>().join(" ")))
}
