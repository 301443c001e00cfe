//! `kill -9` at every system call of the commands that change something: the kernel has the old or
//! the new policy, the file the old or the new text, and the next run is not hindered (G6).

use crate::lab::Res;
use crate::stage::{NEW, OLD, Share, Stage, switched_off, told, workers};
use crate::tracee::Tracee;
use std::fs;
use std::time::Instant;
use vpn_killswitch::backend::nft::{Change, table::Table};
use vpn_killswitch::ruleset::Ruleset;

/// A table that another version of the program could have left: closed, with our names, but a set
/// of another kind, so that it must be replaced as a whole.
const OTHER_SCHEMA: &str = "\
table inet vpn_killswitch
delete table inet vpn_killswitch
table inet vpn_killswitch {
	set blocked4 { type ipv4_addr; elements = { 10.9.0.1 } }
	chain forward {
		type filter hook forward priority -5; policy drop;
		oifname \"wg0\" counter accept comment \"G1 old: of another version\"
	}
}
";

/// What is in the kernel before.
pub enum Before {
    Nothing,
    Rules(Box<Ruleset>),
    Script(&'static str),
}

/// One command and where it starts from.
pub struct Case {
    pub command: &'static str,
    pub file: String,
    pub before: Before,
    /// Whether this is a state that a crash may leave: (the file is new, the kernel is new).
    pub allowed: fn(bool, bool) -> bool,
}

/// Both ends of the way that a command goes.
pub struct Ends {
    pub old: (Vec<u8>, Option<Table>),
    pub new: (Vec<u8>, Option<Table>),
}

impl Case {
    /// Brings file and kernel to where the command starts from.
    pub fn prepare(&self, stage: &mut Stage) -> Res<()> {
        match &self.before {
            Before::Nothing => stage.put(None)?,
            Before::Rules(rules) => stage.put(Some(rules))?,
            Before::Script(script) => stage.ns.nft(script)?,
        }
        // What a dead run left goes too, so that every run makes the same calls.
        for dir in ["var", "etc"] {
            match fs::remove_dir_all(stage.root.join(dir)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
                _ => {}
            }
        }
        fs::create_dir_all(stage.root.join("etc/config"))?;
        stage.configure(&self.file)
    }

    /// Where it starts and where it leads when nothing goes wrong.
    pub fn ends(&self, stage: &mut Stage) -> Res<Ends> {
        self.prepare(stage)?;
        let old = (fs::read(stage.file())?, stage.kernel()?);
        stage.ok(&[self.command])?;
        let new = (fs::read(stage.file())?, stage.kernel()?);
        if old.1 == new.1 {
            return Err(
                format!("{}: it changes nothing, so nothing is tested", self.command).into()
            );
        }
        Ok(Ends { old, new })
    }

    /// Which ends file and kernel are at; fails for anything else, and for what is not allowed.
    pub fn judge(&self, stage: &mut Stage, ends: &Ends, when: &str) -> Res<(bool, bool)> {
        let (file, kernel) = (fs::read(stage.file())?, stage.kernel()?);
        let end = |what, is_old, is_new| match (is_old, is_new) {
            (_, true) => Ok(true),
            (true, false) => Ok(false),
            _ => Err(format!("{when}: the {what} is neither old nor new")),
        };
        let file_new = end("file", file == ends.old.0, file == ends.new.0)?;
        let kernel_new = end("kernel", kernel == ends.old.1, kernel == ends.new.1)?;
        if !(self.allowed)(file_new, kernel_new) {
            let state = |new| if new { "new" } else { "old" };
            return Err(format!(
                "{when}: the file is {} and the kernel is {}",
                state(file_new),
                state(kernel_new)
            )
            .into());
        }
        Ok((file_new, kernel_new))
    }
}

/// The commands and the ways they go.
pub fn cases(stage: &mut Stage) -> Res<Vec<(&'static str, Case)>> {
    let old = stage.ruleset(OLD)?;
    let rules = || Before::Rules(Box::new(old.clone()));
    let case = |command, file: &str, before, allowed| Case {
        command,
        file: file.to_owned(),
        before,
        allowed,
    };
    Ok(vec![
        ("first apply", case("apply", NEW, Before::Nothing, |_, _| true)),
        ("changing apply", case("apply", NEW, rules(), |_, _| true)),
        ("replacing apply", case("apply", NEW, Before::Script(OTHER_SCHEMA), |_, _| true)),
        ("removing apply", case("apply", &switched_off(OLD), rules(), |_, _| true)),
        // Never durable before it is true.
        (
            "enable",
            case("enable", &switched_off(NEW), Before::Nothing, |file, kernel| kernel || !file),
        ),
        // Never open before that is durable.
        ("disable", case("disable", OLD, rules(), |file, kernel| file || !kernel)),
    ])
}

/// The case of that name, for this stage.
pub fn named(name: &str, stage: &mut Stage) -> Res<Case> {
    let found = cases(stage)?.into_iter().find(|(other, _)| *other == name);
    Ok(found.ok_or("no such case")?.1)
}

#[test]
fn the_change_has_every_kind_of_step() -> Res<()> {
    let mut stage = Stage::new()?;
    let (old, new) = (stage.ruleset(OLD)?, stage.ruleset(NEW)?);
    stage.put(Some(&old))?;
    let changes = stage.nft.check(&new).map_err(|e| e.to_string())?;
    let has = |like: fn(&Change) -> bool| changes.iter().any(like);
    assert!(has(|c| matches!(c, Change::AddRule(..))) && has(|c| matches!(c, Change::DelRule(..))));
    assert!(has(|c| matches!(c, Change::AddSet(..))) && has(|c| matches!(c, Change::DelSet(..))));
    assert!(has(|c| matches!(c, Change::AddElements(..))));
    assert!(has(|c| matches!(c, Change::DelElements(..))));
    assert!(has(|c| matches!(c, Change::AddCounter(..))));
    assert!(has(|c| matches!(c, Change::DelCounter(..))));
    stage.ns.nft(OTHER_SCHEMA)?;
    let changes = stage.nft.check(&new).map_err(|e| e.to_string())?;
    assert!(matches!(changes[..], [Change::DelTable(_), Change::AddTable, ..]));
    Ok(())
}

#[test]
fn killed_at_every_system_call_of_an_apply() -> Res<()> {
    killed(|name| name.ends_with("apply"))
}

#[test]
fn killed_at_every_system_call_of_enable_and_disable() -> Res<()> {
    killed(|name| !name.ends_with("apply"))
}

fn killed(chosen: fn(&str) -> bool) -> Res<()> {
    let names: Vec<_> = cases(&mut Stage::new()?)?.iter().map(|(name, _)| *name).collect();
    for name in names.into_iter().filter(|name| chosen(name)) {
        let began = Instant::now();
        let total = workers(|stage, share| killed_at(name, stage, share))?;
        let [kept, changed, left] = total;
        eprintln!(
            "{name}: killed at {} points: {kept} old, {changed} new; {left} hidden files left; {:.1} s",
            kept + changed,
            began.elapsed().as_secs_f64()
        );
        // Both sides of the change were met, or the points were not where they should be.
        assert!(kept > 100 && changed > 10, "{name}: {kept} old, {changed} new");
    }
    Ok(())
}

/// Kills at every point that is this worker's; counts old, new and files left.
fn killed_at(name: &str, stage: &mut Stage, share: Share) -> Res<[usize; 3]> {
    let case = named(name, stage)?;
    let ends = case.ends(stage)?;
    let mut count = [0; 3];
    for point in share {
        case.prepare(stage)?;
        let mut run = Tracee::start(stage.command(&[case.command]))?;
        let Some(stop) = run.run_to(point)? else {
            let out = run.finish()?;
            assert!(out.status.success(), "{}", told(&out));
            break;
        };
        let side = if stop.entry { "entry" } else { "exit" };
        let when = format!("{name}, killed at the {side} of call {} ({})", point / 2, stop.call);
        run.kill()?;
        let (_, kernel_new) = case.judge(stage, &ends, &when)?;
        count[usize::from(kernel_new)] += 1;
        count[2] += leftovers(stage, &when)?;
        // The next run finds no lock and nothing in its way, and gets where this one wanted to.
        let again = stage.run(&[case.command])?;
        assert!(again.status.success(), "{when}, then: {}", told(&again));
        assert_eq!(fs::read(stage.file())?, ends.new.0, "{when}, then again: the file");
        assert!(stage.kernel()? == ends.new.1, "{when}, then again: the kernel");
    }
    Ok(count)
}

/// Counts the files that a dead run left beside the configuration; only hidden ones may be there,
/// which nobody reads as a configuration.
fn leftovers(stage: &Stage, when: &str) -> Res<usize> {
    let mut count = 0;
    for entry in fs::read_dir(stage.root.join("etc/config"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "vpn-killswitch" {
            assert!(
                name.starts_with(".vpn-killswitch.") && name.ends_with(".new"),
                "{when}: {name}"
            );
            count += 1;
        }
    }
    assert!(count <= 1, "{when}: {count} files left");
    Ok(count)
}
