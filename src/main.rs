//! The command: everything it does is in the library.
//!
//! The C library calls it. Rust's own runtime, which would be between them, is 5 KB for what a program
//! that never panics does not need: a message when the stack overflows, a name for the only thread.

#![no_main]

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt as _;

#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, words: *const *const c_char) -> c_int {
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: a C program is started with an array of so many texts, which stays as it is.
    let words = unsafe { std::slice::from_raw_parts(words, count) };
    let words = words.iter().map(|word| {
        // SAFETY: each of them ends with a NUL.
        OsStr::from_bytes(unsafe { CStr::from_ptr(*word) }.to_bytes()).to_owned()
    });
    vpn_killswitch::cli::main(words.collect()).into()
}
