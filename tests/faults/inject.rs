//! An error at every system call: the program ends by itself, says so, and what it says is true.
//!
//! What the loader and the language's runtime do before `main` is left out: nothing of ours has
//! happened by then.

use crate::kill::{Case, Ends, named};
use crate::lab::Res;
use crate::stage::{Stage, assert_refused, told, workers};
use crate::tracee::{Stop, Tracee};
use std::time::Instant;

/// `NFNL_MSG_BATCH_BEGIN` (0x0010), as it lies in the message that begins a transaction.
const BATCH_BEGIN: [u8; 2] = [0x10, 0];
/// The commit, its answers and the first question behind it.
const TRANSACTION_CALLS: usize = 6;

/// Whether the program is about to send an nftables transaction.
pub fn begins_transaction(run: &Tracee, stop: &Stop) -> bool {
    let kind = [4, 5].map(|at| run.peek(stop.args[1] + at).ok());
    stop.call == libc::SYS_sendto && kind == BATCH_BEGIN.map(Some)
}

/// What may go wrong with a call; nothing for calls that cannot fail.
fn errors(call: i64) -> &'static [i32] {
    use libc::{
        EACCES, EAGAIN, EINTR, EIO, EMFILE, ENOBUFS, ENOLCK, ENOMEM, ENOSPC, EPERM, EPIPE, EROFS,
    };
    match call {
        libc::SYS_exit_group | libc::SYS_getpid | libc::SYS_fcntl | libc::SYS_sigaltstack => &[],
        libc::SYS_sendto | libc::SYS_sendmsg => &[ENOBUFS, ENOMEM, EPERM, EINTR],
        libc::SYS_recvfrom | libc::SYS_recvmsg => &[ENOBUFS, ENOMEM, EINTR, EAGAIN, EPERM],
        libc::SYS_socket => &[EPERM, EMFILE, ENOMEM],
        libc::SYS_setsockopt => &[EPERM, ENOBUFS],
        libc::SYS_openat => &[EACCES, EINTR, EMFILE, ENOMEM, ENOSPC],
        libc::SYS_mkdir => &[ENOSPC, EPERM],
        libc::SYS_read => &[EINTR, EIO],
        libc::SYS_write => &[EINTR, EIO, ENOSPC, EPIPE],
        libc::SYS_fsync => &[EINTR, EIO, ENOSPC],
        libc::SYS_rename => &[ENOSPC, EPERM, EROFS],
        libc::SYS_flock => &[EINTR, ENOLCK],
        libc::SYS_fchmod | libc::SYS_fchown => &[EPERM, EROFS],
        libc::SYS_close | libc::SYS_getrandom => &[EINTR],
        libc::SYS_mmap | libc::SYS_brk | libc::SYS_mremap => &[ENOMEM],
        _ => &[ENOMEM, EPERM],
    }
}

/// One error at one call, counted from the program's first.
struct Fault {
    call: i64,
    /// Among the calls of its kind.
    nth: usize,
    errno: i32,
}

/// Held at the entry of the program's own first call: it makes the folder for its lock.
fn begin(stage: &Stage, case: &Case) -> Res<(Tracee, Stop)> {
    let mut run = Tracee::start(stage.command(&[case.command]))?;
    let first = run.run_until("its own first call", |_, stop| stop.call == libc::SYS_mkdir)?;
    Ok((run, first))
}

/// Everything that may go wrong. A listing's many questions and answers get one error each, in turn;
/// the transaction and every other call get all.
fn plan(stage: &mut Stage, case: &Case) -> Res<Vec<Fault>> {
    case.prepare(stage)?;
    let (mut run, first) = begin(stage, case)?;
    let mut faults = Vec::new();
    let mut kinds = std::collections::HashMap::new();
    let (mut stop, mut nth, mut transaction) = (Some(first), 0, 0);
    while let Some(at) = stop {
        if at.entry {
            let call = at.call;
            if begins_transaction(&run, &at) {
                transaction = TRANSACTION_CALLS;
            }
            let of_kind = kinds.entry(call).and_modify(|n| *n += 1).or_insert(0);
            let of_kind = *of_kind;
            let errors = errors(call);
            let talk = matches!(call, libc::SYS_sendto | libc::SYS_recvfrom) && transaction == 0;
            for (i, errno) in errors.iter().copied().enumerate() {
                if !talk || i == nth % errors.len() {
                    faults.push(Fault { call, nth: of_kind, errno });
                }
            }
            nth += 1;
            transaction = transaction.saturating_sub(1);
        }
        stop = run.next()?;
    }
    let out = run.finish()?;
    assert!(out.status.success(), "{}", told(&out));
    Ok(faults)
}

/// Runs the command up to the fault's call.
///
/// The kernel may give a listing in one part more or less than when the calls were counted: a call is
/// found by its kind, not by its place among all.
fn come_to(stage: &mut Stage, case: &Case, fault: &Fault) -> Res<(Tracee, Stop)> {
    let Fault { call, nth, errno } = *fault;
    case.prepare(stage)?;
    let (mut run, first) = begin(stage, case)?;
    let (mut stop, mut seen) = (Some(first), 0);
    while let Some(at) = stop {
        if at.entry && at.call == call {
            if seen == nth {
                return Ok((run, at));
            }
            seen += 1;
        }
        stop = run.next()?;
    }
    run.finish()?;
    Err(format!("{}: error {errno} at {call} number {nth}: there were {seen}", case.command).into())
}

/// Runs the command with the fault; counts how it ended: done, refused.
fn suffer(stage: &mut Stage, case: &Case, ends: &Ends, fault: &Fault) -> Res<[usize; 2]> {
    let Fault { call, nth, errno } = *fault;
    let when = format!("{}: error {errno} at call {nth} ({call})", case.command);
    let to_output = |stop: &Stop| call == libc::SYS_write && stop.args[0] == 1;
    let (mut run, stop) = come_to(stage, case, fault)?;
    run.fail(errno)?;
    let out = run.finish()?;
    let (file_new, kernel_new) = case.judge(stage, ends, &when)?;
    match out.status.code() {
        Some(0) => {
            assert!(kernel_new, "{when}: it said done, and the kernel is not: {}", told(&out));
            assert!(file_new, "{when}: it said done, and the file is not: {}", told(&out));
            Ok([1, 0])
        }
        // Nobody is there to be told.
        Some(1) if to_output(&stop) && out.stderr.is_empty() => Ok([0, 1]),
        Some(code @ (1 | 2)) => {
            assert_refused(&out, code, &["vpn-killswitch: "]);
            assert_ne!(errno, libc::EINTR, "{when}: an interruption is no error: {}", told(&out));
            Ok([0, 1])
        }
        _ => Err(format!("{when}: {}", told(&out)).into()),
    }
}

#[test]
fn an_error_at_every_system_call() -> Res<()> {
    for name in ["changing apply", "enable", "disable"] {
        let began = Instant::now();
        let [done, refused] = workers(|stage, share| {
            let case = named(name, stage)?;
            let ends = case.ends(stage)?;
            let faults = plan(stage, &case)?;
            let mut count = [0; 2];
            for fault in share.map_while(|n| faults.get(n)) {
                let [done, refused] = suffer(stage, &case, &ends, fault)?;
                count[0] += done;
                count[1] += refused;
            }
            Ok(count)
        })?;
        eprintln!(
            "{name}: {} errors: {done} overcome, {refused} reported; {:.1} s",
            done + refused,
            began.elapsed().as_secs_f64()
        );
        assert!(done > 20 && refused > 50, "{name}: {done} overcome, {refused} reported");
    }
    Ok(())
}
