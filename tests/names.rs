//! Endpoints by name, and time: a router comes up from nothing with the kill switch engaged, with real
//! WireGuard and OpenVPN servers, a real DHCP client, and dnsmasq as the router's resolver and as the
//! provider's.
//!
//! The judgement is a list of all frames on the uplink: whatever is not on a short list of what must be
//! there fails the test, and so does a control that does not leak. The lists are printed.

#![allow(
    clippy::cast_possible_truncation,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a wrong index is a failed test, and counts are small"
)]

#[path = "names/cold.rs"]
mod cold;
mod lab;
#[path = "names/lying.rs"]
mod lying;
#[path = "names/moved.rs"]
mod moved;
#[path = "names/shared.rs"]
mod shared;
#[path = "names/stage.rs"]
mod stage;
#[path = "names/time.rs"]
mod time;
#[path = "names/told.rs"]
mod told;

use lab::harness::{Test, main as run};
use std::process::ExitCode;

/// Tests by their paths; the longest first, so that none is alone at the end.
macro_rules! tests {
    ($($module:ident::$name:ident,)*) => {
        &[$(Test { name: concat!(stringify!($module), "::", stringify!($name)), run: $module::$name },)*]
    };
}

const TESTS: &[Test] = tests![
    moved::openvpn,
    moved::wireguard_of_netifd,
    moved::wireguard_elsewhere,
    cold::wireguard_with_guard,
    cold::wireguard_with_hooks,
    cold::openvpn,
    cold::openvpn_by_ipv6,
    cold::openvpn_by_tcp,
    shared::wireguard_by_its_port,
    shared::wireguard_by_its_mark,
    shared::openvpn_by_its_user,
    lying::lies_are_ignored,
    lying::a_false_address_opens_no_more,
    told::reasons,
    told::dnsmasq_of_openwrt,
    told::dnsmasq_elsewhere,
    told::dnsmasq_untold,
    told::uplink_for_its_own_prefix_only,
    time::listed_and_given,
    time::switched_off,
];

fn main() -> ExitCode {
    run(TESTS)
}
