//! Hooks in a storm, and the owner at work through it all (scenarios 1, 11 and 12).

use crate::lab::Res;
use crate::lab::ns::Ns;
use crate::lab::product::configuration;
use crate::lab::topology::Tunnel;
use crate::stage::{Stage, Trial};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const HOOKS: usize = 100;

fn files(below: &Path, found: &mut Vec<PathBuf>) -> Res<()> {
    for entry in fs::read_dir(below)? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, found)?;
        }
        found.push(path);
    }
    found.sort();
    Ok(())
}

/// The processes in the router's namespace; this one's threads do not count.
fn processes(router: &Ns) -> Res<Vec<String>> {
    let here = router.enter(|| fs::read_link("/proc/thread-self/ns/net"))??;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        // Whatever has ended meanwhile is not there.
        if fs::read_link(path.join("ns/net")).is_ok_and(|ns| ns == here) {
            found.push(fs::read_to_string(path.join("comm")).unwrap_or_default());
        }
    }
    Ok(found)
}

/// A hundred applies, by whatever calls them.
pub fn storm_of_applies() -> Res<String> {
    storm(&["apply"])
}

/// A hundred hooks: most need not do anything, because another one is about to.
pub fn storm_of_hooks() -> Res<String> {
    storm(&["hotplug"])
}

/// A hundred at once while the tunnel's device comes and goes: the end is right, and nothing is left
/// behind.
fn storm(arguments: &[&str]) -> Res<String> {
    let stage = Stage::blocking()?;
    // The locks stay, empty and in memory.
    stage.product.ok(arguments)?;
    let (mut before, mut after) = (Vec::new(), Vec::new());
    files(stage.product.root(), &mut before)?;
    let trial = Trial::start(&stage, &[&stage.lab.client])?;
    let router = stage.lab.router.clone();
    let (began, over) = (Instant::now(), AtomicBool::new(false));
    let (mut hooks, mut flaps) = (Vec::new(), 0);
    let start = || {
        let mut hook = stage.product.command(arguments);
        hook.envs([("ACTION", "ifup"), ("INTERFACE", "vpn"), ("DEVICE", "wg0")]);
        hook.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
    };
    std::thread::scope(|scope| -> Res<()> {
        // Up for a moment and gone: nothing that is sent meanwhile has to arrive.
        let flapping = scope.spawn(|| -> Res<u32> {
            let mut flaps = 0;
            while !over.load(Ordering::Acquire) {
                router
                    .ip("link del wg0\nlink add wg0 type veth peer name far0\nlink set wg0 up\n")?;
                flaps += 1;
            }
            Ok(flaps)
        });
        let started = (1..HOOKS).try_for_each(|_| start().map(|hook| hooks.push(hook)));
        over.store(true, Ordering::Release);
        flaps = flapping.join().map_err(|_| "the flapping died")??;
        Ok(started?)
    })?;
    // The hook of the last flap.
    hooks.push(start()?);
    let started = began.elapsed();
    let mut complaints = Vec::new();
    for hook in hooks {
        let out = hook.wait_with_output()?;
        if !out.status.success() {
            complaints.push(format!("{}: {}", out.status, String::from_utf8_lossy(&out.stderr)));
        }
    }
    let took = began.elapsed();
    if !complaints.is_empty() {
        return Err(
            format!("{} of {HOOKS} hooks failed: {}", complaints.len(), complaints[0]).into()
        );
    }
    // Without another hook: the last to come saw the last change.
    stage.verify()?;
    let left = processes(&stage.lab.router)?;
    if !left.is_empty() {
        return Err(format!("processes are left: {left:?}").into());
    }
    files(stage.product.root(), &mut after)?;
    if before != after {
        return Err(format!("files: {before:?}, then {after:?}").into());
    }
    // Whoever comes now gets the lock at once.
    let began = Instant::now();
    stage.apply()?;
    if began.elapsed() > Duration::from_secs(2) {
        return Err("somebody still holds the lock".into());
    }
    let found = trial.finish(&stage)?;
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    Ok(format!(
        "{HOOKS} hooks started in {:.0} ms, over after {:.0} ms, {flaps} flaps: {found}",
        ms(started),
        ms(took)
    ))
}

/// One connection to the router, by each family, survives a hundred changes of policy, flushes, the
/// boot step and the closing of everything.
pub fn management() -> Res<String> {
    let stage = Stage::open(Tunnel::Veth)?;
    stage.lab.tunnel_down()?;
    let mut trial = Trial::start(&stage, &[&stage.lab.client])?;
    let booted = stage.product.run(&["apply", "--boot"])?;
    trial.closed();
    if !booted.status.success() {
        return Err(String::from_utf8_lossy(&booted.stderr).into_owned().into());
    }
    for n in 0..HOOKS {
        let (mode, more) = match n % 4 {
            0 => ("dns", ""),
            1 => ("strict", "\toption reject '0'\n"),
            2 => ("strict", "\toption port_forward_replies '1'\n"),
            _ => ("strict", ""),
        };
        stage.product.configure(&configuration(mode, more))?;
        stage.apply()?;
        if n % 10 == 9 {
            stage.lab.router.nft("flush ruleset\n")?;
        }
    }
    // The configuration breaks, and the router boots again.
    stage.product.configure("nonsense")?;
    let out = stage.product.run(&["apply", "--boot"])?;
    if out.status.code() != Some(2) {
        return Err(format!("a broken configuration: {}", out.status).into());
    }
    trial.more()?;
    let open = || {
        stage.product.configure(&configuration("strict", ""))?;
        stage.product.ok(&["disable"]).map(drop)
    };
    let found = trial.finish_by(open, &stage)?;
    Ok(format!("{HOOKS} changes, 10 flushes, 2 boots: {found}"))
}

/// Whatever the configuration says, a hook opens nothing, and repairs what it can.
pub fn never_opens() -> Res<String> {
    let stage = Stage::blocking()?;
    let trial = Trial::start(&stage, &[&stage.lab.client])?;
    let hook = |action: &str| {
        let mut hook = stage.product.command(&["hotplug"]);
        hook.env("ACTION", action).env("INTERFACE", "vpn").output()
    };
    for text in ["config killswitch\n\toption enabled '0'\n", "nonsense", ""] {
        stage.product.configure(text)?;
        for action in ["ifup", "ifdown", "remove", "firewall", "nobody knows"] {
            hook(action)?;
        }
        // As it was, for this configuration as for the other.
        stage.product.configure(&configuration("strict", ""))?;
        stage.verify()?;
    }
    stage.product.configure("nonsense")?;
    if hook("ifup")?.status.code() != Some(2) {
        return Err("a broken configuration is no error".into());
    }
    stage.product.configure(&configuration("strict", ""))?;
    stage.lab.router.nft("flush ruleset\n")?;
    // What matters to nobody changes nothing, and what matters mends.
    hook("ifup-failed")?;
    if stage.product.run(&["check"])?.status.code() != Some(6) {
        return Err("a hook without work has worked".into());
    }
    hook("firewall")?;
    stage.verify()?;
    Ok(trial.finish(&stage)?.to_string())
}
