//! Changes one option of a UCI file and keeps every other byte.
//!
//! Responsible for where a new value goes in the text, and for getting the text onto the disk so
//! that there is the old or the new file at any time. Knows no option by name.

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::{fmt, process};

use super::uci::{self, Keyword, Opt, Package, Section, Statement, SyntaxError, Value};

/// Why an option was not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EditError {
    /// The file cannot be read, so it is not touched either.
    Syntax(SyntaxError),
    /// There is no section of this type.
    NoSection(String),
    /// UCI cannot express the option's name, or the value (empty, or with a NUL byte).
    Unwritable,
    /// The option is a list; its first entry is in this line.
    IsList(u32),
    /// In the text of this section (which begins in this line) the change would alter more than
    /// the option.
    NoPlace(u32),
}

impl fmt::Display for EditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(error) => error.fmt(f),
            Self::NoSection(kind) => write!(f, "no section of type '{kind}'"),
            Self::Unwritable => f.write_str("this option or value cannot be written in UCI"),
            Self::IsList(line) => write!(f, "line {line}: a list where one value is expected"),
            Self::NoPlace(line) => write!(
                f,
                "line {line}: the option cannot be changed without changing others of this \
                 section: write each on a line of its own"
            ),
        }
    }
}

impl std::error::Error for EditError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Syntax(error) => Some(error),
            _ => None,
        }
    }
}

impl From<SyntaxError> for EditError {
    fn from(error: SyntaxError) -> Self {
        Self::Syntax(error)
    }
}

/// A replacement of some bytes of the text.
struct Splice {
    range: Range<usize>,
    with: Vec<u8>,
}

/// Gives `option` this value in the first section of type `section_kind`.
///
/// Only the value's own bytes change, in the quotes they had; an option that is missing gets a
/// line of its own under the section's header, in the style of the section's other lines. The
/// result has been read again and differs from the old contents in this option only.
pub fn set_option(
    text: &[u8],
    section_kind: &str,
    option: &str,
    value: &str,
) -> Result<Vec<u8>, EditError> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if option.is_empty() || !option.bytes().all(is_name) || value.is_empty() || value.contains('\0')
    {
        return Err(EditError::Unwritable);
    }
    let mut place = Place::new(section_kind);
    let old = uci::visit(text, |statement, section| place.visit(statement, section))?;
    let target = place.section.and_then(|at| old.sections.get(at).map(|section| (at, section)));
    let Some((at, section)) = target else {
        return Err(EditError::NoSection(section_kind.into()));
    };

    let in_force = match section.options.iter().find(|found| found.name == option) {
        Some(Opt { value: Value::List(_), line, .. }) => return Err(EditError::IsList(*line)),
        Some(Opt { value: Value::One(bytes), .. }) if bytes == value.as_bytes() => {
            return Ok(text.to_vec());
        }
        Some(_) => true,
        None => false,
    };
    let spelled = place.statements.iter().rfind(|statement| {
        statement.keyword == Keyword::Option
            && statement.first == option
            && !statement.second.span.is_empty()
            // A blank one does not override an earlier value, but is where a first one belongs.
            && (!in_force || !statement.second.bytes.is_empty())
    });
    let candidates = match spelled {
        Some(statement) => {
            let range = statement.second.span.clone();
            let before = text.get(range.clone()).unwrap_or_default();
            vec![Splice { range, with: spell(before, value) }]
        }
        None => place.insertions(text, option, value),
    };
    for Splice { range, with } in candidates {
        let (Some(before), Some(behind)) = (text.get(..range.start), text.get(range.end..)) else {
            continue;
        };
        let new = [before, &with, behind].concat();
        if uci::parse(&new).is_ok_and(|new| only_change(&old, &new, at, option, value)) {
            return Ok(new);
        }
    }
    Err(EditError::NoPlace(section.line))
}

/// What the editor has to know of the text: the wanted section's statements, and where the line of
/// its header ends.
struct Place<'a> {
    kind: &'a str,
    /// Index of the section.
    section: Option<usize>,
    /// Header first.
    statements: Vec<Statement>,
    line_end: usize,
    /// Another section begins in the header's line.
    shared_line: bool,
}

impl<'a> Place<'a> {
    fn new(kind: &'a str) -> Self {
        Self { kind, section: None, statements: Vec::new(), line_end: 0, shared_line: false }
    }

    fn visit(&mut self, statement: Statement, section: Option<usize>) {
        if self.section.is_none() {
            if statement.keyword == Keyword::Config && statement.first == self.kind {
                self.section = section;
                self.line_end = statement.line_end;
                self.statements.push(statement);
            }
            return;
        }
        let ours = section == self.section;
        if statement.start < self.line_end {
            self.line_end = statement.line_end;
            self.shared_line |= !ours;
        }
        if ours {
            self.statements.push(statement);
        }
    }

    fn insertions(&self, text: &[u8], option: &str, value: &str) -> Vec<Splice> {
        let Some((header, others)) = self.statements.split_first() else {
            return Vec::new();
        };
        let at = |range: Range<usize>| text.get(range).unwrap_or_default();
        let model = others.iter().find(|statement| statement.keyword != Keyword::Config);
        let value = spell(model.map_or(b"''", |model| at(model.second.span.clone())), value);
        let statement = [b"option ", option.as_bytes(), b" ", &value].concat();

        // In the header's own line: for one that others share, or that ends in `;`.
        let end = header.second.span.end.max(header.first_span.end);
        let joined = Splice { range: end..end, with: [b" ; ", &*statement].concat() };
        if self.shared_line {
            return vec![joined];
        }
        // Blanks back to the start of the line, not more: lines may be long.
        let indent = others
            .iter()
            .find_map(|statement| {
                let before = at(0..statement.start);
                let blanks = before.iter().rev().take_while(|byte| b" \t".contains(byte)).count();
                let (rest, indent) = before.split_at_checked(before.len() - blanks)?;
                rest.last().is_none_or(|&byte| byte == b'\n').then_some(indent)
            })
            .unwrap_or(b"\t");
        let line_end = self.line_end;
        let with = if at(0..line_end).ends_with(b"\n") {
            let header = at(0..line_end);
            let newline = if header.ends_with(b"\r\n") { b"\r\n".as_slice() } else { b"\n" };
            [indent, &statement, newline].concat()
        } else {
            let crlf = text.windows(2).any(|two| two == b"\r\n");
            let newline = if crlf { b"\r\n".as_slice() } else { b"\n" };
            [newline, indent, &statement].concat()
        };
        vec![Splice { range: line_end..line_end, with }, joined]
    }
}

/// Writes a value in the quotes of another one.
fn spell(like: &[u8], value: &str) -> Vec<u8> {
    let bare = |text: &[u8]| {
        !text.is_empty()
            && text.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"_-.:/".contains(&byte))
    };
    match like {
        _ if bare(like) && bare(value.as_bytes()) => value.into(),
        [b'"', inner @ .., b'"'] if !inner.iter().any(|byte| b"\"\\".contains(byte)) => {
            format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")).into()
        }
        _ => format!("'{}'", value.replace('\'', "'\\''")).into(),
    }
}

/// Whether the new contents are the old ones with this option set in the section with this index.
fn only_change(old: &Package, new: &Package, at: usize, option: &str, value: &str) -> bool {
    let is_set = new.sections.get(at).is_some_and(|section| {
        let wanted = |found: &Opt| {
            found.name == option
                && matches!(&found.value, Value::One(bytes) if bytes == value.as_bytes())
        };
        section.options.iter().any(wanted)
    });
    let same = |index: usize, old: &Section, new: &Section| {
        let other = |name: &str| index != at || name != option;
        let options = |section: &Section| {
            let others = section.options.iter().filter(|opt| other(&opt.name));
            others.map(|opt| (opt.name.clone(), without_lines(&opt.value))).collect::<Vec<_>>()
        };
        let blanks = |section: &Section| {
            let others = section.blank.iter().filter(|blank| other(&blank.name));
            others.map(|blank| blank.name.clone()).collect::<Vec<_>>()
        };
        old.kind == new.kind
            && old.name == new.name
            && options(old) == options(new)
            && blanks(old) == blanks(new)
    };
    let pairs = old.sections.iter().zip(&new.sections).enumerate();
    is_set
        && old.sections.len() == new.sections.len()
        && pairs.into_iter().all(|(index, (old, new))| same(index, old, new))
}

/// Lines move when a value of several lines is replaced.
fn without_lines(value: &Value) -> Value {
    let mut value = value.clone();
    if let Value::List(items) = &mut value {
        items.iter_mut().for_each(|item| item.line = 0);
    }
    value
}

/// Replaces a file's contents so that a crash at any point leaves the old or the new ones.
///
/// Mode and owner stay; a symbolic link stays one, and the file that it names is replaced. A file
/// that does not exist yet gets mode 0600, as libuci does. What a crash may leave behind is a
/// hidden file, which no reader of a configuration directory takes for one. Other hard links to the
/// file keep the old contents, extended attributes are not copied. An error after the
/// new contents are in place (the directory could not be synced) is an error too.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let target = resolve(path)?;
    let (Some(directory), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the path of a file"));
    };
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let old = match fs::metadata(&target) {
        Ok(old) if old.is_file() => Some(old),
        Ok(_) => return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };

    let (mut file, temporary) = Temporary::create(directory, name)?;
    file.write_all(bytes)?;
    if let Some(old) = old {
        let new = file.metadata()?;
        if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        // Behind the owner: changing that clears the set-id bits.
        file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
    }
    file.sync_all()?;
    temporary.rename(&target)?;
    match File::open(directory)?.sync_all() {
        // Some filesystems have nothing to sync in a directory.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        result => result,
    }
}

/// The file itself if the path is a link to it. A link to nothing is an error.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => {
            Ok(path.to_path_buf())
        }
        result => result,
    }
}

/// A file that goes away unless it is renamed.
struct Temporary(PathBuf);

impl Temporary {
    fn create(directory: &Path, name: &std::ffi::OsStr) -> io::Result<(File, Self)> {
        // Another number if a crash has left one of this process id.
        for number in 0..100 {
            let mut hidden = OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".{}-{number}.new", process::id()));
            let path = directory.join(hidden);
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => return Ok((file, Self(path))),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, "too many left-over temporary files"))
    }

    fn rename(self, target: &Path) -> io::Result<()> {
        fs::rename(&self.0, target)?;
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Best effort: the error that led here is the one to report.
        fs::remove_file(&self.0).ok();
    }
}
