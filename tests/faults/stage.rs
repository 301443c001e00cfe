//! Where the faults happen: a router's namespace, a root directory, and an eye on the kernel that
//! does not go through the program under test.

use crate::lab::Res;
use crate::lab::ns::{Ns, directory};
use crate::tracee::impatient;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use vpn_killswitch::backend::nft::{Nft, table::Table};
use vpn_killswitch::control::Control;
use vpn_killswitch::ruleset::Ruleset;

/// A policy.
pub const OLD: &str = "\
# Ours; \u{fc}ml\u{e4}uts and comments stay.
config killswitch 'main'
\toption enabled '1'
\tlist tunnel_device 'wg0'
\tlist local_device 'br-lan'
\tlist local_device 'br-guest'
\toption router 'strict'

config endpoint
\toption host '203.0.113.10'
\toption port '51820'
\toption proto 'udp'

config exempt
\toption name 'TV'
\tlist src_ip '192.168.1.50'
";

/// Another one: from the first to it, rules, elements, sets and counters come and go.
pub const NEW: &str = "\
config killswitch 'main'
\toption enabled '1'
\tlist tunnel_device 'wg0'
\tlist tunnel_device 'tun*'
\tlist local_device 'br-lan'
\toption router 'dns'
\toption reject '0'

config endpoint
\toption host '198.51.100.7'
\toption port '1194'
\toption proto 'tcp'

config exempt
\toption name 'mail'
\tlist dest_ip '198.51.100.25'
\tlist dest_port '465'
";

/// The same file with protection switched off.
pub fn switched_off(text: &str) -> String {
    text.replace("option enabled '1'", "option enabled '0'")
}

/// Everything that a fault happens to.
pub struct Stage {
    pub ns: Ns,
    pub root: PathBuf,
    pub nft: Nft,
}

impl Stage {
    /// A router with its local networks and a tunnel.
    pub fn new() -> Res<Self> {
        Self::in_directory(directory("root")?)
    }

    /// The same, with this root directory.
    pub fn in_directory(root: PathBuf) -> Res<Self> {
        let ns = Ns::new("router")?;
        ns.ip("link add br-lan type bridge\n\
               link add br-guest type bridge\n\
               link add wg0 type veth peer name far0\n\
               addr add 10.9.0.2/24 dev wg0\n\
               addr add 192.168.1.1/24 dev br-lan\n\
               link set br-lan up\nlink set br-guest up\nlink set wg0 up\nlink set far0 up\n")?;
        fs::create_dir_all(root.join("etc/config"))?;
        let nft = open(&ns)?;
        Ok(Self { ns, root, nft })
    }

    /// The configuration file.
    pub fn file(&self) -> PathBuf {
        self.root.join("etc/config/vpn-killswitch")
    }

    /// Writes it.
    pub fn configure(&self, text: impl AsRef<[u8]>) -> Res<()> {
        Ok(fs::write(self.file(), text)?)
    }

    /// The rules of a configuration, on this router.
    pub fn ruleset(&self, text: &str) -> Res<Ruleset> {
        let root = directory("plan")?;
        fs::create_dir_all(root.join("etc/config"))?;
        fs::write(root.join("etc/config/vpn-killswitch"), text)?;
        let plan = self.ns.enter(|| Control::new(root).plan().map_err(|e| e.to_string()))?;
        Ok(plan?.0)
    }

    /// The program, in the router's namespace; it is ended when it hangs.
    pub fn command(&self, args: &[&str]) -> Command {
        program(&self.ns, &self.root, args)
    }

    /// Runs it to its end.
    pub fn run(&self, args: &[&str]) -> Res<Output> {
        Ok(impatient(&mut self.command(args)).output()?)
    }

    /// Runs it; it must succeed.
    pub fn ok(&self, args: &[&str]) -> Res<()> {
        let out = self.run(args)?;
        if out.status.success() { Ok(()) } else { Err(format!("{args:?}: {}", told(&out)).into()) }
    }

    /// Brings the kernel to these rules, or to none.
    pub fn put(&mut self, rules: Option<&Ruleset>) -> Res<()> {
        match rules {
            Some(rules) => self.nft.apply(rules).map(drop),
            None => self.nft.remove().map(drop),
        }
        .map_err(|e| e.to_string().into())
    }

    /// What the kernel has.
    pub fn kernel(&mut self) -> Res<Option<Table>> {
        look(&mut self.nft)
    }
}

/// The numbers that are one worker's, without end.
pub type Share = std::iter::StepBy<std::ops::RangeFrom<usize>>;

/// Divides work among a few stages and adds up what they counted. Most of the time goes by waiting
/// for the kernel, which frees deleted rules before it closes a socket.
pub fn workers<const N: usize>(
    work: impl Fn(&mut Stage, Share) -> Res<[usize; N]> + Sync,
) -> Res<[usize; N]> {
    const WORKERS: usize = 6;
    let counts = std::thread::scope(|scope| {
        let work = &work;
        let start = |n: usize| {
            scope.spawn(move || {
                let mut stage = Stage::new()?;
                work(&mut stage, (n..).step_by(WORKERS))
            })
        };
        let threads: Vec<_> = (0..WORKERS).map(start).collect();
        let ends = threads.into_iter().map(|t| t.join().map_err(|_| "a worker failed")?);
        ends.collect::<Res<Vec<_>>>()
    })?;
    Ok(std::array::from_fn(|i| counts.iter().map(|c| c[i]).sum()))
}

/// A view of the namespace's rules that any thread can use.
pub fn open(ns: &Ns) -> Res<Nft> {
    Ok(ns.enter(|| Nft::open().map_err(|e| e.to_string()))??)
}

/// What the kernel has, without what says nothing about packets: handles, and the order in which
/// things without order were created.
pub fn look(nft: &mut Nft) -> Res<Option<Table>> {
    let table = nft.read().map_err(|e| e.to_string())?;
    Ok(table.map(|mut table| {
        table.counters.sort();
        table.sets.sort_by(|a, b| a.name.cmp(&b.name));
        table.chains.sort_by(|a, b| a.name.cmp(&b.name));
        table.chains.iter_mut().flat_map(|c| &mut c.rules).for_each(|r| r.handle = 0);
        table
    }))
}

/// The program under test.
pub fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_vpn-killswitch"))
}

/// The program in a namespace with a root directory.
pub fn program(ns: &Ns, root: &Path, args: &[&str]) -> Command {
    let mut command = ns.command(binary());
    command.arg("--root").arg(root).args(["--platform", "generic"]).args(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// How a program ended and what it said, for messages.
pub fn told(out: &Output) -> String {
    format!(
        "{}: {}{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

/// Fails unless the program ended by itself, without a panic, with this code and these words on
/// standard error.
#[track_caller]
pub fn assert_refused(out: &Output, code: i32, words: &[&str]) {
    let err = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{}", told(out));
    assert!(err.lines().all(|l| l.starts_with("vpn-killswitch: ")), "{}", told(out));
    for word in words {
        assert!(err.contains(word), "no '{word}' in: {}", told(out));
    }
}
