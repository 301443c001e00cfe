//! From a cold start with the kill switch engaged, the tunnel comes up by itself.

use crate::lab::Res;
use crate::lab::ns::Daemon;
use crate::lab::packet::{Packet, TCP, UDP};
use crate::lab::traffic::{Flood, Flow, Kind, send};
use crate::stage::{
    Allowed, DNS, INTERNET, Layout, Net, OVPN, OVPN_PORT, OVPN6, OpenVpn, ROUTER, SERVER6, SERVERS,
    TIME, TIME_NAME, WG, WG_PORT, WireGuard, ip, watch,
};

/// Packets a second of each of the client's flows.
const RATE: u32 = 20;

/// What a client does all the while: it asks the router's resolver, the provider's, and the internet.
fn curious() -> Vec<Flow> {
    vec![
        Flow::new(Kind::Dns, (ip(ROUTER), 53)),
        Flow::new(Kind::Dns, (ip(DNS), 53)),
        Flow::new(Kind::Ping, (ip(INTERNET), 0)),
        Flow::new(Kind::Udp, (ip(INTERNET), 123)),
    ]
}

/// Without protection and without a tunnel the same client's questions are on the uplink.
fn control(net: &Net, vpn: Vec<Daemon>) -> Res<String> {
    drop(vpn);
    net.product.ok(&["disable"])?;
    net.router
        .sh("ip link set wg0 down 2>/dev/null || :; ip link set tun0 down 2>/dev/null || :; \
                   conntrack -F 2>&1")?;
    let capture = watch(net)?;
    let sent = send(&net.client, None, curious(), 20, RATE)?;
    let frames = capture.finish()?;
    let mut text = "control, switched off:".to_owned();
    for s in &sent {
        let of = |p: &&Packet| p.mark.is_some_and(|m| m.flow == s.flow.id) && !p.outgoing;
        let leaked = frames.iter().filter(of).count();
        if leaked == 0 {
            return Err(format!("the control did not leak {:?}", s.flow).into());
        }
        text += &format!(" {:?} to {}: {leaked};", s.flow.kind, s.flow.to);
    }
    Ok(text)
}

fn wireguard(guarded: bool) -> Res<String> {
    let mut net = Net::new(Layout::OpenWrt)?;
    let server = WireGuard::server(&net)?;
    net.uci(&server.uci(""), "\tlist tunnel_interface 'wg0'\n")?;
    net.file(
        "etc/config/system",
        &format!("config timeserver 'ntp'\n\toption enabled '1'\n\tlist server '{TIME_NAME}'\n"),
    )?;
    let capture = watch(&net)?;
    net.product.ok(&["apply", "--boot"])?;
    net.router_dns(true)?;
    let guard = if guarded { Some(net.guard()?) } else { None };
    let flood = Flood::start(&net.client, None, curious(), RATE);
    flood.more(5)?;
    // The clock is to be set by the server that is listed by name.
    let time = Flow::new(Kind::Udp, (ip(TIME[0]), 123));
    let clock = Flood::start(&net.router, None, vec![time.clone()], RATE);
    // Begins before there is anything to resolve, or when the clock is right.
    let mut client = if guarded { None } else { Some(server.client(&net, true, None)?) };
    net.dhcp(!guarded)?;
    if guarded {
        let of_time = |p: &Packet| p.mark.is_some_and(|m| m.flow == time.id);
        capture.wait("a question for the time", 20.0, of_time).map_err(|e| net.explain(&e))?;
        client = Some(server.client(&net, false, None)?);
    }
    let client = client.ok_or("no client")?;
    net.online(40.0).map_err(|e| {
        let said = client.iter().map(Daemon::said).collect::<String>();
        net.explain(&format!("{e}\n{said}\n{}", guard.as_ref().map_or(String::new(), Daemon::said)))
    })?;
    flood.more(5)?;
    let sent = flood.stop()?;
    clock.stop()?;
    let mut frames = capture.finish()?;
    let of_time = |p: &Packet| p.mark.is_some_and(|m| m.flow == time.id);
    frames.iter_mut().filter(|p| of_time(p)).for_each(|p| p.mark = None);
    let allowed = Allowed {
        time: vec![TIME[0]],
        ..Allowed::new(&[WG, TIME_NAME], &[(SERVERS[0], UDP, WG_PORT)])
    };
    let listing = allowed.listing(&frames).map_err(|e| net.explain(&e))?;
    for class in ["DHCP", "DNS A wg.example.net", "VPN server", "NTP"] {
        if (guarded || class != "NTP") && !listing.contains(class) {
            return Err(format!("no {class}: nothing was tested\n{listing}").into());
        }
    }
    let asked: u32 = sent.iter().map(|s| s.sent).sum();
    let restarts = std::fs::read_to_string(net.product.root().join("restarts"))?;
    drop(guard);
    let control = control(&net, client.into())?;
    Ok(format!(
        "{listing}\n    of the client's {asked} packets meanwhile: 0; dnsmasq was restarted {} times\n    \
         {control}",
        restarts.lines().count()
    ))
}

pub fn wireguard_with_guard() -> Res<String> {
    wireguard(true)
}

/// No guard runs: the hooks alone ask.
pub fn wireguard_with_hooks() -> Res<String> {
    wireguard(false)
}

pub fn openvpn() -> Res<String> {
    over_openvpn(OVPN, "udp", SERVERS[0])
}

pub fn openvpn_by_tcp() -> Res<String> {
    over_openvpn(OVPN, "tcp-client", SERVERS[0])
}

/// The name has an IPv6 address only.
pub fn openvpn_by_ipv6() -> Res<String> {
    over_openvpn(OVPN6, "udp6", SERVER6)
}

fn over_openvpn(name: &'static str, proto: &str, addr: &'static str) -> Res<String> {
    let mut net = Net::new(Layout::OpenWrt)?;
    let server = OpenVpn::server(&net, proto)?;
    net.uci("", "\tlist tunnel_device 'tun0'\n")?;
    server.uci(&net, name, proto, "")?;
    let capture = watch(&net)?;
    net.product.ok(&["apply", "--boot"])?;
    net.router_dns(true)?;
    let guard = net.guard()?;
    let client = server.client(&net)?;
    let flood = Flood::start(&net.client, None, curious(), RATE);
    flood.more(5)?;
    net.dhcp(false)?;
    net.online(40.0).map_err(|e| {
        net.explain(&format!("{e}\n{}\n{}\n{}", server.said(), client.said(), guard.said()))
    })?;
    flood.more(5)?;
    let sent = flood.stop()?;
    let transport = if proto == "tcp-client" { TCP } else { UDP };
    let listing = Allowed::new(&[name], &[(addr, transport, OVPN_PORT)])
        .listing(&capture.finish()?)
        .map_err(|e| net.explain(&e))?;
    let asked: u32 = sent.iter().map(|s| s.sent).sum();
    drop(guard);
    let control = control(&net, vec![client])?;
    Ok(format!("{listing}\n    of the client's {asked} packets meanwhile: 0\n    {control}"))
}
