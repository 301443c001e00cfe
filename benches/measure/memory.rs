//! Peak memory of a process, as the kernel knows it at the moment of its exit.

use crate::lab::Res;
use crate::lab::peak::Account;
use std::process::Stdio;

use super::process::Run;

/// Kilobytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// `VmHWM`: most that was resident at once, pages of shared files too.
    pub peak: u64,
    /// Of these, at least how many were the process's alone to pay for: what is not a file's page.
    pub own: u64,
}

/// Runs it, stops it at its exit and reads its accounts.
pub fn peak(run: &Run) -> Res<Memory> {
    let account = Account::at_exit(run.command().stderr(Stdio::null()))
        .map_err(|e| format!("{run:?}: {e}"))?;
    let (peak, file) = (account.kib("VmHWM")?, account.kib("RssFile")?);
    // File pages only come: at the peak there were at most as many as at the end.
    Ok(Memory { peak, own: peak.saturating_sub(file) })
}
