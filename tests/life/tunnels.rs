//! Tunnels of several kinds come and go: tun devices as OpenVPN makes them, WireGuard, and two at
//! once (scenario 1).

use crate::lab::ns::Ns;
use crate::lab::packet::{Mark, Packet};
use crate::lab::product::configuration;
use crate::lab::topology::{Tunnel, internet};
use crate::lab::traffic::Flow;
use crate::lab::{Res, wait_for};
use crate::stage::{Stage, Trial};
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// `TUNSETIFF`, `IFF_TUN` and `IFF_NO_PI` (linux/if_tun.h).
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUN: libc::c_short = 1;
const NO_PI: libc::c_short = 0x1000;

/// A VPN program with a tun device that is gone when the program is: OpenVPN without `persist-tun`.
struct Vpn {
    stop: Arc<AtomicBool>,
    got: Arc<Mutex<HashSet<Mark>>>,
    thread: Option<JoinHandle<()>>,
}

impl Vpn {
    /// Makes the device, gives it addresses and, before other routes of that metric, the default ones.
    fn start(router: &Ns, device: &str, net: u8, metric: u32) -> Res<Self> {
        let mut file = router.enter(|| tun(device))?.map_err(|e| format!("{device}: {e}"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let got = Arc::new(Mutex::new(HashSet::new()));
        let thread = {
            let (stop, got) = (Arc::clone(&stop), Arc::clone(&got));
            std::thread::spawn(move || swallow(&mut file, &stop, &got))
        };
        router.ip(&format!(
            "addr add 10.{net}.0.2/24 dev {device}\n\
             addr add fd{net:02}::2/64 dev {device} nodad\n\
             link set {device} up\n\
             route add default dev {device} metric {metric}\n\
             route add default via fd{net:02}::1 dev {device} metric {metric}\n"
        ))?;
        Ok(Self { stop, got, thread: Some(thread) })
    }

    /// How many different test packets with these numbers came.
    fn got(&self, numbers: std::ops::Range<u32>) -> usize {
        self.got.lock().unwrap().iter().filter(|m| numbers.contains(&m.seq)).count()
    }
}

impl Drop for Vpn {
    /// As `kill -9` would: the device goes with its last open file.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn tun(device: &str) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    // SAFETY: ifreq is plain integers and unions of them; all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = TUN | NO_PI;
    // SAFETY: `request` is the structure that this request takes, and outlives the call.
    match unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) } {
        0 => Ok(file),
        _ => Err(io::Error::last_os_error()),
    }
}

fn swallow(file: &mut File, stop: &AtomicBool, got: &Mutex<HashSet<Mark>>) {
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Acquire) {
        let mut poll = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, and the length says so.
        unsafe { libc::poll(&raw mut poll, 1, 10) };
        while let Ok(len) = file.read(&mut buffer) {
            let v4 = buffer[0] >> 4 == 4;
            let ethertype = if v4 { 0x0800 } else { 0x86dd };
            let packet = Packet::parse(&buffer[..len], false, ethertype, true);
            if !packet.is_icmp_error() {
                got.lock().unwrap().extend(packet.mark);
            }
        }
    }
}

/// Everything that is sent from now on comes out of this tunnel: eight flows, each packet.
fn passes(stage: &Stage, trial: &Trial, vpn: &Vpn, what: &str) -> Res<usize> {
    stage.lab.forget_connections()?;
    let from = trial.now();
    trial.more()?;
    // The last ones may still be on their way to the system call.
    let numbers = from..trial.now() - 3;
    let sent = numbers.len() * Flow::all_kinds(&internet()).len();
    wait_for("the tunnel", 2.0, || vpn.got(numbers.clone()) == sent)
        .map_err(|e| format!("{what}: {} of {sent} packets: {e}", vpn.got(numbers.clone())))?;
    Ok(sent)
}

/// Nothing comes out of this tunnel.
fn silent(trial: &Trial, vpn: &Vpn, what: &str) -> Res<()> {
    let from = trial.now();
    trial.more()?;
    match vpn.got(from..u32::MAX) {
        0 => Ok(()),
        n => Err(format!("{what}: {n} packets passed").into()),
    }
}

fn two_tuns(stage: &Stage) -> Res<()> {
    let text = configuration("strict", "").replace("'wg0'", "'tun*'");
    stage.product.configure(&text)?;
    stage.apply()
}

/// A tun device is deleted with its program and made again, ten times; the hook comes a little later,
/// or the guard sees it.
fn recreated(guarded: bool) -> Res<String> {
    let stage = Stage::blocking()?;
    two_tuns(&stage)?;
    let guard = if guarded { Some(stage.guard()?) } else { None };
    let trial = Trial::start(&stage, &[&stage.lab.client])?;
    let (mut passed, mut slowest) = (0, Duration::ZERO);
    for round in 0..10 {
        let vpn = Vpn::start(&stage.lab.router, "tun0", 8, 5)?;
        if guarded {
            let began = Instant::now();
            wait_for("the guard", 5.0, || stage.verify().is_ok())?;
            slowest = slowest.max(began.elapsed());
        } else {
            // A new device is closed until somebody has looked at it.
            silent(&trial, &vpn, "before the hook")?;
            stage.apply()?;
        }
        passed += passes(&stage, &trial, &vpn, &format!("round {round}"))?;
        drop(vpn);
        wait_for("tun0 gone", 5.0, || !stage.lab.router.has_device("tun0"))?;
        trial.more()?;
    }
    let mut text = format!("10 devices, {passed} packets through them");
    if let Some(guard) = guard {
        // Tunnels that come and go are nobody's attack.
        if guard.said().contains("another program keeps changing") {
            return Err(format!("the guard suspects somebody:\n{}", guard.said()).into());
        }
        text += &format!(", the guard took {:.0} ms at most", slowest.as_secs_f64() * 1e3);
    }
    Ok(format!("{text}: {}", trial.finish(&stage)?))
}

pub fn tun_recreated_with_hooks() -> Res<String> {
    recreated(false)
}

pub fn tun_recreated_with_guard() -> Res<String> {
    recreated(true)
}

/// `persist-tun`, and the program is dead: the device stays without carrier, and its routes are left
/// out.
pub fn tun_without_carrier() -> Res<String> {
    let stage = Stage::blocking()?;
    two_tuns(&stage)?;
    stage.lab.router.ip("tuntap add dev tun0 mode tun\n\
                         addr add 10.8.0.2/24 dev tun0\n\
                         addr add fd08::2/64 dev tun0 nodad\n\
                         link set tun0 up\n\
                         route add default dev tun0 metric 5\n\
                         route add default via fd08::1 dev tun0 metric 5\n")?;
    stage.apply()?;
    let trial = Trial::start(&stage, &[&stage.lab.client])?;
    for ignore in ["0", "1"] {
        stage.lab.router.sysctls(&[
            ("ipv4/conf/all/ignore_routes_with_linkdown", ignore),
            ("ipv6/conf/all/ignore_routes_with_linkdown", ignore),
            ("ipv4/conf/tun0/ignore_routes_with_linkdown", ignore),
            ("ipv6/conf/tun0/ignore_routes_with_linkdown", ignore),
        ])?;
        trial.more()?;
    }
    let status = stage.product.run(&["status"])?.status.code();
    if status != Some(4) {
        return Err(
            format!("status is {status:?}, not 4: a tunnel without carrier is not up").into()
        );
    }
    Ok(trial.finish(&stage)?.to_string())
}

/// Two tunnels: one takes over from the other, and the uplink from neither.
pub fn failover() -> Res<String> {
    let stage = Stage::blocking()?;
    two_tuns(&stage)?;
    let trial = Trial::start(&stage, &[&stage.lab.client])?;
    let mut passed = 0;
    for _ in 0..3 {
        let first = Vpn::start(&stage.lab.router, "tun0", 8, 5)?;
        let second = Vpn::start(&stage.lab.router, "tun1", 9, 6)?;
        stage.apply()?;
        passed += passes(&stage, &trial, &first, "the first")?;
        silent(&trial, &second, "the second, while the first is up")?;
        drop(first);
        passed += passes(&stage, &trial, &second, "the second")?;
        drop(second);
        trial.more()?;
    }
    Ok(format!("3 rounds, {passed} packets through them: {}", trial.finish(&stage)?))
}

/// WireGuard: its link down and up, and its program killed.
pub fn wireguard() -> Res<String> {
    let mut stage = Stage::open(Tunnel::WireGuard)?;
    stage.apply()?;
    let mut texts = Vec::new();
    let mut delivered = 0;
    for kill in [false, true] {
        let trial = Trial::start(&stage, &[&stage.lab.client])?;
        for _ in 0..3 {
            if kill {
                stage.lab.tunnel_delete()?;
            } else {
                stage.lab.tunnel_down()?;
            }
            trial.more()?;
            stage.lab.tunnel_up()?;
            trial.more()?;
            stage.apply()?;
            trial.more()?;
        }
        stage.verify()?;
        stage.lab.ready()?;
        stage.lab.tunnel_down()?;
        trial.more()?;
        texts.push(trial.finish(&stage)?.to_string());
        stage.product.configure(&configuration("strict", ""))?;
        stage.lab.tunnel_up()?;
        stage.apply()?;
        stage.lab.ready()?;
        delivered += stage.delivered(&stage.lab.client)?;
    }
    let [down, killed] = [&texts[0], &texts[1]];
    Ok(format!("link down: {down}\n    killed: {killed}\n    then all {delivered} delivered"))
}
