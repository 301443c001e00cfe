//! The three streams that a program is started with.
//!
//! Responsible for using them as they are: the standard library's own have buffers and locks, which are
//! thousands of bytes for a program of one thread. Must not close them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, IntoRawFd as _, RawFd};

/// What Rust's own runtime does before a program's first line.
pub fn prepare() {
    // Or a stream that was not given to us would be the next file that is opened.
    while let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null")
        && null.as_raw_fd() <= libc::STDERR_FILENO
    {
        let _stays_open = null.into_raw_fd();
    }
    // SAFETY: ignoring a signal runs no code of ours. A reader that went away is an error then.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Standard input.
///
/// # Errors
/// When there are too many open files.
pub fn input() -> io::Result<File> {
    copy(libc::STDIN_FILENO)
}

/// Standard output.
///
/// # Errors
/// When there are too many open files.
pub fn output() -> io::Result<File> {
    copy(libc::STDOUT_FILENO)
}

/// Where complaints go.
///
/// # Errors
/// When there are too many open files.
pub fn errors() -> io::Result<File> {
    copy(libc::STDERR_FILENO)
}

/// Writes each line of a complaint, with the program's name.
pub fn complain(text: &str) {
    let Ok(mut errors) = errors() else { return };
    for line in text.lines() {
        let _ = errors.write_all(format!("vpn-killswitch: {line}\n").as_bytes());
    }
}

fn copy(number: RawFd) -> io::Result<File> {
    // SAFETY: the three are open from `prepare` on, and nothing closes them.
    let stream = unsafe { BorrowedFd::borrow_raw(number) };
    stream.try_clone_to_owned().map(File::from)
}
