//! The nftables backend: table `inet vpn_killswitch`, over netlink, in one transaction.
//!
//! Translates the model, applies the smallest change, reads back what the kernel then has and
//! compares. No policy. A rule that the kernel refuses is an error; only a rule that never decides
//! (logging, recording, loud refusal instead of silent) is left out, and named.

mod diff;
pub mod expr;
pub mod read;
pub mod table;
pub mod text;
mod write;

use std::fmt;
use std::io;

pub use diff::{Change, diff};

pub use super::Applied;
use crate::netlink::{Refusal, Socket, again};
use crate::ruleset::{Key, Ruleset, TABLE};
use table::{Table, lower};

/// How often an apply starts again when the kernel's rules change under its hands. Each time somebody
/// else's transaction has succeeded, so this is not a race that nobody wins.
const ATTEMPTS: usize = 16;

/// Why an apply failed. What was in force before is in force still.
#[derive(Debug)]
pub enum Error {
    /// The kernel has no nftables, or we may not use it.
    Unusable(io::Error),
    /// Reading failed.
    Read(io::Error),
    /// The kernel refused a change.
    Refused {
        /// The change.
        what: String,
        /// Its words.
        why: String,
    },
    /// The kernel kept changing.
    Busy,
    /// The rules in the kernel are not those that what was asked for relies on: the first difference,
    /// and how many there are besides.
    NotInForce(String, usize),
    /// What was read back is not what was sent.
    Differs(Vec<String>),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable(e) => match e.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => {
                    f.write_str("not permitted to change the firewall; run this as root")
                }
                _ => write!(
                    f,
                    "the kernel's nftables cannot be used ({e}); on OpenWrt install kmod-nft-core"
                ),
            },
            Self::Read(e) => write!(f, "cannot read the kernel's rules back: {e}"),
            Self::Refused { what, why } => write!(f, "the kernel refused: {what}: {why}"),
            Self::Busy => {
                f.write_str("the kernel's rules keep changing; another program is at them")
            }
            Self::NotInForce(first, more) => {
                write!(f, "the rules in the kernel are not as they should be: {first}")?;
                if *more > 0 {
                    write!(f, ", and {more} more differences")?;
                }
                f.write_str("; run 'vpn-killswitch apply' first")
            }
            Self::Differs(what) => {
                write!(f, "the kernel does not have what was sent: {}", what.join("; "))
            }
        }
    }
}

/// The nftables of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Nft {
    socket: Socket,
    /// Whether something was deleted, which closing waits for.
    deleted: bool,
}

impl Nft {
    /// Opens it.
    ///
    /// # Errors
    /// [`Error::Unusable`] when the kernel has no nftables.
    pub fn open() -> Result<Self, Error> {
        let protocol = u16::try_from(libc::NETLINK_NETFILTER).unwrap_or(12);
        let socket = Socket::open(protocol).map_err(Error::Unusable)?;
        Ok(Self { socket, deleted: false })
    }

    /// Whether this kernel has nftables; it has, unless it says that it does not know what that is.
    pub fn is_there(&mut self) -> bool {
        let unknown = |e: Refusal| [libc::EINVAL, libc::EOPNOTSUPP].iter().any(|code| e.is(*code));
        !read::generation(&mut self.socket).is_err_and(unknown)
    }

    /// Ends the connection without waiting for the kernel to free what was deleted; see
    /// [`Socket::close_behind`]. What was applied is in force.
    pub fn close_behind(self) {
        if self.deleted {
            self.socket.close_behind();
        }
    }

    /// The connection itself, for what else speaks this protocol (connection tracking).
    pub fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// What is in the kernel; `None` when our table does not exist.
    ///
    /// # Errors
    /// [`Error::Unusable`], [`Error::Read`] or [`Error::Busy`].
    pub fn read(&mut self) -> Result<Option<Table>, Error> {
        self.consistent().map(|(table, _)| table)
    }

    /// Reads everything at one generation.
    fn consistent(&mut self) -> Result<(Option<Table>, u32), Error> {
        let mut odd = 0;
        for _ in 0..ATTEMPTS {
            let before = read::generation(&mut self.socket).map_err(unusable)?;
            let (table, whole) = match read::table(&mut self.socket) {
                Ok((Some(table), whole)) => match read::policies(&mut self.socket, table) {
                    Ok(table) => (Some(table), whole),
                    Err(r) if r.is(libc::EINTR) => continue,
                    Err(r) => return Err(Error::Read(r.into())),
                },
                Ok(read) => read,
                // The listing was interrupted, or a set went away between two questions.
                Err(r) if r.is(libc::EINTR) || r.is(libc::ENOENT) => continue,
                Err(r) => return Err(Error::Read(r.into())),
            };
            if read::generation(&mut self.socket).map_err(unusable)? != before {
                continue;
            }
            // Counts that never agree are of something that we do not list (a flowtable of somebody's).
            // While others change the rules, they only do not agree yet.
            if whole || odd >= ATTEMPTS / 2 {
                return Ok((table, before));
            }
            odd += 1;
        }
        Err(Error::Busy)
    }

    /// The differences between the kernel and `ruleset`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn check(&mut self, ruleset: &Ruleset) -> Result<Vec<Change>, Error> {
        let installed = self.read()?;
        Ok(diff(&lower(ruleset), installed.as_ref()))
    }

    /// Makes the kernel agree with `ruleset`, in one transaction, and reads back that it does. Sends
    /// nothing when it already does.
    ///
    /// # Errors
    /// Any [`Error`]; the old rules are in force then, except for [`Error::Differs`], where somebody
    /// else changed the new ones.
    pub fn apply(&mut self, ruleset: &Ruleset) -> Result<Applied, Error> {
        let mut wanted = lower(ruleset);
        let mut applied = Applied::default();
        let mut differs = Vec::new();
        let mut sent = false;
        for _ in 0..ATTEMPTS {
            let (installed, generation) = self.consistent()?;
            let changes = diff(&wanted, installed.as_ref());
            if changes.is_empty() {
                return Ok(applied);
            }
            if sent {
                differs = changes.iter().map(ToString::to_string).collect();
            } else {
                applied.changes = changes.iter().map(ToString::to_string).collect();
                applied.narrower = !changes.iter().all(Change::only_adds);
            }
            match self.send(&changes, generation) {
                // Read back in the next round, which ends the loop when all is as it should be.
                Ok(()) => sent = true,
                Err(Failure::Outdated) => {}
                Err(Failure::Refused(Some(change), why)) if change.is_optional() => {
                    applied.unavailable.push(format!("{change}: {why}"));
                    leave_out(&mut wanted, &change);
                }
                Err(failure) => failure.unless_outdated()?,
            }
        }
        if differs.is_empty() { Err(Error::Busy) } else { Err(Error::Differs(differs)) }
    }

    /// Removes our table. `false` when there was none.
    ///
    /// # Errors
    /// Any [`Error`]; the rules stay in force then.
    pub fn remove(&mut self) -> Result<bool, Error> {
        for _ in 0..ATTEMPTS {
            let (installed, generation) = self.consistent()?;
            if installed.is_none() {
                return Ok(false);
            }
            match self.send(&[Change::DelTable("")], generation) {
                Ok(()) => return Ok(true),
                Err(Failure::Outdated) => {}
                Err(Failure::Refused(_, why)) => {
                    return Err(Error::Refused { what: format!("delete table inet {TABLE}"), why });
                }
            }
        }
        Err(Error::Busy)
    }

    /// Adds `elements` (set and key) in one transaction, for so many milliseconds and no longer: the
    /// time that an element had before does not count. Only while the rules of `ruleset`, which these
    /// elements are for, are in force.
    ///
    /// # Errors
    /// [`Error::NotInForce`], or any other but [`Error::Differs`]; nothing was added then.
    pub fn add_timed(
        &mut self,
        ruleset: &Ruleset,
        elements: &[(&str, Key)],
        ms: u64,
    ) -> Result<(), Error> {
        let wanted = lower(ruleset);
        for _ in 0..ATTEMPTS {
            let (installed, generation) = self.consistent()?;
            let mut differs = diff(&wanted, installed.as_ref());
            differs.retain(|c| !c.is_optional() && !c.is_outdated_refusal());
            if let Some((first, more)) = differs.split_first() {
                return Err(Error::NotInForce(first.to_string(), more.len()));
            }
            let mut changes = Vec::new();
            for set in &wanted.sets {
                let of_set = elements.iter().filter(|(name, _)| *name == set.name);
                let keys: Vec<Key> = of_set.map(|(_, key)| *key).collect();
                if keys.is_empty() {
                    continue;
                }
                let old = self.elements(&set.name)?.into_iter().map(|e| (e.key, e.key));
                let old: Vec<(Key, Key)> = old.filter(|(key, _)| keys.contains(key)).collect();
                if !old.is_empty() {
                    changes.push(Change::DelElements(set.kind(), old));
                }
                changes.push(Change::AddTimed(set.kind(), keys, ms));
            }
            match self.send(&changes, generation) {
                Ok(()) => return Ok(()),
                Err(failure) => failure.unless_outdated()?,
            }
        }
        Err(Error::Busy)
    }

    /// Removes those elements of `sets` (by set and key) that `which` names, in one transaction, and
    /// returns them. What has ended, or has no set, is gone already.
    ///
    /// # Errors
    /// Any but [`Error::Differs`]; nothing was removed then.
    pub fn remove_elements<'a>(
        &mut self,
        sets: &[&'a str],
        which: impl Fn(&str, &Key) -> bool,
    ) -> Result<Vec<(&'a str, Key)>, Error> {
        for _ in 0..ATTEMPTS {
            let (installed, generation) = self.consistent()?;
            let (mut changes, mut removed) = (Vec::new(), Vec::new());
            for set in installed.iter().flat_map(|table| &table.sets) {
                let Some(name) = sets.iter().find(|name| **name == set.name) else { continue };
                let keys = self.elements(name)?.into_iter().map(|e| e.key);
                let keys: Vec<Key> = keys.filter(|key| which(name, key)).collect();
                removed.extend(keys.iter().map(|key| (*name, *key)));
                if !keys.is_empty() {
                    let ranges = keys.iter().map(|key| (*key, *key)).collect();
                    changes.push(Change::DelElements(set.kind(), ranges));
                }
            }
            if changes.is_empty() {
                return Ok(removed);
            }
            match self.send(&changes, generation) {
                Ok(()) => return Ok(removed),
                Err(failure) => failure.unless_outdated()?,
            }
        }
        Err(Error::Busy)
    }

    /// Packets and bytes of each rule, by its id.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn counters(&mut self) -> Result<Vec<read::Counter>, Error> {
        again(|| read::counters(&mut self.socket)).map_err(|r| Error::Read(r.into()))
    }

    /// Packets of these rules together; with `reset` they are counted from 0 again.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn packets(&mut self, ids: &[&str], reset: bool) -> Result<u64, Error> {
        let counts = ids.iter().map(|id| read::packets(&mut self.socket, id, reset));
        counts.sum::<Result<u64, _>>().map_err(|r| Error::Read(r.into()))
    }

    /// The elements of one of our sets; none when it does not exist.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn elements(&mut self, set: &str) -> Result<Vec<read::Element>, Error> {
        match again(|| read::elements(&mut self.socket, set)) {
            Err(r) if r.is(libc::ENOENT) => Ok(Vec::new()),
            other => other.map_err(|r| Error::Read(r.into())),
        }
    }

    fn send(&mut self, changes: &[Change], generation: u32) -> Result<(), Failure> {
        let mut batch = self.socket.batch(generation);
        let owners = write::fill(&mut batch, changes);
        let refusal = match self.socket.transact(batch) {
            Ok(()) => {
                self.deleted |= changes.iter().any(Change::deletes);
                return Ok(());
            }
            Err(refusal) => refusal,
        };
        // Somebody else was faster, or the answer was lost: read again and see.
        if [libc::ERESTART, libc::EINTR, libc::EPIPE, libc::ENOBUFS].iter().any(|e| refusal.is(*e))
        {
            return Err(Failure::Outdated);
        }
        let owner = owners.get(refusal.index).copied().flatten();
        let change = owner.and_then(|i| changes.get(i)).cloned().map(Box::new);
        // An element that the kernel ends may have ended since it was read; that is no new generation.
        let moved = refusal.is(libc::ENOENT) || refusal.is(libc::EEXIST);
        if moved && change.as_ref().is_some_and(|c| c.is_timed()) {
            return Err(Failure::Outdated);
        }
        Err(Failure::Refused(change, refusal.to_string()))
    }
}

enum Failure {
    Outdated,
    Refused(Option<Box<Change>>, String),
}

impl Failure {
    /// The refusal, where asking again does not help.
    fn unless_outdated(self) -> Result<(), Error> {
        match self {
            Self::Outdated => Ok(()),
            Self::Refused(change, mut why) => {
                if change.as_ref().is_some_and(|c| c.asks_ipsec()) {
                    why += "; option ipsec needs a kernel whose nftables knows IPsec (Linux 4.20, with \
                            XFRM)";
                }
                let what = change.map_or_else(|| "the transaction".to_owned(), |c| c.to_string());
                Err(Error::Refused { what, why })
            }
        }
    }
}

fn unusable(refusal: Refusal) -> Error {
    Error::Unusable(refusal.into())
}

/// Takes a rule that the kernel cannot do out of what is wanted. Its counter and set stay: they do
/// nothing by themselves.
fn leave_out(wanted: &mut Table, change: &Change) {
    let Change::AddRule(name, rule, _) = change else { return };
    for chain in wanted.chains.iter_mut().filter(|c| c.name == *name) {
        chain.rules.retain(|r| !r.same(rule));
    }
}
