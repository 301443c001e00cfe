//! Backends: the rule model → a kernel's firewall, and back. They translate and decide nothing; what
//! one cannot express is an error, never left out.
//!
//! This is the one seam between them and [`crate::control`].

pub mod nft;

use std::fmt;

use crate::netlink::Socket;
use crate::ruleset::build::PAUSE_RULES;
use crate::ruleset::{Key, Ruleset};
use nft::read::{Counter, Element};
use nft::{Change, Nft};

/// Why an operation failed. What was in force before still is.
#[derive(Debug)]
pub enum Error {
    /// nftables.
    Nft(nft::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nft(error) => error.fmt(f),
        }
    }
}

impl From<nft::Error> for Error {
    fn from(error: nft::Error) -> Self {
        Self::Nft(error)
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
}

impl Backend {
    /// Opens what this kernel has.
    ///
    /// # Errors
    /// When it has none that can be used.
    pub fn open() -> Result<Self, Error> {
        Ok(Self::Nft(Nft::open()?))
    }

    /// Makes the kernel agree with `ruleset`; changes nothing when it already does.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn apply(&mut self, ruleset: &Ruleset) -> Result<Applied, Error> {
        let Self::Nft(nft) = self;
        Ok(nft.apply(ruleset)?)
    }

    /// Removes everything of ours. `false` when there was nothing.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn remove(&mut self) -> Result<bool, Error> {
        let Self::Nft(nft) = self;
        Ok(nft.remove()?)
    }

    /// Compares; without `ruleset` only tells whether anything is there.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn check(&mut self, ruleset: Option<&Ruleset>) -> Result<Found, Error> {
        let Self::Nft(nft) = self;
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
        let Self::Nft(nft) = self;
        Ok(nft.add_timed(ruleset, elements, ms)?)
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
        let Self::Nft(nft) = self;
        Ok(nft.remove_elements(sets, which)?)
    }

    /// Packets and bytes of each rule, by its id.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn counters(&mut self) -> Result<Vec<Counter>, Error> {
        let Self::Nft(nft) = self;
        Ok(nft.counters()?)
    }

    /// Whether a pause has let a packet out since [`Self::forget_let_out`].
    pub fn let_out(&mut self) -> bool {
        let Self::Nft(nft) = self;
        nft.packets(&PAUSE_RULES, false).is_ok_and(|packets| packets > 0)
    }

    /// See [`Self::let_out`].
    ///
    /// # Errors
    /// When the kernel does not do it.
    pub fn forget_let_out(&mut self) -> Result<(), Error> {
        let Self::Nft(nft) = self;
        nft.packets(&PAUSE_RULES, true)?;
        Ok(())
    }

    /// The elements of one of our sets; none when it does not exist.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn elements(&mut self, set: &str) -> Result<Vec<Element>, Error> {
        let Self::Nft(nft) = self;
        Ok(nft.elements(set)?)
    }

    /// The connection, for what else speaks this protocol (connection tracking).
    pub fn socket(&mut self) -> &mut Socket {
        let Self::Nft(nft) = self;
        nft.socket()
    }

    /// Ends without waiting for the kernel to free what was deleted. What was applied is in force.
    pub fn close_behind(self) {
        let Self::Nft(nft) = self;
        nft.close_behind();
    }
}
