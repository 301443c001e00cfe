//! Splits the text of a UCI file into statements: keyword, words, where they stand.
//!
//! Responsible for quoting, escapes, comments, `;` and line continuation, in the way of libuci,
//! whose reader works in place on a buffer of physical lines. Some of its results only follow from
//! that; they are reproduced here, each with a comment. Knows nothing of sections or of what an
//! option means.

use std::ops::Range;

use super::SyntaxError;

/// Which statement it is. libuci takes the first letter alone too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keyword {
    Package,
    Config,
    Option,
    List,
}

impl Keyword {
    fn from_word(word: &[u8]) -> Option<Self> {
        match word {
            b"p" | b"package" => Some(Self::Package),
            b"c" | b"config" => Some(Self::Config),
            b"o" | b"option" => Some(Self::Option),
            b"l" | b"list" => Some(Self::List),
            _ => None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Package => "package",
            Self::Config => "config",
            Self::Option => "option",
            Self::List => "list",
        }
    }
}

/// A word with quotes and escapes resolved, and the bytes of the file that spelled it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Word {
    pub(crate) bytes: Vec<u8>,
    pub(crate) span: Range<usize>,
}

/// One statement with its checked first word (section type or option name).
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    pub(crate) keyword: Keyword,
    /// Physical line of the keyword, from 1.
    pub(crate) line: u32,
    /// Offset of the keyword.
    pub(crate) start: usize,
    /// Offset behind the last physical line that the statement touches.
    pub(crate) line_end: usize,
    pub(crate) first: String,
    pub(crate) first_span: Range<usize>,
    /// Section name or value; empty when it was not given.
    pub(crate) second: Word,
}

/// Reads statements one after the other. After an error or the end there is nothing more to read.
pub(crate) struct Lexer<'t> {
    text: &'t [u8],
    pos: usize,
    /// End of what has been read and not been discarded by a comment.
    end: usize,
    /// Where the next physical line begins.
    next: usize,
    /// Number of the last physical line read; `pos` is always in it.
    line: u32,
    /// More statements may follow before the next physical line.
    in_line: bool,
}

impl<'t> Lexer<'t> {
    pub(crate) fn new(text: &'t [u8]) -> Self {
        Self { text, pos: 0, end: 0, next: 0, line: 0, in_line: false }
    }

    /// The next statement, or `None` at the end of the text.
    pub(crate) fn statement(&mut self) -> Result<Option<Statement>, SyntaxError> {
        loop {
            if !self.in_line {
                if !self.read_line() {
                    return Ok(None);
                }
                self.skip_while(is_space);
                self.in_line = true;
            }
            // Only blanks here: behind `;` even the end of the line is part of the next keyword,
            // and so an error.
            self.skip_while(is_blank);
            match self.current() {
                None | Some(b'#') => self.in_line = false,
                Some(_) => return self.rest_of_statement().map(Some),
            }
        }
    }

    fn rest_of_statement(&mut self) -> Result<Statement, SyntaxError> {
        let (line, start) = (self.line, self.pos);
        self.skip_while(|byte| !is_blank(byte));
        let word = self.text.get(start..self.pos).unwrap_or_default();
        let Some(keyword) = Keyword::from_word(word) else {
            return Err(SyntaxError::new(line, not_a_keyword(word)));
        };
        if self.current().is_some() {
            self.pos += 1;
        }

        let first = self.word(line)?;
        if first.bytes.is_empty() {
            let message = match keyword {
                Keyword::Package => "'package' without a name",
                Keyword::Config => "'config' without a section type",
                Keyword::Option => "'option' without a name",
                Keyword::List => "'list' without a name",
            };
            return Err(SyntaxError::new(line, message.into()));
        }
        let name = match keyword {
            Keyword::Package => name(&first.bytes, b"_-", "package name"),
            Keyword::Config => section_type(&first.bytes),
            Keyword::Option | Keyword::List => name(&first.bytes, b"_", "option name"),
        };
        let name = name.map_err(|message| SyntaxError::new(line, message))?;

        let second = match keyword {
            Keyword::Package => Word::default(),
            Keyword::Config | Keyword::Option | Keyword::List => self.word(line)?,
        };
        // An empty word (`''`) does not count as one too many, and what comes behind it is read
        // as the next statement.
        let extra = self.word(line)?;
        if !extra.bytes.is_empty() {
            return Err(SyntaxError::new(
                line,
                format!(
                    "unexpected {} at the end of '{}' (a value with blanks needs quotes)",
                    quote(&extra.bytes),
                    keyword.as_str()
                ),
            ));
        }
        Ok(Statement {
            keyword,
            line,
            start,
            line_end: self.next,
            first: name,
            first_span: first.span,
            second,
        })
    }

    /// The next word of the statement; empty when there is none. `line` is the statement's.
    fn word(&mut self, line: u32) -> Result<Word, SyntaxError> {
        self.skip_while(is_space);
        let start = self.pos;
        if self.current() == Some(b';') {
            // Takes the place of the missing word: it does not end the statement if more words
            // may follow (`option 'a'; b` has one word too many).
            self.pos += 1;
            return Ok(Word { bytes: Vec::new(), span: start..start });
        }
        let mut bytes = Vec::new();
        loop {
            match self.current() {
                None => break,
                Some(b'\'') => self.single_quoted(&mut bytes)?,
                Some(b'"') => self.double_quoted(&mut bytes)?,
                Some(b'\\') => bytes.extend(self.escaped()),
                // Also in the middle of a word.
                Some(b'#') => {
                    self.end = self.pos;
                    break;
                }
                Some(b';') => break,
                Some(byte) => {
                    bytes.push(byte);
                    self.pos += 1;
                }
            }
            if self.current().is_none_or(is_space) {
                break;
            }
        }
        let span = start..self.pos;
        match self.current() {
            Some(b';') if bytes.len() == span.len() => self.drop_behind_bare_word(line)?,
            None | Some(b';') => {}
            Some(_) => self.pos += 1,
        }
        Ok(Word { bytes, span })
    }

    /// `;` directly behind a word without quotes or escapes: libuci's terminator overwrites it, and
    /// the rest of the line is lost. Nobody who writes `option router strict;option enabled 1`
    /// wants that, and for a kill switch half a configuration is worse than none: an error, unless
    /// nothing is lost.
    fn drop_behind_bare_word(&mut self, line: u32) -> Result<(), SyntaxError> {
        let lost = self.text.get(self.pos + 1..self.end).unwrap_or_default();
        match lost.iter().find(|&&byte| !is_space(byte)) {
            None | Some(b'#') => {
                self.end = self.pos;
                Ok(())
            }
            Some(_) => Err(SyntaxError::new(
                line,
                "UCI ignores what follows ';' directly behind an unquoted word: \
                 put a blank before ';' or use a new line"
                    .into(),
            )),
        }
    }

    fn single_quoted(&mut self, bytes: &mut Vec<u8>) -> Result<(), SyntaxError> {
        let opened = self.line;
        self.pos += 1;
        loop {
            match self.current() {
                Some(b'\'') => {
                    self.pos += 1;
                    return Ok(());
                }
                Some(byte) => {
                    bytes.push(byte);
                    self.pos += 1;
                }
                None if self.read_line() => {}
                None => return Err(SyntaxError::new(opened, "unterminated '".into())),
            }
        }
    }

    fn double_quoted(&mut self, bytes: &mut Vec<u8>) -> Result<(), SyntaxError> {
        let opened = self.line;
        self.pos += 1;
        loop {
            match self.current() {
                Some(b'"') => {
                    self.pos += 1;
                    return Ok(());
                }
                Some(b'\\') => bytes.extend(self.escaped()),
                Some(byte) => {
                    bytes.push(byte);
                    self.pos += 1;
                }
                None if self.read_line() => {}
                None => return Err(SyntaxError::new(opened, "unterminated \"".into())),
            }
        }
    }

    /// The byte behind a backslash, as it is: UCI has no `\n` or `\t`. None when the backslash
    /// stands at the end of the line, which then continues with the next one.
    fn escaped(&mut self) -> Option<u8> {
        self.pos += 1;
        match self.text.get(self.pos..self.end) {
            None | Some([] | [b'\n'] | [b'\r', b'\n']) => {
                self.read_line();
                None
            }
            Some([byte, ..]) => {
                self.pos += 1;
                Some(*byte)
            }
        }
    }

    fn current(&self) -> Option<u8> {
        if self.pos < self.end { self.text.get(self.pos).copied() } else { None }
    }

    fn skip_while(&mut self, wanted: impl Fn(u8) -> bool) {
        while self.current().is_some_and(&wanted) {
            self.pos += 1;
        }
    }

    /// Goes on to the next physical line; false at the end of the text.
    fn read_line(&mut self) -> bool {
        let rest = self.text.get(self.next..).unwrap_or_default();
        let length = rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |at| at + 1);
        self.pos = self.next;
        self.next += length;
        self.end = self.next;
        if length > 0 {
            self.line = self.line.saturating_add(1);
        }
        length > 0
    }
}

/// C's `isspace` in the C locale.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Checks the name of an option, section or package: letters, digits and `also`.
pub(super) fn name(bytes: &[u8], also: &[u8], what: &str) -> Result<String, String> {
    ascii(bytes, what, |byte| byte.is_ascii_alphanumeric() || also.contains(&byte))
}

/// Checks a section type: any printable ASCII without blanks.
fn section_type(bytes: &[u8]) -> Result<String, String> {
    ascii(bytes, "section type", |byte| byte.is_ascii_graphic())
}

fn ascii(bytes: &[u8], what: &str, allowed: impl Fn(u8) -> bool) -> Result<String, String> {
    if bytes.iter().all(|&byte| byte.is_ascii() && allowed(byte)) {
        Ok(bytes.iter().map(|&byte| char::from(byte)).collect())
    } else {
        Err(format!("invalid character in {what} {}", quote(bytes)))
    }
}

/// Text of the file for a message: printable and short.
pub(super) fn quote(bytes: &[u8]) -> String {
    const LONGEST: usize = 40;
    let shown = bytes.get(..LONGEST).unwrap_or(bytes);
    let text: String =
        String::from_utf8_lossy(shown).chars().flat_map(|c| c.escape_debug()).collect();
    let dots = if shown.len() < bytes.len() { "…" } else { "" };
    format!("\"{text}{dots}\"")
}

fn not_a_keyword(word: &[u8]) -> String {
    match word {
        [b'\n' | b'\r', ..] => "nothing follows ';'".into(),
        [0xef, 0xbb, 0xbf, ..] => "the file begins with a byte order mark: remove it".into(),
        [b';', ..] => "';' without a statement before it".into(),
        _ => format!("{} is not 'config', 'option' or 'list'", quote(word.trim_ascii_end())),
    }
}
