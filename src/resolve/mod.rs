//! A small resolver: the addresses of a few names, asked of servers that somebody chose.
//!
//! For the names of endpoints and time servers only, because without them the tunnel cannot come up. It
//! asks nobody else, keeps nothing, opens nothing, and decides nothing about its answers but whether
//! they answer the question. It never waits: [`Lookup`] is polled together with other descriptors.

mod socket;
mod task;
mod wire;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::netlink;
use task::{Shared, Task};
use wire::{Kind, Question};

/// A lookup that has taken so long has failed.
const BUDGET: Duration = Duration::from_secs(10);
/// How much longer than for the addresses of one family those of the other are waited for.
const GRACE: Duration = Duration::from_secs(2);
/// Questions that are on their way at the same time.
const QUESTIONS_MAX: usize = 32;
/// Shorter lifetimes would make us ask all the time, longer ones keep what has long moved.
const TTL: std::ops::RangeInclusive<u64> = 60..=86400;
const PORT: u16 = 53;

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where it listens.
    pub addr: SocketAddr,
    /// The only device over which it is asked. A link-local address needs one.
    pub device: Option<String>,
}

impl Server {
    /// A server at the usual port.
    pub fn new(addr: IpAddr, device: Option<String>) -> Self {
        Self { addr: (addr, PORT).into(), device }
    }
}

/// What became of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The name, as it was given.
    pub name: String,
    /// Its addresses, or for a person why there are none.
    pub result: Result<Found, String>,
}

/// The addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// At least one; IPv4 first.
    pub addrs: Vec<IpAddr>,
    /// How long they hold, between a minute and a day.
    pub ttl: Duration,
}

/// A lookup on its way.
pub struct Lookup {
    shared: Shared,
    wanted: Vec<Wanted>,
}

struct Wanted {
    name: String,
    /// IPv4 and IPv6; or why nobody is asked.
    tasks: Result<[Task; 2], &'static str>,
}

impl Lookup {
    /// Begins to ask `servers`, in their order, for all addresses of `names`, with packets that carry
    /// `mark` (0: none).
    pub fn new(names: &[String], servers: &[Server], mark: u32, now: Instant) -> Self {
        Self::within(names, servers, mark, now, BUDGET)
    }

    fn within(
        names: &[String],
        servers: &[Server],
        mark: u32,
        now: Instant,
        budget: Duration,
    ) -> Self {
        let shared = Shared { servers: servers.to_vec(), mark };
        let wanted = names.iter().map(|name| {
            let question = |kind| Question::new(name, kind);
            let tasks = match (question(Kind::A), question(Kind::Aaaa)) {
                (Some(_), Some(_)) if servers.is_empty() => Err("there is no server to ask"),
                (Some(a), Some(aaaa)) => {
                    Ok([a, aaaa].map(|q| Task::new(q, servers.len(), now + budget)))
                }
                _ => Err("this is not a name that a host can have"),
            };
            Wanted { name: name.clone(), tasks }
        });
        let mut lookup = Self { wanted: wanted.collect(), shared };
        lookup.advance(now);
        lookup
    }

    /// What to wait for, with the events of poll(2). Changes with every [`Lookup::advance`].
    pub fn fds(&self) -> Vec<(BorrowedFd<'_>, libc::c_short)> {
        self.tasks().filter_map(Task::fd).collect()
    }

    /// When to go on even if nothing has come; nothing when all is done.
    pub fn deadline(&self) -> Option<Instant> {
        self.tasks().filter_map(Task::deadline).min()
    }

    fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.wanted.iter().flat_map(|w| &w.tasks).flatten()
    }

    /// Takes what has come and goes on as far as that is possible without waiting. Whether all is done.
    pub fn advance(&mut self, now: Instant) -> bool {
        let Self { shared, wanted } = self;
        for tasks in wanted.iter_mut().flat_map(|w| &mut w.tasks) {
            for task in tasks.iter_mut() {
                task.advance(shared, now);
            }
            if tasks.iter().any(|task| matches!(task.outcome(), Some(Ok(_)))) {
                tasks.iter_mut().for_each(|task| task.hurry(now + GRACE));
            }
        }
        let mut room = QUESTIONS_MAX.saturating_sub(self.fds().len());
        let Self { shared, wanted } = self;
        let tasks = wanted.iter_mut().flat_map(|w| &mut w.tasks).flatten();
        for task in tasks.filter(|task| task.is_waiting()) {
            if room == 0 {
                break;
            }
            task.start(shared, now);
            room -= usize::from(task.outcome().is_none());
        }
        self.tasks().all(|task| task.outcome().is_some())
    }

    /// What became of each name, in the order in which they were given. What is still on its way has
    /// failed.
    pub fn finish(self) -> Vec<Answer> {
        let Self { shared, wanted } = self;
        let answer = |Wanted { name, tasks }| {
            let result = tasks.map_err(str::to_owned);
            let result = result.and_then(|tasks| join(tasks.map(|task| task.finish(&shared))));
            Answer { name, result }
        };
        wanted.into_iter().map(answer).collect()
    }
}

/// What is known of one name: one family is enough.
fn join(outcomes: [task::Outcome; 2]) -> Result<Found, String> {
    let (addrs, ttl) = match outcomes {
        [Err(four), Err(six)] if four == six => return Err(four),
        [Err(four), Err(six)] => return Err(format!("{four} (IPv4); {six} (IPv6)")),
        [Ok((four, a)), Ok((six, b))] => ([four, six].concat(), a.min(b)),
        [Ok(one), Err(_)] | [Err(_), Ok(one)] => one,
    };
    let ttl = u64::from(ttl).clamp(*TTL.start(), *TTL.end());
    Ok(Found { addrs, ttl: Duration::from_secs(ttl) })
}

/// Looks up `names` like [`Lookup`], and waits for at most `budget` until all is done.
pub fn resolve(names: &[String], servers: &[Server], mark: u32, budget: Duration) -> Vec<Answer> {
    let mut now = Instant::now();
    let mut lookup = Lookup::within(names, servers, mark, now, budget);
    while let Some(deadline) = lookup.deadline() {
        // Without poll(2) there is only asking again; it fails with too little memory, if ever.
        if netlink::wait(&lookup.fds(), Some(deadline.saturating_duration_since(now))).is_err() {
            break;
        }
        now = Instant::now();
        lookup.advance(now);
    }
    lookup.finish()
}

#[cfg(test)]
mod tests;
