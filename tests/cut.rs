//! Engaging cuts (G7): connections that the rules refuse leave connection tracking with the apply,
//! and no other connection notices. Real connections through a real router.

#![allow(clippy::indexing_slicing, reason = "test code: a wrong index is a failed test")]

mod lab;

use lab::ns::Ns;
use lab::product::{Product, configuration};
use lab::server::Servers;
use lab::topology::{ECHO, FORWARDED, Lab, Tunnel, client, internet, lan, uplink};
use lab::{Res, wait_for};
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The guest's addresses.
const GUEST: [&str; 2] = ["192.168.2.2", "2001:db8:1:2::2"];
/// How long a refused packet is waited for.
const SILENCE: Duration = Duration::from_millis(150);

/// One connection that stays open.
enum Talk {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

impl Talk {
    fn udp(ns: &Ns, to: IpAddr, port: u16) -> Res<Self> {
        let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
        let socket = ns.enter(|| -> Res<UdpSocket> {
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect((to, port))?;
            Ok(socket)
        })??;
        Self::Udp(socket).begun(to)
    }

    fn tcp(ns: &Ns, to: IpAddr, port: u16) -> Res<Self> {
        let at = SocketAddr::from((to, port));
        let stream = ns.enter(|| TcpStream::connect_timeout(&at, Duration::from_secs(3)))?;
        Self::Tcp(stream.map_err(|e| format!("{at}: {e}"))?).begun(to)
    }

    fn begun(mut self, to: IpAddr) -> Res<Self> {
        wait_for(&format!("an answer from {to}"), 5.0, || self.answers(SILENCE))?;
        Ok(self)
    }

    /// Sends a word and waits for it to come back.
    fn answers(&mut self, patience: Duration) -> bool {
        let word = b"what is said comes back";
        let mut heard = [0; 23];
        match self {
            Self::Udp(socket) => {
                socket.set_read_timeout(Some(patience)).is_ok()
                    && socket.send(word).is_ok()
                    && socket.recv(&mut heard).is_ok()
            }
            Self::Tcp(stream) => {
                stream.set_read_timeout(Some(patience)).is_ok()
                    && stream.write_all(word).is_ok()
                    && stream.read_exact(&mut heard).is_ok()
            }
        }
    }

    fn local_port(&self) -> Res<u16> {
        Ok(match self {
            Self::Udp(socket) => socket.local_addr()?.port(),
            Self::Tcp(stream) => stream.local_addr()?.port(),
        })
    }

    /// The router's entries for it: their numbers, so that a new entry is told from an old one.
    fn entries(&self, router: &Ns) -> Res<BTreeSet<String>> {
        let proto = if matches!(self, Self::Udp(_)) { "udp" } else { "tcp" };
        let port = format!("sport={} ", self.local_port()?);
        let list = |family| router.sh(&format!("conntrack -L -o id -p {proto} -f {family} 2>&1"));
        let all = list("ipv4")? + &list("ipv6")?;
        let mine = all.lines().filter(|line| line.contains(&port));
        Ok(mine.filter_map(|line| line.split(" id=").nth(1)).map(str::to_owned).collect())
    }

    /// Fails unless it goes on as it is.
    fn lives(&mut self, router: &Ns, before: &BTreeSet<String>, what: &str) -> Res<()> {
        if before.is_empty() || self.entries(router)? != *before {
            return Err(format!("{what}: its entry is not the same").into());
        }
        if !self.answers(Duration::from_secs(5)) {
            return Err(format!("{what}: no answer").into());
        }
        Ok(())
    }

    /// Fails unless it is gone and stays refused.
    fn is_cut(&mut self, router: &Ns, what: &str) -> Res<()> {
        if !self.entries(router)?.is_empty() {
            return Err(format!("{what}: its entry is still there").into());
        }
        if self.answers(SILENCE) {
            return Err(format!("{what}: it is still answered").into());
        }
        Ok(())
    }
}

struct Stage {
    lab: Lab,
    product: Product,
}

impl Stage {
    fn new() -> Res<Self> {
        let lab = Lab::new(Tunnel::Veth)?;
        let product = Product::new(env!("CARGO_BIN_EXE_vpn-killswitch"), &lab.router)?;
        Ok(Self { lab, product })
    }

    fn apply(&self, main: &str, sections: &str) -> Res<()> {
        self.product.configure(&(configuration("strict", main) + "\n" + sections))?;
        let out = self.product.run(&["apply"])?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        // A cut that could not be made would be told there.
        if !out.status.success() || said.contains("connections") {
            return Err(format!("apply: {}: {said}", out.status).into());
        }
        Ok(())
    }
}

/// A UDP and a TCP connection to each of these addresses.
fn both(from: &Ns, to: &[IpAddr], port: u16) -> Res<Vec<Talk>> {
    let mut out = Vec::new();
    for ip in to {
        out.push(Talk::udp(from, *ip, port)?);
        out.push(Talk::tcp(from, *ip, port)?);
    }
    Ok(out)
}

#[test]
fn what_flowed_over_the_uplink_is_cut_at_once() -> Res<()> {
    let stage = Stage::new()?;
    let lab = &stage.lab;
    lab.tunnel_down()?;
    lab.forget_connections()?;
    let mut clients = both(&lab.client, &internet(), ECHO)?;
    clients.extend(both(&lab.guest, &internet(), ECHO)?);
    let mut router = both(&lab.router, &internet(), ECHO)?;
    for talk in clients.iter().chain(&router) {
        assert_eq!(talk.entries(&lab.router)?.len(), 1, "there is something to cut");
    }
    let watch = lab.watch()?;
    stage.apply("", "")?;
    for talk in &mut clients {
        talk.is_cut(&lab.router, "a client's")?;
    }
    for talk in &mut router {
        match talk {
            // Its entry keeps the far side's next packet from counting as one that opens.
            Talk::Udp(_) => {
                assert_eq!(talk.entries(&lab.router)?.len(), 1);
                assert!(!talk.answers(SILENCE));
            }
            Talk::Tcp(_) => talk.is_cut(&lab.router, "the router's")?,
        }
    }
    let strays: Vec<_> = watch.finish()?.strays().cloned().collect();
    // What was sent before the rules were in force is not a stray of theirs: nobody spoke then.
    assert!(strays.is_empty(), "{strays:?}");
    Ok(())
}

#[test]
fn a_download_through_the_tunnel_and_a_shell_go_on_through_100_applies() -> Res<()> {
    let stage = Stage::new()?;
    let lab = &stage.lab;
    let guest: Vec<IpAddr> = GUEST.iter().map(|a| a.parse()).collect::<Result<_, _>>()?;
    let _servers =
        [Servers::start(&lab.router, &lan(), &[22])?, Servers::start(&lab.guest, &guest, &[ECHO])?];
    stage.apply("", "")?;
    let mut talks = both(&lab.client, &lan(), 22)?;
    talks.extend(both(&lab.client, &internet(), ECHO)?);
    talks.extend(both(&lab.client, &guest, ECHO)?);
    talks.extend(both(&lab.router, &internet(), ECHO)?);
    let mut before = Vec::new();
    for talk in &talks {
        before.push(talk.entries(&lab.router)?);
    }
    let downloads = [Download::start(lab, internet()[0])?, Download::start(lab, internet()[1])?];
    for n in 0..100 {
        let other = "config exempt\n\tlist src_ip '192.168.2.7'\n\tlist dest_port '443'\n";
        let (main, sections) = match n % 3 {
            0 => ("\toption reject '0'\n", ""),
            1 => ("\tlist local_device 'br-none'\n", other),
            _ => ("\toption port_forward_replies '1'\n", ""),
        };
        let had: Vec<u64> = downloads.iter().map(Download::bytes).collect();
        stage.apply(main, sections)?;
        for (talk, before) in talks.iter_mut().zip(&before) {
            talk.lives(&lab.router, before, &format!("apply {n}"))?;
        }
        for (download, had) in downloads.iter().zip(had) {
            wait_for("more of the download", 5.0, || download.bytes() > had)?;
        }
    }
    for download in downloads {
        assert!(download.stop()?, "the download ended by itself");
    }
    Ok(())
}

/// One TCP connection over which a host sends without end.
struct Download {
    bytes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    reader: std::thread::JoinHandle<bool>,
}

impl Download {
    fn start(lab: &Lab, from: IpAddr) -> Res<Self> {
        let listener = lab.internet.enter(|| TcpListener::bind((from, 0)))??;
        let at = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || -> std::io::Result<()> {
            let (mut stream, _) = listener.accept()?;
            while !stopped.load(Ordering::Acquire) {
                stream.write_all(&[7; 1024])?;
                // Enough to see it flow, and the machine is not ours alone.
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        });
        let mut stream =
            lab.client.enter(|| TcpStream::connect_timeout(&at, Duration::from_secs(3)))??;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let bytes = Arc::new(AtomicU64::new(0));
        let (count, stopped) = (Arc::clone(&bytes), Arc::clone(&stop));
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !stopped.load(Ordering::Acquire) {
                match stream.read(&mut buffer) {
                    Ok(len) if len > 0 => count.fetch_add(len as u64, Ordering::AcqRel),
                    _ => return stopped.load(Ordering::Acquire),
                };
            }
            true
        });
        Ok(Self { bytes, stop, reader })
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// Whether it was still going on.
    fn stop(self) -> Res<bool> {
        self.stop.store(true, Ordering::Release);
        Ok(self.reader.join().map_err(|_| "the reader died")?)
    }
}

#[test]
fn a_withdrawn_exemption_or_endpoint_takes_its_connections_along() -> Res<()> {
    let stage = Stage::new()?;
    let lab = &stage.lab;
    // Not from /sys, which shows another namespace's devices.
    let link = lab.client.sh("ip -o link show dev eth0")?;
    let mac = link.split_whitespace().skip_while(|w| *w != "link/ether").nth(1).ok_or("no MAC")?;
    let client = format!("config exempt\n\tlist src_mac '{}'\n\tlist dest_port '7'\n\n", mac);
    let [v4, v6] = GUEST;
    let guest = format!("config exempt\n\tlist src_ip '{v4}'\n\tlist src_ip '{v6}'\n\n");
    let endpoint: String = internet()
        .iter()
        .map(|ip| {
            format!("config endpoint\n\toption host '{ip}'\n\toption port '443'\n\toption proto 'tcp'\n\n")
        })
        .collect();
    let all = format!("{client}{guest}{endpoint}");
    stage.apply("", &all)?;
    lab.tunnel_down()?;
    lab.forget_connections()?;

    let mut of_client = both(&lab.client, &internet(), ECHO)?;
    let mut of_guest = both(&lab.guest, &internet(), ECHO)?;
    let mut of_router = Vec::new();
    for ip in internet() {
        of_router.push(Talk::tcp(&lab.router, ip, 443)?);
    }
    // Another change leaves them alone.
    for main in ["\toption reject '0'\n", ""] {
        for talk in of_client.iter_mut().chain(&mut of_guest).chain(&mut of_router) {
            let before = talk.entries(&lab.router)?;
            stage.apply(main, &all)?;
            talk.lives(&lab.router, &before, "still allowed")?;
        }
    }
    let mut kept = Vec::new();
    for talk in &of_guest {
        kept.push(talk.entries(&lab.router)?);
    }
    stage.apply("", &format!("{guest}{endpoint}"))?;
    for talk in &mut of_client {
        talk.is_cut(&lab.router, "without its exemption")?;
    }
    stage.apply("", &guest)?;
    for talk in &mut of_router {
        talk.is_cut(&lab.router, "without its endpoint")?;
    }
    for (talk, before) in of_guest.iter_mut().zip(&kept) {
        talk.lives(&lab.router, before, "still exempt")?;
    }
    Ok(())
}

#[test]
fn a_paused_client_keeps_its_connections_until_the_pause_is_over() -> Res<()> {
    let stage = Stage::new()?;
    let lab = &stage.lab;
    stage.apply("", "")?;
    lab.tunnel_down()?;
    lab.forget_connections()?;
    let element = |verb: &str, tail: &str| {
        let [v4, v6] = client();
        lab.router.nft(&format!(
            "{verb} element inet vpn_killswitch paused4 {{ {v4} {tail} }}\n\
             {verb} element inet vpn_killswitch paused6 {{ {v6} {tail} }}\n"
        ))
    };
    element("add", "timeout 10m")?;
    let mut talks = both(&lab.client, &internet(), ECHO)?;
    let mut before = Vec::new();
    for talk in &talks {
        before.push(talk.entries(&lab.router)?);
    }
    stage.apply("\toption reject '0'\n", "")?;
    for (talk, before) in talks.iter_mut().zip(&before) {
        talk.lives(&lab.router, before, "paused")?;
    }
    element("delete", "")?;
    stage.apply("", "")?;
    for talk in &mut talks {
        talk.is_cut(&lab.router, "no longer paused")?;
    }
    Ok(())
}

#[test]
fn a_port_forward_lasts_while_its_answers_may_leave() -> Res<()> {
    let stage = Stage::new()?;
    let lab = &stage.lab;
    let _servers = Servers::start(&lab.client, &client(), &[ECHO])?;
    lab.tunnel_down()?;
    lab.forget_connections()?;
    let open = || -> Res<Vec<Talk>> {
        uplink().iter().map(|ip| Talk::udp(&lab.internet, *ip, FORWARDED)).collect()
    };
    let mut talks = open()?;
    for talk in &talks {
        assert_eq!(talk.entries(&lab.router)?.len(), 1, "there is something to cut");
    }
    stage.apply("", "")?;
    for talk in &mut talks {
        talk.is_cut(&lab.router, "a port forward")?;
    }
    stage.apply("\toption port_forward_replies '1'\n", "")?;
    let mut talks = open()?;
    for talk in &mut talks {
        let before = talk.entries(&lab.router)?;
        stage.apply("\toption port_forward_replies '1'\n\toption reject '0'\n", "")?;
        talk.lives(&lab.router, &before, "answers are allowed")?;
        stage.apply("\toption port_forward_replies '1'\n", "")?;
    }
    stage.apply("", "")?;
    for talk in &mut talks {
        talk.is_cut(&lab.router, "a port forward")?;
    }
    Ok(())
}
