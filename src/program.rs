//! Other programs: starts one, and waits for its end.
//!
//! Nothing but posix_spawn(3): what std has for this also keeps an environment, groups, a shell's
//! folder and more, which a router's flash would have to hold. Knows no program by name.

use std::ffi::{CString, OsStr};
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::ptr;

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

/// Where nothing is read, and what is written is lost.
///
/// # Errors
/// That of opening it.
pub fn null() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/null")
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
        // std has this process ignore it; other programs want it.
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
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;

    fn words<'a>(words: &'a [&'a str]) -> Vec<&'a OsStr> {
        words.iter().map(OsStr::new).collect()
    }

    fn said(program: &[&str], environment: Environment, input: &[u8]) -> (String, bool) {
        let (from, mut to_it) = io::pipe().unwrap();
        let (mut from_it, to) = io::pipe().unwrap();
        let streams = [from.as_fd(), to.as_fd(), to.as_fd()];
        let child = start(&words(program), environment, streams).unwrap();
        drop((from, to));
        to_it.write_all(input).unwrap();
        drop(to_it);
        let mut text = String::new();
        from_it.read_to_string(&mut text).unwrap();
        (text, child.ended_well())
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
    fn can_be_killed_and_may_not_be_there() {
        let null = null().unwrap();
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
