//! Reads one section's options: the words of each kind of value, and what is wrong with them.
//!
//! Knows UCI's values and how to name a mistake; which options there are, and what they mean, is
//! [`super::schema`]'s part.

use super::ConfigError;
use super::uci::{Opt, Section, Value};

/// Reads one section's options and collects what is wrong with them.
pub struct Reader<'a> {
    section: &'a Section,
    errors: &'a mut Vec<ConfigError>,
}

impl<'a> Reader<'a> {
    pub fn new(
        section: &'a Section,
        known: &[&'static str],
        errors: &'a mut Vec<ConfigError>,
    ) -> Self {
        for option in &section.options {
            if !known.contains(&option.name.as_str()) {
                errors.push(ConfigError::of_option(
                    section,
                    option,
                    option.line,
                    format!(
                        "unknown option{}; known are {}",
                        meant(&option.name, known),
                        known.join(", ")
                    ),
                ));
            }
        }
        // libuci ignores an empty value; whoever wrote it expects it to mean something.
        for blank in &section.blank {
            errors.push(ConfigError {
                line: blank.line,
                option: Some(blank.name.clone()),
                ..ConfigError::of(section, "it is empty: give it a value or remove it".to_owned())
            });
        }
        Self { section, errors }
    }

    fn find(&self, name: &str) -> Option<&'a Opt> {
        self.section.options.iter().find(|o| o.name == name)
    }

    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    pub fn error(&mut self, name: &str, message: String) {
        let error = match self.find(name) {
            Some(option) => ConfigError::of_option(self.section, option, option.line, message),
            None => ConfigError {
                option: Some(name.to_owned()),
                ..ConfigError::of(self.section, message)
            },
        };
        self.errors.push(error);
    }

    pub fn error_here(&mut self, message: String) {
        self.errors.push(ConfigError::of(self.section, message));
    }

    pub fn missing(&mut self, name: &str, what: &str) {
        self.error(name, format!("missing; it names {what}"));
    }

    pub fn scalar<T>(
        &mut self,
        name: &str,
        allowed: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let mut parsed = None;
        self.value(name, allowed, &mut |text| {
            parsed = parse(text);
            parsed.is_some()
        });
        parsed
    }

    /// Shows the value of an option to `fits`, and complains when it does not.
    fn value(&mut self, name: &str, allowed: &str, fits: &mut dyn FnMut(&str) -> bool) {
        let Some(option) = self.find(name) else { return };
        match &option.value {
            Value::One(bytes) if std::str::from_utf8(bytes).is_ok_and(fits) => {}
            Value::One(bytes) => {
                self.error(name, format!("found {}, allowed is {allowed}", quoted(bytes)));
            }
            Value::List(_) => {
                self.error(name, format!("written as a list; use: option {name} '…' ({allowed})"));
            }
        }
    }

    /// The words that OpenWrt's `config_get_bool` knows (/lib/functions.sh).
    pub fn boolean(&mut self, name: &str) -> Option<bool> {
        self.scalar(
            name,
            "1 or 0 (on, off, true, false, yes, no, enabled, disabled)",
            |t| match t {
                "1" | "on" | "true" | "yes" | "enabled" => Some(true),
                "0" | "off" | "false" | "no" | "disabled" => Some(false),
                _ => None,
            },
        )
    }

    /// A list, or an option with words between white space, as firewall4 reads them.
    pub fn list<T: PartialEq>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, &'static str>,
    ) -> Vec<T> {
        let mut out: Vec<T> = Vec::new();
        self.words(name, &mut |word| {
            let value = parse(word)?;
            if !out.contains(&value) {
                out.push(value);
            }
            Ok(())
        });
        out
    }

    /// Gives every word of a list to `take`, and complains where it does not.
    fn words(&mut self, name: &str, take: &mut dyn FnMut(&str) -> Result<(), &'static str>) {
        let Some(option) = self.find(name) else { return };
        let mut one = |bytes: &[u8], line: u32, errors: &mut Vec<ConfigError>| {
            let text = std::str::from_utf8(bytes).map_err(|_| "it is not text");
            if let Err(why) = text.and_then(&mut *take) {
                let message = format!("found {}: {why}", quoted(bytes));
                errors.push(ConfigError::of_option(self.section, option, line, message));
            }
        };
        match &option.value {
            Value::List(items) => {
                for item in items {
                    one(&item.bytes, item.line, self.errors);
                }
            }
            Value::One(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => {
                one(b"", option.line, self.errors);
            }
            Value::One(bytes) => {
                for word in bytes.split(u8::is_ascii_whitespace).filter(|w| !w.is_empty()) {
                    one(word, option.line, self.errors);
                }
            }
        }
    }
}

fn quoted(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut short: String =
        text.chars().take(60).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().count() > 60 {
        short.push('…');
    }
    format!("'{short}'")
}

/// `; did you mean 'x'?` where a known word is near.
pub fn meant(word: &str, known: &[&str]) -> String {
    known
        .iter()
        .map(|k| (distance(word, k), *k))
        .min()
        .filter(|(d, k)| *d <= 1 + k.len() / 4)
        .or_else(|| known.iter().find(|k| k.len() > 3 && word.starts_with(*k)).map(|k| (0, *k)))
        .map(|(_, k)| format!("; did you mean '{k}'?"))
        .unwrap_or_default()
}

/// Edit distance with transpositions (optimal string alignment), on bytes; words are short, and a
/// very long one is not near anything.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len().abs_diff(b.len()) > 8 {
        return usize::MAX;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let at = |row: &[usize], k: usize| row.get(k).copied().unwrap_or(usize::MAX / 2);
            let mut best =
                (at(&last, j) + usize::from(x != y)).min(at(&last, j + 1) + 1).min(at(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if swapped {
                best = best.min(at(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(usize::MAX)
}
