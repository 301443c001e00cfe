//! The life of a protected router: reloads, flushes, boots, hooks, tunnels that come and go, and a
//! guard that dies, each with real packets and a capture on the uplink for the whole time.
//!
//! Every test has its negative control in the same run: protection is switched off at the end, and
//! what was refused must then be seen on the uplink. What was measured is printed.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a wrong index is a failed test"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes of socket structures and counts of a few thousand packets"
)]

#[path = "life/boot.rs"]
mod boot;
#[path = "life/flush.rs"]
mod flush;
#[path = "life/guard.rs"]
mod guard;
#[path = "life/hooks.rs"]
mod hooks;
mod lab;
#[path = "life/log.rs"]
mod log;
#[path = "life/sockets.rs"]
mod sockets;
#[path = "life/stage.rs"]
mod stage;
#[path = "life/survive.rs"]
mod survive;
#[allow(dead_code, reason = "tests/faults uses the rest")]
#[path = "faults/tracee.rs"]
mod tracee;
#[path = "life/tunnels.rs"]
mod tunnels;

use lab::harness::{Test, main as run};
use std::process::ExitCode;

/// Tests by their paths; the longest first, so that none is alone at the end.
macro_rules! tests {
    ($($module:ident::$name:ident,)*) => {
        &[$(Test { name: concat!(stringify!($module), "::", stringify!($name)), run: $module::$name },)*]
    };
}

const TESTS: &[Test] = tests![
    flush::with_guard,
    log::one_line_a_minute_for_each_client,
    guard::killed_at_every_step,
    boot::order_of_devices,
    flush::without_guard,
    tunnels::tun_recreated_with_guard,
    guard::fought,
    boot::broken_configuration,
    boot::broken_configuration_with_guard,
    guard::broken_configuration_mended,
    hooks::storm_of_applies,
    hooks::storm_of_hooks,
    hooks::never_opens,
    survive::sysupgrade,
    survive::refused,
    hooks::management,
    tunnels::wireguard,
    tunnels::tun_recreated_with_hooks,
    tunnels::tun_without_carrier,
    tunnels::failover,
    guard::two_at_once,
    guard::idle,
    log::forged_sources_and_a_full_set,
    boot::switched_off,
    flush::without_guard_and_second_layer,
    sockets::raw_ip_sockets_are_refused,
    sockets::known_limit_packet_sockets_leak_without_a_third_layer,
];

fn main() -> ExitCode {
    run(TESTS)
}
