//! The guard: repairs what somebody else changed, within milliseconds.
//!
//! For availability and repair, never for protection: the rules hold without it, and when it dies
//! nothing opens. It waits for the kernel's own notices (nftables, devices, addresses, routing rules)
//! and then does what `apply` does. It does not own the table: an owner's table would lock the commands
//! out, and vanish with the owner. One thread; no timer while all is well and nothing is paused.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use netlink_bindings::utils::find_attr;

use crate::backend::Backend;
use crate::control::{Control, Memory, Outcome};
use crate::follow::{self, Follower, Moved};
use crate::lock;
use crate::log::{Level, Log};
use crate::names::{Bootstrap, ask};
use crate::netlink::{Socket, attr, wait};
use crate::resolve::Lookup;
use crate::ruleset::TABLE;
use crate::status::Posture;

/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h).
const GROUP_NFTABLES: u32 = 7;
/// `RTNLGRP_LINK`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV4_RULE`, `_IPV6_IFADDR`, `_IPV6_ROUTE`,
/// `_IPV6_RULE` (linux/rtnetlink.h).
const GROUPS_ROUTE: [u32; 7] = [1, 5, 7, 8, 9, 11, 19];
/// `NFT_MSG_NEWGEN` in an nftables message's type; `NFTA_GEN_PROC_PID`, `NFTA_GEN_PROC_NAME`.
const NEWGEN: u16 = 10 << 8 | 15;
const GEN_PROC_PID: u16 = 2;
const GEN_PROC_NAME: u16 = 3;
const NFGENMSG: usize = 4;

/// Where nftables names the table that a message is about: in the same attribute for everything
/// (`NFTA_TABLE_NAME`, `NFTA_RULE_TABLE`, …).
const NFTA_TABLE: u16 = 1;
/// `RTM_DELRULE`.
const DELRULE: u16 = 33;

/// More repairs of what somebody else did to our rules within [`FIGHT_WINDOW`] mean that they fight us.
const FIGHT_REPAIRS: usize = 20;
/// The same of all repairs: devices and addresses come and go for good reasons, but not so often.
const FIGHT_REPAIRS_OF_ALL: usize = 200;
const FIGHT_WINDOW: Duration = Duration::from_secs(10);
/// Then every further repair waits so long. The second layer holds meanwhile, and the first one as it
/// was left.
const FIGHT_PAUSE: Duration = Duration::from_secs(2);
/// After a failed repair it is tried again, without a notice.
const RETRY: Duration = Duration::from_secs(5);

/// How soon it is looked again when there is nobody to ask, from the last notice on, less and less often:
/// an uplink makes itself known, a name server that comes later does not.
const NOBODY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Questions are at least so far apart.
const ASK_PAUSE: Duration = Duration::from_secs(1);
const ASK_PAUSE_UNKEPT: Duration = Duration::from_secs(60);
/// How often it is looked at a firewall of which the kernel tells nothing.
const UNTOLD: Duration = Duration::from_secs(10);
/// The kernel ends a pause with one of its ticks.
const TICK: Duration = Duration::from_millis(20);

/// Runs until it is ended.
///
/// # Errors
/// When the kernel's notices cannot be listened to.
pub fn run(control: &Control) -> io::Result<()> {
    let _running = lock::guard(control.root());
    let mut guard = Guard::new(control)?;
    loop {
        let again = guard.repair().map(|pause| Instant::now() + pause);
        loop {
            let left = again.map(|time| time.saturating_duration_since(Instant::now()));
            let soon = guard.ask().into_iter().chain(left).min();
            let mut fds = guard.lookup.as_ref().map(Lookup::fds).unwrap_or_default();
            let sockets = guard.nftables.iter().chain([&guard.route]);
            fds.extend(sockets.map(|s| (s.as_fd(), libc::POLLIN)));
            wait(&fds, soon)?;
            // Both, whatever the first one says.
            let (told, learnt) = (guard.listen()?, guard.learn());
            if told {
                guard.nobody = NOBODY.0;
            }
            if told || learnt || again.is_some_and(|time| Instant::now() >= time) {
                break;
            }
        }
    }
}

struct Guard<'a> {
    control: &'a Control,
    log: Log,
    /// None where the kernel has no such protocol.
    nftables: Option<Socket>,
    route: Socket,
    /// Who changed our table last, as the kernel says.
    culprit: Option<String>,
    /// Whether the change to nftables that is being told of is about our table.
    ours: bool,
    /// Whether somebody else touched our routing rules since the last repair.
    provoked: bool,
    /// When something was repaired, and whether that was somebody's doing.
    repairs: VecDeque<(Instant, bool)>,
    posture: Option<Posture>,
    complaint: String,
    /// What repairs know from those before.
    memory: Memory,
    started: bool,
    /// What may be asked in the clear.
    bootstrap: Bootstrap,
    /// Why the last answers could not be kept; empty if they were.
    unkept: String,
    /// When it was asked last.
    asked: Option<Instant>,
    /// How soon it is looked again when there is nobody to ask.
    nobody: Duration,
    /// Whether names that were asked for in vain are asked for at once: there are others to ask.
    ask_again: bool,
    /// Peers whose server has moved.
    follower: Follower,
    /// Questions that are on their way.
    lookup: Option<Lookup>,
}

impl<'a> Guard<'a> {
    fn new(control: &'a Control) -> io::Result<Self> {
        let netfilter = u16::try_from(libc::NETLINK_NETFILTER).unwrap_or(12);
        let nftables = match Socket::open(netfilter) {
            Err(e) if e.raw_os_error() == Some(libc::EPROTONOSUPPORT) => None,
            opened => Some(opened?),
        };
        let mut guard = Self {
            control,
            log: Log::default(),
            nftables,
            route: Socket::open(0)?,
            culprit: None,
            ours: false,
            provoked: false,
            repairs: VecDeque::new(),
            posture: None,
            complaint: String::new(),
            memory: Memory::default(),
            started: false,
            bootstrap: Bootstrap::default(),
            unkept: String::new(),
            asked: None,
            nobody: NOBODY.0,
            ask_again: false,
            follower: Follower::default(),
            lookup: None,
        };
        if let Some(nftables) = &mut guard.nftables {
            nftables.join(&[GROUP_NFTABLES])?;
        }
        guard.route.join(&GROUPS_ROUTE)?;
        Ok(guard)
    }

    /// Applies and says what was found. When to do so again without a notice: if it failed, when a
    /// pause ends, of which the kernel tells nobody, while there is no name server, and for a peer that
    /// is silent, and where the kernel tells nothing.
    fn repair(&mut self) -> Option<Duration> {
        match self.control.repair(&mut self.memory) {
            Ok(mut outcome) => {
                let bootstrap = std::mem::take(&mut outcome.bootstrap);
                self.ask_again |= bootstrap.servers != self.bootstrap.servers;
                self.bootstrap = bootstrap;
                self.complaint.clear();
                let provoked = std::mem::take(&mut self.provoked) || self.culprit.is_some();
                self.report(&outcome, provoked);
                if !outcome.changes.is_empty() && self.started {
                    self.slow_down(provoked);
                }
                self.started = true;
                self.follow_posture();
                let paused =
                    outcome.pause_ends.map(|at| at.saturating_duration_since(Instant::now()));
                let Bootstrap { names, servers, .. } = &self.bootstrap;
                let nobody = (!names.is_empty() && servers.is_empty()).then_some(self.nobody);
                self.nobody = (self.nobody * 2).min(NOBODY.1);
                let silent = self.follow(&outcome.moved);
                let told = outcome.kernel.as_ref().is_none_or(Backend::tells);
                let untold = (!told).then_some(UNTOLD);
                [paused.map(|left| left + TICK), nobody, silent, untold].into_iter().flatten().min()
            }
            Err(error) => {
                // Once, not with every notice: a broken file is broken until somebody mends it.
                let complaint = error.to_string();
                if complaint != self.complaint {
                    for line in complaint.lines() {
                        self.log.write(Level::Error, line);
                    }
                    self.complaint = complaint;
                }
                Some(RETRY)
            }
        }
    }

    /// Has peers call their server where it is now. When to look again.
    fn follow(&mut self, moved: &[Moved]) -> Option<Duration> {
        let (due, again) = self.follower.due(moved, Instant::now());
        for peer in due {
            let Moved { device, host, from, to, .. } = peer;
            let what = format!("{device}: {host} is at {to} now; {from} does not answer");
            let (level, end) = match follow::call(self.control.root(), peer) {
                Ok(()) => (Level::Notice, ", so it is called there".to_owned()),
                Err(why) => (Level::Error, format!(": {why}")),
            };
            self.log.write(level, &format!("{what}{end}"));
        }
        again
    }

    /// Asks for the names of VPN and time servers when it is time. When to look again: nothing, while
    /// there is no name to ask for.
    fn ask(&mut self) -> Option<Duration> {
        if self.lookup.is_none() {
            let (names, next) = ask::due(self.control.root(), &self.bootstrap, self.ask_again);
            if names.is_empty() {
                return next;
            }
            // Where answers cannot be kept, every name is always due.
            let pause = if self.unkept.is_empty() { ASK_PAUSE } else { ASK_PAUSE_UNKEPT };
            let rest = self.asked.map(|t| pause.saturating_sub(t.elapsed()));
            if let Some(rest) = rest.filter(|r| !r.is_zero()) {
                return Some(rest);
            }
            self.asked = Some(Instant::now());
            self.ask_again = false;
            self.lookup = Some(ask::begin(&names, &self.bootstrap));
        }
        let deadline = self.lookup.as_ref().and_then(Lookup::deadline);
        Some(deadline.map_or(Duration::ZERO, |d| d.saturating_duration_since(Instant::now())))
    }

    /// Takes what has come for the lookup. Whether it is over: then all is looked at again, since a
    /// failure may mean that others are to be asked, and an old address that a peer is to follow.
    fn learn(&mut self) -> bool {
        if !self.lookup.as_mut().is_some_and(|l| l.advance(Instant::now())) {
            return false;
        }
        let answers = self.lookup.take().map(Lookup::finish).unwrap_or_default();
        let kept = self.control.learn(&self.bootstrap, &answers);
        let unkept = kept.err().map(|error| error.to_string()).unwrap_or_default();
        if !unkept.is_empty() && unkept != self.unkept {
            self.log.write(Level::Error, &unkept);
        }
        self.unkept = unkept;
        true
    }

    /// What somebody else did is repaired; what came of devices, addresses and names is no fault.
    fn report(&mut self, outcome: &Outcome, provoked: bool) {
        let culprit = self.culprit.take();
        if !self.started || outcome.changes.is_empty() {
            return;
        }
        let by = culprit.map(|c| format!(" (last change to the table by {c})")).unwrap_or_default();
        let count = outcome.changes.len();
        let first = outcome.changes.first().map(String::as_str).unwrap_or_default();
        let more = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
        let (level, what) =
            if provoked { (Level::Warning, "repaired") } else { (Level::Notice, "followed") };
        self.log.write(level, &format!("{what}: {first}{more}{by}"));
    }

    fn slow_down(&mut self, provoked: bool) {
        let now = Instant::now();
        self.repairs.push_back((now, provoked));
        while self.repairs.front().is_some_and(|(t, _)| now.duration_since(*t) > FIGHT_WINDOW) {
            self.repairs.pop_front();
        }
        let provoked = self.repairs.iter().filter(|(_, provoked)| *provoked).count();
        if provoked > FIGHT_REPAIRS || self.repairs.len() > FIGHT_REPAIRS_OF_ALL {
            self.log.write(
                Level::Error,
                "another program keeps changing these rules; find it and stop it. Repairing more \
                 slowly; routing still refuses what would leave over an uplink",
            );
            std::thread::sleep(FIGHT_PAUSE);
        }
    }

    fn follow_posture(&mut self) {
        let Ok(status) = self.control.status() else { return };
        if self.posture.replace(status.posture) == Some(status.posture) {
            return;
        }
        let level = match status.posture {
            Posture::Protecting | Posture::Paused | Posture::Blocking => Level::Notice,
            Posture::Disabled => Level::Warning,
            Posture::Degraded => Level::Error,
        };
        let why = status.differences.first().map(|d| format!(" {d}")).unwrap_or_default();
        self.log.write(level, &format!("{}{why}", status.headline()));
    }

    /// Takes all notices that are there; whether there were any.
    fn listen(&mut self) -> io::Result<bool> {
        let mut any = false;
        let Self { culprit, ours, provoked, .. } = self;
        let own = std::process::id();
        // A change's own messages come before the one that says whose it was.
        let mut changed = |kind, payload: &[u8]| {
            any = true;
            if kind != NEWGEN {
                *ours |= is_about_us(payload);
                return;
            }
            let by = changed_by(payload).filter(|(_, pid)| *pid != own);
            if let Some((name, pid)) = by.filter(|_| *ours) {
                *culprit = Some(format!("{name}, process {pid}"));
            }
            *ours = false;
        };
        if let Some(nftables) = &mut self.nftables {
            nftables.drain(&mut changed)?;
        }
        self.route.drain(|kind, payload| {
            any = true;
            *provoked |= kind == DELRULE && crate::routing::concerns_us(payload);
        })?;
        Ok(any)
    }
}

/// Whether an nftables message is about our table.
fn is_about_us(payload: &[u8]) -> bool {
    let attrs = payload.get(NFGENMSG..).unwrap_or_default();
    let name = find_attr(attrs, NFTA_TABLE).unwrap_or_default();
    name.strip_suffix(&[0]) == Some(TABLE.as_bytes())
}

/// Name and number of the process that changed nftables.
fn changed_by(payload: &[u8]) -> Option<(String, u32)> {
    let attrs = payload.get(NFGENMSG..)?;
    let pid = attr::word(attrs, GEN_PROC_PID)?;
    Some((attr::text(attrs, GEN_PROC_NAME)?, pid))
}
