//! Hosts that answer: UDP echo, TCP echo and a DNS server, so that flows are two-way and the
//! router's connection tracking sees them as established; and the router's own resolver.

use super::ns::{Daemon, Ns};
use super::packet::Mark;
use super::topology::{Lab, lan};
use super::{Res, wait_for};
use std::collections::HashSet;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How often a server looks whether it is to stop.
const TURN: Duration = Duration::from_millis(100);

/// The marked packets that reached a socket.
type Heard = Arc<Mutex<HashSet<Mark>>>;

/// Servers of one host; they stop when dropped.
pub struct Servers {
    stop: Arc<AtomicBool>,
    heard: Heard,
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

impl Servers {
    /// Starts UDP and TCP echo on each of these addresses and ports; port 53 answers DNS questions.
    pub fn start(ns: &Ns, addresses: &[IpAddr], ports: &[u16]) -> Res<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let heard = Heard::default();
        for ip in addresses {
            for port in ports {
                let at = SocketAddr::from((*ip, *port));
                let udp = ns.enter(|| UdpSocket::bind(at))?.map_err(|e| format!("{at}: {e}"))?;
                let tcp = ns.enter(|| TcpListener::bind(at))?.map_err(|e| format!("{at}: {e}"))?;
                let (s, h) = (Arc::clone(&stop), Arc::clone(&heard));
                std::thread::spawn(move || answer_datagrams(&udp, &s, &h));
                let s = Arc::clone(&stop);
                std::thread::spawn(move || answer_connections(&tcp, &s));
            }
        }
        Ok(Self { stop, heard })
    }

    /// How many different packets of a flow reached a UDP socket.
    pub fn heard(&self, flow: u16) -> u32 {
        self.heard.lock().unwrap().iter().filter(|mark| mark.flow == flow).count() as u32
    }
}

fn answer_datagrams(socket: &UdpSocket, stop: &AtomicBool, heard: &Heard) -> io::Result<()> {
    let dns = socket.local_addr()?.port() == 53;
    socket.set_read_timeout(Some(TURN))?;
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Acquire) {
        let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
        heard.lock().unwrap().extend(Mark::find(&buffer[..len]));
        // The asker may be unreachable by now; that is the scenario, not an error.
        if dns {
            drop(socket.send_to(&answer(&buffer[..len]), from));
        } else {
            drop(socket.send_to(&buffer[..len], from));
        }
    }
    Ok(())
}

/// The answer to a DNS question: 192.0.2.80, or nothing for what is not an address.
fn answer(question: &[u8]) -> Vec<u8> {
    let mut a = question.to_vec();
    if a.len() < 12 {
        return a;
    }
    a[2] = 0x81;
    a[3] = 0x80;
    // One question, and no additional records: an EDNS record in the question is not repeated.
    a[8..12].fill(0);
    let mut end = 12;
    while let Some(len) = question.get(end).filter(|len| **len != 0) {
        end += usize::from(*len) + 1;
    }
    let Some(kind) = question.get(end + 1..end + 3) else { return a };
    a.truncate(end + 5);
    let is_a = kind == [0, 1];
    a[6..8].copy_from_slice(&[0, u8::from(is_a)]);
    if is_a {
        a.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 192, 0, 2, 80]);
    }
    a
}

fn answer_connections(listener: &TcpListener, stop: &Arc<AtomicBool>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    while !stop.load(Ordering::Acquire) {
        let Ok((mut stream, _)) = listener.accept() else {
            std::thread::sleep(TURN / 10);
            continue;
        };
        let stop = Arc::clone(stop);
        std::thread::spawn(move || -> io::Result<()> {
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(TURN))?;
            let mut buffer = [0; 4096];
            while !stop.load(Ordering::Acquire) {
                match stream.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(len) => stream.write_all(&buffer[..len])?,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    Err(e) => return Err(e),
                }
            }
            Ok(())
        });
    }
    Ok(())
}

/// Starts a resolver on the router that asks these servers, and waits until it answers.
pub fn start_resolver(lab: &Lab, servers: &[IpAddr]) -> Res<Daemon> {
    let own = lan()[0];
    let mut args: Vec<String> = [
        // No processes of its own for TCP questions: they would outlive it.
        "--no-daemon",
        "--conf-file=/dev/null",
        "--pid-file=",
        "--no-resolv",
        "--no-hosts",
        "--cache-size=0",
        "--bind-interfaces",
        "--all-servers",
        // Answered by itself: tells when it is ready.
        "--address=/ready.lab/192.0.2.1",
    ]
    .map(str::to_owned)
    .to_vec();
    args.push(format!("--listen-address={own}"));
    args.extend(servers.iter().map(|s| format!("--server={s}")));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut daemon = lab.router.spawn("dnsmasq", &args, &[])?;
    let answered = resolver_idle(lab);
    daemon.alive()?;
    answered?;
    Ok(daemon)
}

/// Waits until the resolver has dealt with everything it was asked before: it takes questions in
/// order, and answers this one by itself.
pub fn resolver_idle(lab: &Lab) -> Res<()> {
    lab.client.enter(|| -> Res<()> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let question = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x05ready\x03lab\0\0\x01\0\x01";
        wait_for("the resolver", 10.0, || {
            drop(socket.send_to(question, (lan()[0], 53)));
            socket.recv(&mut [0; 512]).is_ok()
        })
    })?
}

/// A question and its answer, by UDP and by TCP.
pub fn talks(from: &Ns, to: IpAddr, port: u16) -> Res<()> {
    let at = SocketAddr::from((to, port));
    let done = from.enter(|| -> Res<()> {
        let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        wait_for("an answer by UDP", 3.0, || {
            drop(socket.send_to(b"hello hello hello", at));
            socket.recv(&mut [0; 64]).is_ok()
        })?;
        let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(3))?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        stream.write_all(b"hello hello hello")?;
        stream.read_exact(&mut [0; 17])?;
        Ok(())
    })?;
    done.map_err(|e| format!("{} → {at}: {e}", from.name()).into())
}
