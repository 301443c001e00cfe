//! Keeps the documents and the program together: what one of them names, the other has.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a wrong text is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use vpn_killswitch::backend::nft::read::Element;
use vpn_killswitch::config::{self, Config, Host, RouterMode};
use vpn_killswitch::json;
use vpn_killswitch::observe::{Link, Observed, TimeSources};
use vpn_killswitch::policy::{self, Policy, Warning};
use vpn_killswitch::ruleset::{self, Ruleset};
use vpn_killswitch::status::{self, LayerReadback, Readback};

/// Everything that makes rules: both families, every kind of exemption, every option.
const RICH: &str = "
config killswitch
	option enabled 1
	list tunnel_device tun0
	list local_device lan0
	option ipsec 1
	option port_forward_replies 1
config endpoint
	option host vpn.example.net
	option port 1194
config endpoint
	option host 2001:db8::1
	option port 1194
config exempt
	list src_mac 00:11:22:aa:bb:cc
config exempt
	list src_mac 00:11:22:aa:bb:cc
	list dest_port 443
config exempt
	list src_ip 192.0.2.0/24
	list src_ip 2001:db8::/64
	list dest_port 8000-8100
config exempt
	list dest_ip 192.0.2.1
	list dest_ip 2001:db8::1
	option proto icmp
";

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(top().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn rich() -> (Config, Observed, Policy, Vec<Warning>, Ruleset) {
    let config = config::parse(RICH.as_bytes()).unwrap();
    let addrs = ["192.0.2.9", "2001:db8::9"].map(|a| a.parse().unwrap());
    let link = |name: &str| Link {
        name: name.to_owned(),
        up: true,
        addrs: addrs.into(),
        ..Link::default()
    };
    let observed = Observed {
        links: vec![link("tun0"), link("lan0"), link("wan0")],
        time: TimeSources { servers: addrs.map(Host::Addr).into(), from_dhcp: false },
        ..Observed::default()
    };
    let (policy, warnings) = policy::derive(&config, &observed).unwrap();
    let rules = ruleset::build(&policy);
    (config, observed, policy, warnings, rules)
}

/// The lines of a section (`.Sh`) or subsection (`.Ss`) of the manual page.
fn manual(kind: &str, title: &str) -> Vec<String> {
    let text = read("docs/vpn-killswitch.8");
    let wanted = format!("{kind} {title}");
    let ends = |line: &&str| !line.starts_with(".Sh ") && !line.starts_with(&format!("{kind} "));
    let lines: Vec<String> = text
        .lines()
        .skip_while(|line| *line != wanted)
        .skip(1)
        .take_while(ends)
        .map(str::to_owned)
        .collect();
    assert!(!lines.is_empty(), "the manual page has no '{wanted}'");
    lines
}

/// The items of a section's outer lists: what stands behind `.It`, up to the `.It` of a list in it.
fn items(lines: &[String]) -> Vec<&str> {
    let mut depth = 0;
    let mut out = Vec::new();
    for line in lines {
        match line.split(' ').next() {
            Some(".Bl") => depth += 1,
            Some(".El") => depth -= 1,
            Some(".It") if depth == 1 => out.push(line.strip_prefix(".It ").unwrap_or_default()),
            _ => {}
        }
    }
    out
}

/// The options of a section type, as the program lists them when it meets one that it does not know.
fn known_options(kind: &str) -> BTreeSet<String> {
    let text = format!("config {kind}\n option zzzzzzzzzzzzzzzz 1\n");
    let errors = config::parse(text.as_bytes()).unwrap_err();
    let known = errors.iter().find_map(|e| e.message.split_once("known are ")).unwrap().1;
    known.split(", ").map(str::to_owned).collect()
}

/// The options of a section type in the manual page, with what is said about them in parentheses.
fn described_options(kind: &str) -> BTreeMap<String, String> {
    let lines = manual(".Ss", &format!("config {kind}"));
    let described = items(&lines).into_iter().map(|item| {
        let (name, about) = item.strip_prefix("Cm ").unwrap().split_once(' ').unwrap();
        (name.to_owned(), about.to_owned())
    });
    described.collect()
}

#[test]
fn the_manual_page_has_every_option_and_no_other() {
    for kind in ["killswitch", "endpoint", "exempt"] {
        let described: BTreeSet<String> = described_options(kind).into_keys().collect();
        assert_eq!(described, known_options(kind), "config {kind}");
    }
}

#[test]
fn the_defaults_in_the_manual_page_are_those_of_the_program() {
    let mut compared = 0;
    for (kind, minimal) in [
        ("killswitch", "config killswitch\n option enabled 0\n"),
        (
            "endpoint",
            "config killswitch\n option enabled 0\nconfig endpoint\n option host 192.0.2.1\n option port 1\n",
        ),
        (
            "exempt",
            "config killswitch\n option enabled 0\nconfig exempt\n option src_ip 192.0.2.1\n",
        ),
    ] {
        let without = config::parse(minimal.as_bytes()).unwrap();
        for (name, about) in described_options(kind) {
            let default = about.split_once("default ").map(|(_, d)| d.replace("Cm ", ""));
            let default = default.map(|d| d.trim_end_matches(" Pc").to_owned());
            let Some(default) = default else { continue };
            if ["empty", "none", "any"].contains(&default.as_str()) || default.starts_with("Dq") {
                continue;
            }
            let text = format!("{minimal} option {name} '{default}'\n");
            let with = config::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{text}: {e:?}"));
            assert_eq!(with, without, "{kind}: {name}");
            compared += 1;
        }
    }
    assert!(compared >= 8, "only {compared} defaults were found");
}

#[test]
fn the_examples_in_the_manual_page_are_valid_switched_on() {
    let text = read("docs/vpn-killswitch.8");
    let blocks = text.split(".Bd -literal").skip(1).filter_map(|b| b.split(".Ed").next());
    let files: Vec<&str> = blocks
        .filter_map(|b| b.split_once('\n'))
        .map(|(_, block)| block)
        .filter(|block| block.starts_with("config "))
        .collect();
    assert!(files.len() >= 3);
    for file in files {
        let on = file.replacen("enabled '0'", "enabled '1'", 1);
        assert!(config::parse(on.as_bytes()).is_ok_and(|c| c.enabled), "{on}");
    }
}

#[test]
fn the_manual_page_has_every_command_of_the_help() {
    let run = Command::new(env!("CARGO_BIN_EXE_vpn-killswitch")).arg("--help").output().unwrap();
    let help = String::from_utf8(run.stdout).unwrap();
    let between = |from: &str| {
        let rest = help.split_once(from).unwrap().1;
        rest.split_once("\n\n").unwrap().0.lines().map(str::trim).collect::<Vec<_>>()
    };

    // `status [--json]   tell …` in the help is `.It Ic status Op Fl -json` in the manual page.
    let told: BTreeSet<String> = between("Commands:\n")
        .into_iter()
        .map(|line| line.split("  ").next().unwrap_or_default().replace(['[', ']'], ""))
        .collect();
    let lines = manual(".Sh", "COMMANDS");
    let described: BTreeSet<String> = items(&lines)
        .into_iter()
        .map(|item| item.replace("Op Fl ", "-").replace("Oo Fl ", "-").replace(" Oc", ""))
        .map(|item| item.replace("Ic ", "").replace("Cm ", "").replace("Ar ", ""))
        .collect();
    assert!(told.len() >= 6);
    assert_eq!(described, told);

    let lines = manual(".Sh", "DESCRIPTION");
    let described = items(&lines).join(" ");
    for line in between("Options:\n") {
        for word in line.split_whitespace().take_while(|w| w.starts_with('-')) {
            let flag = format!("Fl {}", word.trim_end_matches(',').strip_prefix('-').unwrap());
            let has = |item: &str| item.split(" , ").any(|f| f.split(" Ar").next() == Some(&flag));
            assert!(items(&lines).into_iter().any(has), "{flag} is not in: {described}");
        }
    }
}

#[test]
fn the_manual_page_has_every_key_of_the_status_and_every_warning() {
    let (config, observed, policy, mut warnings, rules) = rich();
    warnings.push(Warning { code: "code", degrades: false, message: String::new() });
    let ends = Some(Duration::from_secs(1));
    let element = Element { timeout: ends, expires: ends, ..Element::default() };
    let kernel = Readback {
        netfilter: LayerReadback { installed: true, ..LayerReadback::default() },
        blocked: vec![(4, element.clone())],
        paused: vec![(4, element)],
        ..Readback::default()
    };
    assert!(rules.chains.len() == 5);
    let status =
        status::build(Some(&config), Some(&policy), &observed, &warnings, Vec::new(), &kernel);
    let mut keys = BTreeSet::new();
    collect(&serde_json::from_str(&json::of(&status)).unwrap(), &mut keys);
    assert!(keys.contains("seconds_left") && keys.contains("refused_dns"));

    let lines = manual(".Sh", "STATUS");
    let text = lines.join(" ");
    let words: BTreeSet<&str> =
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    for key in keys {
        assert!(words.contains(key.as_str()), "STATUS does not have '{key}'");
    }
    let source = read("src/policy/mod.rs");
    let codes: BTreeSet<&str> =
        source.split("code: \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(codes.len() >= 5);
    for code in codes {
        assert!(lines.contains(&format!(".It {code}")), "STATUS does not have '{code}'");
    }
}

fn collect(value: &serde_json::Value, keys: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(map) => {
            keys.extend(map.keys().cloned());
            map.values().for_each(|v| collect(v, keys));
        }
        serde_json::Value::Array(list) => list.iter().for_each(|v| collect(v, keys)),
        _ => {}
    }
}

/// What stands between backquotes in the first column of the tables of rules.
fn documented_rules() -> BTreeSet<String> {
    let text = read("docs/guarantees.md");
    let mut inside = false;
    let mut out = BTreeSet::new();
    for line in text.lines() {
        if !line.starts_with('|') {
            inside = false;
        } else if line.starts_with("| rule ") {
            inside = true;
        } else if inside {
            let cell = line.split('|').nth(1).unwrap_or_default();
            out.extend(cell.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    // G9 has two rules and no table.
    out.extend(["in_tunnel_addr4", "in_tunnel_addr6"].map(str::to_owned));
    for id in &out {
        assert!(text.contains(&format!("`{id}`")), "{id}");
    }
    out
}

/// Whether `id` is meant by `pattern`: `N` stands for a number, a final `…` for what may follow.
fn is_meant(id: &str, pattern: &str) -> bool {
    let Some((before, after)) = pattern.split_once('N') else { return id == pattern };
    let Some(rest) = id.strip_prefix(before) else { return false };
    let tail = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    tail.len() < rest.len()
        && match after.strip_suffix('…') {
            Some(stem) => tail == stem || tail.starts_with(&format!("{stem}_")),
            None => tail == after,
        }
}

#[test]
fn the_guarantees_have_every_rule_and_no_other() {
    let (_, _, policy, _, rules) = rich();
    let mut ids: BTreeSet<String> = rules.rules().map(|(_, r)| r.id.clone()).collect();
    let documented = documented_rules();
    let open = ruleset::build(&Policy { router: RouterMode::Open, ..policy });
    ids.extend(open.rules().map(|(_, r)| r.id.clone()));
    for id in &ids {
        assert!(documented.iter().any(|p| is_meant(id, p)), "docs/guarantees.md lacks '{id}'");
    }
    for pattern in &documented {
        assert!(ids.iter().any(|id| is_meant(id, pattern)), "there is no rule '{pattern}'");
    }
}

#[test]
fn patterns_stand_for_numbers_and_what_follows_only() {
    assert!(is_meant("exempt_12_4_tcp", "exempt_N…") && is_meant("exempt_1", "exempt_N…"));
    assert!(is_meant("endpoint_3_6", "endpoint_N_6") && !is_meant("endpoint_3_4", "endpoint_N_6"));
    assert!(!is_meant("exempt_x", "exempt_N…") && !is_meant("exempt_1x", "exempt_N…"));
    assert!(!is_meant("fwd_drop2", "fwd_drop"));
}

#[test]
fn the_architecture_has_every_chain_at_its_place_and_every_set() {
    let (.., rules) = rich();
    let text = read("docs/architecture.md");
    for chain in &rules.chains {
        let hook = format!("{:?}", chain.hook).to_lowercase();
        let row = format!("| `{}` | {hook} {} |", chain.name, chain.priority).replace(" -", " −");
        assert!(text.contains(&row), "docs/architecture.md lacks: {row}");
    }
    for set in &rules.sets {
        // Exemptions' sets and those with ranges are described by pattern.
        let name = set.name.strip_suffix("_net").unwrap_or(&set.name);
        let documented = text.split('`').skip(1).step_by(2).any(|word| is_meant(name, word));
        assert!(
            documented || name.starts_with("exempt_"),
            "docs/architecture.md lacks the set '{name}'"
        );
    }
}

#[test]
fn modules_import_only_what_the_architecture_allows() {
    let text = read("docs/architecture.md");
    let rows = text.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("| [")?.split_once("](")?;
        let allowed = rest.split('|').nth(1)?;
        let words = allowed.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty());
        Some((name.to_owned(), words.map(str::to_owned).collect::<BTreeSet<_>>()))
    });
    let allowed: BTreeMap<String, BTreeSet<String>> = rows.collect();
    let mut modules = BTreeSet::new();
    for file in sources(&top().join("src")) {
        let within = file.strip_prefix(top().join("src")).unwrap().with_extension("");
        let module = within.iter().next().unwrap().to_string_lossy().into_owned();
        if ["lib", "main"].contains(&module.as_str()) {
            continue;
        }
        let own = allowed.get(&module);
        let own = own.unwrap_or_else(|| panic!("docs/architecture.md lacks the module '{module}'"));
        let source = fs::read_to_string(&file).unwrap();
        // Tests may use everything; they stand last in a file, or in one of their own.
        let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
        for used in code.flat_map(|line| line.split("crate::").skip(1)) {
            let used: String =
                used.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let fine = used == "types" || used == module || own.contains(&used);
            assert!(fine, "{} imports '{used}'", file.display());
        }
        modules.insert(module);
    }
    assert_eq!(modules, allowed.into_keys().collect());
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(sources(&path));
        } else if path.file_stem().is_some_and(|s| s.to_string_lossy().ends_with("tests")) {
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
    out
}

/// The project's documents in Markdown.
fn documents() -> Vec<PathBuf> {
    let folders = [top().to_owned(), top().join("docs")];
    let entries = folders.iter().flat_map(|f| fs::read_dir(f).unwrap());
    entries
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "md"))
        .collect()
}

#[test]
fn links_between_documents_lead_to_files() {
    let mut seen = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|t| !t.contains("://")) {
            let file = target.split('#').next().unwrap_or_default();
            let path = document.parent().unwrap().join(file);
            assert!(path.exists(), "{}: {target} does not exist", document.display());
            seen += 1;
        }
    }
    assert!(seen >= 10, "only {seen} links were found");
}

#[test]
fn tests_that_the_guarantees_name_exist() {
    let text = read("docs/guarantees.md");
    let mut named = BTreeSet::new();
    // A paragraph may have several lines.
    for paragraph in text.split("\n\n").filter(|p| p.starts_with("**Tests.**")) {
        named.extend(paragraph.split('`').skip(1).step_by(2));
    }
    assert!(named.len() >= 5, "only {named:?}");
    for name in named {
        let exists = match name.strip_prefix("make ") {
            Some(target) => read("Makefile").lines().any(|l| l.starts_with(&format!("{target}:"))),
            None => [format!("{name}.rs"), format!("{name}/main.rs")]
                .iter()
                .any(|file| top().join("tests").join(file).exists()),
        };
        assert!(exists, "there is no test '{name}'");
    }
}
