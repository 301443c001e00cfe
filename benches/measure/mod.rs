//! Measuring on a machine that others use too: alternatives in turns, many rounds, medians of the
//! rounds' own ratios, and how sure they are.
//!
//! Knows nothing of what is measured.

pub mod forward;
pub mod memory;
pub mod process;

use std::fmt;

/// What was measured of one alternative, round by round.
#[derive(Clone, Debug, Default)]
pub struct Series(pub Vec<f64>);

impl Series {
    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// The value below which this part of the rounds lies.
    fn at(&self, part: f64) -> f64 {
        let sorted = self.sorted();
        sorted[((sorted.len() - 1) as f64 * part).round() as usize]
    }

    /// The middle one.
    pub fn median(&self) -> f64 {
        self.at(0.5)
    }

    /// Each round's value divided by the other's of the same round.
    pub fn over(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a / b).collect())
    }

    /// Each round's value less the other's of the same round.
    pub fn less(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a - b).collect())
    }

    /// Where the true median lies, with 95 % confidence and whatever the distribution: the ranks
    /// between which a fair coin's heads fall.
    pub fn sure(&self) -> (f64, f64) {
        let sorted = self.sorted();
        let (n, last) = (sorted.len() as f64, sorted.len() - 1);
        let half = 0.98 * n.sqrt();
        let low = (n / 2.0 - half).floor().max(0.0) as usize;
        let high = ((n / 2.0 + half).ceil() as usize).min(last);
        (sorted[low], sorted[high])
    }
}

impl fmt::Display for Series {
    /// Median, and in brackets what the middle half of the rounds lies between.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:7.2} [{:.2} – {:.2}]", self.median(), self.at(0.25), self.at(0.75))
    }
}

/// Prints an aim beside what was measured; `better` tells whether a value meets it.
pub fn judge(aim: &str, got: &Series, unit: &str, better: impl Fn(f64) -> bool) {
    let (low, high) = got.sure();
    let verdict = match (better(low), better(high)) {
        (true, true) => "MET",
        (false, false) => "MISSED",
        _ if better(got.median()) => "MET, but within the noise",
        _ => "MISSED, but within the noise",
    };
    let median = got.median();
    println!("    aim: {aim}: {median:.2}{unit} (95 %: {low:.2} – {high:.2})  {verdict}");
}
