//! The three streams that a program is started with.
//!
//! Responsible for using them as they are: the standard library's own have buffers and locks, which are
//! thousands of bytes for a program of one thread. Must not close them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _, RawFd};

/// One of the streams, as a file that stays open.
pub type Stream = ManuallyDrop<File>;

/// What Rust's own runtime does before a program's first line.
pub fn prepare() {
    // Or a stream that was not given to us would be the next file that is opened.
    while let Ok(null) = null()
        && null.as_raw_fd() <= libc::STDERR_FILENO
    {
        let _stays_open = null.into_raw_fd();
    }
    // SAFETY: ignoring a signal runs no code of ours. A reader that went away is an error then.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Where nothing is read, and what is written is lost.
///
/// # Errors
/// That of opening it.
pub fn null() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/null")
}

/// Standard input.
pub fn input() -> Stream {
    stream(libc::STDIN_FILENO)
}

/// Standard output.
pub fn output() -> Stream {
    stream(libc::STDOUT_FILENO)
}

/// Where complaints go.
pub fn errors() -> Stream {
    stream(libc::STDERR_FILENO)
}

/// Writes each line of a complaint, with the program's name.
pub fn complain(text: &str) {
    let mut errors = errors();
    for line in text.lines() {
        let _ = errors.write_all(format!("vpn-killswitch: {line}\n").as_bytes());
    }
}

fn stream(number: RawFd) -> Stream {
    // SAFETY: the three are open from `prepare` on, and nothing closes them: what is returned is not dropped.
    ManuallyDrop::new(unsafe { File::from_raw_fd(number) })
}
