//! The guard's own life: killed at every step, doubled, misled, fought and idle (scenario 11).

use crate::lab::ns::Daemon;
use crate::lab::product::configuration;
use crate::lab::{Res, wait_for};
use crate::stage::{Stage, Trial, settle};
use crate::tracee::Tracee;
use std::fs;
use std::time::{Duration, Instant};
use vpn_killswitch::backend::nft::Nft;
use vpn_killswitch::ruleset::Ruleset;

/// Calls that wait for the next notice: what comes before is one repair.
fn waits(call: i64) -> bool {
    matches!(call, libc::SYS_poll | libc::SYS_ppoll)
}

/// One of the layers goes, never both: what nobody put back yet must be held by the other.
fn take(stage: &Stage, first: bool) -> Res<()> {
    if first {
        let name = "table inet vpn_killswitch";
        stage.lab.router.nft(&format!("add {name}\ndelete {name}\n"))
    } else {
        stage.delete_routing()
    }
}

/// Held at the entry of its first own call.
fn held(stage: &Stage) -> Res<Tracee> {
    let mut guard = Tracee::start(stage.product.command(&["guard"]))?;
    guard.run_until("its first own call", |_, s| s.call == libc::SYS_socket)?;
    Ok(guard)
}

/// How many calls a guard makes from its first own one to its first wait.
fn calls(stage: &Stage) -> Res<usize> {
    let mut guard = held(stage)?;
    let mut count = 1;
    while let Some(stop) = guard.next()? {
        if stop.entry && waits(stop.call) {
            guard.kill()?;
            return Ok(count);
        }
        count += usize::from(stop.entry);
    }
    Err("the guard ended by itself".into())
}

/// Killed before its n-th call, or before its wait if that comes first; whether it came to the n-th.
fn killed_before(stage: &Stage, n: usize) -> Res<bool> {
    let mut guard = held(stage)?;
    let (mut seen, mut waiting) = (0, false);
    while seen < n && !waiting {
        let stop = guard.next()?.ok_or("the guard ended by itself")?;
        seen += usize::from(stop.entry);
        waiting = stop.entry && waits(stop.call);
    }
    guard.kill()?;
    Ok(!waiting)
}

/// The layer that nobody took is whole.
fn other_layer(stage: &Stage, first: bool, rules: &Ruleset, nft: &mut Nft) -> Res<()> {
    let whole = if first {
        let ours = stage.lab.router.sh("ip -4 rule; ip -6 rule")?;
        ours.lines().filter(|l| l.starts_with("32765:")).count() >= 8
    } else {
        nft.check(rules).is_ok_and(|differences| differences.is_empty())
    };
    if whole { Ok(()) } else { Err("the layer that was there is not whole".into()) }
}

/// Killed before each of its system calls, while it puts back one layer or the other, and started
/// again. What a call does to anybody else is done between its entry and the entry of the next one, so
/// these are all the states that it can leave.
pub fn killed_at_every_step() -> Res<String> {
    let stage = Stage::blocking()?;
    let (rules, mut nft) = stage.rules()?;
    let trial = Trial::start(&stage, &[&stage.lab.client])?;
    let mut kills = [0; 2];
    for (first, kills) in [true, false].into_iter().zip(&mut kills) {
        take(&stage, first)?;
        let count = calls(&stage)?;
        loop {
            // Restarted: all is put back before one of the layers is taken away again.
            drop(stage.guard()?);
            take(&stage, first)?;
            let more = killed_before(&stage, *kills)?;
            other_layer(&stage, first, &rules, &mut nft)
                .map_err(|e| format!("killed before call {kills}: {e}"))?;
            if !more {
                break;
            }
            *kills += 1;
        }
        // A listing may come in one part more or less.
        if *kills + 20 < count {
            return Err(format!("killed before {kills} calls of {count}").into());
        }
    }
    let guard = stage.guard()?;
    stage.verify()?;
    // It does nothing further: nobody has changed anything.
    let mut notices = stage.notices()?;
    let changes = settle(&mut notices, Duration::from_millis(300))?;
    if changes > 0 {
        return Err(format!("restarted, it changed {changes} things: {}", guard.said()).into());
    }
    let found = trial.finish(&stage)?;
    let [first, second] = kills;
    Ok(format!("killed before each of {first} + {second} calls: {found}"))
}

/// Waits until the first layer reads as it should.
fn right(rules: &Ruleset, nft: &mut Nft, seconds: f64) -> Res<()> {
    wait_for("the policy back", seconds, || nft.check(rules).is_ok_and(|d| d.is_empty()))
}

/// Two guards do the same work, and do not take each other's for somebody else's.
pub fn two_at_once() -> Res<String> {
    let stage = Stage::blocking()?;
    let guards = [stage.guard()?, stage.guard()?];
    let (rules, mut nft) = stage.rules()?;
    let mut notices = stage.notices()?;
    let trial = Trial::start(&stage, &[&stage.lab.client])?;
    let mut most = 0;
    for n in 0..8 {
        take(&stage, n % 2 == 0)?;
        right(&rules, &mut nft, 5.0)?;
        most = most.max(settle(&mut notices, Duration::from_millis(200))?);
    }
    wait_for("both layers", 5.0, || stage.verify().is_ok())?;
    for guard in &guards {
        if guard.said().contains("another program keeps changing") {
            return Err(format!("they fight: {}", guard.said()).into());
        }
    }
    Ok(format!("8 repairs, at most {most} messages each: {}", trial.finish(&stage)?))
}

/// The configuration breaks: the guard says so once, opens nothing, and works on when it is mended.
pub fn broken_configuration_mended() -> Res<String> {
    let stage = Stage::blocking()?;
    let guard = stage.guard()?;
    let (rules, mut nft) = stage.rules()?;
    let trial = Trial::start(&stage, &[&stage.lab.client])?;
    stage.product.configure("config killswitch 'main'\n\toption enabled 'perhaps'\n")?;
    for _ in 0..5 {
        take(&stage, true)?;
        trial.more()?;
    }
    wait_for("a complaint", 5.0, || guard.said().contains("enabled"))?;
    let complaints = guard.said().lines().filter(|l| l.contains("enabled")).count();
    if complaints != 1 {
        return Err(format!("{complaints} complaints: {}", guard.said()).into());
    }
    stage.product.configure(&configuration("strict", ""))?;
    let began = Instant::now();
    right(&rules, &mut nft, 8.0)?;
    let took = began.elapsed().as_secs_f64();
    wait_for("both layers", 5.0, || stage.verify().is_ok())?;
    Ok(format!("mended → right: {took:.1} s: {}", trial.finish(&stage)?))
}

/// The processor time of a process, to the nanosecond.
fn processor_time(process: &Daemon) -> Res<Duration> {
    let text = fs::read_to_string(format!("/proc/{}/schedstat", process.id()))?;
    let nanos = text.split_whitespace().next().ok_or("no schedstat")?.parse()?;
    Ok(Duration::from_nanos(nanos))
}

/// A number from `/proc/PID/status`.
fn status(process: &Daemon, key: &str) -> Res<u64> {
    let text = fs::read_to_string(format!("/proc/{}/status", process.id()))?;
    let line = text.lines().find_map(|l| l.strip_prefix(key)).ok_or("no such line")?;
    Ok(line.trim_start_matches(':').split_whitespace().next().ok_or("no number")?.parse()?)
}

/// A program deletes the table again and again: the guard slows down and says so, and layer 2 holds.
pub fn fought() -> Res<String> {
    let stage = Stage::blocking()?;
    let guard = stage.guard()?;
    let (rules, mut nft) = stage.rules()?;
    let trial = Trial::start(&stage, &[&stage.lab.client])?;
    let script = "while :; do nft delete table inet vpn_killswitch 2>/dev/null; sleep 0.01; done";
    let enemy = stage.lab.router.spawn("sh", &["-c", script], &[])?;
    wait_for("the guard's complaint", 15.0, || {
        guard.said().contains("another program keeps changing these rules")
    })?;
    let (began, before) = (Instant::now(), processor_time(&guard)?);
    std::thread::sleep(Duration::from_secs(5));
    let (elapsed, used) = (began.elapsed(), processor_time(&guard)?.saturating_sub(before));
    drop(enemy);
    // It recovers by itself within one of its pauses.
    right(&rules, &mut nft, 8.0)?;
    wait_for("both layers", 5.0, || stage.verify().is_ok())?;
    let said = guard.said();
    if !said.contains("nft, process") {
        return Err(format!("it does not name who did it: {said}").into());
    }
    let repairs = said.lines().filter(|l| l.contains("repaired")).count();
    let share = used.as_secs_f64() / elapsed.as_secs_f64() * 100.0;
    let text = format!("{repairs} repairs told, while fought {share:.2} % of a processor");
    if share > 10.0 {
        return Err(format!("it does not slow down: {text}\n{said}").into());
    }
    Ok(format!("{text}: {}", trial.finish(&stage)?))
}

/// Memory that no other process shares, in KiB: pages that it wrote, and pages of its files.
fn private_memory(process: &Daemon) -> Res<[u64; 2]> {
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.id()))?;
    let number = |key| -> Res<u64> {
        let line = text.lines().find_map(|l| l.strip_prefix(key)).ok_or("no such line")?;
        Ok(line.split_whitespace().next().ok_or("no number")?.parse()?)
    };
    Ok([number("Private_Dirty:")?, number("Private_Clean:")?])
}

/// While nothing happens the guard does not run at all.
pub fn idle() -> Res<String> {
    let stage = Stage::blocking()?;
    let guard = stage.guard()?;
    settle(&mut stage.notices()?, Duration::from_millis(200))?;
    let switches = || -> Res<u64> {
        Ok(status(&guard, "voluntary_ctxt_switches")?
            + status(&guard, "nonvoluntary_ctxt_switches")?)
    };
    // Traffic is nothing that it would have to know of.
    let trial = Trial::start(&stage, &[&stage.lab.client])?;
    let (before, time) = (switches()?, processor_time(&guard)?);
    std::thread::sleep(Duration::from_secs(2));
    let (woken, ran) = (switches()? - before, processor_time(&guard)?.saturating_sub(time));
    let (all, [written, code]) = (status(&guard, "VmRSS")?, private_memory(&guard)?);
    let text = format!(
        "{woken} wakeups and {} ns in 2 s; resident {all} KiB, of these its own: {written} KiB \
         written, {code} KiB of files",
        ran.as_nanos(),
    );
    // How much code there is, is told by the program as it is shipped only.
    let counted = if cfg!(debug_assertions) { written } else { written + code };
    if counted > 1536 {
        return Err(format!("it takes too much memory: {text}").into());
    }
    if woken > 0 || !ran.is_zero() {
        return Err(format!("not idle: {text}").into());
    }
    Ok(format!("{text}: {}", trial.finish(&stage)?))
}
