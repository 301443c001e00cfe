//! The program's own log: lines to syslog that never wait.
//!
//! Enforcement must not hang on a full or missing log: the socket does not block, a line that cannot be
//! delivered is dropped, and a log that was restarted is found again with the next line. By hand, on a
//! terminal, lines go there.

use std::io::{self, IsTerminal as _};
use std::os::unix::net::UnixDatagram;

use crate::streams;

/// Where syslogd listens (OpenWrt's logd as well).
const SOCKET: &str = "/dev/log";
/// `LOG_DAEMON`, in the upper bits of a priority (RFC 3164, section 4.1.1).
const DAEMON: u8 = 3 << 3;
/// What one line may hold; the rest is cut.
const LINE_MAX: usize = 900;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Protection could not be made complete.
    Error = 3,
    /// Something was repaired, or wants attention.
    Warning = 4,
    /// A change of state.
    Notice = 5,
}

/// An open log.
#[derive(Debug, Default)]
pub struct Log {
    socket: Option<UnixDatagram>,
}

impl Log {
    /// Writes one line.
    pub fn write(&mut self, level: Level, text: &str) {
        let mut end = text.len().min(LINE_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = text.get(..end).unwrap_or_default();
        let watched = streams::errors().is_terminal();
        if watched || !self.send(level, text) {
            // Whoever started us may read it; procd does.
            streams::complain(text);
        }
    }

    fn send(&mut self, level: Level, text: &str) -> bool {
        let line =
            format!("<{}>vpn-killswitch[{}]: {text}", DAEMON | level as u8, std::process::id());
        // The second try is for a log that was restarted: its old socket refuses.
        for _ in 0..2 {
            if self.socket.is_none() {
                self.socket = connect().ok();
            }
            match self.socket.as_ref().map(|s| s.send(line.as_bytes())) {
                Some(Ok(_)) => return true,
                // Full: the line is lost, which is better than to wait.
                Some(Err(e)) if e.kind() == io::ErrorKind::WouldBlock => return true,
                _ => self.socket = None,
            }
        }
        false
    }
}

fn connect() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(SOCKET)?;
    Ok(socket)
}
