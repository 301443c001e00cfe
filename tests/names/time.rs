//! Time: the servers that are listed or that DHCP gave, by NTP, and nobody else.

use crate::lab::Res;
use crate::lab::traffic::{Flow, Kind, send};
use crate::lab::wait_for;
use crate::stage::{DNS, INTERNET, Layout, Net, TIME, TIME_NAME, came_out, ip, watch};

fn servers(ntp: bool) -> Res<String> {
    let mut net = Net::new(Layout::OpenWrt)?;
    let ours = format!("\tlist tunnel_device 'tun0'\n\toption ntp '{}'\n", u8::from(ntp));
    net.uci("", &ours)?;
    net.file(
        "etc/config/system",
        &format!("config timeserver 'ntp'\n\toption enabled '1'\n\tlist server '{TIME_NAME}'\n\toption use_dhcp '1'\n"),
    )?;
    let capture = watch(&net)?;
    net.product.ok(&["apply", "--boot"])?;
    net.router_dns(true)?;
    let guard = net.guard()?;
    net.dhcp(false)?;
    let expected: &[&str] = if ntp { &[TIME[0]] } else { &[] };
    let resolved = wait_for("the time server's name", 15.0, || {
        // Without permission there is nothing to wait for but the lease.
        let leased = || net.router.sh("ip -4 addr show wan0").is_ok_and(|a| a.contains("100.64"));
        net.resolve(TIME_NAME).is_ok_and(|found| found == expected) && leased()
    });
    resolved.map_err(|e| net.explain(&format!("{e}\n{}", guard.said())))?;
    if !ntp {
        // All that could open anything has been done.
        net.product.ok(&["apply"])?;
    }
    let to = [(TIME[0], 123), (TIME[1], 123), (INTERNET, 123), (TIME[0], 124), (DNS, 123)];
    let flows = |to: &[(&str, u16)]| {
        to.iter().map(|(addr, port)| Flow::new(Kind::Udp, (ip(addr), *port))).collect()
    };
    let sent = send(&net.router, None, flows(&to), 10, 50)?;
    let client = send(&net.client, None, flows(&to[..2]), 10, 50)?;
    let frames = capture.finish()?;
    let (seen, of_client) = (came_out(&frames, &sent), came_out(&frames, &client));
    let right = sent
        .iter()
        .zip(&seen)
        .enumerate()
        .all(|(n, (s, seen))| *seen == if ntp && n < 2 { s.sent } else { 0 });
    let asked = frames.iter().filter_map(|p| p.question.as_deref()).any(|q| q.contains(TIME_NAME));
    let text = format!(
        "listed by name, by DHCP, unlisted, other port, resolver: {seen:?} of 10; a client: {of_client:?}; \
         asked for the name: {asked}"
    );
    if !right || asked != ntp || of_client != [0, 0] {
        return Err(net.explain(&text).into());
    }
    Ok(text)
}

pub fn listed_and_given() -> Res<String> {
    servers(true)
}

pub fn switched_off() -> Res<String> {
    servers(false)
}
