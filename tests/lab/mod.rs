//! The network laboratory: a router with its clients, its uplink and its VPN, made of network
//! namespaces, with generators that count every packet and captures that see every packet.
//!
//! It is responsible for making networks, sending marked packets through them and telling what
//! arrived where. It must not know what is right: the tests and the demonstration judge.
//!
//! Nothing outlives the process, however it ends: a namespace is kept by an open file and has no
//! name, every file lives in a private mount of the thread that made the laboratory, and every
//! child dies with the thread that started it. It also runs without root, in a user namespace.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "test code: a wrong index is a failed test"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes of socket structures and counts of a few thousand packets"
)]

pub mod capture;
pub mod harness;
pub mod ns;
pub mod packet;
pub mod peak;
pub mod product;
pub mod server;
pub mod topology;
pub mod traffic;
pub mod watch;

/// Any failure of the laboratory itself; it always fails the test.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// What the laboratory's functions return.
pub type Res<T> = Result<T, Error>;

/// How many times longer than usual everything may take: `LAB_PATIENCE`, for slow machines.
pub fn patience() -> u32 {
    static PATIENCE: std::sync::LazyLock<u32> = std::sync::LazyLock::new(|| {
        std::env::var("LAB_PATIENCE").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
    });
    *PATIENCE
}

/// Polls `done` until it is true; an error that names `what` when `seconds` have passed.
pub fn wait_for(what: &str, seconds: f64, mut done: impl FnMut() -> bool) -> Res<()> {
    let seconds = seconds * f64::from(patience());
    let end = std::time::Instant::now() + std::time::Duration::from_secs_f64(seconds);
    while !done() {
        if std::time::Instant::now() > end {
            return Err(format!("{what}: not within {seconds} s").into());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    Ok(())
}

/// A folder with the six programs of iptables of one of Debian's kinds, `legacy` or `nft`.
pub fn iptables(kind: &str) -> Res<std::path::PathBuf> {
    let folder = ns::directory("programs")?;
    for name in ["iptables", "ip6tables"] {
        for suffix in ["", "-save", "-restore"] {
            let program = format!("/usr/sbin/{name}-{kind}{suffix}");
            if !std::fs::exists(&program)? {
                return Err(format!("{program} is not there").into());
            }
            std::os::unix::fs::symlink(program, folder.join(format!("{name}{suffix}")))?;
        }
    }
    Ok(folder)
}
