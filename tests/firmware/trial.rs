//! Floods while something happens to a router, and what of them left by an uplink.

use crate::lab::Res;
use crate::lab::ns::Ns;
use crate::lab::packet::Packet;
use crate::lab::topology::internet;
use crate::lab::traffic::{Flood, Flow, Sent};
use crate::lab::watch::{Seen, Watch};
use crate::stage::Stage;
use std::collections::{BTreeMap, HashSet};
use std::fmt;

/// Packets a second of each flow.
const RATE: u32 = 250;
/// Packets of each flow for a step that needs some.
pub const SOME: u32 = 25;

/// Who sends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Who {
    Lan,
    Guest,
    Router,
}

/// Floods while something happens, watched from before to after.
pub struct Trial {
    pub watch: Watch,
    sources: Vec<Source>,
}

struct Source {
    who: Who,
    flood: Flood,
    /// Packets numbered from here count.
    from: u32,
}

impl Trial {
    /// All kinds of packets from each of these; all of them count.
    pub fn start(stage: &Stage, from: &[(Who, &Ns)], rate: u32) -> Res<Self> {
        let watch = stage.lab.watch()?;
        let source = |(who, ns): &(Who, &Ns)| Source {
            who: *who,
            flood: Flood::start(ns, None, Flow::all_kinds(&internet()), rate),
            from: 0,
        };
        let trial = Self { watch, sources: from.iter().map(source).collect() };
        trial.more()?;
        Ok(trial)
    }

    /// From the clients of a stage.
    pub fn of(stage: &Stage) -> Res<Self> {
        Self::start(stage, &stage.clients(), RATE)
    }

    /// Lets some more packets go.
    pub fn more(&self) -> Res<()> {
        self.sources.iter().try_for_each(|s| s.flood.more(SOME))
    }

    /// Only what is sent from now on counts.
    pub fn count_from_here(&mut self) {
        // A packet is counted behind its sending.
        self.sources.iter_mut().for_each(|s| s.from = s.flood.now() + 1);
    }

    /// Stops; what left by an uplink.
    pub fn finish(self) -> Res<Count> {
        self.more()?;
        let mut ended = Vec::new();
        for source in self.sources {
            ended.push((source.who, source.from, source.flood.stop()?));
        }
        Ok(Count::of(&self.watch.finish()?, &ended))
    }
}

/// Packets, and how many of them left by an uplink: of each sender and family.
#[derive(Clone, Default, Debug)]
pub struct Count {
    parts: BTreeMap<(Who, u8), (u32, u32)>,
    /// What had no business on the uplink and is nobody's packet, and the first of the others.
    pub others: Vec<String>,
    first: Vec<String>,
}

impl Count {
    fn of(seen: &Seen, ended: &[(Who, u32, Vec<Sent>)]) -> Self {
        let mut count = Self::default();
        for (who, from, sent) in ended {
            for s in sent {
                let family = if s.flow.to.is_ipv4() { 4 } else { 6 };
                let part = count.parts.entry((*who, family)).or_default();
                part.0 += s.sent.saturating_sub(*from);
                let mine =
                    |p: &&Packet| p.mark.is_some_and(|m| m.flow == s.flow.id && m.seq >= *from);
                // In an error it is the mark of the packet that it answers.
                let (errors, own): (Vec<_>, Vec<_>) =
                    seen.strays().filter(mine).partition(|p| p.is_icmp_error());
                // An answer that does not find its client may go back and forth.
                part.1 += own.iter().filter_map(|p| p.mark).collect::<HashSet<_>>().len() as u32;
                count.first.extend(own.iter().take(8).map(|p| format!("{who:?}: {p}")));
                count.others.extend(errors.iter().map(ToString::to_string));
            }
        }
        let nobodys = seen.strays().filter(|p| p.mark.is_none());
        count.others.extend(nobodys.map(ToString::to_string));
        count.first.truncate(8);
        count
    }

    /// Packets that left in clear.
    pub fn leaked(&self) -> u32 {
        self.parts.values().map(|(_, leaked)| leaked).sum::<u32>() + self.others.len() as u32
    }

    /// Packets that were sent.
    pub fn sent(&self) -> u32 {
        self.parts.values().map(|(sent, _)| sent).sum()
    }

    /// An error if anything leaked.
    pub fn tight(&self) -> Res<()> {
        if self.leaked() == 0 && self.sent() > 0 {
            return Ok(());
        }
        let lines = [&self.first[..], &self.others].concat();
        let lines: Vec<_> = lines.iter().take(12).map(String::as_str).collect();
        Err(format!("leaked {self}\n    {}", lines.join("\n    ")).into())
    }

    /// An error unless these leaked: the negative control. A quarter is enough: the way out may not be
    /// there all the time, and of a protocol without ports one client at a time gets through
    /// masquerading.
    pub fn leaks(&self, parts: &[(Who, u8)]) -> Res<()> {
        for part in parts {
            let (sent, leaked) = self.parts.get(part).copied().unwrap_or_default();
            if sent == 0 || leaked * 4 < sent {
                return Err(
                    format!("the control does not leak as it does: {part:?}: {self}").into()
                );
            }
        }
        Ok(())
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for ((who, family), (sent, leaked)) in &self.parts {
            let comma = if std::mem::take(&mut first) { "" } else { ", " };
            let who = match who {
                Who::Lan => "LAN",
                Who::Guest => "guests",
                Who::Router => "router",
            };
            write!(f, "{comma}{who} IPv{family} {leaked} of {sent}")?;
        }
        if self.others.is_empty() { Ok(()) } else { write!(f, ", {} unmarked", self.others.len()) }
    }
}
