//! The network every story is told in: a home router with clients, a provider, a host on the
//! internet and a VPN server.
//!
//! ```text
//!  client ── br-lan ┐                               ┌── internet host 192.0.2.80
//!  guest ─ br-guest ┤ router ── wan0 ═══ provider ──┤
//!  iot ──── br-iot  ┘    └─ wg0 ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ┴── VPN server 203.0.113.10
//! ```
//!
//! The router is open: it forwards and masquerades towards every uplink, as a home router does
//! once LAN → WAN forwarding is on, and its default routes prefer the tunnel and fall back to the
//! uplink. What closes it is the system under test.

use super::ns::{Daemon, Ns};
use super::server::Servers;
use super::{Error, Res, wait_for};
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

/// The host on the internet.
pub fn internet() -> [IpAddr; 2] {
    [ip("192.0.2.80"), ip("2001:db8:80::80")]
}
/// The VPN server on the internet.
pub fn endpoint() -> [IpAddr; 2] {
    [ip("203.0.113.10"), ip("2001:db8:113::10")]
}
/// The VPN server's port.
pub const ENDPOINT_PORT: u16 = 51820;
/// The provider's resolver, some way into its network.
pub fn resolver() -> [IpAddr; 2] {
    [ip("198.51.100.53"), ip("2001:db8:53::53")]
}
/// The provider's router, on the link to ours.
pub fn gateway() -> [IpAddr; 2] {
    [ip("100.64.7.1"), ip("2001:db8:64::1")]
}
/// The router's own address on the uplink.
pub fn uplink() -> [IpAddr; 2] {
    [ip("100.64.7.2"), ip("2001:db8:64::2")]
}
/// The router's addresses in the LAN.
pub fn lan() -> [IpAddr; 2] {
    [ip("192.168.1.1"), ip("2001:db8:1:1::1")]
}
/// The LAN client's addresses.
pub fn client() -> [IpAddr; 2] {
    [ip("192.168.1.2"), ip("2001:db8:1:1::2")]
}
/// The router's addresses in the tunnel.
pub fn tunnel() -> [IpAddr; 2] {
    [ip("10.9.0.2"), ip("fd09::2")]
}
/// The VPN server's addresses in the tunnel.
pub fn tunnel_peer() -> [IpAddr; 2] {
    [ip("10.9.0.1"), ip("fd09::1")]
}

/// What the tunnel is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tunnel {
    /// A veth pair called wg0: fast and exact, for what does not depend on the tunnel's protocol.
    Veth,
    /// WireGuard: wireguard-go on both ends.
    WireGuard,
    /// The kernel's WireGuard on both ends.
    Kernel,
}

/// Port at which the internet host echoes.
pub const ECHO: u16 = 7;
/// A port at which nobody listens. Connection attempts made by hand go there: an accepted one
/// would make the client's kernel, which knows nothing of it, send a reset of its own.
pub const CLOSED: u16 = 9;

/// The whole network.
pub struct Lab {
    pub client: Ns,
    pub guest: Ns,
    /// A client of a network that no configuration names.
    pub iot: Ns,
    pub router: Ns,
    pub provider: Ns,
    pub internet: Ns,
    pub vpn: Ns,
    kind: Tunnel,
    keys: Option<Keys>,
    daemons: Vec<Daemon>,
    router_end: Option<Daemon>,
    servers: Vec<Servers>,
}

struct Keys {
    router: String,
    server_public: String,
}

/// Interface numbers, never the same twice: with equal numbers on both ends of a veth pair the
/// kernel delays carrier events by up to a second.
fn index() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(100);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Connects two namespaces by a veth pair; both ends up.
pub fn connect(a: &Ns, a_name: &str, b: &Ns, b_name: &str) -> Res<()> {
    a.ip(&format!(
        "link add {a_name} index {} type veth peer name {b_name} index {} netns {}\n\
         link set {a_name} up\n",
        index(),
        index(),
        b.path()
    ))?;
    b.ip(&format!("link set {b_name} up\n"))?;
    a.eager(a_name)?;
    b.eager(b_name)?;
    a.wait_up(a_name)?;
    b.wait_up(b_name)
}

impl Lab {
    /// Builds the network with the tunnel up, and waits until it carries traffic.
    pub fn new(kind: Tunnel) -> Res<Self> {
        let mut lab = Self {
            client: Ns::new("client")?,
            guest: Ns::new("guest")?,
            iot: Ns::new("iot")?,
            router: Ns::new("router")?,
            provider: Ns::new("provider")?,
            internet: Ns::new("internet")?,
            vpn: Ns::new("vpn")?,
            kind,
            keys: None,
            daemons: Vec::new(),
            router_end: None,
            servers: Vec::new(),
        };
        for ns in [&lab.router, &lab.provider, &lab.vpn] {
            ns.sysctls(&[
                ("ipv4/ip_forward", "1"),
                ("ipv6/conf/all/forwarding", "1"),
                // Limits on ICMP errors and redirects would falsify counts.
                ("ipv4/icmp_ratelimit", "0"),
                ("ipv6/icmp/ratelimit", "0"),
                ("ipv4/conf/all/send_redirects", "0"),
                ("ipv4/conf/default/send_redirects", "0"),
            ])?;
        }
        // Some kernels have it as one limit for the machine, and then it is not ours to change.
        drop(lab.router.sysctls(&[("ipv4/icmp_msgs_per_sec", "100000")]));
        drop(lab.router.sysctls(&[("ipv4/icmp_msgs_burst", "100000")]));
        lab.lans()?;
        lab.provider_side()?;
        lab.open_router()?;
        lab.tunnel_end_of_server()?;
        lab.tunnel_up()?;
        lab.servers.push(Servers::start(&lab.internet, &internet(), &[ECHO, 443])?);
        lab.servers.push(Servers::start(&lab.provider, &[resolver(), gateway()].concat(), &[53])?);
        lab.ready()?;
        Ok(lab)
    }

    fn lans(&self) -> Res<()> {
        self.router.ip("link add br-lan type bridge forward_delay 0\n\
                        link add br-guest type bridge forward_delay 0\n\
                        link add br-iot type bridge forward_delay 0\n")?;
        let clients = [(&self.client, "lan", 1), (&self.guest, "guest", 2), (&self.iot, "iot", 3)];
        for (ns, net, n) in clients {
            self.router.eager(&format!("br-{net}"))?;
            connect(ns, "eth0", &self.router, &format!("{net}0"))?;
            self.router.ip(&format!(
                "link set {net}0 master br-{net}\n\
                 link set br-{net} up\n\
                 addr add 192.168.{n}.1/24 dev br-{net}\n\
                 addr add 2001:db8:1:{n}::1/64 dev br-{net} nodad\n"
            ))?;
            ns.ip(&format!(
                "addr add 192.168.{n}.2/24 dev eth0\n\
                 addr add 2001:db8:1:{n}::2/64 dev eth0 nodad\n\
                 route add default via 192.168.{n}.1\n\
                 route add default via 2001:db8:1:{n}::1\n"
            ))?;
        }
        Ok(())
    }

    fn provider_side(&self) -> Res<()> {
        connect(&self.router, "wan0", &self.provider, "isp0")?;
        connect(&self.internet, "eth0", &self.provider, "inet0")?;
        connect(&self.vpn, "eth0", &self.provider, "vpn0")?;
        self.provider.ip("addr add 100.64.7.1/24 dev isp0\n\
             addr add 2001:db8:64::1/64 dev isp0 nodad\n\
             addr add 192.0.2.1/24 dev inet0\n\
             addr add 2001:db8:80::1/64 dev inet0 nodad\n\
             addr add 203.0.113.1/24 dev vpn0\n\
             addr add 2001:db8:113::1/64 dev vpn0 nodad\n\
             addr add 198.51.100.53/32 dev lo\n\
             addr add 2001:db8:53::53/128 dev lo nodad\n\
             route add 10.9.0.0/24 via 203.0.113.10\n\
             route add fd09::/64 via 2001:db8:113::10\n\
             route add 2001:db8:1::/48 via 2001:db8:64::2\n")?;
        self.internet.ip("addr add 192.0.2.80/24 dev eth0\n\
             addr add 2001:db8:80::80/64 dev eth0 nodad\n\
             route add default via 192.0.2.1\n\
             route add default via 2001:db8:80::1\n")?;
        self.vpn.ip("addr add 203.0.113.10/24 dev eth0\n\
                     addr add 2001:db8:113::10/64 dev eth0 nodad\n\
                     route add default via 203.0.113.1\n\
                     route add default via 2001:db8:113::1\n")?;
        self.uplink_up("wan0")
    }

    /// Gives an uplink its addresses, its default routes and the way to the VPN server.
    pub fn uplink_up(&self, device: &str) -> Res<()> {
        self.router.ip(&format!(
            "addr replace 100.64.7.2/24 dev {device}\n\
             addr replace 2001:db8:64::2/64 dev {device} nodad\n\
             route replace default via 100.64.7.1 dev {device} metric 100\n\
             route replace default via 2001:db8:64::1 dev {device} metric 100\n\
             route replace 203.0.113.10/32 via 100.64.7.1 dev {device}\n\
             route replace 2001:db8:113::10/128 via 2001:db8:64::1 dev {device}\n"
        ))
    }

    /// The router's own firewall: everything may be forwarded, and leaves under the router's
    /// address.
    fn open_router(&self) -> Res<()> {
        self.router.nft(OPEN_ROUTER)
    }

    fn tunnel_end_of_server(&mut self) -> Res<()> {
        if self.kind == Tunnel::Veth {
            return Ok(());
        }
        let server = key(&self.vpn)?;
        let router = key(&self.vpn)?;
        let daemon = self.wireguard(&self.vpn, "wgs0")?;
        self.daemons.extend(daemon);
        configure(
            &self.vpn,
            "wgs0",
            &format!(
                "[Interface]\nPrivateKey = {}\nListenPort = {ENDPOINT_PORT}\n\
                 [Peer]\nPublicKey = {}\nAllowedIPs = 10.9.0.2/32, fd09::2/128\n",
                server.0, router.1
            ),
        )?;
        self.vpn.ip("addr add 10.9.0.1/24 dev wgs0\n\
                     addr add fd09::1/64 dev wgs0 nodad\n\
                     link set wgs0 up\n")?;
        self.keys = Some(Keys { router: router.0, server_public: server.1 });
        Ok(())
    }

    /// Brings the tunnel up: makes the device if it is not there, and its addresses and routes.
    pub fn tunnel_up(&mut self) -> Res<()> {
        if !self.router.has_device("wg0") {
            self.make_tunnel()?;
        }
        self.router.ip("link set wg0 up\n\
                        addr replace 10.9.0.2/24 dev wg0\n\
                        addr replace fd09::2/64 dev wg0 nodad\n\
                        route replace default via 10.9.0.1 dev wg0 metric 5\n\
                        route replace default via fd09::1 dev wg0 metric 5\n")
    }

    fn make_tunnel(&mut self) -> Res<()> {
        let Some(keys) = &self.keys else {
            connect(&self.router, "wg0", &self.vpn, "peer0")?;
            return self
                .vpn
                .ip("addr add 10.9.0.1/24 dev peer0\naddr add fd09::1/64 dev peer0 nodad\n");
        };
        // The old process, if any, is gone before the new one takes its socket.
        self.router_end = None;
        self.router_end = self.wireguard(&self.router, "wg0")?;
        configure(
            &self.router,
            "wg0",
            &format!(
                "[Interface]\nPrivateKey = {}\n\
                 [Peer]\nPublicKey = {}\nEndpoint = 203.0.113.10:{ENDPOINT_PORT}\n\
                 AllowedIPs = 0.0.0.0/0, ::/0\n",
                keys.router, keys.server_public
            ),
        )
    }

    /// Makes a WireGuard device; its process, if it has one.
    fn wireguard(&self, ns: &Ns, device: &str) -> Res<Option<Daemon>> {
        if self.kind == Tunnel::Kernel {
            return ns.ip(&format!("link add {device} type wireguard\n")).map(|()| None);
        }
        wireguard(ns, device).map(Some)
    }

    /// Takes the tunnel's link down; its routes go with it.
    pub fn tunnel_down(&self) -> Res<()> {
        self.router.ip("link set wg0 down\n")
    }

    /// The tunnel's device disappears, as when its process dies.
    pub fn tunnel_delete(&mut self) -> Res<()> {
        match self.router_end.take() {
            Some(daemon) => {
                drop(daemon);
                wait_for("wg0 to disappear", 5.0, || !self.router.has_device("wg0"))
            }
            None => self.router.ip("link del wg0\n"),
        }
    }

    /// Waits until the client reaches the internet by both families.
    pub fn ready(&self) -> Res<()> {
        for to in internet() {
            reach(&self.client, to)?;
        }
        Ok(())
    }

    /// Makes the router forget its connections. Masquerading drops the first packet of one that
    /// it knows by another way out, and protocols without ports have only one connection a pair.
    pub fn forget_connections(&self) -> Res<()> {
        self.router.sh("conntrack -F 2>&1").map(drop)
    }
}

/// Waits until `from` gets an answer from the echo port of `to`.
pub fn reach(from: &Ns, to: IpAddr) -> Res<()> {
    let reached = from.enter(|| -> Res<()> {
        let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        wait_for("an answer", 10.0, || {
            // An unreachable network is what this waits out.
            drop(socket.send_to(b"hello", (to, ECHO)));
            socket.recv(&mut [0; 64]).is_ok()
        })
    })?;
    reached.map_err(|e| format!("{} does not reach {to}: {e}", from.name()).into())
}

/// The open router's firewall, in the shape of OpenWrt's.
pub const OPEN_ROUTER: &str = r#"
table inet fw4 {
	chain forward {
		type filter hook forward priority filter; policy accept;
		ct state established,related accept
	}
	chain srcnat {
		type nat hook postrouting priority srcnat; policy accept;
		meta nfproto ipv4 oifname != { "br-lan", "br-guest", "br-iot" } masquerade
		meta nfproto ipv6 oifname "wg0" masquerade
	}
	chain dstnat {
		type nat hook prerouting priority dstnat; policy accept;
		iifname "wan0" meta nfproto ipv4 udp dport 8080 dnat ip to 192.168.1.2:7
		iifname "wan0" meta nfproto ipv6 udp dport 8080 dnat ip6 to [2001:db8:1:1::2]:7
	}
}
"#;
/// The port on the uplink that the router forwards to the client's echo port.
pub const FORWARDED: u16 = 8080;

/// A private key and its public one.
pub fn key(ns: &Ns) -> Res<(String, String)> {
    let out = ns.sh("k=$(wg genkey); echo $k; echo $k | wg pubkey")?;
    let mut lines = out.lines().map(str::to_owned);
    Ok((lines.next().ok_or("no key")?, lines.next().ok_or("no key")?))
}

/// Starts wireguard-go for a device that does not exist yet, and waits for it.
pub fn wireguard(ns: &Ns, device: &str) -> Res<Daemon> {
    let env = [("WG_PROCESS_FOREGROUND", "1"), ("LOG_LEVEL", "error")];
    let socket = format!("/run/wireguard/{device}.sock");
    drop(std::fs::remove_file(&socket));
    let mut daemon = ns.spawn("wireguard-go", &[device], &env)?;
    let mut ended: Option<Error> = None;
    wait_for("wireguard-go", 10.0, || {
        ended = daemon.alive().err();
        ended.is_some() || std::fs::exists(&socket).unwrap_or(false)
    })?;
    ended.map_or(Ok(daemon), Err)
}

/// Configures a WireGuard device.
pub fn configure(ns: &Ns, device: &str, text: &str) -> Res<()> {
    let file = super::ns::directory("wg")?.join("conf");
    std::fs::write(&file, text)?;
    ns.sh(&format!("wg setconf {device} {}", file.display())).map(drop)
}
