//! What the kernel's log says of refused clients: a line a minute for each, whatever they send.
//!
//! The kernel writes no log for a network namespace. So here the rules as they are installed get another
//! place to write to, a netlink socket, and nothing else about them is changed.

use crate::lab::ns::Ns;
use crate::lab::topology::internet;
use crate::lab::traffic::{Flood, Flow};
use crate::lab::{Res, wait_for};
use crate::stage::{SOME, Stage};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};
use vpn_killswitch::netlink::attr::bytes;
use vpn_killswitch::netlink::{Request, Socket, wait};

/// `NFNL_SUBSYS_ULOG` with `NFULNL_MSG_PACKET`, `NFULNL_MSG_CONFIG` (linux/netfilter/nfnetlink_log.h).
const PACKET: u16 = 4 << 8;
const CONFIG: u16 = 4 << 8 | 1;
const NFGENMSG: usize = 4;
const CFG_CMD: u16 = 1;
const CFG_MODE: u16 = 2;
const CFG_QTHRESH: u16 = 5;
const PAYLOAD: u16 = 9;
const PREFIX: u16 = 10;

/// The log of a network namespace.
struct Lines {
    socket: Socket,
    /// When there was a line about whom.
    of: BTreeMap<IpAddr, Vec<Instant>>,
}

impl Lines {
    fn listen(router: &Ns) -> Res<Self> {
        let chain = router.sh("nft -a list chain inet vpn_killswitch forward")?;
        for id in ["fwd_log4:", "fwd_log6:"] {
            let line = chain.lines().find(|l| l.contains(id)).ok_or("no rule that logs")?;
            let (rule, handle) = line.split_once(" # handle ").ok_or("no handle")?;
            let (before, after) = rule.split_once(" level info ").ok_or("no level")?;
            router.nft(&format!(
                "replace rule inet vpn_killswitch forward handle {handle} {before} group 0 {after}"
            ))?;
        }
        let socket = router.enter(|| {
            let mut socket = Socket::open(12)?;
            // Everything that comes for group 0 (NFULNL_CFG_CMD_BIND), at once, with the packet.
            let mut payload = vec![0; NFGENMSG];
            bytes(&mut payload, CFG_CMD, &[1]);
            bytes(&mut payload, CFG_MODE, &[0, 0, 0xff, 0xff, 2, 0]);
            bytes(&mut payload, CFG_QTHRESH, &1u32.to_be_bytes());
            socket.request(&Request { kind: CONFIG, flags: 0, payload }, |_| Ok(()))?;
            Ok::<_, io::Error>(socket)
        })??;
        Ok(Self { socket, of: BTreeMap::new() })
    }

    /// Reads what was written within this time.
    fn read(&mut self, patience: Duration) -> Res<()> {
        wait(&[(self.socket.as_fd(), libc::POLLIN)], Some(patience))?;
        let of = &mut self.of;
        Ok(self.socket.drain(|kind, message| {
            let attrs = message.get(NFGENMSG..).unwrap_or_default();
            let prefix = attribute(attrs, PREFIX);
            if kind == PACKET && prefix.starts_with(b"vpn-killswitch: refused forward: ") {
                of.entry(source(attribute(attrs, PAYLOAD))).or_default().push(Instant::now());
            }
        })?)
    }

    /// Everything that was written so far.
    fn all(&mut self) -> Res<&BTreeMap<IpAddr, Vec<Instant>>> {
        self.read(Duration::ZERO)?;
        Ok(&self.of)
    }

    fn count(&mut self) -> Res<usize> {
        Ok(self.all()?.values().map(Vec::len).sum())
    }
}

/// The attribute's value; empty without it.
fn attribute(mut attrs: &[u8], kind: u16) -> &[u8] {
    while let [l0, l1, k0, k1, ..] = *attrs {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        if u16::from_ne_bytes([k0, k1]) == kind {
            return &attrs[4..length];
        }
        attrs = attrs.get(length.max(4).next_multiple_of(4)..).unwrap_or_default();
    }
    &[]
}

/// Who sent an IP packet.
fn source(packet: &[u8]) -> IpAddr {
    if packet[0] >> 4 == 4 {
        <[u8; 4]>::try_from(&packet[12..16]).unwrap().into()
    } else {
        <[u8; 16]>::try_from(&packet[8..24]).unwrap().into()
    }
}

/// Two clients flood by every protocol, for more than a minute.
pub fn one_line_a_minute_for_each_client() -> Res<String> {
    const MINUTE: Duration = Duration::from_secs(60);
    let stage = Stage::blocking()?;
    let mut lines = Lines::listen(&stage.lab.router)?;
    let watch = stage.lab.watch()?;
    let began = Instant::now();
    let clients = [&stage.lab.client, &stage.lab.guest];
    let floods = clients.map(|ns| Flood::start(ns, None, Flow::all_kinds(&internet()), 50));
    // Both families of both.
    while lines.of.len() < 4 || lines.of.values().any(|times| times.len() < 2) {
        if began.elapsed() > MINUTE + Duration::from_secs(20) {
            return Err(format!("lines are missing: {:?}", lines.of).into());
        }
        lines.read(Duration::from_millis(100))?;
    }
    let mut sent = 0;
    for flood in floods {
        sent += flood.stop()?.iter().map(|s| s.sent).sum::<u32>();
    }
    let seen = watch.finish()?;
    let mut least = Duration::MAX;
    for (who, times) in lines.all()? {
        for pair in times.windows(2) {
            least = least.min(pair[1] - pair[0]);
        }
        // The kernel's clock ticks in between.
        if least < MINUTE - Duration::from_millis(50) {
            return Err(format!("{who}: {least:?} between two lines").into());
        }
    }
    if let Some(p) = seen.strays().next() {
        return Err(format!("leaked: {p}").into());
    }
    let lines = lines.count()?;
    Ok(format!(
        "{sent} packets of 2 clients, IPv4 and IPv6, in {:.0} s: {lines} lines, {:.1} s between two \
         of one client at least",
        began.elapsed().as_secs_f64(),
        least.as_secs_f64()
    ))
}

/// One host forges the addresses of many, and then the set has no room: neither opens anything, and the
/// log stays short.
pub fn forged_sources_and_a_full_set() -> Res<String> {
    const FORGED: usize = 150;
    let stage = Stage::blocking()?;
    let lab = &stage.lab;
    let mut lines = Lines::listen(&lab.router)?;
    let watch = lab.watch()?;
    let sources: Vec<IpAddr> =
        (0..FORGED).map(|n| IpAddr::from([192, 168, 1, 60 + n as u8])).collect();
    let more: String = sources.iter().map(|ip| format!("addr add {ip}/32 dev eth0\n")).collect();
    lab.client.ip(&more)?;
    let began = Instant::now();
    for round in 0..3u8 {
        for ip in &sources {
            lab.client.enter(|| {
                let socket = UdpSocket::bind((*ip, 0))?;
                socket.send_to(&[round], (internet()[0], 7)).map(drop)
            })??;
        }
    }
    let took = began.elapsed();
    let told = lines.count()?;
    // 20 at once, then one every two seconds.
    let most = 20 + took.as_secs() as usize / 2 + 1;
    if !(20..=most).contains(&told) {
        return Err(format!("{told} lines for {FORGED} sources within {took:?}").into());
    }

    // No room: no line, and no way out.
    let fill = |what: &str, set: &str, elements: &[String]| {
        lab.router.nft(&format!("flush set inet vpn_killswitch {set}"))?;
        lab.router
            .nft(&format!("{what} element inet vpn_killswitch {set} {{ {} }}", elements.join(", ")))
    };
    let v4: Vec<_> = (0..1024).map(|n| format!("10.77.{}.{}", n / 256, n % 256)).collect();
    let v6: Vec<_> = (0..1024).map(|n| format!("fd77::{n:x}")).collect();
    fill("add", "logged4", &v4)?;
    fill("add", "logged6", &v6)?;
    lines.of.clear();
    let flood = Flood::start(&lab.iot, None, Flow::all_kinds(&internet()), 400);
    flood.more(SOME)?;
    if lines.count()? > 0 {
        return Err(format!("a line without room to remember it: {:?}", lines.of).into());
    }
    // Room again, and tokens.
    for set in ["logged4", "logged6"] {
        lab.router.nft(&format!("flush set inet vpn_killswitch {set}"))?;
    }
    wait_for("a line of each family", 20.0, || {
        lines.all().is_ok_and(|of| of.len() == 2)
            || ["logged4", "logged6"]
                .iter()
                .any(|set| lab.router.nft(&format!("flush set inet vpn_killswitch {set}")).is_err())
    })?;
    let sent: u32 = flood.stop()?.iter().map(|s| s.sent).sum();
    if let Some(p) = watch.finish()?.strays().next() {
        return Err(format!("leaked: {p}").into());
    }
    // The negative control: what was refused goes out when protection is off.
    let watch = lab.watch()?;
    stage.product.ok(&["disable"])?;
    lab.forget_connections()?;
    let flood = Flood::start(&lab.iot, None, Flow::all_kinds(&internet()), 400);
    flood.more(SOME)?;
    flood.stop()?;
    let control = watch.finish()?.strays().count();
    if control == 0 {
        return Err("the control did not leak".into());
    }
    Ok(format!(
        "{told} lines for {FORGED} forged sources; 0 of {sent} leaked and no line with full sets; \
         control: {control} did"
    ))
}
