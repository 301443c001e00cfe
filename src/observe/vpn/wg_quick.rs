//! `/etc/wireguard/*.conf`, as wg-quick and wg read them: what a tunnel will use before it runs.

use super::wireguard::{Configured, Peer, label, read_mark};
use super::{Finder, authority, files, port};

const DIRECTORY: &str = "etc/wireguard";
/// Providers offer a file for each of their hundreds of servers; nobody uses them all.
const FILES_MAX: usize = 64;

/// The devices that there are files for.
pub(super) fn configured(finder: &mut Finder<'_>) -> Vec<Configured> {
    let names = files::names_of(&finder.root.join(DIRECTORY), ".conf");
    // Those that run first.
    let runs = |name: &String| finder.links.iter().any(|l| l.name == *name);
    let (mut names, others): (Vec<_>, Vec<_>) = names.into_iter().partition(runs);
    names.extend(others);
    if names.len() > FILES_MAX {
        finder.problem(&format!(
            "/{DIRECTORY}: {} files; only {FILES_MAX} are read, those of running tunnels first",
            names.len()
        ));
        names.truncate(FILES_MAX);
    }
    names.into_iter().filter_map(|name| file(finder, name)).collect()
}

fn file(finder: &mut Finder<'_>, name: String) -> Option<Configured> {
    let path = format!("{DIRECTORY}/{name}.conf");
    let text = match files::read(finder.root, &path) {
        Ok(text) => String::from_utf8_lossy(&text?).into_owned(),
        Err(problem) => {
            finder.problem(&problem);
            return None;
        }
    };
    let mut out =
        Configured { name, netifd: false, listen_port: None, mark: None, peers: Vec::new() };
    let mut peer: Option<Lines<'_>> = None;
    let mut in_interface = false;
    for (n, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let source = format!("/{path}:{}", n + 1);
        if line.starts_with('[') {
            in_interface = line.eq_ignore_ascii_case("[Interface]");
            let old = peer.take();
            peer = line.eq_ignore_ascii_case("[Peer]").then(Lines::default);
            out.peers.extend(old.and_then(|old| old.peer(finder, &out.name)));
            continue;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
        match (key.as_str(), &mut peer) {
            ("publickey", Some(peer)) => peer.key = value,
            ("endpoint", Some(peer)) => peer.endpoint = Some((value, source)),
            ("listenport", None) if in_interface => match value.parse() {
                Ok(port) => out.listen_port = Some(port).filter(|p| *p != 0),
                Err(_) => finder.problem(&format!("{source}: '{value}' is not a port")),
            },
            ("fwmark", None) if in_interface => match read_mark(value) {
                Some(mark) => out.mark = Some(mark),
                None => finder.problem(&format!("{source}: '{value}' is not a mark")),
            },
            _ => {}
        }
    }
    out.peers.extend(peer.and_then(|peer| peer.peer(finder, &out.name)));
    Some(out)
}

/// What a `[Peer]` says.
#[derive(Default)]
struct Lines<'a> {
    key: &'a str,
    endpoint: Option<(&'a str, String)>,
}

impl Lines<'_> {
    /// None for one that waits to be called.
    fn peer(self, finder: &mut Finder<'_>, device: &str) -> Option<Peer> {
        let (endpoint, source) = self.endpoint?;
        let name = label(device, self.key);
        let (host, at) = authority(endpoint);
        match at.ok_or_else(|| format!("'{endpoint}' has no port")).and_then(port) {
            Ok(port) => {
                let host = finder.host(&source, &name, host)?;
                Some(Peer { key: self.key.to_owned(), host, port, source })
            }
            Err(why) => {
                finder.problem(&format!("{source}: {name}: {why}"));
                None
            }
        }
    }
}
