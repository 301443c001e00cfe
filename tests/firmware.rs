//! DD-WRT, FreshTomato and Asuswrt-Merlin, played: each firmware's own order of things at boot, when its
//! firewall starts again and when its uplink comes back, by BusyBox's shell in the laboratory's router,
//! with real packets and a capture on the uplink for the whole time.
//!
//! Every scenario is told twice: with the program, which must be tight, and with the rule with which this
//! project began, which must leak where it does. What was counted is printed, and a table at the end.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a wrong index is a failed test"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes of kernel structures and counts of a few thousand packets"
)]

mod lab;
#[path = "firmware/machine.rs"]
mod machine;
#[path = "firmware/scenarios.rs"]
mod scenarios;
#[path = "firmware/stage.rs"]
mod stage;
#[path = "firmware/table.rs"]
mod table;
#[path = "firmware/trial.rs"]
mod trial;

use lab::harness::{Arguments, Test, main as run};
use stage::{DDWRT, MERLIN, TOMATO};
use std::process::ExitCode;

fn main() -> ExitCode {
    // The longest first, so that none is alone at the end.
    let result = run(&[
        Test { name: "ddwrt::restarts", run: || scenarios::restarts(&DDWRT) },
        Test { name: "ddwrt::links", run: || scenarios::links(&DDWRT) },
        Test { name: "tomato::links", run: || scenarios::links(&TOMATO) },
        Test { name: "merlin::links", run: || scenarios::links(&MERLIN) },
        Test { name: "ddwrt::boot", run: || scenarios::boot(&DDWRT) },
        Test { name: "tomato::boot", run: || scenarios::boot(&TOMATO) },
        Test { name: "merlin::boot", run: || scenarios::boot(&MERLIN) },
        Test {
            name: "ddwrt::without_second_layer",
            run: || scenarios::without_second_layer(&DDWRT),
        },
        Test { name: "ddwrt::newer_kernel", run: || scenarios::newer_kernel(&DDWRT) },
        Test { name: "ddwrt::known_limit", run: || scenarios::known_limit(&DDWRT) },
    ]);
    if !Arguments::read().list {
        table::print(&[DDWRT.name, TOMATO.name, MERLIN.name]);
    }
    result
}
