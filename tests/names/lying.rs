//! A provider, or somebody at its resolver's side, who lies.

use crate::lab::ns::Ns;
use crate::lab::traffic::{Flow, Kind, send};
use crate::lab::{Res, wait_for};
use crate::stage::{INTERNET, Layout, Net, SERVERS, WG, WG_PORT, came_out, ip, watch};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The resolver that is asked, and an address from which nobody was asked.
const LIAR: &str = "198.51.100.54";
const OTHER: &str = "198.51.100.55";
/// What every lie says.
const FALSE: [u8; 4] = [192, 0, 2, 66];

/// A resolver that sends lies before its answer.
struct Liar {
    stop: Arc<AtomicBool>,
    /// The address that it answers with.
    truth: Arc<Mutex<IpAddr>>,
    /// How often each lie is told before an answer.
    rounds: Arc<AtomicU32>,
    /// How many lies were told, and how many answers given over TCP.
    told: Arc<AtomicU32>,
    by_tcp: Arc<AtomicU32>,
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// The answer to an A question with this address; to any other, that there is nothing.
fn answer(question: &[u8], addr: [u8; 4]) -> Vec<u8> {
    let mut a = question.to_vec();
    let is_a = question.ends_with(&[0, 1, 0, 1]);
    a[2] = 0x81;
    a[3] = 0x80;
    a[7] = u8::from(is_a);
    if is_a {
        a.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        a.extend(addr);
    }
    a
}

/// What is no answer to the question, from the right address and port.
fn lies(question: &[u8]) -> Vec<Vec<u8>> {
    // Always with an address, even where none is asked for.
    let mut as_a = question.to_vec();
    let end = as_a.len();
    as_a[end - 3] = 1;
    let lie = answer(&as_a, FALSE);
    let with = |at: usize, byte: u8| {
        let mut other = lie.clone();
        other[at] ^= byte;
        other
    };
    let mut oversized = lie.clone();
    oversized.resize(5000, 0);
    let mut pointing_at_itself = lie.clone();
    pointing_at_itself[12] = 0xc0;
    pointing_at_itself[13] = 12;
    vec![
        // Another number, another name, another type.
        with(0, 1),
        with(1, 0x80),
        with(14, 3),
        with(end - 3, 2),
        // A question instead of an answer; cut; too long; a name that has no end; nothing.
        with(2, 0x80),
        lie[..lie.len() - 2].to_vec(),
        lie[..20].to_vec(),
        oversized,
        pointing_at_itself,
        Vec::new(),
    ]
}

impl Liar {
    fn start(ns: &Ns) -> Res<Self> {
        let at = |addr: &str, port| SocketAddr::from((ip(addr), port));
        let bind = |to: SocketAddr| ns.enter(|| UdpSocket::bind(to));
        let (socket, port, other) =
            (bind(at(LIAR, 53))??, bind(at(LIAR, 5300))??, bind(at(OTHER, 53))??);
        let tcp = ns.enter(|| TcpListener::bind(at(LIAR, 53)))??;
        tcp.set_nonblocking(true)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let liar = Self {
            stop: Arc::default(),
            truth: Arc::new(Mutex::new(ip(SERVERS[0]))),
            rounds: Arc::new(AtomicU32::new(1)),
            told: Arc::default(),
            by_tcp: Arc::default(),
        };
        let (stop, truth) = (Arc::clone(&liar.stop), Arc::clone(&liar.truth));
        let (rounds, told) = (Arc::clone(&liar.rounds), Arc::clone(&liar.told));
        let by_tcp = Arc::clone(&liar.by_tcp);
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            let right = |question: &[u8]| match *truth.lock().unwrap() {
                IpAddr::V4(addr) => answer(question, addr.octets()),
                IpAddr::V6(_) => Vec::new(),
            };
            while !stop.load(Ordering::Acquire) {
                if let Ok((mut stream, _)) = tcp.accept() {
                    drop(stream.set_nonblocking(false));
                    drop(stream.set_read_timeout(Some(Duration::from_secs(1))));
                    if let Ok(len @ 3..) = stream.read(&mut buffer) {
                        let reply = right(&buffer[2..len]);
                        let len = u16::try_from(reply.len()).unwrap_or(0).to_be_bytes();
                        drop(stream.write_all(&[&len, reply.as_slice()].concat()));
                        by_tcp.fetch_add(1, Ordering::AcqRel);
                    }
                }
                let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
                let question = buffer[..len].to_vec();
                for _ in 0..rounds.load(Ordering::Acquire) {
                    for lie in lies(&question) {
                        drop(socket.send_to(&lie, from));
                        told.fetch_add(1, Ordering::AcqRel);
                    }
                    // From another port, and from another address; each with the right number.
                    for from_elsewhere in [&port, &other] {
                        let mut lie = question.clone();
                        let end = lie.len();
                        lie[end - 3] = 1;
                        drop(from_elsewhere.send_to(&answer(&lie, FALSE), from));
                        told.fetch_add(1, Ordering::AcqRel);
                    }
                }
                drop(socket.send_to(&right(&question), from));
            }
        });
        Ok(liar)
    }

    fn say(&self, truth: &str) {
        *self.truth.lock().unwrap() = ip(truth);
    }
}

/// The addresses of all endpoints in the kernel.
fn open(net: &Net) -> Res<Vec<String>> {
    let text = net.router.sh("nft list table inet vpn_killswitch")?;
    let mut out = Vec::new();
    for set in text.split("set endpoint_").skip(1) {
        let set = set.split("\n\t}").next().unwrap_or_default();
        let elements = set.split_once("elements = {").map_or("", |(_, rest)| rest);
        let elements = elements.trim_end_matches(|c: char| c == '}' || c.is_whitespace());
        out.extend(elements.split(',').map(|e| e.trim().to_owned()).filter(|e| !e.is_empty()));
    }
    out.sort();
    Ok(out)
}

/// A router whose only way to its server's name is the liar.
fn net() -> Res<(Net, Liar)> {
    let mut net = Net::new(Layout::OpenWrt)?;
    for addr in [LIAR, OTHER, "192.0.2.66"] {
        net.provider.ip(&format!("addr add {addr}/32 dev lo\n"))?;
    }
    let liar = Liar::start(&net.provider)?;
    net.uci(
        &format!(
            "config interface 'wg0'\n\toption proto 'wireguard'\n\toption private_key 'x'\n\
             config wireguard_wg0\n\toption public_key 'jZ1gkGv9p35OTToGnC8tPMMw4ev7zvZqhe3T5sH39nM='\n\
             \toption endpoint_host '{WG}'\n\toption endpoint_port '{WG_PORT}'\n"
        ),
        &format!("\tlist tunnel_interface 'wg0'\n\tlist bootstrap_dns '{LIAR}'\n"),
    )?;
    net.product.ok(&["apply", "--boot"])?;
    net.router_dns(true)?;
    Ok((net, liar))
}

/// A few lies with each answer, then so many that the answer is asked for over TCP.
pub fn lies_are_ignored() -> Res<String> {
    let mut texts = Vec::new();
    for rounds in [1, 40] {
        let (mut net, liar) = net()?;
        liar.rounds.store(rounds, Ordering::Release);
        let mut guard = net.guard()?;
        net.dhcp(false)?;
        let explain = |e: &dyn std::fmt::Display, said: &str| net.explain(&format!("{e}\n{said}"));
        wait_for("the right answer", 20.0, || open(&net).is_ok_and(|found| !found.is_empty()))
            .map_err(|e| explain(&e, &guard.said()))?;
        // The lies that are still on their way come too late.
        std::thread::sleep(Duration::from_millis(300));
        guard.alive()?;
        let found = open(&net)?;
        if found != [SERVERS[0]] || net.resolve(WG)? != [SERVERS[0]] {
            return Err(explain(&format!("{found:?}"), &guard.said()).into());
        }
        let (told, by_tcp) =
            (liar.told.load(Ordering::Acquire), liar.by_tcp.load(Ordering::Acquire));
        if (by_tcp > 0) != (rounds > 1) {
            return Err(format!("{rounds} rounds of lies, {by_tcp} answers by TCP").into());
        }
        texts.push(format!("{told} lies, {by_tcp} answers by TCP: open is {found:?}"));
    }
    Ok(texts.join("\n    "))
}

/// The server's name gets the address of somebody else: only that, at the endpoint's own port, for the
/// tunnel's own user.
pub fn a_false_address_opens_no_more() -> Res<String> {
    let (mut net, liar) = net()?;
    // Addresses that no server can have: nothing opens, and the reason is told.
    liar.say("127.0.0.1");
    let guard = net.guard()?;
    net.dhcp(false)?;
    let reason = "gives no address that an endpoint can have";
    wait_for("the reason", 20.0, || {
        net.product
            .run(&["status"])
            .is_ok_and(|out| String::from_utf8_lossy(&out.stdout).contains(reason))
    })
    .map_err(|e| net.explain(&format!("{e}\n{}", guard.said())))?;
    if !open(&net)?.is_empty() {
        return Err(format!("open: {:?}", open(&net)?).into());
    }
    liar.say(INTERNET);
    wait_for("the false address", 20.0, || open(&net).is_ok_and(|found| found == [INTERNET]))
        .map_err(|e| net.explain(&format!("{e}\n{}", guard.said())))?;
    let capture = watch(&net)?;
    let at = |port| (ip(INTERNET), port);
    let all = || {
        vec![
            Flow::new(Kind::Udp, at(WG_PORT)),
            Flow::new(Kind::Udp, at(443)),
            Flow::new(Kind::Dns, at(53)),
            Flow::new(Kind::Syn, at(WG_PORT)),
            Flow::new(Kind::Ping, at(0)),
        ]
    };
    let client = send(&net.client, None, all(), 10, 50)?;
    let user = send(&net.router, Some(65534), vec![Flow::new(Kind::Udp, at(WG_PORT))], 10, 50)?;
    let root = send(&net.router, None, all(), 10, 50)?;
    let frames = capture.finish()?;
    let (client, user, root) =
        (came_out(&frames, &client), came_out(&frames, &user), came_out(&frames, &root));
    let text = format!("client {client:?}, another user {user:?}, root {root:?} of 10 each");
    // Root's datagrams at that port are what the tunnel's own look like before it is there.
    if client.iter().chain(&user).chain(&root[1..]).any(|n| *n > 0) || root[0] < 10 {
        return Err(net.explain(&text).into());
    }
    Ok(text)
}
