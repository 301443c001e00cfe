//! Asking when it is time: for whoever applies, and for the guard.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Bootstrap, Known, now};
use crate::resolve::{Answer, Lookup, Server};

/// The names of `bootstrap` that are to be asked now. `again`: those that were asked for in vain are,
/// however short ago.
pub fn due(root: &Path, bootstrap: &Bootstrap, again: bool) -> Vec<String> {
    if bootstrap.servers.is_empty() {
        return Vec::new();
    }
    let now = now();
    Known::load(root, now).due(&bootstrap.names, now, again)
}

/// When [`due`] has something to say; `None` while there are no names, or nobody to ask.
pub fn pause(root: &Path, bootstrap: &Bootstrap) -> Option<Duration> {
    if bootstrap.servers.is_empty() {
        return None;
    }
    let now = now();
    Known::load(root, now).next(&bootstrap.names, now).map(Duration::from_secs)
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
    let news = known.take(answers, now);
    known.keep_only(&bootstrap.names);
    known.save(root)?;
    Ok(news)
}
