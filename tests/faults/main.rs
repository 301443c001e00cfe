//! Faults: whatever goes wrong while the program works, the router keeps the old policy or has the
//! new one, and the user is told (G5, G6; scenario 11).

#![allow(clippy::indexing_slicing, reason = "test code: a wrong index is a failed test")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "process ids, registers and counts of a few thousand packets"
)]

#[path = "../lab/mod.rs"]
mod lab;

mod disk;
mod inject;
mod input;
mod kernel;
mod kill;
mod leak;
mod routing;
mod stage;
mod together;
mod tracee;
