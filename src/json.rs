//! JSON: values to text, and text to a value.
//!
//! Pure. Writes what [`crate::status`] and others say about themselves; reads what other programs print
//! and what rpcd is given. Knows nothing of what any of it means. Numbers are read and not kept: nobody
//! asks for one.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::str::Chars;

/// What can be written as JSON.
pub trait Write {
    /// Appends it to `out`.
    fn write(&self, out: &mut String);
}

impl Write for bool {
    fn write(&self, out: &mut String) {
        out.push_str(if *self { "true" } else { "false" });
    }
}

impl Write for u64 {
    fn write(&self, out: &mut String) {
        let _ = write!(out, "{self}");
    }
}

impl Write for u32 {
    fn write(&self, out: &mut String) {
        u64::from(*self).write(out);
    }
}

impl Write for u16 {
    fn write(&self, out: &mut String) {
        u64::from(*self).write(out);
    }
}

impl Write for str {
    fn write(&self, out: &mut String) {
        out.push('"');
        for c in self.chars() {
            match c {
                '"' | '\\' => out.extend(['\\', c]),
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                c if c < ' ' => {
                    let _ = write!(out, "\\u{:04x}", u32::from(c));
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

impl Write for &str {
    fn write(&self, out: &mut String) {
        (**self).write(out);
    }
}

impl Write for String {
    fn write(&self, out: &mut String) {
        self.as_str().write(out);
    }
}

impl Write for IpAddr {
    fn write(&self, out: &mut String) {
        let _ = write!(out, "\"{self}\"");
    }
}

impl<T: Write> Write for Option<T> {
    fn write(&self, out: &mut String) {
        match self {
            Some(value) => value.write(out),
            None => out.push_str("null"),
        }
    }
}

impl<T: Write> Write for Vec<T> {
    fn write(&self, out: &mut String) {
        list(out, &|n| Some(self.get(n)? as &dyn Write));
    }
}

/// Once for all types: `item` gives one after the other, and then nothing.
fn list<'a>(out: &mut String, item: &dyn Fn(usize) -> Option<&'a dyn Write>) {
    out.push('[');
    for (n, item) in (0..).map_while(item).enumerate() {
        if n > 0 {
            out.push(',');
        }
        item.write(out);
    }
    out.push(']');
}

/// A key of an object and what it has there.
pub type Field<'a> = (&'a str, &'a dyn Write);

/// An object of these fields, which keep their order.
pub fn object(fields: &[Field<'_>], out: &mut String) {
    out.push('{');
    for (n, (key, value)) in fields.iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        key.write(out);
        out.push(':');
        value.write(out);
    }
    out.push('}');
}

/// Its text.
pub fn of(what: &dyn Write) -> String {
    let mut out = String::new();
    what.write(&mut out);
    out
}

/// The text of an object of these fields.
pub fn text(fields: &[Field<'_>]) -> String {
    let mut out = String::new();
    object(fields, &mut out);
    out
}

/// Writes a type as an object of its fields; one whose key is another says so: `input "in"`.
macro_rules! fields {
    ($type:ty: $($field:ident $($key:literal)?),+ $(,)?) => {
        impl $crate::json::Write for $type {
            fn write(&self, out: &mut String) {
                // Named here, so that a new field cannot be forgotten.
                let Self { $($field),+ } = self;
                $crate::json::object(
                    &[$(($crate::json::fields!(@key $field $($key)?), $field)),+],
                    out,
                );
            }
        }
    };
    (@key $field:ident) => { stringify!($field) };
    (@key $field:ident $key:literal) => { $key };
}
pub(crate) use fields;

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// Any number.
    Number,
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Value>),
    /// An object's keys with their values, in the text's order; of equal keys the last one counts.
    Object(Vec<(String, Value)>),
}

impl Value {
    /// What an object has under a key.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Object(fields) = self else { return None };
        fields.iter().rev().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    /// A string's text.
    pub fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// Whether it is `true`.
    pub fn is_true(&self) -> bool {
        *self == Self::Bool(true)
    }
}

/// Arrays and objects in one another: each takes a piece of the stack.
const DEPTH_MAX: u32 = 64;

/// Reads one value.
///
/// # Errors
/// The byte at which the text stops being JSON.
pub fn read(text: &[u8]) -> Result<Value, usize> {
    let text = str::from_utf8(text).map_err(|e| e.valid_up_to())?;
    let mut reader = Reader { rest: text.chars() };
    let value = reader.value(DEPTH_MAX);
    reader.space();
    match value {
        Some(value) if reader.rest.as_str().is_empty() => Ok(value),
        _ => Err(text.len() - reader.rest.as_str().len()),
    }
}

/// Where the reader is. `None` from any of its functions: this is no JSON.
struct Reader<'a> {
    rest: Chars<'a>,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    /// Takes this text, if it comes next.
    fn exactly(&mut self, text: &str) -> Option<()> {
        self.rest = self.rest.as_str().strip_prefix(text)?.chars();
        Some(())
    }

    fn space(&mut self) {
        self.rest = self.rest.as_str().trim_start_matches([' ', '\t', '\n', '\r']).chars();
    }

    fn value(&mut self, depth: u32) -> Option<Value> {
        self.space();
        match self.peek()? {
            '"' => self.string().map(Value::Text),
            '[' => {
                let mut items = Vec::new();
                self.items(']', depth, &mut |this, depth| {
                    items.push(this.value(depth)?);
                    Some(())
                })?;
                Some(Value::List(items))
            }
            '{' => {
                let mut fields = Vec::new();
                self.items('}', depth, &mut |this, depth| {
                    let key = this.string()?;
                    this.space();
                    this.exactly(":")?;
                    fields.push((key, this.value(depth)?));
                    Some(())
                })?;
                Some(Value::Object(fields))
            }
            't' => self.exactly("true").map(|()| Value::Bool(true)),
            'f' => self.exactly("false").map(|()| Value::Bool(false)),
            'n' => self.exactly("null").map(|()| Value::Null),
            _ => self.number().map(|()| Value::Number),
        }
    }

    /// From the opening bracket, which is there, to the closing one.
    fn items(
        &mut self,
        close: char,
        depth: u32,
        item: &mut dyn FnMut(&mut Self, u32) -> Option<()>,
    ) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        self.rest.next();
        self.space();
        if self.peek()? == close {
            self.rest.next();
            return Some(());
        }
        loop {
            self.space();
            item(self, depth)?;
            self.space();
            match self.rest.next()? {
                ',' => {}
                c if c == close => return Some(()),
                _ => return None,
            }
        }
    }

    fn string(&mut self) -> Option<String> {
        self.exactly("\"")?;
        let mut out = String::new();
        loop {
            match self.rest.next()? {
                '"' => return Some(out),
                '\\' => out.push(self.escaped()?),
                c if c < ' ' => return None,
                c => out.push(c),
            }
        }
    }

    /// What stands behind a backslash.
    fn escaped(&mut self) -> Option<char> {
        Some(match self.rest.next()? {
            c @ ('"' | '\\' | '/') => c,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let unit = self.unit()?;
                let mut units = vec![unit];
                // The first half of a character beyond 16 bits.
                if unit & 0xfc00 == 0xd800 {
                    self.exactly("\\u")?;
                    units.push(self.unit()?);
                }
                char::decode_utf16(units).next()?.ok()?
            }
            _ => return None,
        })
    }

    fn unit(&mut self) -> Option<u16> {
        let digit = |rest: &mut Chars<'_>| u16::try_from(rest.next()?.to_digit(16)?).ok();
        (0..4).try_fold(0, |unit, _| Some(unit << 4 | digit(&mut self.rest)?))
    }

    fn number(&mut self) -> Option<()> {
        let _ = self.exactly("-");
        if self.exactly("0").is_none() {
            self.digits()?;
        }
        if self.exactly(".").is_some() {
            self.digits()?;
        }
        if self.exactly("e").or_else(|| self.exactly("E")).is_some() {
            let _ = self.exactly("-").or_else(|| self.exactly("+"));
            self.digits()?;
        }
        Some(())
    }

    /// At least one.
    fn digits(&mut self) -> Option<()> {
        let rest = self.rest.as_str().trim_start_matches(|c: char| c.is_ascii_digit());
        let some = rest.len() < self.rest.as_str().len();
        self.rest = rest.chars();
        some.then_some(())
    }
}

#[cfg(test)]
mod tests;
