//! OpenVPN's configuration language: which servers it leads to, and by which sockets.
//!
//! Responsible for reading options as OpenVPN does (`options_parse.c` and `options.c` of 2.6 and 2.7):
//! words and quotes, inline blocks, `<connection>` blocks, included files, and what is in force in the
//! end. Knows only the options that say something about the packets between the two ends; takes files
//! from whoever can read them.

use super::{authority, port};
use crate::types::{DevicePattern, Proto};

/// IANA's port for OpenVPN, for both ends.
const DEFAULT_PORT: u16 = 1194;
/// `socks-proxy` without a port.
const DEFAULT_SOCKS_PORT: u16 = 1080;
/// How deep files may include files; OpenVPN's own limit.
const DEPTH_MAX: usize = 10;
/// How many files one configuration may include: each may include more.
const FILES_MAX: usize = 32;
/// Words in a line; OpenVPN's own limit (`MAX_PARMS`).
const WORDS_MAX: usize = 16;

/// A server, or a proxy in front of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As written: an address or a name.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// TCP or UDP.
    pub proto: Proto,
    /// Our port, where it is bound to one.
    pub source_port: Option<u16>,
    /// File and line.
    pub source: String,
}

/// Reads a file for [`Reading`]: its name as written → name for people, and contents.
pub type Open<'a> = &'a dyn Fn(&str) -> Result<(String, String), String>;

/// A configuration, while it is read and when it is read.
pub struct Reading<'a> {
    open: Open<'a>,
    files: usize,
    entry: Entry,
    remotes: Vec<Remote>,
    connections: Vec<Entry>,
    server: bool,
    pull: bool,
    forced: Option<Proto>,
    device: Option<String>,
    /// Mark of its packets.
    pub mark: Option<u32>,
    /// User that it becomes.
    pub user: Option<String>,
    /// What a person should know, with file and line.
    pub problems: Vec<String>,
}

/// What may stand in a `<connection>` block, or before it for all of them.
#[derive(Clone, Default)]
struct Entry {
    remote: Option<String>,
    remote_port: Option<u16>,
    /// None for the default, UDP.
    proto: Option<Transport>,
    local_port: Option<u16>,
    /// Something asks for a fixed port or address of ours.
    bound: bool,
    nobind: bool,
    http_proxy: Option<(String, u16)>,
    socks_proxy: Option<(String, u16)>,
    source: String,
}

/// A `remote` outside of blocks: what it does not say is taken from the rest, wherever that stands.
struct Remote {
    host: String,
    port: Option<u16>,
    proto: Option<Transport>,
    source: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Of(Proto),
    /// Waits for the other end to call.
    TcpServer,
}

impl<'a> Reading<'a> {
    /// Nothing read yet.
    pub fn new(open: Open<'a>) -> Self {
        Self {
            open,
            files: 0,
            entry: Entry::default(),
            remotes: Vec::new(),
            connections: Vec::new(),
            server: false,
            pull: false,
            forced: None,
            device: None,
            mark: None,
            user: None,
            problems: Vec::new(),
        }
    }

    /// Reads a file as `config FILE` does; `from` says who wants it.
    pub fn file(&mut self, name: &str, from: &str) {
        self.include(name, from, 0);
    }

    /// Reads one line as in a file.
    pub fn line(&mut self, line: &str, source: &str) {
        self.lines(&[line], |_| source.to_owned(), 0);
    }

    fn include(&mut self, name: &str, from: &str, depth: usize) {
        self.files += 1;
        if depth >= DEPTH_MAX || self.files > FILES_MAX {
            self.problem(from, "too many files that include files");
            return;
        }
        match (self.open)(name) {
            Ok((path, text)) => {
                let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
                let lines: Vec<&str> = text.lines().collect();
                self.lines(&lines, |n| format!("{path}:{}", n + 1), depth + 1);
            }
            Err(why) => self.problem(from, &why),
        }
    }

    fn problem(&mut self, source: &str, what: &str) {
        self.problems.push(format!("{source}: {what}"));
    }

    fn lines(&mut self, lines: &[&str], source: impl Fn(usize) -> String, depth: usize) {
        let mut n = 0;
        while let Some(line) = lines.get(n) {
            let at = n;
            n += 1;
            let words = match split(line) {
                Ok(words) => words,
                Err(why) => {
                    // OpenVPN would not start.
                    self.problem(&source(at), why);
                    continue;
                }
            };
            let Some(first) = words.first() else { continue };
            let tag = first.strip_prefix('<').and_then(|t| t.strip_suffix('>'));
            if let (Some(tag), 1) = (tag, words.len()) {
                let close = format!("</{tag}>");
                let rest = lines.get(n..).unwrap_or_default();
                let Some(length) = rest.iter().position(|l| l.trim_start().starts_with(&close))
                else {
                    self.problem(&source(at), &format!("<{tag}> has no end"));
                    return;
                };
                if tag == "connection" {
                    let block = rest.get(..length).unwrap_or_default();
                    self.connection(block, |m| source(at + 1 + m), source(at));
                }
                n += length + 1;
                continue;
            }
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            self.option(&words, &source(at), depth);
        }
    }

    /// A block begins with what was said before it, and nothing behind it changes it.
    fn connection(&mut self, lines: &[&str], source: impl Fn(usize) -> String, begin: String) {
        let mut entry = Entry { source: begin, ..self.entry.clone() };
        let mut skip: Option<String> = None;
        for (n, line) in lines.iter().enumerate() {
            if let Some(close) = &skip {
                if line.trim_start().starts_with(close.as_str()) {
                    skip = None;
                }
                continue;
            }
            let words = match split(line) {
                Ok(words) => words,
                Err(why) => {
                    self.problem(&source(n), why);
                    continue;
                }
            };
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            match words.as_slice() {
                [tag] if tag.starts_with('<') && tag.ends_with('>') => {
                    skip = Some(tag.replacen('<', "</", 1));
                }
                ["remote" | "--remote", rest @ ..] => match remote(rest, &source(n)) {
                    Ok(Some(remote)) => entry.load(&remote),
                    Ok(None) => {}
                    Err(why) => self.problem(&source(n), &why),
                },
                [name, arguments @ ..] => {
                    if let Err(why) = entry.option(bare(name), arguments) {
                        self.problem(&source(n), &why);
                    }
                }
                [] => {}
            }
        }
        self.connections.push(entry);
    }

    fn option(&mut self, words: &[&str], source: &str, depth: usize) {
        let [name, arguments @ ..] = words else { return };
        match (bare(name), arguments) {
            ("config", [file]) => self.include(file, source, depth),
            ("remote", arguments) => match remote(arguments, source) {
                Ok(remote) => self.remotes.extend(remote),
                Err(why) => self.problem(source, &why),
            },
            ("server" | "server-ipv6" | "server-bridge", _) | ("mode", ["server"]) => {
                self.server = true;
            }
            ("client" | "pull", []) => self.pull = true,
            ("proto-force", [proto]) => match transport(proto) {
                Some(Transport::Of(proto)) => self.forced = Some(proto),
                _ => self.problem(source, "proto-force wants udp or tcp"),
            },
            ("dev", [device]) => self.device = Some((*device).to_owned()),
            ("mark", [mark]) => match mark.parse() {
                Ok(mark) => self.mark = Some(mark).filter(|m| *m != 0),
                // OpenVPN reads decimal numbers only.
                Err(_) => {
                    self.problem(source, &format!("'{mark}' is not a mark in decimal digits"))
                }
            },
            ("user", [user]) if crate::config::user_name(user) => {
                self.user = Some((*user).to_owned());
            }
            ("user", [user]) => {
                self.problem(source, &format!("'{}' is no user's name", user.escape_debug()));
            }
            ("remote-random-hostname", _) => self.problem(
                source,
                "remote-random-hostname asks for names that cannot be known before: remove it",
            ),
            (name, arguments) => {
                if let Err(why) = self.entry.option(name, arguments) {
                    self.problem(source, &why);
                }
            }
        }
    }

    /// The device that it makes: `tun*` where the number is chosen later.
    pub fn device(&self) -> Option<DevicePattern> {
        device(self.device.as_deref()?)
    }

    /// The servers in the end; none for a configuration that only waits to be called.
    pub fn targets(&mut self) -> Vec<Target> {
        if self.server {
            // Nor does it matter here what else is wrong with it.
            self.problems.clear();
            return Vec::new();
        }
        let with = |remote: &Remote| {
            let mut entry = self.entry.clone();
            entry.load(remote);
            entry
        };
        // With blocks, a `remote` outside of them means nothing.
        let entries: Vec<Entry> = match self.connections.as_slice() {
            [] => self.remotes.iter().map(with).collect(),
            blocks => blocks.to_vec(),
        };
        let (forced, pull) = (self.forced, self.pull);
        entries
            .into_iter()
            .filter_map(|entry| {
                let source = entry.source.clone();
                entry.target(forced, pull).unwrap_or_else(|why| {
                    self.problem(&source, why);
                    None
                })
            })
            .collect()
    }
}

impl Entry {
    fn load(&mut self, remote: &Remote) {
        self.remote = Some(remote.host.clone());
        self.remote_port = remote.port.or(self.remote_port);
        self.proto = remote.proto.or(self.proto);
        self.source = remote.source.clone();
    }

    fn option(&mut self, name: &str, arguments: &[&str]) -> Result<(), String> {
        match (name, arguments) {
            ("port", [p]) => {
                self.remote_port = Some(port(p)?);
                self.local_port = self.remote_port;
            }
            ("rport", [p]) => self.remote_port = Some(port(p)?),
            // A free port, unless something else asks for a fixed one.
            ("lport", ["0"]) => self.local_port = Some(0),
            ("lport", [p]) => {
                self.local_port = Some(port(p)?);
                self.bound = true;
            }
            ("local", [_, rest @ ..]) => {
                self.bound = true;
                if let [p, ..] = rest {
                    self.local_port = Some(port(p)?);
                }
            }
            ("bind", _) => self.bound = true,
            ("nobind", []) => self.nobind = true,
            ("proto", [proto]) => {
                self.proto = Some(
                    transport(proto)
                        .ok_or_else(|| format!("'{}' is not a protocol", proto.escape_debug()))?,
                );
            }
            ("http-proxy", [host, p, ..]) => self.http_proxy = Some(((*host).into(), port(p)?)),
            ("socks-proxy", [host, rest @ ..]) => {
                let p = rest.first().map_or(Ok(DEFAULT_SOCKS_PORT), |p| port(p))?;
                self.socks_proxy = Some(((*host).into(), p));
            }
            _ => {}
        }
        Ok(())
    }

    fn target(self, forced: Option<Proto>, pull: bool) -> Result<Option<Target>, &'static str> {
        let Some(host) = self.remote else { return Ok(None) };
        let proto = match self.proto {
            None => Proto::Udp,
            Some(Transport::Of(proto)) => proto,
            Some(Transport::TcpServer) => return Ok(None),
        };
        if forced.is_some_and(|f| f != proto) {
            return Ok(None);
        }
        // A client takes any port of its own, unless something asks for a fixed one.
        let bind = !self.nobind && (self.bound || (proto == Proto::Udp && !pull));
        let source_port = bind.then(|| self.local_port.unwrap_or(DEFAULT_PORT)).filter(|p| *p != 0);
        if proto == Proto::Udp && self.socks_proxy.is_some() {
            return Err("UDP through a SOCKS proxy goes to a port that only the proxy knows: use \
                        proto tcp");
        }
        let server = (host, self.remote_port.unwrap_or(DEFAULT_PORT));
        let proxy = self.http_proxy.or(self.socks_proxy);
        let proto = if proxy.is_some() { Proto::Tcp } else { proto };
        let (host, port) = proxy.unwrap_or(server);
        Ok(Some(Target { host, port, proto, source_port, source: self.source }))
    }
}

/// `remote HOST [PORT] [PROTO]`; nothing where OpenVPN would not start.
fn remote(arguments: &[&str], source: &str) -> Result<Option<Remote>, String> {
    let [host, rest @ ..] = arguments else { return Err("remote without a host".to_owned()) };
    // Some write the address of IPv6 in brackets.
    let host = if host.starts_with('[') { authority(host).0 } else { host };
    let proto = match rest.get(1) {
        None => None,
        Some(word) => Some(
            transport(word)
                .ok_or_else(|| format!("'{}' is not a protocol", word.escape_debug()))?,
        ),
    };
    let port = rest.first().map(|p| port(p)).transpose()?;
    Ok(Some(Remote { host: host.to_owned(), port, proto, source: source.to_owned() }))
}

fn transport(word: &str) -> Option<Transport> {
    match word {
        "udp" | "udp4" | "udp6" => Some(Transport::Of(Proto::Udp)),
        "tcp" | "tcp4" | "tcp6" | "tcp-client" | "tcp4-client" | "tcp6-client" => {
            Some(Transport::Of(Proto::Tcp))
        }
        "tcp-server" | "tcp4-server" | "tcp6-server" => Some(Transport::TcpServer),
        _ => None,
    }
}

/// An option's name, with or without the dashes of the command line.
fn bare(name: &str) -> &str {
    name.strip_prefix("--").filter(|n| !n.is_empty()).unwrap_or(name)
}

/// The device of `dev NAME`: a name without a digit may get a number behind it.
pub fn device(name: &str) -> Option<DevicePattern> {
    let pattern = match name {
        "null" => return None,
        name if name.bytes().any(|b| b.is_ascii_digit()) => DevicePattern::parse(name),
        name => DevicePattern::parse(&format!("{name}*")),
    };
    pattern.ok()
}

/// The words of a line, as `parse_line` of OpenVPN finds them.
fn split(line: &str) -> Result<Vec<String>, &'static str> {
    #[derive(PartialEq)]
    enum State {
        Between,
        Plain,
        Double,
        Single,
    }
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    let mut state = State::Between;
    let mut escaped = false;
    // The end of the line ends a word.
    for c in line.chars().chain(std::iter::once('\n')) {
        let blank = c.is_ascii_whitespace() || c == '\x0b' || c == '\0';
        if !escaped && c == '\\' && state != State::Single {
            escaped = true;
            continue;
        }
        let mut out = None;
        let mut done = false;
        match state {
            State::Between if blank => {}
            State::Between if c == ';' || c == '#' => break,
            State::Between if !escaped && c == '"' => state = State::Double,
            State::Between if !escaped && c == '\'' => state = State::Single,
            State::Between => {
                out = Some(c);
                state = State::Plain;
            }
            State::Plain if blank && !escaped => done = true,
            State::Double if c == '"' && !escaped => done = true,
            State::Single if c == '\'' => done = true,
            State::Plain | State::Double | State::Single => out = Some(c),
        }
        if done {
            words.push(std::mem::take(&mut word));
            state = State::Between;
            if words.len() >= WORDS_MAX {
                break;
            }
        }
        if let Some(c) = out {
            if escaped && !(c == '\\' || c == '"' || blank) {
                return Err(
                    "a backslash that stands before neither a backslash, nor a quote, nor a \
                            space",
                );
            }
            word.push(c);
        }
        escaped = false;
    }
    match state {
        State::Double => Err("a quote (\") without an end"),
        State::Single => Err("a quote (') without an end"),
        State::Plain => Err("a backslash at the end of the line"),
        State::Between => Ok(words),
    }
}

#[cfg(test)]
#[path = "ovpn_tests.rs"]
mod tests;
