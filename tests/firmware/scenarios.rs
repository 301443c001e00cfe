//! What happens to the routers.

use crate::lab::Res;
use crate::machine::Kernel;
use crate::stage::{Firmware, Stage, System};
use crate::table;
use crate::trial::Who::{Guest, Lan, Router};
use crate::trial::{Count, Trial, Who};
use std::time::Instant;

/// What the rule for the uplink's name never covers: IPv6, and every network but the first.
const USUAL: &[(Who, u8)] = &[(Lan, 6), (Guest, 4), (Guest, 6)];
/// With another name of the uplink it covers nothing.
const ALL: &[(Who, u8)] = &[(Lan, 4), (Lan, 6), (Guest, 4), (Guest, 6)];

/// What is told of a scenario, of both systems.
struct Told {
    firmware: &'static Firmware,
    lines: Vec<(&'static str, Count, Count)>,
}

impl Told {
    /// Judges, keeps the counts for the table, and says them.
    fn judge(self, must_leak: impl Fn(&str) -> &'static [(Who, u8)]) -> Res<String> {
        let mut said = String::new();
        for (what, product, control) in self.lines {
            said += &format!("\n    {what}: {product}\n        control: {control}");
            let judged = product.tight().and_then(|()| control.leaks(must_leak(what)));
            judged.map_err(|e| format!("{what}: {e}"))?;
            table::note(what, self.firmware.name, &product, &control)?;
        }
        Ok(said)
    }
}

/// Tells a story of both systems, and puts their counts side by side.
fn both(
    firmware: &'static Firmware,
    story: impl Fn(System) -> Res<Vec<(&'static str, Count)>>,
) -> Res<Told> {
    let with = |system| story(system).map_err(|e| format!("{system:?}: {e}"));
    let (product, control) = (with(System::Product)?, with(System::OneLiner)?);
    let lines = product.into_iter().zip(control).map(|((what, p), (_, c))| (what, p, c)).collect();
    Ok(Told { firmware, lines })
}

/// What a router is like when the power comes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Boot {
    /// Its uplink is there.
    Before,
    /// Its uplink comes later.
    After,
    /// As before, and the configuration is broken.
    Broken,
    /// As before, and the owner has switched off the folders for scripts: FreshTomato has nvram's then.
    NoFolders,
}

/// Whatever it is like: nothing may leave from the first moment on. The tunnel comes last of all.
pub fn boot(firmware: &'static Firmware) -> Res<String> {
    let tell =
        |boot, system| one_boot(firmware, system, boot).map_err(|e| format!("{system:?}: {e}"));
    let before = tell(Boot::Before, System::OneLiner)?;
    let after = tell(Boot::After, System::OneLiner)?;
    let mut lines = vec![
        ("boot, uplink before", tell(Boot::Before, System::Product)?, before.clone()),
        ("boot, uplink after", tell(Boot::After, System::Product)?, after),
        ("boot, broken configuration", tell(Boot::Broken, System::Product)?, before.clone()),
    ];
    if firmware.name == "tomato" {
        lines.push(("boot, scripts in nvram", tell(Boot::NoFolders, System::Product)?, before));
    }
    Told { firmware, lines }.judge(|_| USUAL)
}

fn one_boot(firmware: &'static Firmware, system: System, boot: Boot) -> Res<Count> {
    let mut stage = Stage::new(firmware, system, Kernel::Old)?;
    stage.tunnel_delete()?;
    if boot == Boot::NoFolders {
        stage.sh("nvram set userfiles_disable=1; nvram commit")?;
    }
    stage.install_before_reboot()?;
    if boot == Boot::Broken {
        stage.configure("nonsense")?;
    }
    let wan = firmware.wan;
    if boot == Boot::After {
        stage.lab.router.ip(&format!("link set {wan} down\n"))?;
    }
    let mut trial = Trial::of(&stage)?;
    stage.boot()?;
    if firmware.name == "merlin" && system == System::Product {
        // Nobody waits for its scripts, but they have some seconds until the uplink is asked for.
        stage.second_layer()?;
    }
    if boot == Boot::After {
        stage.lab.router.ip(&format!("link set {wan} up\n"))?;
        stage.lab.router.wait_up(wan)?;
        stage.lab.uplink_up(wan)?;
    }
    trial.more()?;
    if system == System::OneLiner {
        // Until now nothing was forwarded, whoever protects the router.
        trial.count_from_here();
    }
    stage.wan_up(wan)?;
    stage.settle()?;
    trial.more()?;
    stage.booted()?;
    let count = trial.finish()?;
    if system == System::Product && boot != Boot::Broken {
        stage.verify()?;
        stage.tunnel_up()?;
        stage.lab.ready()?;
        stage.delivered()?;
    }
    Ok(count)
}

/// Tells a story under a flood, and keeps its count.
fn tell(
    stage: &Stage,
    counts: &mut Vec<(&'static str, Count)>,
    what: &'static str,
    story: impl FnOnce(&Stage, &mut Trial) -> Res<()>,
) -> Res<()> {
    let mut trial = Trial::of(stage)?;
    let count = story(stage, &mut trial).and_then(|()| trial.finish());
    counts.push((what, count.map_err(|e| format!("{what}: {e}"))?));
    stage.verify_soon().map_err(|e| format!("{what}: {e}").into())
}

/// What happens to a router that runs: floods from all clients, with the tunnel down. Between two of the
/// stories the tunnel is up, and everything is delivered.
pub fn links(firmware: &'static Firmware) -> Res<String> {
    let told = both(firmware, |system| {
        let stage = Stage::new(firmware, system, Kernel::Old)?;
        stage.start()?;
        stage.tunnel_down()?;
        let mut counts = Vec::new();
        tell(&stage, &mut counts, "switched on", |stage, trial| {
            stage.install()?;
            trial.count_from_here();
            trial.more()
        })?;
        stage.tunnel_up()?;
        stage.lab.ready()?;
        stage.delivered()?;
        tell(&stage, &mut counts, "tunnel loss", |stage, trial| {
            trial.count_from_here();
            stage.tunnel_delete()
        })?;
        tell(&stage, &mut counts, "firewall restart", |stage, _| {
            stage.restart_firewall()?;
            // At once, by the hooks.
            stage.verify()
        })?;
        tell(&stage, &mut counts, "guest bridge made again", |stage, _| {
            stage.lab.router.ip("link del br1\n\
                                 link add br1 type bridge forward_delay 0\n\
                                 link set guest0 master br1\n\
                                 link set br1 up\n\
                                 addr add 192.168.2.1/24 dev br1\n\
                                 addr add 2001:db8:1:2::1/64 dev br1 nodad\n")?;
            stage.restart_firewall()
        })?;
        stage.tunnel_up()?;
        stage.lab.ready()?;
        stage.delivered()?;
        stage.tunnel_down()?;
        tell(&stage, &mut counts, "WAN reconnect", |stage, trial| {
            let wan = stage.firmware.wan;
            stage.reconnect(trial, wan, wan, 99)
        })?;
        tell(&stage, &mut counts, "PPPoE: ppp0", |stage, trial| {
            stage.reconnect(trial, stage.firmware.wan, "ppp0", 77)
        })?;
        tell(&stage, &mut counts, "owner lets all out", |stage, _| {
            // In front of all rules, and on Asuswrt-Merlin behind our hook.
            stage.owner_adds("iptables -I FORWARD -j ACCEPT")?;
            stage.restart_firewall()?;
            // There the second layer holds alone until the guard has looked.
            stage.verify_soon()
        })?;
        stage.tunnel_up()?;
        stage.lab.ready()?;
        stage.delivered()?;
        if system == System::Product {
            // The last control: without it, on the same router, all leaks that is sent.
            stage.uninstall()?;
            stage.restart_firewall()?;
            stage.tunnel_down()?;
            Trial::of(&stage)?.finish()?.leaks(ALL)?;
        }
        Ok(counts)
    })?;
    let all = ["PPPoE: ppp0", "owner lets all out"];
    told.judge(|what| if all.contains(&what) { ALL } else { USUAL })
}

/// A hundred restarts of the firewall, which wipes all tables each time, under a flood: the second layer
/// holds, and all rules are back when the last hook has run.
pub fn restarts(firmware: &'static Firmware) -> Res<String> {
    const TIMES: u32 = 100;
    let told = |system, times| -> Res<(Count, f64)> {
        let stage = Stage::new(firmware, system, Kernel::Old)?;
        stage.start()?;
        stage.install()?;
        stage.tunnel_down()?;
        let trial = Trial::start(&stage, &stage.clients(), 100)?;
        let began = Instant::now();
        for n in 1..=times {
            let restarted = stage.restart_firewall().and_then(|()| stage.verify());
            restarted.map_err(|e| format!("restart {n}: {e}"))?;
        }
        let took = began.elapsed().as_secs_f64();
        Ok((trial.finish()?, took))
    };
    let (product, took) = told(System::Product, TIMES)?;
    let (control, _) = told(System::OneLiner, TIMES / 10)?;
    let what = "100 firewall restarts";
    let said = format!(
        "\n    {TIMES} restarts in {took:.1} s, each checked: {product}\n        control, {}: {control}",
        TIMES / 10
    );
    Told { firmware, lines: vec![(what, product, control)] }.judge(|_| USUAL)?;
    Ok(said)
}

/// A firmware of which the kernel has nftables as well, and iptables' programs that go by them: what the
/// program chooses by itself, and with iptables. Nothing of clients may leave, and with nftables of its
/// own nothing of the router either.
pub fn newer_kernel(firmware: &'static Firmware) -> Res<String> {
    let mut said = String::new();
    for backend in ["nft", "iptables"] {
        let mut stage = Stage::new(firmware, System::Product, Kernel::New)?;
        if backend == "iptables" {
            stage.words = "--backend iptables";
        }
        stage.start()?;
        stage.install()?;
        stage.tunnel_down()?;
        let mut who = stage.clients().to_vec();
        if backend == "nft" {
            who.push((Router, &stage.lab.router));
        }
        let trial = Trial::start(&stage, &who, 100)?;
        for _ in 0..3 {
            stage.restart_firewall()?;
            stage.verify()?;
        }
        let rules = stage.sh("iptables-save")? + &stage.lab.router.sh("nft list tables")?;
        if rules.contains("VKS") != (backend == "iptables")
            || rules.contains("inet vpn_killswitch") != (backend == "nft")
        {
            return Err(format!("{backend} does not hold the rules: {rules}").into());
        }
        let count = trial.finish()?;
        count.tight().map_err(|e| format!("{backend}: {e}"))?;
        said += &format!("\n    {backend}, three restarts: {count}");
    }
    Ok(said)
}

/// A router whose kernel has no second layer, and says so by its version: nothing holds while the firmware
/// has wiped the first one, so forwarding rests for that time. The control is a router of which nobody
/// knows that it has none.
pub fn without_second_layer(firmware: &'static Firmware) -> Res<String> {
    let told = |kernel| -> Res<Count> {
        let stage = Stage::new(firmware, System::Product, kernel)?;
        stage.start()?;
        stage.install()?;
        // Whatever our rules say, this one is asked before.
        for family in ["-4", "-6"] {
            stage.lab.router.sh(&format!("ip {family} rule add priority 100 lookup main"))?;
        }
        stage.tunnel_down()?;
        let trial = Trial::of(&stage)?;
        for _ in 0..5 {
            stage.restart_firewall()?;
        }
        let count = trial.finish()?;
        stage.tunnel_up()?;
        stage.lab.ready()?;
        stage.delivered()?;
        Ok(count)
    };
    let (rests, control) = (told(Kernel::Ancient)?, told(Kernel::Old)?);
    rests.tight()?;
    if control.leaked() == 0 {
        return Err(format!("the control does not leak: {control}").into());
    }
    Ok(format!("five restarts: {rests}\n        control: {control}"))
}

/// The router's own packets while its firewall starts again: of the two layers only the first one knows
/// them, and the firmware takes it away. Measured, so that the limit is a number.
pub fn known_limit(firmware: &'static Firmware) -> Res<String> {
    let stage = Stage::new(firmware, System::Product, Kernel::Old)?;
    stage.start()?;
    stage.install()?;
    stage.tunnel_down()?;
    let flood = |times| -> Res<Count> {
        let trial = Trial::start(&stage, &[(Router, &stage.lab.router)], 250)?;
        (0..times).try_for_each(|_| stage.restart_firewall())?;
        trial.finish()
    };
    flood(0)?.tight()?;
    let during = flood(5)?;
    stage.verify()?;
    flood(0)?.tight()?;
    if during.leaked() == 0 {
        return Err("nothing leaked: it is no limit any more, and the documents are wrong".into());
    }
    Ok(format!("between restarts 0; during five, {during}"))
}
