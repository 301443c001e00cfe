//! The guard: repairs what somebody else changed, within milliseconds.
//!
//! For availability and repair, never for protection: the rules hold without it, and when it dies
//! nothing opens. It waits for the kernel's own notices (nftables, devices, addresses, routing rules)
//! and then does what `apply` does. It does not own the table: an owner's table would lock the commands
//! out, and vanish with the owner. One thread, no timer while all is well.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use netlink_bindings::utils::find_attr;

use crate::config::Config;
use crate::control::{Control, Outcome};
use crate::log::{Level, Log};
use crate::netlink::{Socket, wait};
use crate::status::Posture;

/// `NFNLGRP_NFTABLES` (linux/netfilter/nfnetlink.h).
const GROUP_NFTABLES: u32 = 7;
/// `RTNLGRP_LINK`, `_IPV4_IFADDR`, `_IPV4_RULE`, `_IPV6_IFADDR`, `_IPV6_RULE` (linux/rtnetlink.h).
const GROUPS_ROUTE: [u32; 5] = [1, 5, 8, 9, 19];
/// `NFT_MSG_NEWGEN` in an nftables message's type; `NFTA_GEN_PROC_PID`, `NFTA_GEN_PROC_NAME`.
const NEWGEN: u16 = 10 << 8 | 15;
const GEN_PROC_PID: u16 = 2;
const GEN_PROC_NAME: u16 = 3;
const NFGENMSG: usize = 4;

/// More repairs than this within [`FIGHT_WINDOW`] mean that something fights us.
const FIGHT_REPAIRS: usize = 20;
const FIGHT_WINDOW: Duration = Duration::from_secs(10);
/// Then every further repair waits so long. The second layer holds meanwhile, and the first one as it
/// was left.
const FIGHT_PAUSE: Duration = Duration::from_secs(2);
/// After a failed repair it is tried again, without a notice.
const RETRY: Duration = Duration::from_secs(5);

/// Runs until it is ended.
///
/// # Errors
/// When the kernel's notices cannot be listened to.
pub fn run(control: &Control) -> io::Result<()> {
    let mut guard = Guard::new(control)?;
    loop {
        let failed = guard.repair();
        wait(&[&guard.nftables, &guard.route], failed.then_some(RETRY))?;
        guard.listen()?;
    }
}

struct Guard<'a> {
    control: &'a Control,
    log: Log,
    nftables: Socket,
    route: Socket,
    /// Who changed nftables last, as the kernel says.
    culprit: Option<String>,
    repairs: VecDeque<Instant>,
    posture: Option<Posture>,
    complaint: String,
    /// What is kept in force while the configuration has errors.
    last_good: Option<Config>,
    started: bool,
}

impl<'a> Guard<'a> {
    fn new(control: &'a Control) -> io::Result<Self> {
        let netfilter = u16::try_from(libc::NETLINK_NETFILTER).unwrap_or(12);
        let mut guard = Self {
            control,
            log: Log::default(),
            nftables: Socket::open(netfilter)?,
            route: Socket::open(0)?,
            culprit: None,
            repairs: VecDeque::new(),
            posture: None,
            complaint: String::new(),
            last_good: None,
            started: false,
        };
        guard.nftables.join(&[GROUP_NFTABLES])?;
        guard.route.join(&GROUPS_ROUTE)?;
        Ok(guard)
    }

    /// Applies and says what was found; whether it failed.
    fn repair(&mut self) -> bool {
        match self.control.repair(&mut self.last_good) {
            Ok(outcome) => {
                self.complaint.clear();
                self.report(&outcome);
                if !outcome.changes.is_empty() && self.started {
                    self.slow_down();
                }
                self.started = true;
                self.follow_posture();
                false
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
                true
            }
        }
    }

    fn report(&mut self, outcome: &Outcome) {
        let culprit = self.culprit.take();
        if !self.started || outcome.changes.is_empty() {
            return;
        }
        let by = culprit.map(|c| format!(" (last change to nftables by {c})")).unwrap_or_default();
        let count = outcome.changes.len();
        let first = outcome.changes.first().map(String::as_str).unwrap_or_default();
        let more = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
        self.log.write(Level::Warning, &format!("repaired: {first}{more}{by}"));
    }

    fn slow_down(&mut self) {
        let now = Instant::now();
        self.repairs.push_back(now);
        while self.repairs.front().is_some_and(|t| now.duration_since(*t) > FIGHT_WINDOW) {
            self.repairs.pop_front();
        }
        if self.repairs.len() > FIGHT_REPAIRS {
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

    /// Takes all notices that are there.
    fn listen(&mut self) -> io::Result<()> {
        let culprit = &mut self.culprit;
        let own = std::process::id();
        self.nftables.drain(|kind, payload| {
            let by = (kind == NEWGEN).then(|| changed_by(payload)).flatten();
            if let Some((name, pid)) = by.filter(|(_, pid)| *pid != own) {
                *culprit = Some(format!("{name}, process {pid}"));
            }
        })?;
        self.route.drain(|_, _| {})
    }
}

/// Name and number of the process that changed nftables.
fn changed_by(payload: &[u8]) -> Option<(String, u32)> {
    let attrs = payload.get(NFGENMSG..)?;
    let pid = u32::from_be_bytes(find_attr(attrs, GEN_PROC_PID)?.try_into().ok()?);
    let name = find_attr(attrs, GEN_PROC_NAME)?;
    Some((String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned(), pid))
}
