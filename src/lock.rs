//! One apply at a time.
//!
//! Hotplug hooks run side by side; without order, the one that read the older state could write last.
//! The lock is `flock` on a file, so it ends with the process that holds it, however that dies.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// The lock file, below the root directory; on a router it is in memory.
const PATH: &str = "var/run/vpn-killswitch.lock";
/// Held by the one hook that waits for the lock.
const NEXT: &str = "var/run/vpn-killswitch.next";
/// Longer than many applies in a row take; whoever holds the lock longer hangs.
const PATIENCE: Duration = Duration::from_secs(20);
/// Nobody may hold up the system's hooks for long.
const PATIENCE_HOOK: Duration = Duration::from_secs(5);
/// Held by the guard for as long as it runs.
const GUARD: &str = "var/run/vpn-killswitch.guard";
/// Who looks whether the guard runs holds its lock for an instant.
const GLANCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(5);

/// Holds the lock until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Waits for the lock.
///
/// # Errors
/// `WouldBlock` when another process keeps it; otherwise why there is nothing to lock.
pub fn acquire(root: &Path) -> io::Result<Lock> {
    take(open(root)?, libc::LOCK_EX, PATIENCE)
}

/// Waits for the lock as a hook: of those that come while another one is waiting, none waits. That one
/// looks at the system only when it has the lock, so it sees what the others were called for.
///
/// # Errors
/// As [`acquire`], but sooner. `None`: another hook does the work.
pub fn acquire_for_all(root: &Path) -> io::Result<Option<Lock>> {
    // Without a place for that file every hook waits.
    let next = match file(root, NEXT).map(|file| take(file, libc::LOCK_EX, Duration::ZERO)) {
        Ok(Err(e)) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        other => other.ok(),
    };
    let lock = take(open(root)?, libc::LOCK_EX, PATIENCE_HOOK)?;
    // From here on, what happens may be seen too late: the next hook has to wait for its turn.
    drop(next);
    Ok(Some(lock))
}

/// Says that the guard runs, until what is returned is dropped.
///
/// # Errors
/// Why it cannot be said; then others do for themselves what the guard would do for them.
pub fn guard(root: &Path) -> io::Result<Lock> {
    take(file(root, GUARD)?, libc::LOCK_EX, GLANCE)
}

/// Whether a guard runs.
pub fn guard_runs(root: &Path) -> bool {
    File::open(root.join(GUARD)).is_ok_and(|file| {
        take(file, libc::LOCK_SH, Duration::ZERO)
            .is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
    })
}

fn take(file: File, kind: libc::c_int, patience: Duration) -> io::Result<Lock> {
    let deadline = Instant::now() + patience;
    loop {
        // SAFETY: flock(2) takes no pointers, and `file` is open.
        if unsafe { libc::flock(file.as_raw_fd(), kind | libc::LOCK_NB) } == 0 {
            return Ok(Lock { _file: file });
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::WouldBlock if Instant::now() < deadline => std::thread::sleep(PAUSE),
            _ => return Err(error),
        }
    }
}

fn open(root: &Path) -> io::Result<File> {
    file(root, PATH)
        // Full or read-only: protection must not wait for disk space. A folder can be locked too.
        .or_else(|_| File::open(root.join("etc/config")))
        .or_else(|_| File::open(root))
}

fn file(root: &Path, path: &str) -> io::Result<File> {
    let path = root.join(path);
    if let Some(folder) = path.parent() {
        // If this fails, so does the next step, and that is the error to act on.
        let _ = fs::create_dir_all(folder);
    }
    // Nobody else may open it, or they could hold the lock and keep the rules from being repaired.
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        // A FIFO in its place would make us wait for a reader.
        .custom_flags(libc::O_NONBLOCK)
        .open(&path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_waits_for_the_first() {
        let root = std::env::temp_dir().join(format!("vpn-killswitch-lock-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        let first = acquire(&root).unwrap();
        let (root2, started) = (root.clone(), Instant::now());
        let second = std::thread::spawn(move || acquire(&root2).map(|_| started.elapsed()));
        std::thread::sleep(Duration::from_millis(50));
        drop(first);
        assert!(second.join().unwrap().unwrap() >= Duration::from_millis(50));
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn of_many_hooks_one_waits_and_the_next_to_come_waits_for_it() {
        let root = std::env::temp_dir().join(format!("vpn-killswitch-next-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        let working = acquire(&root).unwrap();
        let root2 = root.clone();
        let waiting = std::thread::spawn(move || acquire_for_all(&root2));
        let held = || {
            let next = file(&root, NEXT).map(|next| take(next, libc::LOCK_EX, Duration::ZERO));
            matches!(next, Ok(Err(e)) if e.kind() == io::ErrorKind::WouldBlock)
        };
        while !held() {
            std::thread::sleep(PAUSE);
        }
        assert!(acquire_for_all(&root).unwrap().is_none());
        drop(working);
        let working = waiting.join().unwrap().unwrap();
        assert!(working.is_some() && !held());
        drop(working);
        assert!(acquire_for_all(&root).unwrap().is_some());
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_guard_is_seen_while_it_runs() {
        let root = std::env::temp_dir().join(format!("vks-lock-guard-{}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        assert!(!guard_runs(&root));
        let held = guard(&root).unwrap();
        assert!(guard_runs(&root) && guard_runs(&root));
        drop(held);
        assert!(!guard_runs(&root));
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn without_a_place_for_a_file_a_folder_is_locked() {
        let root =
            std::env::temp_dir().join(format!("vpn-killswitch-lockdir-{}", std::process::id()));
        fs::create_dir_all(root.join("etc/config")).unwrap();
        fs::write(root.join("var"), "in the way").unwrap();
        assert!(acquire(&root).is_ok());
        assert!(acquire_for_all(&root).is_ok_and(|lock| lock.is_some()));
        fs::remove_dir_all(&root).unwrap();
    }
}
