//! Boot: the uplink and forwarding are there before, during and after the boot step (scenario 6).

use crate::lab::capture::Capture;
use crate::lab::product::configuration;
use crate::lab::server::talks;
use crate::lab::topology::{Tunnel, lan};
use crate::lab::{Res, wait_for};
use crate::stage::{Act, Stage, Trial};
use std::fs;
use std::time::{Duration, Instant};

/// When the uplink comes up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Uplink {
    Before,
    During,
    After,
}

/// The boot step; how long it took and its exit code.
fn boot(stage: &Stage) -> Res<(Duration, Option<i32>, String)> {
    let began = Instant::now();
    let out = stage.product.run(&["apply", "--boot"])?;
    let took = began.elapsed();
    let text = [out.stdout, out.stderr].concat();
    Ok((took, out.status.code(), String::from_utf8_lossy(&text).into_owned()))
}

fn milliseconds(times: &mut [Duration]) -> String {
    times.sort();
    let ms = |d: &Duration| d.as_secs_f64() * 1e3;
    let (median, max) = (&times[times.len() / 2], &times[times.len() - 1]);
    format!("boot step: median {:.1} ms, maximum {:.1} ms, of {}", ms(median), ms(max), times.len())
}

/// Whatever the order in which devices come, nothing leaks once the boot step has ended, and once
/// the hooks have run everything that must work does.
pub fn order_of_devices() -> Res<String> {
    let (mut times, mut texts) = (Vec::new(), String::new());
    for uplink in [Uplink::Before, Uplink::During, Uplink::After] {
        for _ in 0..2 {
            let (took, text) = one_boot(uplink).map_err(|e| format!("uplink {uplink:?}: {e}"))?;
            times.push(took);
            texts += &format!("\n    uplink {uplink:?}: {text}");
        }
    }
    Ok(milliseconds(&mut times) + &texts)
}

fn one_boot(uplink: Uplink) -> Res<(Duration, String)> {
    let mut stage = Stage::open(Tunnel::Veth)?;
    // Neither the tunnel nor the second local network is there yet.
    stage.lab.tunnel_delete()?;
    stage.lab.router.ip("link del br-guest\n")?;
    if uplink != Uplink::Before {
        stage.lab.router.ip("link set wan0 down\n")?;
    }
    let mut trial = Trial::start(&stage, &[&stage.lab.client, &stage.lab.guest])?;
    let wan_up = |stage: &Stage| -> Res<()> {
        stage.lab.router.ip("link set wan0 up\n")?;
        stage.lab.router.wait_up("wan0")?;
        stage.lab.uplink_up("wan0")
    };
    let (took, code, said) = std::thread::scope(|scope| {
        let other = (uplink == Uplink::During).then(|| scope.spawn(|| wan_up(&stage)));
        let booted = boot(&stage);
        trial.closed();
        if let Some(other) = other {
            other.join().map_err(|_| "the uplink died")??;
        }
        booted
    })?;
    if code != Some(0) {
        return Err(format!("boot: {code:?}: {said}").into());
    }
    if uplink == Uplink::After {
        wan_up(&stage)?;
    }
    trial.more()?;
    // The other local network, its hook some time later.
    stage.lab.router.ip("link add br-guest type bridge forward_delay 0\n\
                         link set guest0 master br-guest\n\
                         link set br-guest up\n\
                         addr add 192.168.2.1/24 dev br-guest\n\
                         addr add 2001:db8:1:2::1/64 dev br-guest nodad\n")?;
    trial.more()?;
    stage.apply()?;
    trial.more()?;
    // The tunnel, its hook some time later, then down again for the control.
    stage.lab.tunnel_up()?;
    trial.more()?;
    stage.apply()?;
    stage.lab.ready()?;
    trial.more()?;
    stage.verify()?;
    stage.lab.tunnel_down()?;
    trial.more()?;
    let found = trial.finish(&stage)?;
    let as_it_should = match uplink {
        Uplink::Before => found.before > 0,
        // Whichever comes first: what left before the step had ended is nobody's fault.
        Uplink::During => true,
        Uplink::After => found.before == 0,
    };
    if !as_it_should {
        return Err(format!("{} packets before the boot step", found.before).into());
    }
    stage.product.configure(&configuration("strict", ""))?;
    stage.apply()?;
    stage.lab.tunnel_up()?;
    stage.apply()?;
    stage.lab.ready()?;
    let mut delivered = stage.delivered(&stage.lab.client)?;
    delivered += stage.delivered(&stage.lab.guest)?;
    Ok((took, format!("{found}; then through the tunnel all {delivered}")))
}

/// What may lie where the configuration should be.
const BROKEN: [(&str, Act); 5] = [
    ("a syntax error", |s| {
        s.product.configure(&configuration("strict", "\toption log 'never closed\n"))
    }),
    ("an unknown option", |s| {
        s.product.configure(&configuration("strict", "\toption rooter '1'\n"))
    }),
    ("an empty file", |s| s.product.configure("")),
    ("a file cut off", |s| {
        let text = configuration("strict", "");
        s.product.configure(text.get(..text.len() / 3).unwrap_or_default())
    }),
    // Root reads every file, so something that is not one.
    ("an unreadable file", |s| {
        fs::remove_file(s.product.file())?;
        Ok(fs::create_dir(s.product.file())?)
    }),
];

/// A configuration that nobody can read closes: nothing is forwarded, not even into the tunnel, and
/// the owner still gets in to mend it.
pub fn broken_configuration() -> Res<String> {
    let (mut times, mut texts) = (Vec::new(), String::new());
    for (what, breaks) in BROKEN {
        let stage = Stage::open(Tunnel::Veth)?;
        // The tunnel is up: what is forwarded by it counts as well.
        let mut trial = Trial::start(&stage, &[&stage.lab.client])?;
        breaks(&stage)?;
        let (took, code, said) = boot(&stage)?;
        trial.closed();
        let closed = trial.now();
        times.push(took);
        if code != Some(2) || !said.contains("nothing is forwarded until this is mended") {
            return Err(format!("{what}: {code:?}: {said}").into());
        }
        let inside = Capture::start(&stage.lab.vpn, "peer0")?;
        trial.more()?;
        // It falls silent only if nothing comes through.
        let inside = inside.finish().map_err(|e| format!("{what}: {e}"))?;
        stage.lab.tunnel_down()?;
        for family in lan() {
            for port in [22, 53, 67] {
                talks(&stage.lab.client, family, port).map_err(|e| format!("{what}: {e}"))?;
            }
        }
        trial.more()?;
        let mend = || {
            if stage.product.file().is_dir() {
                fs::remove_dir(stage.product.file())?;
            }
            stage.product.configure(&configuration("strict", ""))?;
            stage.apply()?;
            stage.verify()?;
            stage.product.ok(&["disable"]).map(drop)
        };
        let found = trial.finish_by(mend, &stage).map_err(|e| format!("{what}: {e}"))?;
        let forwarded = inside
            .into_iter()
            .find(|p| !p.outgoing && !p.is_icmp_error() && p.mark.is_some_and(|m| m.seq >= closed));
        if let Some(p) = forwarded {
            return Err(format!("{what}: forwarded into the tunnel: {p}").into());
        }
        texts += &format!("\n    {what}: {found}");
    }
    Ok(milliseconds(&mut times) + &texts)
}

/// The same with the guard: what the boot step closed stays closed, whatever others do afterwards, until
/// the configuration is mended.
pub fn broken_configuration_with_guard() -> Res<String> {
    let stage = Stage::open(Tunnel::Veth)?;
    let mut trial = Trial::start(&stage, &[&stage.lab.client])?;
    stage.product.configure("nonsense")?;
    boot(&stage)?;
    trial.closed();
    let guard = stage.guard()?;
    for _ in 0..3 {
        // One layer at a time, as netifd does when it starts, and the firewall when it is stopped.
        stage.delete_routing()?;
        wait_for("the routing rules", 5.0, || {
            stage
                .lab
                .router
                .sh("ip rule; ip -6 rule")
                .is_ok_and(|l| l.matches("proto 107").count() == 8)
        })?;
        trial.more()?;
        stage.delete_tables()?;
        wait_for("the table", 5.0, || {
            stage.lab.router.sh("nft list table inet vpn_killswitch").is_ok()
        })?;
        stage.load_firewall()?;
        trial.more()?;
    }
    stage.lab.tunnel_down()?;
    stage.product.configure(&configuration("strict", ""))?;
    stage.apply()?;
    stage.verify()?;
    drop(guard);
    Ok(format!("{}", trial.finish(&stage)?))
}

/// A configuration that says off leaves the router open, even when the rest of it is wrong.
pub fn switched_off() -> Res<String> {
    let off = configuration("strict", "").replace("enabled '1'", "enabled '0'");
    let mut leaked = 0;
    for (text, expected) in
        [(off.clone(), 0), (off.replace("router 'strict'", "rooter 'strict'"), 2)]
    {
        let stage = Stage::open(Tunnel::Veth)?;
        stage.lab.tunnel_down()?;
        stage.product.configure(&text)?;
        let trial = Trial::start(&stage, &[&stage.lab.client])?;
        let booted = || match boot(&stage)? {
            (_, Some(code), _) if code == expected => Ok(()),
            (_, code, said) => Err(format!("{code:?}, not {expected}: {said}").into()),
        };
        // Open before the step and behind it: the step opens as any control does.
        let found = trial.finish_open(booted, &stage)?;
        leaked += found;
    }
    Ok(format!("stays open: {leaked} packets left behind the step"))
}
