//! Asking when it is time: for whoever applies, and for the guard.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Bootstrap, Known, now};
use crate::resolve::{Answer, Lookup, Server};

/// The names of `bootstrap` that are to be asked now, and when to look again if there are none; `None`
/// while there are no names, or nobody to ask. `again`: those that were asked for in vain are due,
/// however short ago.
pub fn due(root: &Path, bootstrap: &Bootstrap, again: bool) -> (Vec<String>, Option<Duration>) {
    if bootstrap.servers.is_empty() || bootstrap.names.is_empty() {
        return (Vec::new(), None);
    }
    let now = now();
    let known = Known::load(root, now);
    let next = known.next(&bootstrap.names, now).map(Duration::from_secs);
    (known.due(&bootstrap.names, now, again), next)
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
