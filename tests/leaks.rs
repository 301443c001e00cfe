//! Leak tests: real packets through a real router in network namespaces, judged by captures on
//! the far side of its uplinks.
//!
//! Every scenario runs with the kill switch and, as its negative control, without: a suite that
//! does not see the others leak proves nothing. At the end all counts are printed in one table,
//! to be compared with the table of what other kill switches leak.
//!
//! A name is `scenario/system`. Arguments as for any Rust test: filters, `--exact`, `--list`,
//! `--test-threads N`.

#![allow(clippy::indexing_slicing, reason = "test code: a wrong index is a failed test")]
#![allow(clippy::cast_possible_truncation, reason = "counts of a few thousand packets")]

#[path = "leaks/forward.rs"]
mod forward;
#[path = "leaks/inbound.rs"]
mod inbound;
mod lab;
#[path = "leaks/router.rs"]
mod router;
#[path = "leaks/stage.rs"]
mod stage;
#[path = "leaks/works.rs"]
mod works;

use lab::harness::Arguments;
use stage::{Outcome, Scenario, Stage, System};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

struct Job {
    row: usize,
    name: String,
    scenario: &'static Scenario,
    system: System,
    /// Debian's kind of iptables that holds the product's rules; without, nftables.
    iptables: Option<&'static str>,
}

impl Job {
    fn column(&self) -> usize {
        match self.iptables {
            None => self.system.column(),
            Some("legacy") => 6,
            Some(_) => 7,
        }
    }
}

/// Whether the story is told with iptables too. The second layer alone is the same there, the guard has
/// no notices, and nothing of the first one is left when somebody flushes all chains.
fn with_iptables(scenario: &Scenario, system: System, kind: &str) -> bool {
    let flushed = scenario.name == "forward::firewall_reloaded" && kind == "legacy";
    !system.is_control()
        && system != stage::LAYER2
        && system != stage::GUARDED
        && !(system == stage::LAYER1 && flushed)
}

fn main() -> ExitCode {
    let arguments = Arguments::read();
    let scenarios = forward::SCENARIOS
        .iter()
        .chain(router::SCENARIOS)
        .chain(inbound::SCENARIOS)
        .chain(works::SCENARIOS);
    let mut jobs = Vec::new();
    for (row, scenario) in scenarios.enumerate() {
        for (system, _) in scenario.systems {
            for iptables in [None, Some("legacy"), Some("nft")] {
                let mut name = format!("{}/{}", scenario.name, system.name());
                if let Some(kind) = iptables {
                    if !with_iptables(scenario, *system, kind) {
                        continue;
                    }
                    name = format!("{name}+iptables-{kind}");
                }
                if arguments.wants(&name) {
                    jobs.push(Job { row, name, scenario, system: *system, iptables });
                }
            }
        }
    }
    if arguments.list {
        jobs.iter().for_each(|job| println!("{}: test", job.name));
        return ExitCode::SUCCESS;
    }
    // Before there are other threads: without root this starts the program again.
    if let Err(e) = lab::ns::prepare() {
        eprintln!("leaks: {e}");
        return ExitCode::FAILURE;
    }
    let began = Instant::now();
    println!("\nrunning {} tests", jobs.len());
    let (next, done) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = run(job);
                    match &result {
                        Ok(outcome) => println!("test {} ... ok ({outcome})", job.name),
                        Err(e) => println!("test {} ... FAILED\n    {e}", job.name),
                    }
                    let Ok(mut done) = done.lock() else { return };
                    done.insert((job.row, job.column(), job.name.clone()), result);
                }
            });
        }
    });
    let done = done.into_inner().unwrap_or_default();
    table(&jobs, &done);
    let failed: Vec<_> = done.iter().filter(|(_, result)| result.is_err()).collect();
    for ((_, _, name), result) in &failed {
        println!("---- {name}\n{}\n", result.as_ref().err().map_or("", String::as_str));
    }
    let good = failed.is_empty() && done.len() == jobs.len();
    println!(
        "test result: {}. {} passed; {} failed; finished in {:.2}s\n",
        if good { "ok" } else { "FAILED" },
        done.len() - failed.len(),
        failed.len() + (jobs.len() - done.len()),
        began.elapsed().as_secs_f64()
    );
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One scenario on one system, in a laboratory of its own. A panic is a failure like any other.
fn run(job: &Job) -> Result<Outcome, String> {
    let caught = std::panic::catch_unwind(|| -> lab::Res<Outcome> {
        let mut stage = Stage::new(job.system, job.iptables)?;
        let mut outcome = (job.scenario.run)(&mut stage)?;
        if job.system == stage::LAYER2 {
            outcome = outcome.without_own_answers();
        }
        job.scenario.judge(job.system, &outcome)?;
        Ok(outcome)
    });
    match caught {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("panicked".to_owned()),
    }
}

type Done = BTreeMap<(usize, usize, String), Result<Outcome, String>>;

/// All counts: rows are scenarios, columns are systems.
fn table(jobs: &[Job], done: &Done) {
    println!("\nLeaked packets (IPv4 + IPv6), seen on the uplink's far side");
    println!("ok: nothing leaked and what must work did; –: not of that family; empty: not run");
    println!("Where vpn-killswitch ran in several modes, the worst is shown.\n");
    let heads = [
        "no kill switch",
        "DD-WRT rule",
        "zones",
        "vpn-killswitch",
        "layer 1 alone",
        "layer 2 alone",
        "iptables-legacy",
        "iptables-nft",
    ];
    print!("{:<34}", "");
    heads.iter().for_each(|head| print!("{head:>16}"));
    println!("\n{}", "─".repeat(34 + 16 * heads.len()));
    let mut rows: Vec<usize> = jobs.iter().map(|job| job.row).collect();
    rows.dedup();
    for row in rows {
        let Some(job) = jobs.iter().find(|job| job.row == row) else { continue };
        print!("{:<34}", job.scenario.name);
        for column in 0..heads.len() {
            let cells: Vec<_> =
                done.iter().filter(|(key, _)| (key.0, key.1) == (row, column)).collect();
            let text = match cells.as_slice() {
                [] => String::new(),
                _ if cells.iter().any(|(_, result)| result.is_err()) => "FAILED".to_owned(),
                // Several modes of the product share a column: the worst is shown.
                _ => cells
                    .iter()
                    .filter_map(|(_, result)| result.as_ref().ok())
                    .max_by_key(|outcome| outcome.leaked())
                    .map(Outcome::cell)
                    .unwrap_or_default(),
            };
            print!("{text:>16}");
        }
        println!();
    }
    println!();
}
