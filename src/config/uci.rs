//! Reader for the UCI file format, in step with OpenWrt's libuci (`uci_load` of one file).
//!
//! Responsible for turning text into sections and options exactly as `uci` and LuCI see them, with
//! the lines they stand on. Says nothing about what an option means, and does no input or output.
//!
//! What libuci does and one might not expect:
//! - `option a ''` sets nothing and removes nothing; an earlier value stays. See [`Section::blank`].
//! - `option a 'x'`, then `list a 'y'` gives the list x, y; `list`, then `option` gives the option.
//!   A changed option moves to the end of its section.
//! - A named section may be repeated once and is merged. From the third time on its options are
//!   refused. Another type under the same name is refused.
//! - An unnamed section has a hidden name (`cfg` + number + hash of the type), and a section with
//!   that name is merged into it.
//! - `package NAME` is checked and has no effect.
//!
//! Where this reader differs, on purpose, it refuses what libuci takes:
//! - NUL bytes: libuci then joins or drops lines depending on the size of its buffer.
//! - Text behind `;` that directly follows an unquoted word: libuci drops it without a word.
//! - More than [`MAX_SIZE`] bytes.

mod lexer;
#[cfg(test)]
mod tests;

// Not a sorted list: a file with thousands of names would take the square of its length. Not hashed:
// that is three times the code.
use std::collections::BTreeMap;
use std::fmt;

pub(crate) use lexer::{Keyword, Lexer, Statement};

/// The longest text that is read. A real file has a few hundred bytes.
pub const MAX_SIZE: usize = 1 << 20;

/// The contents of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Package {
    /// In the order of the file.
    pub sections: Vec<Section>,
}

/// A `config` statement and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Type: the first word behind `config`.
    pub kind: String,
    /// None for an unnamed section.
    pub name: Option<String>,
    /// Where it first appears.
    pub line: u32,
    /// In libuci's order; no name appears twice.
    pub options: Vec<Opt>,
    /// `option` statements without a value. They have no effect, which their author may not know.
    pub blank: Vec<Blank>,
}

/// An option with the value that is in force in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opt {
    /// Letters, digits and `_`.
    pub name: String,
    /// Of the statement that set the value; of the first one for a list.
    pub line: u32,
    /// What it was set to.
    pub value: Value,
}

/// The value of an option: bytes, because UCI does not care about encodings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// From `option`; never empty.
    One(Vec<u8>),
    /// From `list`; duplicates are kept.
    List(Vec<Item>),
}

/// One entry of a list; may be empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The entry.
    pub bytes: Vec<u8>,
    /// Of its statement.
    pub line: u32,
}

/// An `option` statement without a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blank {
    /// The option's name.
    pub name: String,
    /// Of the statement.
    pub line: u32,
}

/// Why a text is not UCI. Reading stops at the first error, as in libuci.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// Where the statement begins (for an open quote: where the quote is); 0 for the whole file.
    pub line: u32,
    /// What is wrong, without the line.
    pub message: String,
}

impl SyntaxError {
    fn new(line: u32, message: String) -> Self {
        Self { line, message }
    }
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.message),
            line => write!(f, "line {line}: {}", self.message),
        }
    }
}

impl std::error::Error for SyntaxError {}

/// Reads one UCI file. Takes time and memory in proportion to the text.
pub fn parse(text: &[u8]) -> Result<Package, SyntaxError> {
    visit(text, |_, _| {})
}

/// Like [`parse`], and shows each statement with the index of the section that it belongs to
/// (none for `package` and for a section repeated too often).
pub(crate) fn visit(
    text: &[u8],
    mut each: impl FnMut(Statement, Option<usize>),
) -> Result<Package, SyntaxError> {
    walk(text, &mut each)
}

fn walk(
    text: &[u8],
    each: &mut dyn FnMut(Statement, Option<usize>),
) -> Result<Package, SyntaxError> {
    if text.len() > MAX_SIZE {
        let message = format!("{} bytes; a UCI file has at most {MAX_SIZE}", text.len());
        return Err(SyntaxError::new(0, message));
    }
    if let Some(at) = text.iter().position(|&byte| byte == 0) {
        let before = text.get(..at).unwrap_or_default();
        let newlines = before.iter().filter(|&&byte| byte == b'\n').count();
        let line = u32::try_from(newlines).unwrap_or(u32::MAX).saturating_add(1);
        return Err(SyntaxError::new(line, "NUL byte: this is not a text file".into()));
    }
    let mut builder = Builder::default();
    let mut lexer = Lexer::new(text);
    while let Some(statement) = lexer.statement()? {
        let section = builder.add(&statement)?;
        each(statement, section);
    }
    Ok(builder.finish())
}

#[derive(Default)]
struct Builder {
    /// An option without a name has moved to the end of its section.
    sections: Vec<Section>,
    /// Named sections.
    names: BTreeMap<String, usize>,
    /// Of each section, whether it has appeared a second time.
    merged: Vec<bool>,
    current: Option<usize>,
    /// Options of the current section. A section is current at most twice, so that finding its
    /// options again stays in proportion to the text.
    index: BTreeMap<String, usize>,
}

impl Builder {
    fn add(&mut self, statement: &Statement) -> Result<Option<usize>, SyntaxError> {
        match statement.keyword {
            Keyword::Package => return Ok(None),
            Keyword::Config => self.open(statement)?,
            Keyword::Option | Keyword::List => {
                let section = self.current.and_then(|at| self.sections.get_mut(at));
                let Some(section) = section else {
                    let message = if self.sections.is_empty() {
                        "option before the first section"
                    } else {
                        "option in a section that appears for the third time"
                    };
                    return Err(SyntaxError::new(statement.line, message.into()));
                };
                if statement.keyword == Keyword::List {
                    section.append(statement, &mut self.index);
                } else {
                    section.set(statement, &mut self.index);
                }
            }
        }
        Ok(self.current)
    }

    fn open(&mut self, statement: &Statement) -> Result<(), SyntaxError> {
        let kind = &statement.first;
        let error = |message| SyntaxError::new(statement.line, message);
        let name = lexer::name(&statement.second.bytes, b"_", "section name").map_err(error)?;

        if let Some(at) = self.find(&name)
            && let Some(section) = self.sections.get(at)
        {
            if section.kind != *kind {
                let (before, line) = (&section.kind, section.line);
                return Err(error(format!(
                    "section '{name}' of type '{kind}' has type '{before}' in line {line}"
                )));
            }
            // libuci loses its current section when it merges a second time.
            self.index = BTreeMap::new();
            let twice =
                self.merged.get_mut(at).is_none_or(|merged| std::mem::replace(merged, true));
            self.current = if twice { None } else { Some(at) };
            if self.current.is_some() {
                for (at, option) in section.options.iter().enumerate() {
                    self.index.insert(option.name.clone(), at);
                }
            }
            return Ok(());
        }

        let at = self.sections.len();
        let name = if name.is_empty() { None } else { Some(name) };
        if let Some(name) = &name {
            self.names.insert(name.clone(), at);
        }
        self.sections.push(Section {
            kind: kind.clone(),
            name,
            line: statement.line,
            options: Vec::new(),
            blank: Vec::new(),
        });
        self.merged.push(false);
        self.current = Some(at);
        self.index = BTreeMap::new();
        Ok(())
    }

    /// The first section with this name, be it hidden.
    fn find(&self, name: &str) -> Option<usize> {
        let named = self.names.get(name).copied();
        let hidden = hidden_number(name).and_then(|number| number.checked_sub(1)).filter(|&at| {
            self.sections.get(at).is_some_and(|section| {
                section.name.is_none() && hidden_name(at + 1, &section.kind) == name
            })
        });
        match (named, hidden) {
            (Some(named), Some(hidden)) => Some(named.min(hidden)),
            (named, hidden) => named.or(hidden),
        }
    }

    fn finish(mut self) -> Package {
        for section in &mut self.sections {
            section.options.retain(|option| !option.name.is_empty());
        }
        Package { sections: self.sections }
    }
}

impl Section {
    fn push(
        &mut self,
        statement: &Statement,
        line: u32,
        value: Value,
        index: &mut BTreeMap<String, usize>,
    ) {
        let name = statement.first.clone();
        index.insert(name.clone(), self.options.len());
        self.options.push(Opt { name, line, value });
    }

    fn set(&mut self, statement: &Statement, index: &mut BTreeMap<String, usize>) {
        let (name, bytes) = (&statement.first, &statement.second.bytes);
        if bytes.is_empty() {
            self.blank.push(Blank { name: name.clone(), line: statement.line });
            return;
        }
        if let Some(option) = index.get(name.as_str()).and_then(|&at| self.options.get_mut(at)) {
            if matches!(&option.value, Value::One(same) if same == bytes) {
                return;
            }
            option.retire();
        }
        self.push(statement, statement.line, Value::One(bytes.clone()), index);
    }

    fn append(&mut self, statement: &Statement, index: &mut BTreeMap<String, usize>) {
        let item = Item { bytes: statement.second.bytes.clone(), line: statement.line };
        let option = index.get(statement.first.as_str()).and_then(|&at| self.options.get_mut(at));
        let (line, items) = match option {
            Some(option) => match &mut option.value {
                Value::List(items) => {
                    items.push(item);
                    return;
                }
                Value::One(bytes) => {
                    let before = Item { bytes: std::mem::take(bytes), line: option.line };
                    option.retire();
                    (before.line, vec![before, item])
                }
            },
            None => (statement.line, vec![item]),
        };
        self.push(statement, line, Value::List(items), index);
    }
}

impl Opt {
    /// Leaves an option without a name, which goes away at the end.
    fn retire(&mut self) {
        self.name = String::new();
        self.value = Value::List(Vec::new());
    }
}

/// The name that libuci gives to an unnamed section: its number (from 1) and a hash of its type.
fn hidden_name(number: usize, kind: &str) -> String {
    let hash =
        kind.bytes().fold(5381u32, |hash, byte| hash.wrapping_mul(33).wrapping_add(byte.into()));
    format!("cfg{number:02x}{:04x}", hash & 0xffff)
}

/// The number in what looks like a hidden name.
fn hidden_number(name: &str) -> Option<usize> {
    let digits = name.strip_prefix("cfg")?;
    let (number, _hash) = digits.split_at_checked(digits.len().checked_sub(4)?)?;
    usize::from_str_radix(number, 16).ok()
}
