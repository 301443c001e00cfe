//! The few operations that every front end calls: apply, enable, disable, check, status.
//!
//! Thin: reads, calls the pure core, hands the result to the backend. Whatever fails here leaves what
//! is in force as it is; only `disable`, and `apply` with protection switched off by the user, open.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::backend::{self, Applied, Backend, Kind, nft::read::Element};
use crate::config::{self, Config, ConfigError, edit, edit::EditError, uci};
use crate::conntrack::{self, Way};
use crate::explain::{self, Asked, Explanation};
use crate::follow::{self, Moved};
use crate::lock;
use crate::names::{Bootstrap, ask, publish};
use crate::observe::{self, Observed};
use crate::pause::{self, Target};
use crate::platform::Platform;
use crate::policy::{self, Policy, Warning};
use crate::resolve::{self, Answer};
use crate::routing;
use crate::ruleset::{
    self, Content, Key, Ruleset, build::BLOCKED, build::PAUSED, build::PAUSED_DEVICES,
};
use crate::setup;
use crate::status::{self, Readback, Status};
use crate::survive;

/// How long an apply waits for the addresses of VPN servers. What protects is in force by then.
const ASK_PATIENCE: Duration = Duration::from_secs(5);

/// Why an operation failed. What was in force still is.
#[derive(Debug)]
pub enum Error {
    /// The configuration; each line is one error.
    Config(Vec<String>),
    /// Anything else.
    Failed(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(lines) => f.write_str(&lines.join("\n")),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

impl From<backend::Error> for Error {
    fn from(error: backend::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// What an apply did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was changed; empty when the kernel already agreed.
    pub changes: Vec<String>,
    /// What this kernel cannot do, though it protects.
    pub unavailable: Vec<String>,
    /// What is missing in the routing layer.
    pub incomplete: Vec<String>,
    /// What may be asked in the clear; empty while protection is off.
    pub bootstrap: Bootstrap,
    /// WireGuard peers whose server has moved.
    pub moved: Vec<Moved>,
    /// What the user should know.
    pub warnings: Vec<Warning>,
    /// Whether protection is in force now.
    pub enabled: bool,
    /// When the first of the pauses that ran before it ends; only a repair asks.
    pub pause_ends: Option<Instant>,
    /// The connection that it was done by. Dropping it may wait for the kernel some 20 ms.
    pub kernel: Option<Backend>,
}

/// What one repair knows from those before.
#[derive(Debug, Default)]
pub struct Memory {
    /// What is kept in force while the configuration has errors.
    last_good: Option<Config>,
    /// Whether the boot step closed everything, because there was no good one yet.
    closed: Option<bool>,
    /// Routing rules that this kernel refuses.
    unable: Vec<routing::Rule>,
}

/// Where everything is read and written.
#[derive(Clone, Debug)]
pub struct Control {
    root: PathBuf,
    backend: Option<Kind>,
    /// Where this is not what the files look like.
    platform: Option<Platform>,
}

impl Control {
    /// Works below `root`, and on the kernel of this network namespace.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), backend: None, platform: None }
    }

    /// On this firmware, whatever it looks like.
    pub fn on(self, platform: Option<Platform>) -> Self {
        Self { platform, ..self }
    }

    /// With this firewall, whatever else the kernel has.
    pub fn with(self, backend: Option<Kind>) -> Self {
        Self { backend, ..self }
    }

    fn platform(&self) -> Platform {
        self.platform.unwrap_or_else(|| Platform::detect(&self.root))
    }

    /// The configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.platform().config(&self.root)
    }

    /// Makes the kernel agree with the configuration. While no guard does so, asks for the names of VPN
    /// and time servers too, if it is time for that.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn apply(&self) -> Result<Outcome, Error> {
        self.ask_behind(self.apply_once()?)
    }

    fn apply_once(&self) -> Result<Outcome, Error> {
        let _lock = self.lock()?;
        let config = self.parse(&self.read_config()?)?;
        self.enforce(&config, true, &mut Vec::new())
    }

    /// Asks for the names that are due, and for those that were asked for in vain: who calls now may
    /// not come again. Applies once more if there is news. What was applied stays in force meanwhile,
    /// and whatever fails.
    fn ask_behind(&self, outcome: Outcome) -> Result<Outcome, Error> {
        let (names, _) = ask::due(&self.root, &outcome.bootstrap, true);
        if names.is_empty() || lock::guard_runs(&self.root) {
            return Ok(outcome);
        }
        let bootstrap = &outcome.bootstrap;
        let answers =
            resolve::resolve(&names, &ask::servers(bootstrap), bootstrap.mark, ASK_PATIENCE);
        if !self.learn(bootstrap, &answers)? {
            return Ok(outcome);
        }
        let changes = outcome.changes;
        let after = self.apply_once()?;
        Ok(Outcome { changes: [changes, after.changes].concat(), ..after })
    }

    /// Keeps what a lookup brought. Whether there is news, so that an apply has something to do.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn learn(&self, bootstrap: &Bootstrap, answers: &[Answer]) -> Result<bool, Error> {
        let _lock = self.lock()?;
        ask::conclude(&self.root, bootstrap, answers)
            .map_err(|e| Error::Failed(format!("the addresses of VPN servers cannot be kept: {e}")))
    }

    /// The folder below which everything is read and written.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Repairs: as [`Self::apply`], but never opens. A configuration that says "off" is left to the
    /// command that the user gives; while one has errors, the last good one is kept in force. What the
    /// kernel refused once is not tried again, or the attempt would call for the next repair.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn repair(&self, memory: &mut Memory) -> Result<Outcome, Error> {
        let _lock = self.lock()?;
        // Before the repair: a pause that ends meanwhile may be one that it still took to run.
        let pause_ends = self.pause_ends().ok().flatten();
        Ok(Outcome { pause_ends, ..self.repair_alone(memory)? })
    }

    /// A hook's repair. `None` when there is nothing to do: protection is off, or another hook is about
    /// to do it.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn hook(&self) -> Result<Option<Outcome>, Error> {
        // Where protection is off, an event costs the reading of a file.
        if !self.parse(&self.read_config()?)?.enabled {
            return Ok(None);
        }
        let lock = lock::acquire_for_all(&self.root).map_err(|e| self.no_lock(&e))?;
        let outcome = lock.map(|_lock| self.repair_alone(&mut Memory::default())).transpose()?;
        outcome.map(|outcome| self.ask_behind(outcome)).transpose()
    }

    fn repair_alone(&self, memory: &mut Memory) -> Result<Outcome, Error> {
        let Memory { last_good, closed, unable } = memory;
        match self.read_config().and_then(|text| self.parse(&text)) {
            Ok(config) => {
                let config = last_good.insert(config);
                if !config.enabled {
                    return Ok(Outcome::default());
                }
                self.enforce(config, true, unable)
            }
            Err(error) => {
                match last_good {
                    Some(config) if config.enabled => drop(self.enforce(config, true, unable)?),
                    Some(_) => {}
                    // netifd, for one, deletes all routing rules when it starts.
                    None if *closed.get_or_insert_with(|| self.is_closed()) => self.close()?,
                    None => {}
                }
                Err(error)
            }
        }
    }

    /// The step of the boot before the network comes up: as [`Self::apply`], but whatever fails closes.
    /// Where the configuration cannot be made sense of, and does not say that protection is off,
    /// nothing is forwarded and the router asks no names until it is mended; its management from the
    /// local networks goes on.
    ///
    /// # Errors
    /// See [`Error`]; the router is closed then, unless the error says that this failed too.
    pub fn boot(&self) -> Result<Outcome, Error> {
        // Whoever keeps the lock must not keep the router open; the kernel orders transactions as well.
        let _lock = self.lock();
        let text = self.read_config();
        let meant_off = match &text {
            Ok(text) => says_off(text),
            // A link that leads nowhere is no missing file.
            Err(_) => self.config_path().symlink_metadata().is_err(),
        };
        let result =
            text.and_then(|text| self.enforce(&self.parse(&text)?, false, &mut Vec::new()));
        let Err(error) = result else { return result };
        if meant_off {
            return Err(error);
        }
        let what = match self.close() {
            Err(e) => format!("and the router could not be closed: {e}"),
            Ok(()) => "nothing is forwarded until this is mended".to_owned(),
        };
        Err(match error {
            Error::Config(mut lines) => {
                lines.push(what);
                Error::Config(lines)
            }
            Error::Failed(why) => Error::Failed(format!("{why}; {what}")),
        })
    }

    /// Writes a first configuration, switched off, from the router's networks. Returns whether there was
    /// none yet: one that is there, of whatever version and however broken, is kept.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn setup(&self) -> Result<bool, Error> {
        let _lock = self.lock()?;
        let path = self.config_path();
        if path.symlink_metadata().is_ok() {
            return Ok(false);
        }
        let text = if self.platform().has_nvram() {
            // Devices that cannot be listed are only not mentioned.
            let links = observe::look().map(|seen| seen.links).unwrap_or_default();
            setup::of_nvram(&observe::networks(&self.root), &links)
        } else {
            let read = |file| observe::package(&self.root, file);
            let network = read("etc/config/network");
            let devices = |name: &str| observe::interface_devices(&self.root, &network, name);
            setup::first(&network, &read("etc/config/firewall"), devices)
        };
        let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        folder
            .and_then(|()| edit::write_atomic(&path, text.as_bytes()))
            .map_err(|e| Error::Failed(format!("{} cannot be written: {e}", path.display())))?;
        Ok(true)
    }

    /// Switches protection on: in the kernel first, then durably. `force` skips the check that a local
    /// network exists.
    ///
    /// # Errors
    /// See [`Error`]. When the file cannot be written protection is on, and the error says that it
    /// will not be after a reboot.
    pub fn enable(&self, force: bool) -> Result<Outcome, Error> {
        let outcome = self.enable_once(force)?;
        self.ask_behind(outcome)
    }

    fn enable_once(&self, force: bool) -> Result<Outcome, Error> {
        let _lock = self.lock()?;
        let text = self.read_config()?;
        let edited = self.set_enabled(&text, "1")?;
        let config = self.parse(&edited)?;
        if !force {
            self.refuse_lockout(&config)?;
        }
        let outcome = self.enforce(&config, true, &mut Vec::new())?;
        self.write_config(&text, &edited).map_err(|e| {
            Error::Failed(format!(
                "protection is on, but {} could not be written ({e}): the next apply, or a reboot, ends it",
                self.config_path().display()
            ))
        })?;
        Ok(outcome)
    }

    /// Switches protection off: durably first, then in the kernel. Returns whether it was on.
    ///
    /// # Errors
    /// See [`Error`]; protection is still on then.
    pub fn disable(&self) -> Result<bool, Error> {
        let _lock = self.lock()?;
        let text = self.read_config()?;
        // An invalid configuration can be switched off; only its syntax must allow it.
        let edited = self.set_enabled(&text, "0")?;
        // Without the right to open the router, the file must not say that it will be open.
        let mut firewall = self.firewall()?;
        firewall.check(None)?;
        self.write_config(&text, &edited).map_err(|e| {
            Error::Failed(format!(
                "protection is still on: {} could not be written ({e})",
                self.config_path().display()
            ))
        })?;
        let removed = firewall.remove(&self.memory())?;
        let routing = routed(None, None, &mut Vec::new())?;
        let _ = publish::publish(&self.root, &[]);
        self.take_back()?;
        Ok(removed || !routing.changes.is_empty())
    }

    /// Takes away what was left to the firewall.
    fn take_back(&self) -> Result<(), Error> {
        survive::sync(&self.root, None).map_err(|why| {
            Error::Failed(format!("the firewall goes on closing what is forwarded: {why}"))
        })
    }

    /// Opens for a while, until the kernel closes: for one client, or for all local networks that
    /// exist now. Returns what is open.
    ///
    /// # Errors
    /// See [`Error`]; nothing was opened then. Protection must be on and its rules in force, so that
    /// a pause never opens anything but what was asked for.
    pub fn pause(&self, client: Option<Target>, time: Duration) -> Result<Vec<Target>, Error> {
        let _lock = self.lock()?;
        let config = self.parse(&self.read_config()?)?;
        if !config.enabled {
            return Err(Error::Config(vec![format!(
                "{}: protection is switched off, so there is nothing to pause",
                self.config_path().display()
            )]));
        }
        let observed = self.observe(&config, true)?;
        let (policy, _) = self.derive(&config, &observed)?;
        let targets = match client {
            Some(client) => {
                refuse_stranger(&client, &policy, &observed)?;
                vec![client]
            }
            None => pause::networks(&policy, &observed.links),
        };
        if targets.is_empty() {
            return Err(Error::Failed("none of the local networks exists now".to_owned()));
        }
        let elements: Vec<_> = targets.iter().map(|t| (t.set, t.key)).collect();
        let ms = u64::try_from(time.as_millis()).unwrap_or(0);
        self.firewall()?.add_timed(&ruleset::build(&policy), &elements, ms)?;
        Ok(targets)
    }

    /// Ends pauses, that of one client or all, whatever the configuration says. Returns those that
    /// were ended, and those that still run.
    ///
    /// # Errors
    /// See [`Error`]; the pauses go on then, until the kernel ends them.
    pub fn resume(&self, client: Option<&Target>) -> Result<(Vec<Target>, Vec<Target>), Error> {
        let _lock = self.lock()?;
        let mut firewall = self.firewall()?;
        let named = |set: &str, key: &Key| client.is_none_or(|c| (c.set, c.key) == (set, *key));
        let ended = firewall.remove_elements(&pause::SETS, named)?;
        let mut ended: Vec<_> = ended.into_iter().map(|(set, key)| Target { set, key }).collect();
        let mut open = Vec::new();
        for set in pause::SETS {
            open.extend(firewall.elements(set)?.into_iter().map(|e| Target { set, key: e.key }));
        }
        // G7, as far as the configuration can be read: the rules refuse in any case.
        if !ended.is_empty() {
            let config = self.read_config().and_then(|text| self.parse(&text));
            let seen = config.and_then(|config| Ok((self.observe(&config, true)?, config)));
            let policy = seen.and_then(|(seen, config)| Ok((self.derive(&config, &seen)?.0, seen)));
            if let Ok((policy, observed)) = policy {
                let _ = cut(&policy, &observed, &mut firewall);
            }
        }
        ended.sort_unstable();
        open.sort_unstable();
        Ok((ended, open))
    }

    /// How the kernel differs from what it should have; empty when it does not.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn status(&self) -> Result<Status, Error> {
        Ok(self.look()?.0)
    }

    /// What would happen to a packet, with the pauses that run.
    ///
    /// # Errors
    /// See [`Error`]; a question that has no answer is one too.
    pub fn explain(&self, asked: &Asked) -> Result<Explanation, Error> {
        let (status, policy, observed) = self.look()?;
        let policy = policy.ok_or(Error::Config(status.errors))?;
        let mut rules = ruleset::build(&policy);
        if status.layers.iter().any(|l| l.name == "netfilter" && l.installed) {
            fill_pauses(&mut rules, &mut self.firewall()?)?;
        }
        let links = &observed.links;
        let mut kernel = conntrack::kernel::Kernel::open(&policy, links, observed.sink)
            .map_err(|e| Error::Failed(format!("cannot ask for routes: {e}")))?;
        let world =
            explain::World { policy: &policy, rules: &rules, links, layers: &status.layers };
        explain::explain(asked, &world, &mut kernel).map_err(|why| Error::Config(vec![why]))
    }

    /// The status, with what it was made from.
    fn look(&self) -> Result<(Status, Option<Policy>, Observed), Error> {
        let mut errors = Vec::new();
        let config = match self.read_config().and_then(|text| self.parse(&text)) {
            Ok(config) => Some(config),
            Err(Error::Config(lines)) => {
                errors = lines;
                None
            }
            Err(other) => return Err(other),
        };
        let observed = self.observe(config.as_ref().unwrap_or(&Config::default()), true)?;
        let mut warnings = Vec::new();
        let mut policy = None;
        if let Some(config) = &config {
            match policy::derive(config, &observed) {
                Ok((derived, noted)) => (policy, warnings) = (Some(derived), noted),
                Err(found) => errors.extend(found.iter().map(ToString::to_string)),
            }
        }
        let wanted = policy
            .as_ref()
            .filter(|_| config.as_ref().is_some_and(|c| c.enabled))
            .map(ruleset::build);
        if config.as_ref().is_some_and(|c| c.survive_sysupgrade)
            && wanted.as_ref().is_some_and(|rules| !survive::is_left(&self.root, rules))
        {
            warnings.push(not_surviving("the block is not there; an apply says why"));
        }
        let mut kernel = self.read_back(wanted.as_ref())?;
        let in_force = policy.as_ref().filter(|_| wanted.is_some());
        let routing = routing::kernel::check(in_force, &observed)
            .map_err(|e| Error::Failed(format!("cannot read the routing rules: {e}")))?;
        kernel.routing.installed = !routing.installed.rules.is_empty();
        // Without a policy there is nothing to compare with.
        let steps = if errors.is_empty() { routing.steps } else { Vec::new() };
        (kernel.routing.differences, kernel.routing.unavailable) = routing::differences(&steps);
        if let Some(policy) = in_force {
            kernel.routing.left_out = routing::left_out(policy);
            let uncovered = routing::uncovered(policy, &observed);
            kernel.routing.differences.extend(uncovered);
        }
        let status =
            status::build(config.as_ref(), policy.as_ref(), &observed, &warnings, errors, &kernel);
        Ok((status, policy, observed))
    }

    /// The rules that an apply would install if protection were on, and what there is to know.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn plan(&self) -> Result<(Ruleset, Vec<Warning>), Error> {
        let config = self.parse(&self.read_config()?)?;
        let (policy, warnings) = self.derive(&config, &self.observe(&config, true)?)?;
        Ok((ruleset::build(&policy), warnings))
    }

    /// `ask_netifd`: whether netifd can be there. `unable`: rules that the kernel refused before.
    fn enforce(
        &self,
        config: &Config,
        ask_netifd: bool,
        unable: &mut Vec<routing::Rule>,
    ) -> Result<Outcome, Error> {
        if !config.enabled {
            let mut firewall = self.firewall()?;
            let removed = firewall.remove(&self.memory())?;
            let mut changes = routed(None, None, unable)?.changes;
            changes.extend(removed.then(|| "the table was removed".to_owned()));
            let _ = publish::publish(&self.root, &[]);
            self.take_back()?;
            return Ok(Outcome { changes, kernel: Some(firewall), ..Outcome::default() });
        }
        let observed = self.observe(config, ask_netifd)?;
        let (policy, mut warnings) = self.derive(config, &observed)?;
        let rules = ruleset::build(&policy);
        // Both layers are tried whatever becomes of the other: either closes alone. The second one comes
        // first, because it takes milliseconds, and the programs of iptables may take a second.
        let routing = routed(Some(&policy), Some(&observed), unable);
        let netfilter = self.firewall().and_then(|mut firewall| {
            let applied = firewall.apply(&rules, &self.memory())?;
            Ok((applied, firewall))
        });
        let (Applied { mut changes, mut unavailable, narrower }, mut firewall) = netfilter?;
        let routing = routing?;
        changes.extend(routing.changes);
        // What a pause let out that is over by now. Its rules have counted it, so this is known whoever
        // was there when it ended.
        let let_out = firewall.let_out();
        if narrower || let_out {
            for engine in observed.shortcuts.iter().filter(|engine| !engine.forget(&self.root)) {
                warnings.push(Warning {
                    code: "shortcuts",
                    degrades: false,
                    message: format!(
                        "{} cannot be told to forget the connections that it forwards beside the rules: \
                         restart the router, or switch shortcut forwarding off",
                        engine.name
                    ),
                });
            }
            match cut(&policy, &observed, &mut firewall) {
                Ok(0) => {}
                Ok(n) => changes.push(format!("connections that were cut: {n}")),
                Err(why) => unavailable.push(why),
            }
        }
        if let Err(e) = publish::publish(&self.root, &policy.bootstrap.addrs) {
            warnings.push(Warning {
                code: "names-unpublished",
                degrades: false,
                message: format!("the router's resolver cannot be told of VPN servers: {e}"),
            });
        }
        let left = survive::sync(&self.root, config.survive_sysupgrade.then_some(&rules));
        warnings.extend(left.err().map(|why| not_surviving(&why)));
        Ok(Outcome {
            changes,
            unavailable,
            incomplete: routing.refused,
            moved: follow::moved(&policy, &observed),
            bootstrap: policy.bootstrap,
            warnings,
            enabled: true,
            pause_ends: None,
            kernel: Some(firewall),
        })
    }

    /// A folder that is empty after a reboot.
    fn memory(&self) -> PathBuf {
        self.root.join("var/run")
    }

    /// The firewall of this kernel, or the one that was asked for.
    fn firewall(&self) -> Result<Backend, backend::Error> {
        Backend::open(self.backend, &self.memory())
    }

    /// When the first of the pauses that run ends.
    fn pause_ends(&self) -> Result<Option<Instant>, Error> {
        let mut firewall = self.firewall()?;
        let mut first: Option<Duration> = None;
        for set in pause::SETS {
            let ends = firewall.elements(set)?.into_iter().filter_map(|e| e.expires);
            first = first.into_iter().chain(ends).min();
        }
        Ok(first.and_then(|left| Instant::now().checked_add(left)))
    }

    /// Closes everything, by either layer.
    fn close(&self) -> Result<(), Error> {
        let closed = Policy::closed();
        let routing = routing::kernel::apply(Some(&closed), None, &mut Vec::new());
        let netfilter = self
            .firewall()
            .and_then(|mut firewall| firewall.apply(&ruleset::build(&closed), &self.memory()));
        match (netfilter, routing) {
            (Err(e), Err(_)) => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Whether the first layer is what [`Self::close`] makes.
    fn is_closed(&self) -> bool {
        let closed = ruleset::build(&Policy::closed());
        self.firewall()
            .and_then(|mut firewall| firewall.check(Some(&closed)))
            .is_ok_and(|found| found.installed && found.differences.is_empty())
    }

    /// Reads what the kernel has; with `wanted`, compares it.
    fn read_back(&self, wanted: Option<&Ruleset>) -> Result<Readback, Error> {
        let mut firewall = self.firewall()?;
        let mut out = Readback::default();
        let found = firewall.check(wanted)?;
        let table = &mut out.netfilter;
        table.installed = found.installed;
        (table.differences, table.unavailable) = (found.differences, found.unavailable);
        if out.netfilter.installed {
            out.counters = firewall.counters()?;
            let mut elements = |set, width| -> Result<Vec<(u32, Element)>, Error> {
                Ok(firewall.elements(set)?.into_iter().map(|e| (width, e)).collect())
            };
            for (set, width) in BLOCKED.into_iter().zip([4, 16]) {
                out.blocked.extend(elements(set, width)?);
            }
            out.paused.extend(elements(PAUSED_DEVICES, 0)?);
            for (set, width) in PAUSED.into_iter().zip([4, 16]) {
                out.paused.extend(elements(set, width)?);
            }
        }
        Ok(out)
    }

    fn derive(
        &self,
        config: &Config,
        observed: &Observed,
    ) -> Result<(Policy, Vec<Warning>), Error> {
        policy::derive(config, observed).map_err(|errors| {
            let file = self.config_path();
            Error::Config(errors.iter().map(|e| format!("{}: {e}", file.display())).collect())
        })
    }

    /// G10: a mistyped local network would close the router to its owner.
    fn refuse_lockout(&self, config: &Config) -> Result<(), Error> {
        let observed = self.observe(config, true)?;
        let Ok((policy, _)) = policy::derive(config, &observed) else { return Ok(()) };
        if observed.links.iter().any(|l| policy.is_local(&l.name)) {
            return Ok(());
        }
        let names: Vec<&str> = observed.links.iter().map(|l| l.name.as_str()).collect();
        Err(Error::Config(vec![format!(
            "{}: none of the local networks exists, which would lock you out; the devices here are: \
             {}. Correct local_interface or local_device, or use enable --force",
            self.config_path().display(),
            names.join(" ")
        )]))
    }

    fn observe(&self, config: &Config, ask_netifd: bool) -> Result<Observed, Error> {
        Observed::gather(&self.root, config, ask_netifd)
            .map_err(|e| Error::Failed(format!("cannot list the network devices: {e}")))
    }

    fn lock(&self) -> Result<lock::Lock, Error> {
        lock::acquire(&self.root).map_err(|e| self.no_lock(&e))
    }

    fn no_lock(&self, error: &io::Error) -> Error {
        Error::Failed(match error.kind() {
            io::ErrorKind::WouldBlock => {
                "another vpn-killswitch is at work and does not end".to_owned()
            }
            _ => format!("cannot lock below {}: {error}", self.root.display()),
        })
    }

    fn read_config(&self) -> Result<Vec<u8>, Error> {
        let path = self.config_path();
        read_bounded(&path).map_err(|why| Error::Config(vec![format!("{}: {why}", path.display())]))
    }

    fn parse(&self, text: &[u8]) -> Result<Config, Error> {
        let file = self.config_path().display().to_string();
        config::parse(text)
            .map_err(|errors| Error::Config(errors.iter().map(|e| e.in_file(&file)).collect()))
    }

    fn set_enabled(&self, text: &[u8], value: &str) -> Result<Vec<u8>, Error> {
        edit::set_option(text, "killswitch", "enabled", value).map_err(|error| {
            let file = self.config_path().display().to_string();
            Error::Config(vec![match error {
                EditError::Syntax(uci::SyntaxError { line, message }) => {
                    ConfigError { line, section: None, option: None, message }.in_file(&file)
                }
                other => format!("{file}: {other}"),
            }])
        })
    }

    fn write_config(&self, old: &[u8], new: &[u8]) -> io::Result<()> {
        if old == new { Ok(()) } else { edit::write_atomic(&self.config_path(), new) }
    }
}

/// Whether the file says that protection is off, as far as anything can be read in it. A file that lost
/// its beginning or end says nothing, and is not taken for "off".
fn says_off(text: &[u8]) -> bool {
    let off = |value: &[u8]| matches!(value, b"0" | b"off" | b"false" | b"no" | b"disabled");
    let bare = |c: &u8| c.is_ascii_whitespace() || matches!(c, b'\'' | b'"');
    let mut ours = false;
    text.split(|c| *c == b'\n').any(|line| {
        let mut words = line.split(bare).filter(|w| !w.is_empty());
        match words.next() {
            Some(b"config") => {
                ours = words.next() == Some(b"killswitch");
                false
            }
            Some(b"option") => {
                ours && words.next() == Some(b"enabled") && words.next().is_some_and(off)
            }
            _ => false,
        }
    })
}

/// The firewall was not left what it should load after a sysupgrade.
fn not_surviving(why: &str) -> Warning {
    Warning {
        code: "not-surviving",
        degrades: false,
        message: format!(
            "survive_sysupgrade: after a sysupgrade this router will be open until the package is \
             back: {why}"
        ),
    }
}

/// Makes the routing layer agree.
fn routed(
    policy: Option<&Policy>,
    observed: Option<&Observed>,
    unable: &mut Vec<routing::Rule>,
) -> Result<routing::kernel::Applied, Error> {
    routing::kernel::apply(policy, observed, unable)
        .map_err(|e| Error::Failed(format!("the routing layer: {e}")))
}

/// Fills the sets of pauses with those that run. Whether there are any.
fn fill_pauses(rules: &mut Ruleset, firewall: &mut Backend) -> Result<bool, backend::Error> {
    let mut paused = false;
    for set in rules.sets.iter_mut().filter(|s| s.content == Content::Timed) {
        let elements = firewall.elements(&set.name)?;
        paused |= !elements.is_empty();
        set.fill(elements.into_iter().map(|e| e.key));
    }
    Ok(paused)
}

/// G7: removes the connections that the rules refuse now; how many these were. The rules refuse their
/// packets in any case, so that what fails here is a note.
fn cut(policy: &Policy, observed: &Observed, firewall: &mut Backend) -> Result<usize, String> {
    let failed =
        |e: &dyn fmt::Display| format!("removing the connections that were there before: {e}");
    let mut rules = ruleset::build(policy);
    let paused = fill_pauses(&mut rules, firewall).map_err(|e| failed(&e))?;
    let cut = firewall
        .socket()
        .and_then(|socket| conntrack::kernel::cut(socket, policy, &rules, &observed.links))
        .or_else(|e| conntrack::kernel::flush().ok_or(e))
        .map_err(|e| failed(&e))?;
    if !paused {
        // Nothing is let out any more, and what was is cut. While a pause runs, its end is to come.
        firewall.forget_let_out().map_err(|e| failed(&e))?;
    }
    match cut.why {
        Some(why) if cut.kept > 0 => {
            Err(format!("{} connections from before could not be removed: {why}", cut.kept))
        }
        _ => Ok(cut.removed),
    }
}

/// A pause for an address that is no client's would open nothing, or not for whom it was meant.
fn refuse_stranger(client: &Target, policy: &Policy, observed: &Observed) -> Result<(), Error> {
    let Some(addr) = client.addr() else { return Ok(()) };
    let way = conntrack::kernel::way_to(addr, &observed.links)
        .map_err(|e| Error::Failed(format!("cannot ask for the way to {addr}: {e}")))?;
    let why = match way {
        Way::Device(device) if policy.is_local(&device) => return Ok(()),
        Way::Device(device) => format!("the way to it leads over {device}"),
        Way::Here => "it is an address of the router itself, or of a whole network".to_owned(),
        Way::Refused | Way::Nowhere => "there is no way to it".to_owned(),
    };
    Err(Error::Config(vec![format!(
        "{addr} is no client in a local network: {why}. Name the address that the client has there, \
         or pause all local networks, without --client"
    )]))
}

/// Reads a file that may be anything.
fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    // Opening a FIFO would wait for a writer.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|e| format!("cannot be read: {e}"))?;
    let meta = file.metadata().map_err(|e| format!("cannot be read: {e}"))?;
    if !meta.is_file() {
        return Err("is not a file".to_owned());
    }
    let mut text = Vec::new();
    let limit = u64::try_from(uci::MAX_SIZE).unwrap_or(u64::MAX);
    file.take(limit + 1).read_to_end(&mut text).map_err(|e| format!("cannot be read: {e}"))?;
    if text.len() > uci::MAX_SIZE {
        return Err(format!("is larger than {} KiB: this is not a configuration", limit >> 10));
    }
    Ok(text)
}
