//! What the firewall loads while a sysupgrade has taken the package away.

use crate::lab::Res;
use crate::lab::product::configuration;
use crate::lab::topology::{OPEN_ROUTER, Tunnel};
use crate::stage::{Stage, Trial};
use std::fs;
use std::path::{Path, PathBuf};

const CHAIN: &str = "chain inet fw4 vpn_killswitch_forward";

fn wanted() -> String {
    configuration("strict", "\toption survive_sysupgrade '1'\n")
}

/// As firewall4 does: its table anew, with what lies in its folder.
fn load(stage: &Stage, folder: &Path) -> Res<()> {
    let include = format!("{{\n\tinclude \"{}/*.nft\"\n", folder.display());
    let table = OPEN_ROUTER.replacen('{', &include, 1);
    stage.lab.router.nft(&format!("add table inet fw4\ndelete table inet fw4\n{table}"))
}

fn loaded(stage: &Stage) -> bool {
    stage.lab.router.sh(&format!("nft list {CHAIN}")).is_ok()
}

fn folder(stage: &Stage) -> Res<PathBuf> {
    let folder = stage.product.root().join("etc/nftables.d");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// With the package, without it, and with it again; closed until somebody switches it off.
pub fn sysupgrade() -> Res<String> {
    let mut stage = Stage::open(Tunnel::Veth)?;
    let folder = folder(&stage)?;
    stage.product.configure(&wanted())?;
    stage.apply()?;
    load(&stage, &folder)?;
    if !loaded(&stage) {
        return Err("the firewall does not load the block".into());
    }
    // Beside our own rules it takes nothing away: neither the tunnel nor a pause.
    let delivered = stage.delivered(&stage.lab.client)?;
    stage.lab.tunnel_down()?;
    let trial = Trial::start(&stage, &[&stage.lab.client])?;
    trial.finish_by(|| stage.product.ok(&["pause", "1m"]).map(drop), &stage)?;
    stage.product.ok(&["resume"])?;

    // The router starts anew, and knows only what the firewall loads.
    stage.delete_tables()?;
    stage.delete_routing()?;
    load(&stage, &folder)?;
    stage.lab.tunnel_up()?;
    stage.delivered(&stage.lab.client)?;
    stage.lab.tunnel_down()?;
    stage.lab.forget_connections()?;
    let trial = Trial::start(&stage, &[&stage.lab.client, &stage.lab.guest])?;
    trial.more()?;
    // The package is back, and everybody loads what there is.
    stage.apply()?;
    load(&stage, &folder)?;
    stage.verify()?;
    let found = trial.finish(&stage)?;
    if loaded(&stage) || fs::read_dir(&folder)?.next().is_some() {
        return Err("disable has left the block behind".into());
    }
    Ok(format!("{delivered} through the tunnel; {found}"))
}

/// What the firewall could not load is not written: it would not load anything then.
pub fn refused() -> Res<String> {
    let stage = Stage::open(Tunnel::Veth)?;
    stage.product.configure(&wanted())?;
    let apply = |path: &Path| -> Res<String> {
        let out = stage.product.command(&["apply"]).env("PATH", path).output()?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        if out.status.success() { Ok(said) } else { Err(said.into()) }
    };
    let path = std::env::var("PATH")?;
    let mut warnings = vec![apply(Path::new(&path))?];
    let folder = folder(&stage)?;
    warnings.push(apply(Path::new("/nonexistent"))?);
    // An nft that refuses whatever it is asked.
    let stub = stage.product.root().join("bin");
    fs::create_dir_all(&stub)?;
    std::os::unix::fs::symlink("/bin/false", stub.join("nft"))?;
    warnings.push(apply(&stub)?);
    for (warning, why) in warnings.iter().zip(["No such file", "cannot be run", "refuses"]) {
        if !warning.contains("survive_sysupgrade: ") || !warning.contains(why) {
            return Err(format!("'{why}' is not in: {warning}").into());
        }
    }
    if fs::read_dir(&folder)?.next().is_some() {
        return Err("it was written all the same".into());
    }
    // Protection does not wait for it, and whoever asks later is told too.
    stage.verify()?;
    let told = || -> Res<bool> {
        let out = stage.product.command(&["status", "--json"]).output()?;
        Ok(String::from_utf8_lossy(&out.stdout).contains("\"not-surviving\""))
    };
    let before = told()?;
    apply(Path::new(&path))?;
    if (before, told()?) != (true, false) {
        return Err("status tells something else of what is left".into());
    }
    let text = fs::read_to_string(folder.join("vpn-killswitch.nft"))?;
    // The configuration changes: what was loaded is out of date, and gone.
    load(&stage, &folder)?;
    stage.product.configure(&wanted().replace("'br-guest'", "'br-other'"))?;
    stage.apply()?;
    let changed = fs::read_to_string(folder.join("vpn-killswitch.nft"))?;
    if loaded(&stage) || changed == text || !changed.contains("br-other") {
        return Err(format!("not changed: {changed}").into());
    }
    stage.product.configure(&configuration("strict", ""))?;
    stage.apply()?;
    if fs::read_dir(&folder)?.next().is_some() {
        return Err("nobody wants it any more, and it is there".into());
    }
    Ok(format!("{} lines", text.lines().count()))
}
