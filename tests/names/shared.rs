//! The VPN server's address also has other services, or somebody else's (a Tor guard, a web server): only
//! the tunnel reaches it, and only at the tunnel's port.

use crate::lab::Res;
use crate::lab::ns::{Daemon, Ns};
use crate::lab::traffic::{Flow, Kind, Sent, send};
use crate::stage::{
    Layout, Net, OVPN, OVPN_PORT, OpenVpn, SERVERS, WG_PORT, WireGuard, came_out, ip, watch,
};

const RATE: u32 = 100;
const COUNT: u32 = 20;
/// A user without privileges, who is not OpenVPN's.
const SOMEBODY: u32 = 12345;

/// Everything that is sent to the server beside the tunnel.
fn beside(net: &Net, port: u16) -> Res<Vec<(String, Vec<Sent>)>> {
    let at = |port| (ip(SERVERS[0]), port);
    let raw = || {
        vec![
            Flow::new(Kind::Udp, at(443)),
            Flow::new(Kind::Syn, at(443)),
            Flow::new(Kind::Syn, at(port)),
            Flow::new(Kind::Ping, at(0)),
        ]
    };
    let udp = || vec![Flow::new(Kind::Udp, at(port)), Flow::new(Kind::Udp, at(443))];
    let mut out = Vec::new();
    let mut add = |who: &str, ns: &Ns, uid, flows| -> Res<()> {
        out.push((who.to_owned(), send(ns, uid, flows, COUNT, RATE)?));
        Ok(())
    };
    add("client", &net.client, None, [raw(), udp()].concat())?;
    add("another user of the router", &net.router, Some(SOMEBODY), udp())?;
    add("root of the router", &net.router, None, raw())?;
    Ok(out)
}

/// The server's address is reached by its tunnel alone; switched off, by all of these.
fn judge(net: &Net, port: u16, more: impl Fn() -> Res<Vec<(String, Vec<Sent>)>>) -> Res<String> {
    let mut lines = Vec::new();
    for protected in [true, false] {
        net.router.sh("conntrack -F 2>&1")?;
        if !protected {
            net.product.ok(&["disable"])?;
        }
        let capture = watch(net)?;
        net.online(20.0).map_err(|e| net.explain(&e))?;
        let sent = [beside(net, port)?, more()?].concat();
        net.online(5.0).map_err(|e| net.explain(&e))?;
        let frames = capture.finish()?;
        for (who, sent) in &sent {
            let seen = came_out(&frames, sent);
            for (s, seen) in sent.iter().zip(&seen) {
                if protected && *seen > 0 || !protected && *seen * 2 < s.sent {
                    let flow = format!("{who}: {:?} to {}", s.flow.kind, s.flow.to);
                    let when = if protected { "protected" } else { "control" };
                    return Err(format!("{when}: {flow}: {seen} of {}", s.sent).into());
                }
            }
            let total: u32 = sent.iter().map(|s| s.sent).sum();
            if protected {
                lines.push(format!("{who}: 0 of {total}"));
            } else {
                lines.push(format!("control, {who}: {} of {total}", seen.iter().sum::<u32>()));
            }
        }
    }
    Ok(lines.join("\n    "))
}

fn wireguard(mark: Option<u32>) -> Res<String> {
    let mut net = Net::new(Layout::OpenWrt)?;
    let server = WireGuard::server(&net)?;
    let more = mark.map_or(String::new(), |m| format!("\toption fwmark '{m:#x}'\n"));
    net.uci(&server.uci(&more), "\tlist tunnel_interface 'wg0'\n")?;
    net.product.ok(&["apply", "--boot"])?;
    net.router_dns(true)?;
    let guard = net.guard()?;
    let client = server.client(&net, false, mark)?;
    net.dhcp(false)?;
    net.online(40.0).map_err(|e| {
        let said: String = client.iter().map(Daemon::said).collect();
        net.explain(&format!("{e}\n{said}{}", guard.said()))
    })?;
    let rule = net.router.sh("nft list chain inet vpn_killswitch leaving | grep endpoint_1_4")?;
    let narrow = rule.contains("udp sport") && rule.contains("meta mark") == mark.is_some();
    if !narrow {
        return Err(format!("not narrow: {rule}").into());
    }
    // The tunnel's own port of the server, by root: from another port and without the mark.
    let exact = || {
        let flows = vec![Flow::new(Kind::Udp, (ip(SERVERS[0]), WG_PORT))];
        Ok(vec![(
            "root at the tunnel's port".to_owned(),
            send(&net.router, None, flows, COUNT, RATE)?,
        )])
    };
    drop(guard);
    Ok(format!("{}\n    {}", rule.trim(), judge(&net, WG_PORT, exact)?))
}

pub fn wireguard_by_its_port() -> Res<String> {
    wireguard(None)
}

pub fn wireguard_by_its_mark() -> Res<String> {
    wireguard(Some(0xca6c))
}

/// OpenVPN that becomes another user.
pub fn openvpn_by_its_user() -> Res<String> {
    let mut net = Net::new(Layout::OpenWrt)?;
    let server = OpenVpn::server(&net, "udp")?;
    net.uci("", "\tlist tunnel_device 'tun0'\n")?;
    net.passwd()?;
    server.uci(&net, OVPN, "udp", "user nobody\ngroup nogroup\npersist-key\n")?;
    net.product.ok(&["apply", "--boot"])?;
    net.router_dns(true)?;
    let guard = net.guard()?;
    let client = server.client(&net)?;
    net.dhcp(false)?;
    net.online(40.0)
        .map_err(|e| net.explain(&format!("{e}\n{}{}", client.said(), guard.said())))?;
    drop(guard);
    judge(&net, OVPN_PORT, || Ok(Vec::new()))
}
