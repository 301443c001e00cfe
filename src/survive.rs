//! What is left for the firewall when a sysupgrade has dropped the package (`survive_sysupgrade`).
//!
//! A file that firewall4 itself loads into its table: the forward chain of the model, alone. Responsible
//! for the file being there, right and loadable, or not there; decides no rule. While our own rules are in
//! force it changes nothing: it lets pass what they let pass, the pass mark included.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::backend::nft::text;
use crate::config::edit;
use crate::program::{self, Environment};
use crate::ruleset::Ruleset;

/// Below the root; what ends in `.nft` there is included into `table inet fw4`.
const FOLDER: &str = "etc/nftables.d";
const FILE: &str = "vpn-killswitch.nft";
/// How long nft may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// firewall4's table, and our chain in it.
const TABLE: &str = "inet fw4";
const CHAIN: &str = "vpn_killswitch_forward";
const HEAD: &str = "\
# Written by vpn-killswitch (option survive_sysupgrade), which also takes it away.
# After a sysupgrade, until the package is back: what is forwarded leaves through the VPN or not at all.
# To open without the package: delete this file, then /etc/init.d/firewall restart
";

/// Makes the file say what `ruleset` says of what is forwarded, or takes it away.
///
/// # Errors
/// Why it is not as wanted, for a person. What is in force is so regardless.
pub fn sync(root: &Path, ruleset: Option<&Ruleset>) -> Result<(), String> {
    let path = root.join(FOLDER).join(FILE);
    let wanted = match ruleset {
        None => None,
        Some(ruleset) => Some(block(ruleset).ok_or("these rules cannot be left to the firewall")?),
    };
    let there = match fs::read(&path) {
        Ok(text) => Some(text),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(format!("{}: {e}", path.display())),
    };
    if there.as_deref() == wanted.as_ref().map(String::as_bytes) {
        return Ok(());
    }
    let failed = |e: io::Error| format!("{}: {e}", path.display());
    match &wanted {
        Some(text) => {
            // Without the folder there is no firewall that would load it.
            fs::metadata(root.join(FOLDER)).map_err(|e| format!("{FOLDER}: {e}"))?;
            // An error in it would keep the whole firewall from loading.
            nft(&["-c", "-f", "-"], &format!("table {TABLE} {{\n{text}}}\n"))?;
            edit::write_atomic(&path, text.as_bytes()).map_err(failed)?;
        }
        None => fs::remove_file(&path).map_err(failed)?,
    }
    // The one that was loaded is out of date. Ours are in force; the next load brings the new one.
    let _ = nft(&["-f", "-"], &format!("delete chain {TABLE} {CHAIN}\n"));
    Ok(())
}

/// Whether the file is there and says what `ruleset` says.
pub fn is_left(root: &Path, ruleset: &Ruleset) -> bool {
    let there = fs::read(root.join(FOLDER).join(FILE));
    block(ruleset).is_some_and(|wanted| there.is_ok_and(|there| there == wanted.as_bytes()))
}

fn block(ruleset: &Ruleset) -> Option<String> {
    Some(format!("{HEAD}{}", text::forward_alone(ruleset, CHAIN)?))
}

fn nft(arguments: &[&str], script: &str) -> Result<(), String> {
    let words: Vec<&OsStr> = ["nft"].iter().chain(arguments).map(OsStr::new).collect();
    let said = program::run(&words, Environment::Same, script.as_bytes(), PATIENCE)
        .map_err(|e| format!("nft cannot be run: {e}"))?;
    if said.well {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&said.errors);
    Err(format!("nft refuses it: {}", why.lines().next().unwrap_or_default()))
}
