//! A kernel that refuses one of the second layer's rules, and takes the others: the family is left
//! without them, for what refuses must not stand without what allows; all else is complete (G5, G11).

use crate::lab::Res;
use crate::stage::{OLD, Stage, assert_refused, told};
use crate::tracee::{Stop, Tracee};
use std::process::Output;

/// `RTM_NEWRULE`.
const NEWRULE: u8 = 32;
/// Where a `struct fib_rule_hdr` begins in a message, and in it the family and the action; then its
/// attributes.
const FAMILY: u64 = 16;
const ACTION: u64 = 16 + 7;
const ATTRIBUTES: u64 = 16 + 12;
/// `FRA_FWMARK`, `FRA_SUPPRESS_IFGROUP`; `FR_ACT_PROHIBIT`.
const FWMARK: u8 = 10;
const SUPPRESS: u8 = 13;
const PROHIBIT: u8 = 8;
/// A family that no kernel has rules for: its answer is `EAFNOSUPPORT`.
const NO_FAMILY: u8 = 200;

/// Our four rules, in their order.
const RULES: [&str; 4] = ["fwmark", "suppress_ifgroup", "lookup 30315", "prohibit"];

/// Whether the program is about to add this rule of that family.
fn adds(run: &Tracee, stop: &Stop, family: u8, rule: usize) -> Res<bool> {
    let at = |offset| run.peek(stop.args[1] + offset);
    if stop.call != libc::SYS_sendto || at(4)? != NEWRULE || at(5)? != 0 || at(FAMILY)? != family {
        return Ok(false);
    }
    let (mut offset, mut kinds) = (ATTRIBUTES, Vec::new());
    while offset < stop.args[2] {
        kinds.push(at(offset + 2)?);
        offset += u64::from(at(offset)?).max(4).next_multiple_of(4);
    }
    let which = match (kinds.contains(&FWMARK), kinds.contains(&SUPPRESS), at(ACTION)?) {
        (true, ..) => 0,
        (_, true, _) => 1,
        (.., PROHIBIT) => 3,
        _ => 2,
    };
    Ok(which == rule)
}

/// Runs on; the kernel refuses the rule whenever it is asked for. At the entry of the first call for
/// which `until` holds, or at the end. How often it refused.
fn refuse(run: &mut Tracee, family: u8, rule: usize, until: impl Fn(&Stop) -> bool) -> Res<usize> {
    let mut count = 0;
    while let Some(stop) = run.next()? {
        if stop.entry && until(&stop) {
            break;
        }
        if stop.entry && adds(run, &stop, family, rule)? {
            run.poke(stop.args[1] + FAMILY, NO_FAMILY)?;
            count += 1;
        }
    }
    Ok(count)
}

/// Our rules of a family, by what they do.
fn installed(stage: &Stage, option: &str) -> Res<Vec<usize>> {
    let text = stage.ns.sh(&format!("ip {option} rule"))?;
    let ours = text.lines().filter(|l| l.starts_with("32765:"));
    Ok(ours.filter_map(|l| RULES.iter().position(|r| l.contains(r))).collect())
}

/// What must be there when one rule of a family was refused.
fn verify(stage: &Stage, family: &str, rule: usize, out: &Output) -> Res<()> {
    let other = if family == "-4" { "-6" } else { "-4" };
    assert_eq!(installed(stage, other)?, [0, 1, 2, 3], "the other family: {}", told(out));
    // The sink only makes refusals audible; the layer refuses without it.
    let expected: &[usize] = if rule == 2 { &[0, 1, 3] } else { &[] };
    assert_eq!(installed(stage, family)?, expected, "without '{}': {}", RULES[rule], told(out));

    let out = stage.run(&["check"])?;
    let text = String::from_utf8_lossy(&out.stdout);
    assert_eq!(out.status.code(), Some(6), "{}", told(&out));
    let digit = &family[1..];
    assert!(text.contains(&format!("IPv{digit}")) && text.contains("routing"), "{}", told(&out));
    assert!(!text.contains("chain") && !text.contains("set "), "layer 1: {}", told(&out));
    Ok(())
}

#[test]
fn a_rule_that_the_kernel_refuses_leaves_its_family_out_and_nothing_else() -> Res<()> {
    for (family, number) in [("-4", libc::AF_INET as u8), ("-6", libc::AF_INET6 as u8)] {
        for (rule, name) in RULES.iter().enumerate() {
            let stage = Stage::new()?;
            stage.configure(OLD)?;
            // Twice: a second run must not add to what the first one left.
            for _ in 0..2 {
                let mut run = Tracee::start(stage.command(&["apply"]))?;
                let count = refuse(&mut run, number, rule, |_| false)?;
                let out = run.finish()?;
                assert_refused(&out, 0, &["all of the second layer", "not supported by protocol"]);
                assert_eq!(count, 1, "{family} {name}: tried again: {}", told(&out));
                verify(&stage, family, rule, &out)?;
            }
            // A kernel that can do it makes it whole.
            stage.ok(&["apply"])?;
            assert_eq!(installed(&stage, family)?, [0, 1, 2, 3]);
            // Old rules stay while the new ones cannot be had.
            stage
                .configure(OLD.replace("'main'\n", "'main'\n\toption pass_mark '0x04000000'\n"))?;
            let mut run = Tracee::start(stage.command(&["apply"]))?;
            refuse(&mut run, number, rule, |_| false)?;
            let out = run.finish()?;
            assert_eq!(out.status.code(), Some(0), "{}", told(&out));
            let after = installed(&stage, family)?;
            // Those that could be added wait behind them, where they are never asked.
            let kept: &[usize] = match rule {
                1 => &[0, 1, 2, 3, 0],
                2 => &[0, 1, 3],
                3 => &[0, 1, 2, 3, 0, 1, 2],
                _ => &[0, 1, 2, 3],
            };
            assert_eq!(after, kept, "{family} {name}");
            // And not twice, however often it is tried.
            let mut run = Tracee::start(stage.command(&["apply"]))?;
            refuse(&mut run, number, rule, |_| false)?;
            run.finish()?;
            assert_eq!(installed(&stage, family)?, kept, "{family} {name}: again");
            stage.ok(&["apply"])?;
            assert_eq!(installed(&stage, family)?, [0, 1, 2, 3]);
            stage.ok(&["disable"])?;
            assert_eq!(installed(&stage, family)?, [0usize; 0]);
        }
    }
    Ok(())
}

/// Its own attempts would wake the guard again and again.
#[test]
fn the_guard_does_not_try_again_what_the_kernel_refused() -> Res<()> {
    let waits = |stop: &Stop| matches!(stop.call, libc::SYS_poll | libc::SYS_ppoll);
    for (rule, name) in RULES.iter().enumerate() {
        let stage = Stage::new()?;
        stage.configure(OLD)?;
        let mut guard = Tracee::start(stage.command(&["guard"]))?;
        // The runtime polls once before main.
        guard.run_until("its own first call", |_, s| s.call == libc::SYS_socket)?;
        let mut tries = refuse(&mut guard, libc::AF_INET6 as u8, rule, waits)?;
        assert_eq!(tries, 1);
        // Woken by what it did itself; then there is nothing more to be told of.
        tries += refuse(&mut guard, libc::AF_INET6 as u8, rule, waits)?;
        assert_eq!(tries, 1, "{name}");
        guard.kill()?;
    }
    Ok(())
}
