//! The counts of all scenarios side by side.

use crate::lab::Res;
use crate::trial::Count;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// What leaked of how many packets with the program, and without it.
type Cell = [(u32, u32); 2];

/// The scenarios, in their order.
const ROWS: [&str; 12] = [
    "boot, uplink before",
    "boot, uplink after",
    "boot, broken configuration",
    "boot, scripts in nvram",
    "switched on",
    "tunnel loss",
    "firewall restart",
    "100 firewall restarts",
    "guest bridge made again",
    "WAN reconnect",
    "PPPoE: ppp0",
    "owner lets all out",
];

/// By scenario's place and firmware.
static CELLS: Mutex<BTreeMap<(usize, &str), Cell>> = Mutex::new(BTreeMap::new());

/// Keeps the counts of a scenario; an error if there is no row for it.
pub fn note(what: &str, firmware: &'static str, product: &Count, control: &Count) -> Res<()> {
    let cell = [product, control].map(|count| (count.leaked(), count.sent()));
    let place = ROWS.iter().position(|row| *row == what).ok_or("no such row in the table")?;
    CELLS.lock().unwrap().insert((place, firmware), cell);
    Ok(())
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
    for (place, what) in ROWS.iter().enumerate() {
        let row: Vec<_> = firmwares.iter().map(|name| cells.get(&(place, *name))).collect();
        if row.iter().all(Option::is_none) {
            continue;
        }
        print!("{what:28}");
        for cell in row {
            let cell = cell.map(|[p, c]| format!("{} of {} / {} of {}", p.0, p.1, c.0, c.1));
            print!("{:>30}", cell.unwrap_or_default());
        }
        println!();
    }
    println!();
}
