//! syslog 7: a log daemon that does not read, and one that is restarted.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

use findings::watched;
use syslog::{Facility, Formatter3164, Logger, LoggerBackend};

fn connect(path: &Path) -> Logger<LoggerBackend, Formatter3164> {
    let (process, facility) = ("findings".to_string(), Facility::LOG_DAEMON);
    let formatter = Formatter3164 { facility, hostname: None, process, pid: 1 };
    syslog::unix_custom(formatter, path).expect("connect")
}

/// The daemon's end, non-blocking; an earlier one's name is taken over.
fn daemon(path: &Path) -> UnixDatagram {
    let _ = fs::remove_file(path);
    let socket = UnixDatagram::bind(path).expect("bind");
    socket.set_nonblocking(true).expect("non-blocking");
    socket
}

fn main() {
    static SENT: AtomicU32 = AtomicU32::new(0);
    let dir: PathBuf = env::temp_dir().join(format!("findings-syslog-{}", process::id()));
    fs::create_dir(&dir).expect("temporary directory");
    let path = dir.join("log");

    let _deaf = daemon(&path);
    let mut log = connect(&path);
    let seen = watched("STILL BLOCKED in err()", move || {
        while SENT.load(Ordering::Relaxed) < 100_000 && log.err("the tunnel is down").is_ok() {
            SENT.fetch_add(1, Ordering::Relaxed);
        }
        "all were sent".to_string()
    });
    println!("daemon that does not read: {} messages, then {seen}", SENT.load(Ordering::Relaxed));

    let first = daemon(&path);
    let mut log = connect(&path);
    println!("before a restart: {:?}", log.err("one").map_err(|e| format!("{e:?}")));
    drop(first);
    let second = daemon(&path);
    for attempt in 1..=3 {
        println!("after it, message {attempt}: {:?}", log.err("x").map_err(|e| format!("{e:?}")));
    }
    println!("the new daemon received: {:?}", second.recv(&mut [0; 64]).map_err(|e| e.kind()));
    fs::remove_dir_all(&dir).expect("remove the directory");
}
