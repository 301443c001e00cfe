//! Leak tests (to come).
fn main() {}
