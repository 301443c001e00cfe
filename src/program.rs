//! Other programs: starts one, tells it something, hears what it says, and waits for its end.
//!
//! Bounded in time. Nothing but posix_spawn(3): what std has for this also keeps an environment, groups, a shell's
//! folder and more, which a router's flash would have to hold. Knows no program by name.

use std::ffi::{CString, OsStr};
use std::io::{self, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::ptr;
use std::time::{Duration, Instant};

use crate::netlink::wait;

unsafe extern "C" {
    /// This process's environment (environ(7)).
    static environ: *const *mut libc::c_char;
}

/// What a program finds in its environment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// What this one has.
    Same,
    /// Nothing.
    Empty,
}

/// A program that was started. Until [`Self::ended_well`] has seen its end, the system keeps it.
pub struct Child(libc::pid_t);

/// What a program that ended has said.
#[derive(Debug)]
pub struct Said {
    /// On its standard output.
    pub out: Vec<u8>,
    /// On its standard error.
    pub errors: Vec<u8>,
    /// Whether it says that all went well.
    pub well: bool,
}

/// More than this nobody has to say.
const OUTPUT_MAX: usize = 16 << 20;

/// Runs a program, as [`start`] does, with `input` to read, until it ends or `patience` does.
///
/// # Errors
/// Why it does not run; `TimedOut` where it did not end, or did not stop talking, and was killed.
pub fn run(
    words: &[&OsStr],
    environment: Environment,
    input: &[u8],
    patience: Duration,
) -> io::Result<Said> {
    let end = Instant::now() + patience;
    let (from, to_it) = io::pipe()?;
    let (mut out, to_out) = io::pipe()?;
    let (mut errors, to_errors) = io::pipe()?;
    // None of them may keep us from the others. What the program has of them is not changed by that.
    for ours in [to_it.as_fd(), out.as_fd(), errors.as_fd()] {
        let on: libc::c_int = 1;
        // SAFETY: the descriptor is open, and FIONBIO takes a pointer to an int, which lives here.
        if unsafe { libc::ioctl(ours.as_raw_fd(), libc::FIONBIO, &raw const on) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let child = start(words, environment, [from.as_fd(), to_out.as_fd(), to_errors.as_fd()])?;
    // Its own are the only ones then, and end with it.
    drop((from, to_out, to_errors));

    let mut said = Said { out: Vec::new(), errors: Vec::new(), well: false };
    let (mut to_it, mut input) = (Some(to_it), input);
    let mut open = [true; 2];
    loop {
        if let Some(pipe) = &mut to_it {
            match pipe.write(input) {
                Ok(n) => input = input.get(n..).unwrap_or_default(),
                Err(e) if later(&e) => {}
                // If it does not read, it says why.
                Err(_) => input = &[],
            }
            if input.is_empty() {
                to_it = None;
            }
        }
        open = [
            open[0] && more(&mut out, &mut said.out),
            open[1] && more(&mut errors, &mut said.errors),
        ];
        if open == [false; 2] {
            break;
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || said.out.len().max(said.errors.len()) > OUTPUT_MAX {
            child.kill();
            child.ended_well();
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut fds = Vec::with_capacity(3);
        fds.extend(to_it.as_ref().map(|pipe| (pipe.as_fd(), libc::POLLOUT)));
        let ours = [&out, &errors].into_iter().zip(open).filter(|(_, open)| *open);
        fds.extend(ours.map(|(pipe, _)| (pipe.as_fd(), libc::POLLIN)));
        // Whether that was something to read, the end, or only the time, the next round tells.
        let _ = wait(&fds, Some(left));
    }
    drop(to_it);
    said.well = child.ended_well();
    Ok(said)
}

/// Whether it is to be tried again, when there is room or something to read.
fn later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Reads what there is now; whether there may come more.
fn more(from: &mut io::PipeReader, into: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    match from.read(&mut buffer) {
        Ok(n) => {
            into.extend_from_slice(buffer.get(..n).unwrap_or_default());
            n > 0
        }
        Err(e) => later(&e),
    }
}

/// Starts a program; the first of `words` names it, with a path or as the shell finds it. `streams` are
/// its standard input, output and error.
///
/// # Errors
/// Why it does not run.
pub fn start(
    words: &[&OsStr],
    environment: Environment,
    streams: [BorrowedFd<'_>; 3],
) -> io::Result<Child> {
    let words = words.iter().map(|w| CString::new(w.as_bytes())).collect::<Result<Vec<_>, _>>()?;
    let mut arguments: Vec<_> = words.iter().map(|w| w.as_ptr().cast_mut()).collect();
    arguments.push(ptr::null_mut());
    let Some(program) = words.first() else { return Err(io::ErrorKind::InvalidInput.into()) };
    let nothing = [ptr::null_mut()];

    let mut pid = 0;
    let mut actions = MaybeUninit::uninit();
    let mut attributes = MaybeUninit::uninit();
    let mut signals = MaybeUninit::uninit();
    // SAFETY: each structure is initialised before it is used, and destroyed once; all pointers are to
    // what lives until the end of this function, and the vectors of strings end with a null. Nothing
    // here writes to the environment, so nothing changes under the pointer to it.
    unsafe {
        ended(libc::posix_spawn_file_actions_init(actions.as_mut_ptr()))?;
        libc::posix_spawnattr_init(attributes.as_mut_ptr());
        // This process ignores it; other programs want it.
        libc::sigemptyset(signals.as_mut_ptr());
        libc::sigaddset(signals.as_mut_ptr(), libc::SIGPIPE);
        libc::posix_spawnattr_setsigdefault(attributes.as_mut_ptr(), signals.as_ptr());
        #[allow(clippy::cast_possible_truncation, reason = "the flag is 4")]
        let flags = libc::POSIX_SPAWN_SETSIGDEF as libc::c_short;
        libc::posix_spawnattr_setflags(attributes.as_mut_ptr(), flags);
        let mut failed = 0;
        for (stream, number) in streams.iter().zip(0..) {
            let (from, actions) = (stream.as_raw_fd(), actions.as_mut_ptr());
            failed |= libc::posix_spawn_file_actions_adddup2(actions, from, number);
        }
        if failed == 0 {
            failed = libc::posix_spawnp(
                &raw mut pid,
                program.as_ptr(),
                actions.as_ptr(),
                attributes.as_ptr(),
                arguments.as_ptr(),
                if environment == Environment::Same { environ } else { nothing.as_ptr() },
            );
        }
        libc::posix_spawn_file_actions_destroy(actions.as_mut_ptr());
        libc::posix_spawnattr_destroy(attributes.as_mut_ptr());
        ended(failed)?;
    }
    Ok(Child(pid))
}

fn ended(error: libc::c_int) -> io::Result<()> {
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

impl Child {
    /// Ends it, whatever it does.
    pub fn kill(&self) {
        // SAFETY: kill(2) takes no pointers. The number is still its own: nobody has waited for it.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
    }

    /// Waits for its end; whether it says that all went well.
    pub fn ended_well(self) -> bool {
        let mut status = 0;
        loop {
            // SAFETY: the pointer is to a local variable.
            let ended = unsafe { libc::waitpid(self.0, &raw mut status, 0) };
            if ended == self.0 {
                return status == 0;
            }
            if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words<'a>(words: &'a [&'a str]) -> Vec<&'a OsStr> {
        words.iter().map(OsStr::new).collect()
    }

    fn said(program: &[&str], environment: Environment, input: &[u8]) -> (String, bool) {
        let said = run(&words(program), environment, input, Duration::from_secs(20)).unwrap();
        (String::from_utf8(said.out).unwrap() + &String::from_utf8(said.errors).unwrap(), said.well)
    }

    #[test]
    fn reads_and_writes_and_ends() {
        let script = "read line; echo \"$0 $line $1\"; echo error >&2; exit 3";
        let ran = said(&["sh", "-c", script, "a b", "c"], Environment::Same, b"word\n");
        assert_eq!(ran, ("a b word c\nerror\n".to_owned(), false));
        assert_eq!(said(&["/bin/true"], Environment::Empty, b""), (String::new(), true));
    }

    #[test]
    fn has_the_environment_it_is_given() {
        let path = |environment| said(&["/usr/bin/env"], environment, b"").0.contains("PATH=");
        assert!(path(Environment::Same) && !path(Environment::Empty));
    }

    #[test]
    fn dies_of_a_pipe_that_nobody_reads() {
        // `yes` would say so on its standard error.
        let script = "yes | head -n 1";
        let (text, well) = said(&["sh", "-c", script], Environment::Same, b"");
        assert_eq!((text.as_str(), well), ("y\n", true));
    }

    #[test]
    fn may_say_more_than_a_pipe_holds_while_it_is_told_more() {
        // It answers before it has read, on both: whoever did one after the other would wait for ever.
        let much = vec![b'x'; 1 << 20];
        let script = "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2; wc -c";
        let said =
            run(&words(&["sh", "-c", script]), Environment::Same, &much, Duration::from_secs(20));
        let said = said.unwrap();
        assert!(said.well && said.errors.len() == 300_000);
        assert_eq!(String::from_utf8_lossy(&said.out[300_000..]).trim(), "1048576");
        // What it does not read is no fault.
        let said = run(&words(&["true"]), Environment::Same, &much, Duration::from_secs(20));
        assert!(said.unwrap().well);
    }

    #[test]
    fn ends_with_our_patience() {
        for script in ["exec sleep 600", "exec yes"] {
            let words = ["sh", "-c", script].map(OsStr::new);
            let ran = run(&words, Environment::Same, b"", Duration::from_millis(300));
            assert_eq!(ran.unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
    }

    #[test]
    fn can_be_killed_and_may_not_be_there() {
        let null = crate::streams::null().unwrap();
        let streams = [null.as_fd(); 3];
        let (waits, _kept) = io::pipe().unwrap();
        let child =
            start(&words(&["cat"]), Environment::Same, [waits.as_fd(), null.as_fd(), null.as_fd()]);
        let child = child.unwrap();
        child.kill();
        assert!(!child.ended_well());
        let none = start(&words(&["/nonexistent/program"]), Environment::Same, streams);
        assert_eq!(none.err().unwrap().kind(), io::ErrorKind::NotFound);
        assert!(start(&[], Environment::Same, streams).is_err());
        assert!(start(&words(&["a\0b"]), Environment::Same, streams).is_err());
    }
}
