//! Backends: the rule model → a kernel's firewall, and back. They translate and decide nothing; what
//! one cannot express is an error, never left out.
//!
//! This is the one seam between them and [`crate::control`].

pub mod iptables;
pub mod nft;

use std::fmt;
use std::io;
use std::path::Path;

use crate::netlink::Socket;
use crate::ruleset::build::PAUSE_RULES;
use crate::ruleset::{Key, Ruleset};
use iptables::Iptables;
use nft::read::{Counter, Element};
use nft::{Change, Nft};

/// Why an operation failed. What was in force before still is.
#[derive(Debug)]
pub enum Error {
    /// nftables.
    Nft(nft::Error),
    /// iptables, in its own words.
    Iptables(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nft(error) => error.fmt(f),
            Self::Iptables(why) => f.write_str(why),
        }
    }
}

impl From<nft::Error> for Error {
    fn from(error: nft::Error) -> Self {
        Self::Nft(error)
    }
}

impl From<String> for Error {
    fn from(why: String) -> Self {
        Self::Iptables(why)
    }
}

/// Which backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// nftables.
    Nft,
    /// iptables and ip6tables.
    Iptables,
}

impl Kind {
    /// By the name that the command line has for it.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "nft" => Some(Self::Nft),
            "iptables" => Some(Self::Iptables),
            _ => None,
        }
    }
}

/// What an apply did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// What was different before; empty when the kernel already agreed and nothing was sent.
    pub changes: Vec<String>,
    /// Whether something may be refused now that was not before.
    pub narrower: bool,
    /// Rules that this kernel cannot do, and why; none of them decides about a packet.
    pub unavailable: Vec<String>,
}

/// How what is in the kernel compares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Whether there is anything of ours.
    pub installed: bool,
    /// Differences that matter.
    pub differences: Vec<String>,
    /// What is missing, or there too much, and never decides about a packet.
    pub unavailable: Vec<String>,
}

/// The firewall of the network namespace in which it was opened.
#[derive(Debug)]
pub enum Backend {
    /// nftables.
    Nft(Nft),
    /// iptables and ip6tables.
    Iptables(Iptables),
}

impl Backend {
    /// Opens the one that is asked for, or else what this kernel has: nftables, if it can.
    /// `memory` is a folder that is empty after a reboot.
    ///
    /// # Errors
    /// When there is none that can be used.
    pub fn open(kind: Option<Kind>, memory: &Path) -> Result<Self, Error> {
        if kind == Some(Kind::Iptables) {
            return Ok(Self::Iptables(Iptables::open(memory)?));
        }
        let nft = Nft::open();
        if kind == Some(Kind::Nft) {
            return Ok(Self::Nft(nft?));
        }
        match nft {
            Ok(mut nft) => {
                if nft.is_there() {
                    return Ok(Self::Nft(nft));
                }
            }
            Err(nft::Error::Unusable(e)) if e.raw_os_error() == Some(libc::EPROTONOSUPPORT) => {}
            Err(e) => return Err(e.into()),
        }
        match Iptables::open(memory) {
            Ok(iptables) => Ok(Self::Iptables(iptables)),
            Err(why) => Err(format!("this kernel has no nftables, and {why}").into()),
        }
    }

    /// Makes the kernel agree with `ruleset`; changes nothing when it already does. What the other
    /// backend had in force goes behind it.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn apply(&mut self, ruleset: &Ruleset, memory: &Path) -> Result<Applied, Error> {
        Ok(match self {
            Self::Nft(nft) => {
                let applied = nft.apply(ruleset)?;
                if !applied.changes.is_empty() {
                    let _ = Iptables::remove_leftovers(memory);
                }
                applied
            }
            Self::Iptables(iptables) => {
                let applied = iptables.apply(ruleset)?;
                let _ = Nft::open().and_then(|mut nft| nft.remove());
                applied
            }
        })
    }

    /// Removes everything of ours, of either backend. `false` when there was nothing.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn remove(&mut self, memory: &Path) -> Result<bool, Error> {
        Ok(match self {
            Self::Nft(nft) => nft.remove()? | Iptables::remove_leftovers(memory)?,
            Self::Iptables(iptables) => {
                let other = Nft::open().and_then(|mut nft| nft.remove()).unwrap_or(false);
                iptables.remove()? | other
            }
        })
    }

    /// Compares; without `ruleset` only tells whether anything is there.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn check(&mut self, ruleset: Option<&Ruleset>) -> Result<Found, Error> {
        let nft = match self {
            Self::Nft(nft) => nft,
            Self::Iptables(iptables) => return Ok(iptables.check(ruleset)?),
        };
        let Some(ruleset) = ruleset else {
            return Ok(Found { installed: nft.read()?.is_some(), ..Found::default() });
        };
        let mut changes = nft.check(ruleset)?;
        changes.retain(|c| !c.is_outdated_refusal());
        let installed = !changes.contains(&Change::AddTable);
        let (optional, real): (Vec<_>, Vec<_>) =
            changes.iter().partition(|c| c.is_optional() && installed);
        Ok(Found {
            installed,
            differences: real.iter().map(ToString::to_string).collect(),
            unavailable: optional.iter().map(ToString::to_string).collect(),
        })
    }

    /// Adds `elements` (set and key) for so many milliseconds, only while the rules of `ruleset` are in
    /// force.
    ///
    /// # Errors
    /// See [`Error`]; nothing was added then.
    pub fn add_timed(
        &mut self,
        ruleset: &Ruleset,
        elements: &[(&str, Key)],
        ms: u64,
    ) -> Result<(), Error> {
        match self {
            Self::Nft(nft) => nft.add_timed(ruleset, elements, ms)?,
            Self::Iptables(iptables) => iptables.add_timed(ruleset, elements, ms)?,
        }
        Ok(())
    }

    /// Removes those elements of `sets` that `which` names, and returns them.
    ///
    /// # Errors
    /// See [`Error`]; nothing was removed then.
    pub fn remove_elements<'a>(
        &mut self,
        sets: &[&'a str],
        which: impl Fn(&str, &Key) -> bool,
    ) -> Result<Vec<(&'a str, Key)>, Error> {
        Ok(match self {
            Self::Nft(nft) => nft.remove_elements(sets, which)?,
            Self::Iptables(iptables) => iptables.remove_elements(sets, which)?,
        })
    }

    /// Packets and bytes of each rule, by its id.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn counters(&mut self) -> Result<Vec<Counter>, Error> {
        Ok(match self {
            Self::Nft(nft) => nft.counters()?,
            Self::Iptables(iptables) => iptables.counters()?,
        })
    }

    /// Whether a pause has let a packet out since [`Self::forget_let_out`]. With iptables a pause that is
    /// over is a change of the rules.
    pub fn let_out(&mut self) -> bool {
        let Self::Nft(nft) = self else { return false };
        nft.packets(&PAUSE_RULES, false).is_ok_and(|packets| packets > 0)
    }

    /// See [`Self::let_out`].
    ///
    /// # Errors
    /// When the kernel does not do it.
    pub fn forget_let_out(&mut self) -> Result<(), Error> {
        if let Self::Nft(nft) = self {
            nft.packets(&PAUSE_RULES, true)?;
        }
        Ok(())
    }

    /// The elements of one of our sets; none when it does not exist.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn elements(&mut self, set: &str) -> Result<Vec<Element>, Error> {
        Ok(match self {
            Self::Nft(nft) => nft.elements(set)?,
            Self::Iptables(iptables) => iptables.elements(set)?,
        })
    }

    /// Whether the kernel tells of changes to it.
    pub fn tells(&self) -> bool {
        matches!(self, Self::Nft(_))
    }

    /// The connection, for what else speaks this protocol (connection tracking).
    ///
    /// # Errors
    /// When the kernel has no such protocol.
    pub fn socket(&mut self) -> io::Result<&mut Socket> {
        match self {
            Self::Nft(nft) => Ok(nft.socket()),
            Self::Iptables(iptables) => iptables.socket(),
        }
    }

    /// Ends without waiting for the kernel to free what was deleted. What was applied is in force.
    pub fn close_behind(self) {
        if let Self::Nft(nft) = self {
            nft.close_behind();
        }
    }
}
