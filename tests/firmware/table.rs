//! The counts of all scenarios side by side.

use crate::stage::Count;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// What leaked of how many packets with the program, and without it.
type Cell = [(u32, u32); 2];

/// By scenario, in the order in which they came, and firmware.
static CELLS: Mutex<Vec<(String, BTreeMap<&'static str, Cell>)>> = Mutex::new(Vec::new());

/// Keeps the counts of a scenario.
pub fn note(what: &str, firmware: &'static str, product: &Count, control: &Count) {
    let cell = [product, control].map(|count| (count.leaked(), count.sent()));
    let mut cells = CELLS.lock().unwrap();
    match cells.iter_mut().find(|(name, _)| name == what) {
        Some((_, row)) => drop(row.insert(firmware, cell)),
        None => cells.push((what.to_owned(), BTreeMap::from([(firmware, cell)]))),
    }
}

/// Prints them.
pub fn print(firmwares: &[&'static str]) {
    let cells = CELLS.lock().unwrap();
    if cells.is_empty() {
        return;
    }
    print!("packets that left in clear: vpn-killswitch / the one-line rule\n\n{:28}", "");
    firmwares.iter().for_each(|name| print!("{name:>30}"));
    println!();
    for (what, row) in cells.iter() {
        print!("{what:28}");
        for name in firmwares {
            let cell =
                row.get(name).map(|[p, c]| format!("{} of {} / {} of {}", p.0, p.1, c.0, c.1));
            print!("{:>30}", cell.unwrap_or_default());
        }
        println!();
    }
    println!();
}
