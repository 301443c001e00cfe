//! The server moves while the tunnel is down: it comes back without help.

use crate::lab::packet::UDP;
use crate::lab::{Res, wait_for};
use crate::stage::{
    Allowed, GATEWAY, Layout, Net, OVPN, OVPN_PORT, OpenVpn, SERVERS, WG, WG_PORT, WireGuard, watch,
};
use std::time::Instant;

/// From now on nobody answers at the first address, and the name has the second one.
fn move_away(net: &Net, name: &str, port: u16) -> Res<()> {
    net.provider.nft(&format!(
        "table inet gone {{ chain in {{ type filter hook input priority 0; \
         ip daddr {} udp dport {port} drop; }}; }}",
        SERVERS[0]
    ))?;
    net.tell(&[(SERVERS[1], name)])
}

/// OpenVPN asks for the name again by itself; what it is told must follow.
pub fn openvpn() -> Res<String> {
    let mut net = Net::new(Layout::Own)?;
    let server = OpenVpn::server(&net, "udp")?;
    net.uci("", "\tlist tunnel_device 'tun0'\n")?;
    // As another user it could not make its device again.
    server.uci(&net, OVPN, "udp", "")?;
    let capture = watch(&net)?;
    net.product.ok(&["apply", "--boot"])?;
    net.router_dns(true)?;
    let guard = net.guard()?;
    let client = server.client(&net)?;
    net.dhcp(false)?;
    let explain = |e: &dyn std::fmt::Display| {
        net.explain(&format!("{e}\n{}\n{}", client.said(), guard.said()))
    };
    net.online(40.0).map_err(|e| explain(&e))?;
    move_away(&net, OVPN, OVPN_PORT)?;
    let began = Instant::now();
    if net.online(1.0).is_ok() {
        return Err("the first server still answers".into());
    }
    net.online(100.0).map_err(|e| explain(&e))?;
    let took = began.elapsed().as_secs_f64();
    let endpoints = SERVERS.map(|addr| (addr, UDP, OVPN_PORT));
    let listing = Allowed::new(&[OVPN], &endpoints).listing(&capture.finish()?)?;
    Ok(format!("back after {took:.0} s: {listing}"))
}

/// WireGuard asks never again. Its peer has never answered, so there is nothing to wait for.
fn wireguard(layout: Layout) -> Res<String> {
    let mut net = Net::new(layout)?;
    let server = WireGuard::server(&net)?;
    if layout == Layout::OpenWrt {
        net.uci(&server.uci(""), "\tlist tunnel_interface 'wg0'\n")?;
    } else {
        net.uci("", "\tlist tunnel_device 'wg0'\n")?;
        net.file(
            "etc/wireguard/wg0.conf",
            &format!(
                "[Interface]\nPrivateKey = {}\nAddress = 10.9.0.2/24\n\
                 [Peer]\nPublicKey = {}\nEndpoint = {WG}:{WG_PORT}\nAllowedIPs = 0.0.0.0/0\n",
                server.private, server.public
            ),
        )?;
    }
    net.provider.nft(
        "table inet dead { chain in { type filter hook input priority 0; udp dport 51820 drop; }; }",
    )?;
    let capture = watch(&net)?;
    net.product.ok(&["apply", "--boot"])?;
    net.router_dns(true)?;
    let guard = net.guard()?;
    let client = server.client(&net, false, None)?;
    net.dhcp(false)?;
    let explain = |e: &dyn std::fmt::Display| {
        let said: String = client.iter().map(crate::lab::ns::Daemon::said).collect();
        net.explain(&format!("{e}\n{said}\n{}", guard.said()))
    };
    wait_for("the first address", 30.0, || client[1].said().contains(SERVERS[0]))
        .map_err(|e| explain(&e))?;
    if layout == Layout::Own {
        // Where routes do not depend on the address.
        net.router.ip(&format!("route add 203.0.113.0/24 via {GATEWAY} dev wan0\n"))?;
    }
    move_away(&net, WG, WG_PORT)?;
    net.provider.nft("delete table inet dead\n")?;
    let began = Instant::now();
    net.online(100.0).map_err(|e| explain(&e))?;
    let took = began.elapsed().as_secs_f64();
    let endpoints = SERVERS.map(|addr| (addr, UDP, WG_PORT));
    let listing = Allowed::new(&[WG], &endpoints).listing(&capture.finish()?)?;
    let told = guard.said();
    let lines: Vec<_> = told.lines().filter(|l| l.contains("so it is called there")).collect();
    if lines.len() != 1 || !lines[0].contains("wg.example.net is at 203.0.113.11:51820 now") {
        return Err(format!("it should have said so once: {told}").into());
    }
    if (layout == Layout::OpenWrt) != client[1].said().contains("asked: network.interface up") {
        return Err(explain(&"by the other way").into());
    }
    Ok(format!("back after {took:.0} s: {listing}"))
}

/// netifd sets the interface up again, with the route to the new address.
pub fn wireguard_of_netifd() -> Res<String> {
    wireguard(Layout::OpenWrt)
}

/// Elsewhere `wg` is told.
pub fn wireguard_elsewhere() -> Res<String> {
    wireguard(Layout::Own)
}
