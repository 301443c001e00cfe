//! Asking when it is time: for whoever applies, and for the guard.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Bootstrap, Known, now};
use crate::resolve::{Answer, Lookup, Server};

/// How soon it is looked again when there is nobody to ask: an uplink makes itself known, a name server
/// that comes later does not.
const NOBODY: Duration = Duration::from_secs(10);

/// The names of `bootstrap` that are to be asked now.
pub fn due(root: &Path, bootstrap: &Bootstrap) -> Vec<String> {
    if bootstrap.servers.is_empty() {
        return Vec::new();
    }
    let now = now();
    Known::load(root, now).due(&bootstrap.names, now)
}

/// When [`due`] has something to say; `None` while there are no names.
pub fn pause(root: &Path, bootstrap: &Bootstrap) -> Option<Duration> {
    let now = now();
    let left = Known::load(root, now).next(&bootstrap.names, now)?;
    Some(Duration::from_secs(left).max(if bootstrap.servers.is_empty() {
        NOBODY
    } else {
        Duration::ZERO
    }))
}

/// Begins to ask for `names`.
pub fn begin(names: &[String], bootstrap: &Bootstrap) -> Lookup {
    Lookup::new(names, &servers(bootstrap), bootstrap.mark, Instant::now())
}

/// Who is asked.
pub fn servers(bootstrap: &Bootstrap) -> Vec<Server> {
    let server = |(addr, device): &(_, String)| Server::new(*addr, Some(device.clone()));
    bootstrap.servers.iter().map(server).collect()
}

/// Keeps the answers. Whether anything is known now that was not; the caller holds the lock.
///
/// # Errors
/// Why they could not be kept.
pub fn conclude(root: &Path, bootstrap: &Bootstrap, answers: &[Answer]) -> io::Result<bool> {
    let now = now();
    let mut known = Known::load(root, now);
    known.keep_only(&bootstrap.names);
    let news = known.take(answers, now);
    known.save(root)?;
    Ok(news)
}
