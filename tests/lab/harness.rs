//! A harness for tests that have more to say than that they passed.

use super::Res;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// A test; what it found is printed beside its name.
pub struct Test {
    pub name: &'static str,
    pub run: fn() -> Res<String>,
}

/// Runs the tests that the arguments ask for. A panic is a failure like any other.
pub fn main(tests: &[Test]) -> ExitCode {
    let arguments = Arguments::read();
    let tests: Vec<_> = tests.iter().filter(|t| arguments.wants(t.name)).collect();
    if arguments.list {
        tests.iter().for_each(|t| println!("{}: test", t.name));
        return ExitCode::SUCCESS;
    }
    // Before there are other threads: without root this starts the program again.
    if let Err(e) = super::ns::prepare() {
        eprintln!("{e}");
        return ExitCode::FAILURE;
    }
    let began = Instant::now();
    println!("\nrunning {} tests", tests.len());
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| {
                while let Some(test) = tests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let began = Instant::now();
                    let result = std::panic::catch_unwind(test.run)
                        .unwrap_or_else(|_| Err("panicked".into()));
                    let took = began.elapsed().as_secs_f64();
                    match result {
                        Ok(found) => {
                            println!("test {} ... ok ({took:.1} s)\n    {found}", test.name)
                        }
                        Err(e) => {
                            println!("test {} ... FAILED ({took:.1} s)\n    {e}", test.name);
                            failed.lock().unwrap().push(test.name);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_default();
    println!(
        "\ntest result: {}. {} passed; {} failed; finished in {:.2}s\n",
        if failed.is_empty() { "ok" } else { "FAILED" },
        tests.len() - failed.len(),
        failed.len(),
        began.elapsed().as_secs_f64()
    );
    failed.iter().for_each(|name| println!("    {name}"));
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The arguments that `cargo test` and its users give.
pub struct Arguments {
    filters: Vec<String>,
    exact: bool,
    /// Only the names are asked for.
    pub list: bool,
    /// How many tests run side by side.
    pub threads: usize,
}

impl Arguments {
    /// Reads those of this process.
    pub fn read() -> Self {
        let mut found = Self { filters: Vec::new(), exact: false, list: false, threads: 3 };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--exact" => found.exact = true,
                "--list" => found.list = true,
                "--test-threads" => {
                    let number = words.next().and_then(|n| n.parse().ok());
                    found.threads = number.unwrap_or(found.threads).max(1);
                }
                // Those of the standard harness that mean nothing here.
                _ if word.starts_with('-') => {}
                _ => found.filters.push(word),
            }
        }
        found
    }

    /// Whether a test of this name is to run.
    pub fn wants(&self, name: &str) -> bool {
        self.filters.is_empty()
            || self.filters.iter().any(|f| if self.exact { name == f } else { name.contains(f) })
    }
}
