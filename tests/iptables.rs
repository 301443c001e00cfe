//! The iptables backend where something is missing: kernels and programs that refuse a match, or are not
//! there at all. Each time the rules must be as tight, or the refusal must leave things closed.
//!
//! Real packets and a capture on the uplink, as in `leaks`, where the whole table of scenarios is told
//! with iptables too. What is missing is played by programs that refuse it. Every test has its negative
//! control in the same run: with protection off, the same flows must be seen outside.

#![allow(clippy::indexing_slicing, reason = "test code: a wrong index is a failed test")]
#![allow(clippy::cast_possible_truncation, reason = "counts of a few thousand packets")]

mod lab;
#[allow(dead_code, reason = "tests/leaks uses the rest")]
#[path = "leaks/stage.rs"]
mod stage;

use lab::harness::{Test, main as run};
use lab::ns::directory;
use lab::product::{MODES, Product, configuration};
use lab::topology::internet;
use lab::traffic::{Flood, Flow, send};
use lab::{Res, wait_for};
use stage::{AFTER, BEFORE, Outcome, RATE, STRICT, Stage};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

const BINARY: &str = env!("CARGO_BIN_EXE_vpn-killswitch");

fn main() -> ExitCode {
    run(&[
        Test { name: "changes_one_by_one", run: changes_one_by_one },
        Test { name: "pause_and_its_end", run: pause_and_its_end },
        Test { name: "found_and_repaired", run: found_and_repaired },
        Test { name: "never_both", run: never_both },
        Test { name: "guard_looks", run: guard_looks },
        Test { name: "without_comment", run: || without(&["-m comment"], &[]) },
        Test { name: "without_owner", run: || without(&["-m owner"], &[]) },
        Test { name: "without_multiport", run: || without(&["multiport"], &[]) },
        Test { name: "without_conntrack", run: || without(&["-m conntrack"], &["out_replies"]) },
        Test {
            name: "without_any_state",
            run: || without(&["-m conntrack", "-m state"], &["mark_from_uplink", "out_replies"]),
        },
        Test { name: "without_connmark", run: || without(&["connmark"], &["mark_from_uplink"]) },
        Test { name: "without_mark", run: || without(&["-m mark"], &["exempt_1", "out_pass"]) },
        Test { name: "without_mac", run: || without(&["-m mac"], &["exempt_1"]) },
        Test { name: "without_hop_limit", run: || without(&["-m hl"], &["out_nd_ns"]) },
        Test {
            name: "without_reject_and_log",
            run: || without(&["REJECT", "LOG"], &["fwd_reject_1"]),
        },
        Test { name: "without_raw", run: || without(&["raw"], &[]) },
        Test { name: "without_waiting", run: || without(&["-w"], &[]) },
        Test { name: "without_save", run: || without(&["no:-save"], &[]) },
        Test { name: "without_restore", run: || without(&["no:-restore"], &[]) },
        Test { name: "without_ip6tables", run: || without(&["no:ip6"], &["IPv6 is switched off"]) },
        Test { name: "without_tcp", run: refused },
    ])
}

/// Programs that refuse any call or line that has one of these words; `no:x` leaves out those whose
/// name has `x`.
fn programs(refused: &[&str]) -> Res<PathBuf> {
    let real = lab::iptables("legacy")?;
    let folder = directory("refusing")?;
    for name in ["iptables", "ip6tables"] {
        for suffix in ["", "-save", "-restore"] {
            let program = format!("{name}{suffix}");
            let path = folder.join(&program);
            // Something of that name is found, and fails as a missing one would.
            let missing =
                refused.iter().filter_map(|r| r.strip_prefix("no:")).any(|r| program.contains(r));
            let cases: String = refused
                .iter()
                .filter(|r| !r.starts_with("no:"))
                .map(|r| {
                    format!(
                        "case \" $* $text \" in *'{r}'*) echo \"unknown: {r}\" >&2; exit 2;; esac\n"
                    )
                })
                .collect();
            let real = real.join(&program);
            let real = real.display();
            let script = match (missing, suffix) {
                (true, _) => "#!/bin/sh\necho 'not here' >&2\nexit 127\n".to_owned(),
                (_, "-restore") => format!(
                    "#!/bin/sh\ntext=$(cat)\n{cases}printf '%s\\n' \"$text\" | {real} \"$@\"\n"
                ),
                (_, "-save") => format!("#!/bin/sh\nexec {real} \"$@\"\n"),
                _ => format!("#!/bin/sh\ntext=\n{cases}exec {real} \"$@\"\n"),
            };
            if missing && suffix == "-save" {
                continue;
            }
            fs::write(&path, script)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(folder)
}

const EXEMPT: &str = "\nconfig exempt\n\toption name 'other'\n\tlist src_mac '02:00:00:00:aa:01'\n";

/// A router whose product uses these programs; not yet in force. Nothing else is found: the folder is
/// all there is of iptables, as long as it has a program of each name.
fn stage(programs: PathBuf) -> Res<Stage> {
    let mut stage = Stage::new(STRICT, None)?;
    let product = Product::new(BINARY, &stage.lab.router)?.with_iptables(programs)?;
    product.configure(&(configuration("strict", "") + EXEMPT))?;
    stage.product = Some(product);
    Ok(stage)
}

fn product(stage: &Stage) -> Res<&Product> {
    stage.product.as_ref().ok_or_else(|| "no product".into())
}

/// What leaks while the tunnel is down, of clients, of guests and of the router itself.
fn leaked(stage: &Stage) -> Res<Outcome> {
    stage.lab.forget_connections()?;
    let watch = stage.lab.watch()?;
    let mut sent = Vec::new();
    for who in [&stage.lab.client, &stage.lab.guest, &stage.lab.router] {
        sent.extend(send(who, None, Flow::all_kinds(&internet()), AFTER / 4, RATE)?);
    }
    Ok(Outcome::count(watch.finish()?.strays(), &sent, 0))
}

/// The tunnel goes, and without protection what is sent must be seen outside, or nothing is tested.
fn control(stage: &Stage) -> Res<String> {
    stage.lab.tunnel_down()?;
    let open = leaked(stage)?;
    let exposed: u32 = open.flows.iter().map(|f| f.exposed).sum();
    if open.leaked() * 4 < exposed * 3 {
        return Err(format!("the negative control did not leak: {open}").into());
    }
    Ok(format!("off: {open}; on: 0"))
}

/// With these missing, everything stays closed, by the first layer alone too, and what is left out is
/// named.
fn without(refused: &[&str], named: &[&str]) -> Res<String> {
    let stage = stage(programs(refused)?)?;
    let control = control(&stage)?;
    let out = product(&stage)?.run(&["apply"])?;
    let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    if !out.status.success() {
        return Err(format!("apply: {}: {said}", out.status).into());
    }
    for name in named {
        if !said.contains(name) {
            return Err(format!("'{name}' is left out and was not named: {said}").into());
        }
    }
    let again = product(&stage)?.ok(&["apply"])?;
    if !again.contains("nothing had to be changed") {
        return Err(format!("it does not come to rest: {again}").into());
    }
    stage.verify()?;
    let both = leaked(&stage)?;
    for family in ["-4", "-6"] {
        for rule in [32765; 4] {
            stage.lab.router.sh(&format!("ip {family} rule del priority {rule}"))?;
        }
    }
    let alone = leaked(&stage)?;
    if both.leaked() + alone.leaked() > 0 {
        return Err(
            format!("leaked with both layers: {both}, with the first alone: {alone}").into()
        );
    }
    product(&stage)?.ok(&["disable"])?;
    Ok(control)
}

/// A rule that refuses and cannot be expressed: nothing of the first layer is installed, the second one
/// closes what is forwarded, and the reason is told.
fn refused() -> Res<String> {
    let stage = stage(programs(&["-m tcp"])?)?;
    control(&stage)?;
    let out = product(&stage)?.run(&["apply"])?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    if out.status.code() != Some(1) || !said.contains("out_dns_tcp") || !said.contains("'tcp'") {
        return Err(format!("apply: {}: {said}", out.status).into());
    }
    stage.lab.forget_connections()?;
    let watch = stage.lab.watch()?;
    let sent = send(&stage.lab.client, None, Flow::all_kinds(&internet()), AFTER / 4, RATE)?;
    let outcome = Outcome::count(watch.finish()?.strays(), &sent, 0).without_own_answers();
    if outcome.leaked() > 0 {
        return Err(format!("the second layer: {outcome}").into());
    }
    // The step before the network comes up closes by what can.
    let out = product(&stage)?.run(&["apply", "--boot"])?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    Ok(format!("apply: refused; boot: {}", said.lines().last().unwrap_or_default()))
}

/// Without iptables-restore, changes under a flood while the tunnel is down, and no packet leaves.
fn changes_one_by_one() -> Res<String> {
    let stage = stage(programs(&["no:-restore"])?)?;
    let product = product(&stage)?;
    let control = control(&stage)?;
    product.ok(&["apply"])?;
    for family in ["-4", "-6"] {
        for rule in [32765; 4] {
            stage.lab.router.sh(&format!("ip {family} rule del priority {rule}"))?;
        }
    }
    stage.lab.forget_connections()?;
    let watch = stage.lab.watch()?;
    let flood = Flood::start(&stage.lab.client, None, Flow::all_kinds(&internet()), RATE);
    flood.more(BEFORE)?;
    for (mode, more) in MODES {
        product.configure(&configuration(mode, more))?;
        product.ok(&["apply"])?;
        // The second layer stays away: it would hide what the first one lets through.
        for family in ["-4", "-6"] {
            let gone = format!("while ip {family} rule del priority 32765 2>/dev/null; do :; done");
            stage.lab.router.sh(&gone)?;
        }
    }
    flood.more(BEFORE)?;
    let sent = flood.stop()?;
    let outcome = Outcome::count(watch.finish()?.strays(), &sent, 0);
    if outcome.leaked() > 0 {
        return Err(format!("{outcome}").into());
    }
    let exposed: u32 = sent.iter().map(|s| s.sent).sum();
    Ok(format!("{} of {exposed} packets leaked; {control}", outcome.leaked()))
}

/// A pause opens for its time, and the kernel ends it.
fn pause_and_its_end() -> Res<String> {
    let mut found = Vec::new();
    for kind in ["legacy", "nft"] {
        let stage = stage(lab::iptables(kind)?)?;
        let product = product(&stage)?;
        product.ok(&["apply"])?;
        stage.lab.tunnel_down()?;
        if leaked(&stage)?.leaked() > 0 {
            return Err("open before the pause".into());
        }
        product.ok(&["pause", "3s"])?;
        let code = |args: &[&str]| product.run(args).map(|out| out.status.code());
        if code(&["check"])? != Some(5) {
            return Err("check does not know of the pause".into());
        }
        let watch = stage.lab.watch()?;
        let open = send(&stage.lab.client, None, Flow::all_kinds(&internet()), 40, RATE)?;
        let open = Outcome::count(watch.finish()?.strays(), &open, 0);
        if open.flows.iter().any(|f| f.leaked * 2 < f.exposed) {
            return Err(format!("the pause did not open: {open}").into());
        }
        // Nothing of ours runs when it ends; the status only reads.
        wait_for("the end of the pause", 5.0, || code(&["check"]).is_ok_and(|c| c == Some(4)))?;
        let after = leaked(&stage)?;
        if after.leaked() > 0 {
            return Err(format!("open behind the pause: {after}").into());
        }
        product.ok(&["pause", "1h"])?;
        product.ok(&["resume"])?;
        let after = leaked(&stage)?;
        if after.leaked() > 0 || code(&["check"])? != Some(4) {
            return Err(format!("open behind resume: {after}").into());
        }
        found.push(format!("{kind}: paused {open}, behind it 0"));
    }
    // Without an end that the kernel keeps there is no pause.
    let stage = stage(programs(&["-m time"])?)?;
    let product = product(&stage)?;
    product.ok(&["apply"])?;
    let out = product.run(&["pause", "10s"])?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    if out.status.success() || !said.contains("'time'") {
        return Err(format!("a pause without an end: {said}").into());
    }
    Ok(found.join("; "))
}

/// What somebody did to the rules is named, and the next apply repairs it.
fn found_and_repaired() -> Res<String> {
    let mut count = 0;
    for kind in ["legacy", "nft"] {
        let folder = lab::iptables(kind)?;
        let stage = stage(folder.clone())?;
        let product = product(&stage)?;
        product.ok(&["apply"])?;
        for (command, what) in [
            ("iptables -I FORWARD -j ACCEPT", "another rule stands before ours in FORWARD"),
            ("iptables -t mangle -I POSTROUTING -o wan0 -j ACCEPT", "before ours in POSTROUTING"),
            ("ip6tables -F FORWARD", "ip6tables table filter: nothing leads from FORWARD"),
            ("iptables -t mangle -F; iptables -t mangle -X", "nothing leads from POSTROUTING"),
            ("ip6tables -t raw -D PREROUTING 1", "nothing leads from PREROUTING"),
            (
                "ip6tables -R VKS1_forward 1 -j RETURN || ip6tables -R VKS2_forward 1 -j RETURN",
                "chain forward lacks the rule 'G1 fwd_tunnel",
            ),
            (
                "iptables -I VKS1_forward -j RETURN || iptables -I VKS2_forward -j RETURN",
                "has a rule that should not be there: -j RETURN",
            ),
            ("iptables -N VKS9_mine", "chain VKS9_mine is not ours"),
        ] {
            let path = format!("PATH={}:$PATH; {command} 2>&1", folder.display());
            stage.lab.router.sh(&path)?;
            let out = product.run(&["check"])?;
            let said = String::from_utf8_lossy(&out.stdout).into_owned();
            if out.status.code() != Some(6) || !said.contains(what) {
                return Err(format!("{command}: {}: {said}", out.status).into());
            }
            product.ok(&["apply"])?;
            stage.verify()?;
            count += 1;
        }
        product.ok(&["disable"])?;
        control(&stage)?;
        let left =
            stage.lab.router.sh(&format!("PATH={}:$PATH; iptables-save", folder.display()))?;
        if left.contains("VKS") {
            return Err(format!("left behind: {left}").into());
        }
    }
    Ok(format!("{count} changes named and repaired"))
}

/// A router that can do both ends with one of them.
fn never_both() -> Res<String> {
    for kind in ["legacy", "nft"] {
        let folder = lab::iptables(kind)?;
        let stage = stage(folder.clone())?;
        let product = product(&stage)?;
        let there = || -> Res<(bool, bool)> {
            let tables = stage.lab.router.sh("nft list tables")?;
            let saved = format!("PATH={}:$PATH; iptables-save; ip6tables-save", folder.display());
            let chains = stage.lab.router.sh(&saved)?;
            Ok((tables.contains("vpn_killswitch"), chains.contains("VKS")))
        };
        for (args, wanted) in [
            (&["apply"][..], (false, true)),
            (&["--backend", "nft", "apply"], (true, false)),
            (&["apply"], (false, true)),
            (&["--backend", "nft", "disable"], (false, false)),
        ] {
            product.ok(args)?;
            if there()? != wanted {
                return Err(format!("{kind}, {args:?}: {:?}", there()?).into());
            }
        }
    }
    Ok("one of both after each step".to_owned())
}

/// The kernel tells nothing of legacy iptables; the guard looks by itself.
fn guard_looks() -> Res<String> {
    let folder = lab::iptables("legacy")?;
    let stage = stage(folder.clone())?;
    let product = product(&stage)?;
    product.ok(&["apply"])?;
    let _guard = product.spawn(&["guard"])?;
    let path = format!("PATH={}:$PATH", folder.display());
    let there =
        || product.run(&["check"]).is_ok_and(|out| matches!(out.status.code(), Some(0 | 4)));
    wait_for("the rules", 5.0, there)?;
    stage.lab.router.sh(&format!("{path}; iptables -F; ip6tables -t mangle -F"))?;
    if there() {
        return Err("nothing was flushed".into());
    }
    let began = std::time::Instant::now();
    wait_for("the guard", 15.0, there)?;
    stage.verify()?;
    Ok(format!("repaired within {:.1} s", began.elapsed().as_secs_f64()))
}
