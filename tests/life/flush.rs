//! Firewalls that are reloaded, restarted, stopped and flushed under a flood (scenario 5).

use crate::lab::Res;
use crate::stage::{Act, Stage, Trial};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};
use vpn_killswitch::backend::nft::Nft;
use vpn_killswitch::netlink::{Socket, wait};
use vpn_killswitch::ruleset::Ruleset;

const ROUNDS: usize = 50;
/// `NFT_MSG_DELTABLE` in an nftables message's type.
const DELTABLE: u16 = 10 << 8 | 2;
/// The guard slows down when it repairs more than 20 times in 10 s; that is not the story here.
const PEACE: Duration = Duration::from_millis(520);

/// `fw4 reload`: its table anew, in one transaction.
fn reload(stage: &Stage) -> Res<()> {
    stage.load_firewall()
}

fn iptables(stage: &Stage) -> Res<()> {
    let mut script = String::new();
    for program in ["iptables-legacy", "ip6tables-legacy", "iptables-nft", "ip6tables-nft"] {
        script += &format!("{program} -w -P FORWARD ACCEPT\n{program} -w -F\n{program} -w -X\n");
    }
    stage.lab.router.sh(&script).map(drop)
}

fn flush(stage: &Stage) -> Res<()> {
    stage.lab.router.nft("flush ruleset\n")
}

/// What takes the program's table away.
const TAKING: [(&str, Act); 3] = [
    ("flush", flush),
    ("stop", Stage::delete_tables),
    ("restart", |stage| stage.delete_tables().and_then(|()| stage.load_firewall())),
];

/// The routing layer alone holds all of it.
pub fn without_guard() -> Res<String> {
    let stage = Stage::blocking()?;
    let (rules, mut nft) = stage.rules()?;
    let trial = Trial::start(&stage, &[&stage.lab.client, &stage.lab.guest])?;
    for _ in 0..ROUNDS {
        for (_, take) in TAKING {
            take(&stage)?;
        }
        reload(&stage)?;
        iptables(&stage)?;
    }
    trial.more()?;
    if nft.check(&rules).map_err(|e| e.to_string())?.is_empty() {
        return Err("the table is there: layer 2 was not alone".into());
    }
    Ok(format!("{ROUNDS} × 5 events: {}", trial.finish(&stage)?))
}

/// The negative control: without the second layer and the guard, a flush opens.
pub fn without_guard_and_second_layer() -> Res<String> {
    let stage = Stage::blocking()?;
    stage.delete_routing()?;
    let trial = Trial::start(&stage, &[&stage.lab.client])?;
    reload(&stage)?;
    iptables(&stage)?;
    trial.more()?;
    Ok(format!("until the flush {}", trial.finish_by(|| flush(&stage), &stage)?))
}

/// The guard puts everything back within milliseconds.
pub fn with_guard() -> Res<String> {
    let stage = Stage::blocking()?;
    let guard = stage.guard()?;
    let (rules, mut nft) = stage.rules()?;
    let mut notices = stage.notices()?;
    let trial = Trial::start(&stage, &[&stage.lab.client])?;
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let began = Instant::now();
        reload(&stage)?;
        iptables(&stage)?;
        notices.drain(|_, _| {})?;
        let (name, take) = TAKING[round % TAKING.len()];
        let time = std::thread::scope(|scope| {
            let timed = scope.spawn(|| repaired(&mut notices, &mut nft, &rules));
            take(&stage)?;
            timed.join().map_err(|_| "the clock died")?
        });
        times.push(time.map_err(|e| format!("round {round}, {name}: {e}\n{}", guard.said()))?);
        std::thread::sleep(PEACE.saturating_sub(began.elapsed()));
    }
    stage.verify()?;
    times.sort();
    let (median, max) = (times[times.len() / 2], times[times.len() - 1]);
    let found = trial.finish(&stage)?;
    let said = guard.said();
    if said.contains("another program keeps changing") {
        return Err(format!("the guard slowed down: the times mean nothing\n{said}").into());
    }
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    let text = format!(
        "{ROUNDS} × 3 events: {found}\n    table deleted → policy read back equal: median {:.1} ms, \
         maximum {:.1} ms, of {}",
        ms(median),
        ms(max),
        times.len()
    );
    if median > Duration::from_millis(50) || max > Duration::from_secs(2) {
        return Err(format!("too slow: {text}").into());
    }
    Ok(text)
}

/// From the kernel's notice that the table is gone until it reads as it should.
fn repaired(notices: &mut Socket, nft: &mut Nft, rules: &Ruleset) -> Res<Duration> {
    let patience = Instant::now();
    let gone = loop {
        wait(&[(notices.as_fd(), libc::POLLIN)], Some(Duration::from_secs(1)))?;
        let now = Instant::now();
        let mut gone = false;
        notices.drain(|kind, payload| {
            gone |= kind == DELTABLE && payload.windows(14).any(|w| w == b"vpn_killswitch");
        })?;
        if gone {
            break now;
        }
        if patience.elapsed() > Duration::from_secs(10) {
            return Err("nobody deleted the table".into());
        }
    };
    // A reading that a change interrupted is no reading.
    while !nft.check(rules).is_ok_and(|differences| differences.is_empty()) {
        if gone.elapsed() > Duration::from_secs(8) {
            return Err("not repaired".into());
        }
        std::thread::sleep(Duration::from_micros(300));
    }
    Ok(gone.elapsed())
}
