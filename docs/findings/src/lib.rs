//! What the reproductions share: a bound on time, and catching panics. No finding lives here.

use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Runs `work` on its own thread for at most three seconds; `late` when it has not ended by then.
/// The thread is then left to the end of the process.
pub fn watched(late: &str, work: impl FnOnce() -> String + Send + 'static) -> String {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(Duration::from_secs(3)).unwrap_or_else(|_| format!("{late} after 3 s"))
}

/// Runs `work` and says how it ended: its own words, or those of its panic.
pub fn outcome(work: impl FnOnce() -> String) -> String {
    panic::set_hook(Box::new(|_| ()));
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    let _ = panic::take_hook();
    result.unwrap_or_else(|e| match e.downcast_ref::<String>() {
        Some(text) => format!("PANIC: {text}"),
        None => "PANIC".to_string(),
    })
}
