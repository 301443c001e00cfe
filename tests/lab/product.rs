//! The system under test: the program itself, with a miniature root directory of its own.

use super::Res;
use super::ns::{Daemon, Ns, directory};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The program, acting on a router.
pub struct Product {
    binary: PathBuf,
    root: PathBuf,
    router: Ns,
    /// The folder with the programs of iptables, when these are to hold the rules.
    iptables: Option<PathBuf>,
}

/// Modes and options that an owner may go through, one after the other; the last is the usual one.
pub const MODES: [(&str, &str); 5] = [
    ("dns", ""),
    ("strict", "\toption reject '0'\n"),
    ("open", "\tlist local_device 'br-iot'\n"),
    ("strict", "\toption port_forward_replies '1'\n"),
    ("strict", ""),
];

impl Product {
    /// For this router, with an empty root directory.
    pub fn new(binary: impl Into<PathBuf>, router: &Ns) -> Res<Self> {
        let root = directory("root")?;
        fs::create_dir_all(root.join("etc/config"))?;
        Ok(Self { binary: binary.into(), root, router: router.clone(), iptables: None })
    }

    /// The same with iptables, whose programs are in this folder.
    pub fn with_iptables(mut self, programs: PathBuf) -> Res<Self> {
        fs::create_dir_all(self.root.join("var/run"))?;
        self.iptables = Some(programs);
        Ok(self)
    }

    /// Where the configuration is.
    pub fn file(&self) -> PathBuf {
        self.root.join("etc/config/vpn-killswitch")
    }

    /// The root directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The program in the router's namespace, not yet started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.router.command(&self.binary);
        command.arg("--root").arg(&self.root).args(["--platform", "generic"]);
        if let Some(path) = self.path() {
            command.env("PATH", path);
            command.args(["--backend", "iptables"]);
        }
        command.args(args);
        command
    }

    /// Writes the configuration.
    pub fn configure(&self, text: &str) -> Res<()> {
        Ok(fs::write(self.file(), text)?)
    }

    /// Runs a command of the program; whatever its exit code is.
    pub fn run(&self, args: &[&str]) -> Res<Output> {
        self.command(args).output().map_err(|e| format!("{}: {e}", self.binary.display()).into())
    }

    /// Starts a command that stays; it ends with what is returned.
    pub fn spawn(&self, args: &[&str]) -> Res<Daemon> {
        let root = self.root.display().to_string();
        let mut all = vec!["--root", &root, "--platform", "generic"];
        let mut env = Vec::new();
        let path = self.path();
        if let Some(path) = &path {
            all.extend(["--backend", "iptables"]);
            env.push(("PATH", path.as_str()));
        }
        all.extend(args);
        self.router.spawn(&self.binary.display().to_string(), &all, &env)
    }

    /// Where programs are looked for, when those of iptables are to be others.
    fn path(&self) -> Option<String> {
        let old = std::env::var("PATH").unwrap_or_default();
        self.iptables.as_ref().map(|programs| format!("{}:{old}", programs.display()))
    }

    /// Runs a command that must succeed; its standard output.
    pub fn ok(&self, args: &[&str]) -> Res<String> {
        let out = self.run(args)?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        if out.status.success() {
            return Ok(text);
        }
        let err = String::from_utf8_lossy(&out.stderr);
        Err(format!("vpn-killswitch {}: {}: {text}{err}", args.join(" "), out.status).into())
    }
}

/// The configuration for the laboratory's router; `more` are further lines of the main section.
pub fn configuration(router_mode: &str, more: &str) -> String {
    format!(
        "config killswitch 'main'\n\
         \toption enabled '1'\n\
         \tlist tunnel_device 'wg0'\n\
         \tlist local_device 'br-lan'\n\
         \tlist local_device 'br-guest'\n\
         \toption router '{router_mode}'\n\
         {more}\n\
         config endpoint\n\
         \toption host '203.0.113.10'\n\
         \toption port '51820'\n\
         \toption proto 'udp'\n\n\
         config endpoint\n\
         \toption host '2001:db8:113::10'\n\
         \toption port '51820'\n\
         \toption proto 'udp'\n"
    )
}
