//! What is told: to a person, when the tunnel cannot come up, and to dnsmasq.

use crate::lab::{Res, wait_for};
use crate::stage::{DNS, DNS6, Layout, Net, OVPN6, SERVER6, SERVERS, WG, WG_PORT, watch};
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};
use vpn_killswitch::observe::look;

fn uci(net: &Net, name: &str) -> Res<()> {
    net.uci(
        &format!(
            "config interface 'wg0'\n\toption proto 'wireguard'\n\toption private_key 'x'\n\
             config wireguard_wg0\n\toption public_key 'jZ1gkGv9p35OTToGnC8tPMMw4ev7zvZqhe3T5sH39nM='\n\
             \toption endpoint_host '{name}'\n\toption endpoint_port '{WG_PORT}'\n"
        ),
        "\tlist tunnel_interface 'wg0'\n",
    )
}

/// `status` says why the tunnel cannot come up.
pub fn reasons() -> Res<String> {
    let mut net = Net::new(Layout::OpenWrt)?;
    uci(&net, "gone.example.net")?;
    net.product.ok(&["apply", "--boot"])?;
    let mut told = Vec::new();
    let mut says = |net: &Net, what: &str| -> Res<()> {
        let out = net.product.run(&["status"])?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let line = text.lines().find(|l| l.contains(what));
        told.push(line.ok_or_else(|| format!("not told: {what}\n{text}"))?.trim().to_owned());
        Ok(())
    };
    says(&net, "no uplink is up with a name server to ask; bootstrap_dns may name one")?;
    net.dhcp(true)?;
    wait_for("an answer", 20.0, || {
        let status = net.product.run(&["status"]);
        status.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains("the name does not exist"))
    })
    .map_err(|e| net.explain(&e))?;
    says(&net, "198.51.100.53 says that the name does not exist")?;
    // The resolver does not answer any more.
    net.provider.nft(
        "table inet silent { chain in { type filter hook input priority 0; udp dport 53 drop; }; }",
    )?;
    uci(&net, "other.example.net")?;
    net.product.ok(&["apply"])?;
    says(&net, "no answer from 198.51.100.53")?;
    // There is no server at all.
    net.uci("", "\tlist tunnel_interface 'wg0'\n")?;
    net.product.ok(&["apply"])?;
    says(&net, "the router cannot reach its VPN server")?;
    Ok(told.join("\n    "))
}

/// An uplink of OpenWrt's `wan6`: its only default route is for packets from its own prefix. It counts as
/// an uplink, and the name is asked for over it.
pub fn uplink_for_its_own_prefix_only() -> Res<String> {
    let net = Net::new(Layout::OpenWrt)?;
    uci(&net, OVPN6)?;
    net.product.ok(&["apply", "--boot"])?;
    net.router.ip("addr add 2001:db8:64::2/64 dev wan0 nodad\n\
                   route add default from 2001:db8:64::/64 via 2001:db8:64::1 dev wan0\n")?;
    let seen = net.router.enter(look)??;
    if seen.uplinks != ["wan0"] {
        return Err(format!("uplinks: {:?}", seen.uplinks).into());
    }
    net.netifd_says(true, &[DNS6], &[])?;
    let capture = watch(&net)?;
    net.product.ok(&["apply"])?;
    let status = net.product.run(&["status"])?.stdout;
    let status = String::from_utf8_lossy(&status).into_owned();
    let line = status.lines().find(|l| l.contains(SERVER6)).ok_or_else(|| net.explain(&status))?;
    let frames = capture.finish()?;
    let asked: Vec<_> =
        frames.iter().filter(|p| !p.outgoing).filter_map(|p| p.question.clone()).collect();
    Ok(format!("asked {DNS6}: {asked:?}; {}", line.trim()))
}

/// A question to the router's own resolver, and how long its answer took: the response code, and how
/// many addresses.
fn ask(net: &Net, name: &str, kind: u8) -> Res<(u8, u8, Duration)> {
    let mut question = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(label.len() as u8);
        question.extend(label.bytes());
    }
    question.extend([0, 0, kind, 0, 1]);
    net.router.enter(|| -> Res<_> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        let began = Instant::now();
        socket.send_to(&question, (IpAddr::from([127, 0, 0, 1]), 53))?;
        let mut answer = [0; 512];
        socket.recv(&mut answer)?;
        Ok((answer[3] & 15, answer[7], began.elapsed()))
    })?
}

/// How often a dnsmasq was told to read its files again.
fn hang_ups(said: &str) -> usize {
    said.lines().filter(|l| l.contains("cleared cache") || l.contains("read ")).count()
}

fn dnsmasq_knows(layout: Layout) -> Res<String> {
    let mut net = Net::new(layout)?;
    uci(&net, WG)?;
    net.product.ok(&["apply", "--boot"])?;
    net.router_dns(true)?;
    let guard = net.guard()?;
    let of_the_provider = hang_ups(&net.dns.said());
    let capture = watch(&net)?;
    net.dhcp(false)?;
    wait_for("the name", 20.0, || net.resolve(WG).is_ok_and(|found| found == [SERVERS[0]]))
        .map_err(|e| net.explain(&format!("{e}\n{}", guard.said())))?;
    // It has an IPv4 address only: the other question has an empty answer, and at once.
    let (code, count, took) = ask(&net, WG, 28)?;
    if (code, count) != (0, 0) || took > Duration::from_millis(500) {
        return Err(format!("AAAA: code {code}, {count} addresses, {took:?}").into());
    }
    let frames = capture.finish()?;
    let asked: Vec<_> =
        frames.iter().filter(|p| !p.outgoing).filter_map(|p| p.question.clone()).collect();
    if asked.iter().filter(|q| q.ends_with(WG)).count() != 2 || asked.len() != 2 {
        return Err(format!("asked outside: {asked:?}").into());
    }
    if hang_ups(&net.dns.said()) != of_the_provider {
        return Err("another network's dnsmasq was told as well".into());
    }
    // What lies below the name is asked of others as ever: let out now, it would be answered.
    net.product.ok(&["disable"])?;
    drop(guard);
    let capture = watch(&net)?;
    let below = format!("below.{WG}");
    wait_for("an answer", 10.0, || ask(&net, &below, 1).is_ok())?;
    // With protection off dnsmasq asks for the name itself again.
    let root = net.product.root().display();
    let left =
        format!("grep -qs {WG} {root}/tmp/*/vpn-killswitch {root}/var/run/vpn-killswitch/[hs]*");
    let gone = || net.router.sh(&format!("! {left}")).is_ok();
    wait_for("the files gone", 5.0, gone)?;
    wait_for("dnsmasq to ask again", 10.0, || {
        ask(&net, WG, 28).is_ok() && {
            let text = net.dns.said();
            text.lines().any(|l| l.contains(&format!("query[AAAA] {WG} from 100.64.7.100")))
        }
    })?;
    let frames = capture.finish()?;
    if !frames.iter().any(|p| p.question.as_deref() == Some(&format!("A {below}"))) {
        return Err("what is below the name was not asked for".into());
    }
    Ok(format!("AAAA: no data after {:.1} ms, asked outside: {asked:?}", took.as_secs_f64() * 1e3))
}

pub fn dnsmasq_of_openwrt() -> Res<String> {
    dnsmasq_knows(Layout::OpenWrt)
}

pub fn dnsmasq_elsewhere() -> Res<String> {
    dnsmasq_knows(Layout::Own)
}

/// Control: a dnsmasq that was not told asks the provider, and is refused.
pub fn dnsmasq_untold() -> Res<String> {
    let mut net = Net::new(Layout::OpenWrt)?;
    uci(&net, WG)?;
    net.product.ok(&["apply", "--boot"])?;
    net.router_dns(false)?;
    net.dhcp(true)?;
    wait_for("the name in the file", 20.0, || {
        let file = net.product.root().join("tmp/hosts/vpn-killswitch");
        std::fs::read_to_string(file).is_ok_and(|text| text.contains(SERVERS[0]))
    })
    .map_err(|e| net.explain(&e))?;
    let said =
        ask(&net, WG, 28).map(|(code, count, took)| format!("code {code}, {count}, {took:?}"));
    let text = match said {
        Ok(text) if text.starts_with("code 0") => return Err(format!("answered: {text}").into()),
        Ok(text) => text,
        Err(e) => format!("no answer: {e}"),
    };
    Ok(format!("AAAA of a name at {DNS} that dnsmasq was not told of: {text}"))
}
