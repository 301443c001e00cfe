//! Golden tests: each directory in `tests/golden` is a miniature root with a configuration and what
//! was observed, and what must come of it: the table as text, and the status once it is in a kernel.
//!
//! `observed.json` holds what the kernel would say (links, uplinks); names, zones, users and time
//! servers are read from the root's own files. With `UPDATE_GOLDEN=1` the expected files are written
//! anew, and the test fails naming those that changed: read them before you commit them.

mod lab;
mod listing;

use lab::Res;
use lab::ns::Ns;
use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use vpn_killswitch::backend::nft::{Change, Nft, text};
use vpn_killswitch::config::{self, Config};
use vpn_killswitch::json;
use vpn_killswitch::observe::{Link, Observed};
use vpn_killswitch::policy;
use vpn_killswitch::ruleset::build::{BLOCKED, PAUSED, PAUSED_DEVICES};
use vpn_killswitch::ruleset::{self, Ruleset};
use vpn_killswitch::status::{self, Readback};

/// Everything that a test expects, by file name.
type Expected = BTreeMap<&'static str, String>;
const FILES: [&str; 3] = ["table.nft", "status.json", "errors.txt"];

#[test]
fn what_comes_of_each_miniature_root() -> Res<()> {
    let mut failures = Vec::new();
    let mut cases: Vec<PathBuf> =
        fs::read_dir("tests/golden")?.map(|e| Ok(e?.path())).collect::<std::io::Result<_>>()?;
    cases.sort();
    assert!(cases.len() >= 12, "only {} cases", cases.len());
    for dir in &cases {
        let name = dir.display();
        let actual = run(dir).map_err(|e| format!("{name}: {e}"))?;
        for file in FILES {
            let path = dir.join(file);
            let expected = fs::read_to_string(&path).ok();
            let actual = actual.get(file);
            if expected.as_ref() == actual {
                continue;
            }
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                match actual {
                    Some(text) => fs::write(&path, text)?,
                    None => fs::remove_file(&path)?,
                }
                failures.push(format!("{} was written anew: read it", path.display()));
            } else {
                failures.push(format!(
                    "{} differs (UPDATE_GOLDEN=1 writes it anew):\n{}",
                    path.display(),
                    first_difference(expected.as_deref(), actual.map(String::as_str))
                ));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn first_difference(expected: Option<&str>, actual: Option<&str>) -> String {
    let (expected, actual) = (expected.unwrap_or("(no file)"), actual.unwrap_or("(no file)"));
    let mut pairs = expected.lines().chain([""]).zip(actual.lines().chain([""]));
    let (n, (a, b)) = (1..).zip(&mut pairs).find(|(_, (a, b))| a != b).unwrap_or_default();
    format!("line {n}\n  expected: {a}\n  actual:   {b}")
}

/// What comes of one root.
fn run(dir: &Path) -> Res<Expected> {
    let file = config::PATH;
    let config = match config::parse(&fs::read(dir.join(file))?) {
        Ok(config) => config,
        Err(errors) => return Ok(wrong(errors.iter().map(|e| e.in_file(file)))),
    };
    let (router, by_text) = (Ns::new("router")?, Ns::new("by text")?);
    let observed = observe(dir, &config, &router)?;
    let (policy, warnings) = match policy::derive(&config, &observed) {
        Ok(derived) => derived,
        Err(errors) => return Ok(wrong(errors.iter().map(|e| format!("{file}: {e}")))),
    };
    let rules = ruleset::build(&policy);
    let table = text::table(&rules);

    let wanted = config.enabled.then_some(&rules);
    let kernel = router.enter(|| installed(wanted))?.map_err(|e| format!("kernel: {e}"))?;
    let status = status::build(Some(&config), Some(&policy), &observed, &warnings, vec![], &kernel);
    if config.enabled {
        // What `nft` makes of the text is what we made by netlink.
        by_text.nft(&table)?;
        let differences = listing::differences(&listing::of(&by_text)?, &listing::of(&router)?);
        if !differences.is_empty() {
            return Err(format!("text and netlink: {}", differences.join("\n")).into());
        }
    }
    let status = pretty(&json::of(&status));
    Ok(Expected::from([("table.nft", table), ("status.json", status)]))
}

/// The same JSON, a key a line; its order is the program's.
fn pretty(json: &str) -> String {
    let (mut out, mut depth, mut quoted, mut escaped) = (String::new(), 0_usize, false, false);
    let mut before = ' ';
    for c in json.chars() {
        if !quoted && matches!(c, '}' | ']') {
            depth -= 1;
        }
        // Nothing stands between the brackets of what is empty.
        let opened = !quoted && matches!(before, '{' | '[' | ',') && !matches!(c, '}' | ']');
        if opened || !quoted && matches!(c, '}' | ']') && !matches!(before, '{' | '[') {
            out.push('\n');
            out.push_str(&"  ".repeat(depth));
        }
        out.push(c);
        match c {
            '"' if !escaped => quoted = !quoted,
            ':' if !quoted => out.push(' '),
            '{' | '[' if !quoted => depth += 1,
            _ => {}
        }
        escaped = quoted && c == '\\' && !escaped;
        before = if quoted { ' ' } else { c };
    }
    out + "\n"
}

fn wrong(lines: impl Iterator<Item = String>) -> Expected {
    Expected::from([("errors.txt", lines.map(|l| l + "\n").collect())])
}

/// What `observed.json` holds.
#[derive(serde::Deserialize)]
struct Stated {
    links: Vec<StatedLink>,
    uplinks: Vec<String>,
}

#[derive(serde::Deserialize)]
struct StatedLink {
    name: String,
    up: bool,
    addrs: Vec<IpAddr>,
    kind: String,
}

/// The kernel's part from `observed.json`, the files' part from the files. The namespace is empty, so
/// nothing of this machine gets in.
fn observe(dir: &Path, config: &Config, ns: &Ns) -> Res<Observed> {
    let stated: Stated = serde_json::from_slice(&fs::read(dir.join("observed.json"))?)?;
    let from_files = ns.enter(|| Observed::gather(dir, config, true))??;
    let link =
        |StatedLink { name, up, addrs, kind }| Link { name, up, addrs, kind, ..Link::default() };
    let links = stated.links.into_iter().map(link).collect();
    Ok(Observed { links, uplinks: stated.uplinks, ..from_files })
}

/// Installs the rules, if any, and reads back what the kernel then has.
fn installed(rules: Option<&Ruleset>) -> Result<Readback, vpn_killswitch::backend::nft::Error> {
    let mut nft = Nft::open()?;
    let mut out = Readback::default();
    let Some(rules) = rules else {
        out.netfilter.installed = nft.read()?.is_some();
        return Ok(out);
    };
    nft.apply(rules)?;
    let changes = nft.check(rules)?;
    out.netfilter.installed = !changes.contains(&Change::AddTable);
    out.netfilter.differences = changes.iter().map(ToString::to_string).collect();
    out.counters = nft.counters()?;
    for (set, width) in BLOCKED.into_iter().zip([4, 16]) {
        out.blocked.extend(nft.elements(set)?.into_iter().map(|e| (width, e)));
    }
    for (set, width) in [PAUSED_DEVICES].into_iter().chain(PAUSED).zip([0, 4, 16]) {
        out.paused.extend(nft.elements(set)?.into_iter().map(|e| (width, e)));
    }
    Ok(out)
}
