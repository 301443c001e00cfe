//! Many at once: every apply ends, the last configuration wins, and there is no moment without one
//! of the policies (G6).

use crate::inject::begins_transaction;
use crate::lab::Res;
use crate::lab::ns::directory;
use crate::stage::{NEW, OLD, Stage, assert_refused, look, open, told};
use crate::tracee::{Tracee, impatient};
use std::fs;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use vpn_killswitch::backend::nft::table::Table;

/// How many programs run at once.
const CROWD: usize = 50;

/// Puts a configuration in its place as an editor does: whole.
fn replace(stage: &Stage, text: &str) -> Res<()> {
    let new = stage.root.join("etc/config/.being-written");
    fs::write(&new, text)?;
    Ok(fs::rename(new, stage.file())?)
}

/// Looks at the kernel without a pause while `work` runs; each look must show one of `allowed`.
/// Returns how often it looked, and how often it saw each.
fn watched(
    stage: &Stage,
    allowed: &[Option<Table>; 2],
    work: impl FnOnce() -> Res<()>,
) -> Res<[usize; 2]> {
    let stop = AtomicBool::new(false);
    let mut eye = open(&stage.ns)?;
    thread::scope(|scope| {
        let stop = &stop;
        let watcher = scope.spawn(move || {
            let mut seen = [0; 2];
            while !stop.load(Ordering::Acquire) {
                // When the rules change during every attempt to read them, there is nothing to judge.
                let Ok(kernel) = look(&mut eye) else { continue };
                match allowed.iter().position(|one| *one == kernel) {
                    Some(which) => seen[which] += 1,
                    None if kernel.is_none() => return Err("a moment without the table".into()),
                    None => return Err("a mixture of the policies".into()),
                }
            }
            Ok(seen)
        });
        let done = work();
        stop.store(true, Ordering::Release);
        let seen = watcher.join().map_err(|_| "the watcher failed")?;
        done.and(seen)
    })
}

/// What the kernel has under each configuration.
fn both(stage: &mut Stage) -> Res<[Option<Table>; 2]> {
    let mut states = Vec::new();
    for text in [OLD, NEW] {
        let rules = stage.ruleset(text)?;
        stage.put(Some(&rules))?;
        states.push(stage.kernel()?);
    }
    states.try_into().map_err(|_| "two".into())
}

#[test]
fn fifty_at_once_leave_the_last_configuration() -> Res<()> {
    let mut stage = Stage::new()?;
    let states = both(&mut stage)?;
    assert!(states[0].is_some() && states[0] != states[1]);
    let began = Instant::now();
    let seen = watched(&stage, &states, || {
        let mut crowd: Vec<Child> = Vec::new();
        for n in 0..CROWD {
            replace(&stage, if n % 2 == 0 { OLD } else { NEW })?;
            let mut command = stage.command(&[if n % 3 == 0 { "enable" } else { "apply" }]);
            crowd.push(impatient(&mut command).spawn()?);
        }
        for child in crowd {
            let out = child.wait_with_output()?;
            assert!(out.status.success(), "{}", told(&out));
        }
        Ok(())
    })?;
    eprintln!(
        "{CROWD} at once: {:.1} s; seen old {} times, new {} times, nothing else",
        began.elapsed().as_secs_f64(),
        seen[0],
        seen[1]
    );
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}: the watcher was too slow to prove anything");
    // The file is the one last written (an enable had nothing to change in it), and so is the kernel.
    assert_eq!(fs::read_to_string(stage.file())?, NEW);
    stage.ok(&["apply"])?;
    assert!(stage.kernel()? == states[1]);
    let names: Vec<_> = fs::read_dir(stage.root.join("etc/config"))?.collect::<Result<_, _>>()?;
    assert_eq!(names.len(), 1, "files are left: {names:?}");
    Ok(())
}

#[test]
fn without_a_common_lock_the_kernel_serialises() -> Res<()> {
    // Two roots have two locks: as when one program found the disk full and the other did not.
    let mut stage = Stage::new()?;
    let states = both(&mut stage)?;
    let other = Stage { ns: stage.ns.clone(), root: directory("root")?, nft: open(&stage.ns)? };
    fs::create_dir_all(other.root.join("etc/config"))?;
    stage.configure(OLD)?;
    other.configure(NEW)?;
    let (mut done, mut busy) = (0, 0);
    watched(&stage, &states, || {
        let mut crowd: Vec<Child> = Vec::new();
        for n in 0..CROWD {
            let mut command = if n % 2 == 0 { &stage } else { &other }.command(&["apply"]);
            crowd.push(impatient(&mut command).spawn()?);
        }
        for child in crowd {
            let out = child.wait_with_output()?;
            if out.status.success() {
                done += 1;
            } else {
                // Somebody else had the last word each time; it says so.
                busy += 1;
                assert!(
                    told(&out).contains("keep changing") || told(&out).contains("what was sent"),
                    "{}",
                    told(&out)
                );
                assert_eq!(out.status.code(), Some(1));
            }
        }
        Ok(())
    })?;
    eprintln!("{CROWD} at once under two locks: {done} done, {busy} gave up");
    assert!(done > CROWD / 2);
    other.ok(&["apply"])?;
    assert!(stage.kernel()? == states[1]);
    Ok(())
}

#[test]
fn rules_that_change_under_an_apply_are_read_again() -> Res<()> {
    let mut stage = Stage::new()?;
    let [_, new] = both(&mut stage)?;
    let (old_rules, new_rules) = (stage.ruleset(OLD)?, stage.ruleset(NEW)?);
    stage.configure(NEW)?;
    for (before, meanwhile) in [
        (Some(&old_rules), None),
        (Some(&old_rules), Some(&new_rules)),
        (None, Some(&old_rules)),
        (None, Some(&new_rules)),
    ] {
        stage.put(before)?;
        let mut run = Tracee::start(stage.command(&["apply"]))?;
        // All has been read and the change is computed, but not yet sent.
        run.run_until("its transaction", begins_transaction)?;
        stage.put(meanwhile)?;
        let out = run.finish()?;
        assert!(out.status.success(), "{}", told(&out));
        assert!(stage.kernel()? == new);
    }
    Ok(())
}

#[test]
fn a_transaction_in_preparation_shows_no_rule_twice() -> Res<()> {
    let mut stage = Stage::new()?;
    let rules = stage.ruleset(OLD)?;
    stage.put(Some(&rules))?;
    // Checked and taken back, so that the generation never tells that something was there.
    let script = directory("nft")?.join("script");
    fs::write(&script, "insert rule inet vpn_killswitch inbound counter\n".repeat(1000))?;
    let check = format!("nft -c -f {}", script.display());
    let stop = AtomicBool::new(false);
    let (mut looks, mut checks) = (0, 0);
    thread::scope(|scope| {
        let (stop, ns) = (&stop, stage.ns.clone());
        let checker = scope.spawn(move || -> Res<u32> {
            let mut checks = 0;
            while !stop.load(Ordering::Acquire) {
                ns.sh(&check)?;
                checks += 1;
            }
            Ok(checks)
        });
        let end = Instant::now() + Duration::from_secs(2);
        let mut looking = || -> Res<()> {
            while Instant::now() < end {
                // Busy when it was disturbed each time.
                let Ok(Some(table)) = look(&mut stage.nft) else { continue };
                looks += 1;
                for chain in &table.chains {
                    let mut comments: Vec<_> = chain.rules.iter().map(|r| &r.comment).collect();
                    comments.sort();
                    if let Some(twice) = comments.windows(2).find(|w| w[0] == w[1]) {
                        return Err(format!("look {looks}: twice: {}", twice[0]).into());
                    }
                }
            }
            Ok(())
        };
        let looked = looking();
        stop.store(true, Ordering::Release);
        checks = checker.join().map_err(|_| "the checker failed")??;
        looked
    })?;
    eprintln!("{looks} looks beside {checks} transactions in preparation");
    assert!(looks > 50 && checks > 5);
    Ok(())
}

/// A program that holds the lock, stopped in the middle of its work.
fn holder(stage: &Stage) -> Res<Tracee> {
    let mut holder = Tracee::start(stage.command(&["apply"]))?;
    holder.run_until("the lock", |_, stop| stop.call == libc::SYS_flock)?;
    // The exit of that call, so that the lock is taken.
    holder.next()?.ok_or("it ended")?;
    Ok(holder)
}

#[test]
fn when_the_holder_dies_the_next_goes_on() -> Res<()> {
    let mut stage = Stage::new()?;
    let [_, new] = both(&mut stage)?;
    stage.put(None)?;
    stage.configure(NEW)?;
    let holder = holder(&stage)?;
    let mut next = Tracee::start(stage.command(&["apply"]))?;
    // It has tried for the lock in vain when it pauses before it tries again.
    next.run_until("waiting for the lock", |_, stop| stop.call == libc::SYS_clock_nanosleep)?;
    assert!(stage.kernel()?.is_none(), "it did not wait");
    holder.kill()?;
    let out = next.finish()?;
    assert!(out.status.success(), "{}", told(&out));
    assert!(stage.kernel()? == new);
    Ok(())
}

#[test]
fn a_holder_that_hangs_is_named_in_bounded_time() -> Res<()> {
    let mut stage = Stage::new()?;
    let [old, _] = both(&mut stage)?;
    let rules = stage.ruleset(OLD)?;
    stage.put(Some(&rules))?;
    stage.configure(NEW)?;
    let holder = holder(&stage)?;
    let began = Instant::now();
    let waiting: Vec<Child> = ["apply", "enable", "disable"]
        .iter()
        .map(|command| impatient(&mut stage.command(&[command])).spawn())
        .collect::<Result<_, _>>()?;
    // Looking needs no lock.
    let status = stage.run(&["status"])?;
    assert_eq!(status.status.code(), Some(6), "{}", told(&status));
    assert!(began.elapsed() < Duration::from_secs(5));
    for child in waiting {
        let out = child.wait_with_output()?;
        assert_refused(&out, 1, &["another vpn-killswitch is at work and does not end"]);
    }
    assert!(began.elapsed() > Duration::from_secs(15), "it did not wait for the other to end");
    assert!(stage.kernel()? == old, "protection changed");
    assert_eq!(fs::read_to_string(stage.file())?, NEW);
    holder.kill()?;
    stage.ok(&["apply"])
}
