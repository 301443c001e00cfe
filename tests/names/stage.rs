//! A router that has just started: its uplink has no address yet, its VPN's server is known by name
//! only, and its own resolver is all that its programs can ask.
//!
//! ```text
//!  client ── br-lan [router: dnsmasq, VPN client] wan0 ═══ isp0 [provider: DHCP, DNS, VPN servers]
//! ```
//!
//! Every frame on the uplink is looked at, in both directions, from before the kill switch is there.

use crate::lab::capture::Capture;
use crate::lab::ns::{Daemon, Ns, bind, directory};
use crate::lab::packet::{ICMPV6, Packet, TCP, UDP};
use crate::lab::product::Product;
use crate::lab::server::Servers;
use crate::lab::topology::{ECHO, OPEN_ROUTER, configure, connect, key, wireguard};
use crate::lab::traffic::Sent;
use crate::lab::{Res, wait_for};
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_vpn-killswitch");
/// The provider's resolver, a host on the internet, the VPN server's first and second address, and
/// time servers.
pub const DNS: &str = "198.51.100.53";
pub const DNS6: &str = "2001:db8:53::53";
pub const INTERNET: &str = "192.0.2.80";
pub const SERVERS: [&str; 2] = ["203.0.113.10", "203.0.113.11"];
pub const SERVER6: &str = "2001:db8:113::10";
pub const TIME: [&str; 2] = ["198.51.100.123", "198.51.100.124"];
/// The router in its LAN.
pub const ROUTER: &str = "192.168.1.1";
pub const GATEWAY: &str = "100.64.7.1";
/// Names that the provider's resolver knows.
pub const WG: &str = "wg.example.net";
pub const OVPN: &str = "ovpn.example.net";
pub const OVPN6: &str = "ovpn6.example.net";
pub const TIME_NAME: &str = "time.example.net";
/// Ports of the VPN servers.
pub const WG_PORT: u16 = 51820;
pub const OVPN_PORT: u16 = 1194;

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

/// Where the router's dnsmasq reads what is published.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `/tmp/hosts` and `/tmp/dnsmasq.d`, an init script, and netifd.
    OpenWrt,
    /// Two options in its configuration; the name servers are in `/etc/resolv.conf`.
    Own,
}

pub struct Net {
    pub client: Ns,
    pub router: Ns,
    pub provider: Ns,
    pub product: Product,
    pub layout: Layout,
    /// The provider's resolver.
    pub dns: Daemon,
    hosts: PathBuf,
    /// What ends with the network.
    pub daemons: Vec<Daemon>,
    _echo: [Servers; 2],
}

impl Net {
    pub fn new(layout: Layout) -> Res<Self> {
        let (client, router, provider) =
            (Ns::new("client")?, Ns::new("router")?, Ns::new("provider")?);
        for ns in [&router, &provider] {
            ns.sysctls(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        }
        router.ip("link add br-lan type bridge forward_delay 0\n")?;
        connect(&client, "eth0", &router, "lan0")?;
        connect(&router, "wan0", &provider, "isp0")?;
        router.ip("link set lan0 master br-lan\nlink set br-lan up\n\
                   addr add 192.168.1.1/24 dev br-lan\n")?;
        client.ip("addr add 192.168.1.2/24 dev eth0\nroute add default via 192.168.1.1\n")?;
        provider
            .ip("addr add 100.64.7.1/24 dev isp0\naddr add 2001:db8:64::1/64 dev isp0 nodad\n\
                     addr add 2001:db8:113::10/128 dev lo\naddr add 2001:db8:53::53/128 dev lo\n")?;
        for addr in [DNS, INTERNET, SERVERS[0], SERVERS[1], TIME[0], TIME[1]] {
            provider.ip(&format!("addr add {addr}/32 dev lo\n"))?;
        }
        router.nft(OPEN_ROUTER)?;
        let echo = [
            Servers::start(&provider, &[ip(INTERNET)], &[ECHO])?,
            Servers::start(&provider, &TIME.map(ip), &[123])?,
        ];

        // Everybody on the router asks its own resolver.
        let resolv = directory("resolv")?.join("conf");
        fs::write(&resolv, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")?;
        bind(&resolv, Path::new("/etc/resolv.conf"))?;

        let hosts = directory("provider")?.join("hosts");
        let product = Product::new(BINARY, &router)?;
        let dns = provider_dns(&provider, &hosts)?;
        let net = Self {
            client,
            router,
            provider,
            product,
            layout,
            dns,
            hosts,
            daemons: Vec::new(),
            _echo: echo,
        };
        net.tell(&[(SERVERS[0], WG), (SERVERS[0], OVPN), (SERVER6, OVPN6), (TIME[0], TIME_NAME)])?;
        net.files()?;
        Ok(net)
    }

    /// What the provider's resolver says from now on.
    pub fn tell(&self, hosts: &[(&str, &str)]) -> Res<()> {
        let text: String = hosts.iter().map(|(addr, name)| format!("{addr} {name}\n")).collect();
        fs::write(&self.hosts, &text)?;
        self.provider.sh(&format!("kill -HUP {}", self.dns.id()))?;
        let (addr, name) = hosts.first().ok_or("no host")?;
        wait_for("the provider's resolver", 5.0, || {
            let asked = self.provider.sh(&format!("busybox nslookup {name} {DNS} 2>&1 || :"));
            asked.is_ok_and(|said| said.contains(addr))
        })
    }

    fn files(&self) -> Res<()> {
        let root = self.product.root();
        for dir in ["var/run", "etc/openvpn", "etc/wireguard", "bin", "etc/init.d"] {
            fs::create_dir_all(root.join(dir))?;
        }
        symlink("/run/wireguard", root.join("var/run/wireguard"))?;
        if self.layout == Layout::Own {
            return Ok(fs::write(root.join("etc/resolv.conf"), format!("nameserver {DNS}\n"))?);
        }
        for dir in ["tmp/hosts", "tmp/dnsmasq.d"] {
            fs::create_dir_all(root.join(dir))?;
        }
        self.netifd_says(false, &[], &[])?;
        // What is asked of netifd is written down, and done by whoever stands in for it.
        let path = root.display();
        self.script(
            "bin/ubus",
            &format!(
                "case $6 in\n\
                 dump) cat {path}/netifd.json ;;\n\
                 *) echo \"$5 $6 $7\" >> {path}/asked ;;\n\
                 esac\n"
            ),
        )?;
        self.script(
            "etc/init.d/dnsmasq",
            &format!("echo \"$1\" >> {path}/restarts\nkill $(cat {path}/dnsmasq.pid)\n"),
        )
    }

    /// An executable file below the root directory.
    pub fn script(&self, name: &str, text: &str) -> Res<()> {
        let path = self.product.root().join(name);
        fs::write(&path, format!("#!/bin/sh\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\n{text}"))?;
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
    }

    /// What netifd knows of the uplink: an interface that is not up has no servers in its dump.
    pub fn netifd_says(&self, up: bool, dns: &[&str], time: &[&str]) -> Res<()> {
        let wan = if up {
            format!(
                r#""l3_device":"wan0","dns-server":{dns:?},"data":{{"ntpserver":{:?}}}"#,
                time.join(" ")
            )
        } else {
            r#""data":{}"#.to_owned()
        };
        let text = format!(
            r#"{{"interface":[{{"interface":"lan","up":true,"l3_device":"br-lan","dns-server":[]}},
            {{"interface":"wan","up":{up},{wan}}},{{"interface":"wg0","up":false}}]}}"#
        );
        let path = self.product.root().join("netifd.json");
        fs::write(path.with_extension("new"), text)?;
        Ok(fs::rename(path.with_extension("new"), path)?)
    }

    /// A file below the root directory.
    pub fn file(&self, name: &str, text: &str) -> Res<()> {
        Ok(fs::write(self.product.root().join(name), text)?)
    }

    /// OpenVPN's user.
    pub fn passwd(&self) -> Res<()> {
        self.file("etc/passwd", "nobody:x:65534:65534::/:/bin/false\n")
    }

    /// The router's networks and its VPNs, as far as UCI has them, and our configuration.
    pub fn uci(&self, network: &str, ours: &str) -> Res<()> {
        self.file(
            "etc/config/network",
            &format!(
                "config interface 'lan'\n\toption device 'br-lan'\n\toption proto 'static'\n\n\
                 config interface 'wan'\n\toption device 'wan0'\n\toption proto 'dhcp'\n\n{network}"
            ),
        )?;
        self.product.configure(&format!(
            "config killswitch 'main'\n\toption enabled '1'\n\toption router 'strict'\n\
             \tlist local_interface 'lan'\n{ours}"
        ))
    }

    /// The router's own resolver, under a supervisor as OpenWrt has one; its upstream server is the
    /// provider's.
    pub fn router_dns(&mut self, published: bool) -> Res<()> {
        let root = self.product.root().display().to_string();
        let mut args = format!(
            "--keep-in-foreground --conf-file=/dev/null --pid-file={root}/dnsmasq.pid --no-resolv \
             --no-hosts --user=root --bind-interfaces --listen-address=127.0.0.1,{ROUTER} \
             --log-facility=- --log-queries --server={DNS} --address=/ready.lab/192.0.2.1 "
        );
        args += &match (published, self.layout) {
            (false, _) => String::new(),
            (true, Layout::OpenWrt) => {
                format!("--addn-hosts={root}/tmp/hosts --conf-dir={root}/tmp/dnsmasq.d")
            }
            (true, Layout::Own) => {
                let own = format!("{root}/var/run/vpn-killswitch");
                // dnsmasq does not start without its servers' file.
                fs::create_dir_all(&own)?;
                let servers = Path::new(&own).join("servers");
                if !servers.exists() {
                    fs::write(servers, "")?;
                }
                format!("--addn-hosts={own}/hosts --servers-file={own}/servers")
            }
        };
        let script =
            format!("while :; do setpriv --pdeathsig KILL dnsmasq {args} || :; sleep 0.05; done");
        self.daemons.push(self.router.spawn("sh", &["-c", &script], &[])?);
        wait_for("the router's resolver", 10.0, || {
            self.resolve("ready.lab").is_ok_and(|found| found == ["192.0.2.1"])
        })
    }

    /// What a program on the router finds for a name.
    pub fn resolve(&self, name: &str) -> Res<Vec<String>> {
        let found = self.router.sh(&format!("getent ahosts {name} || :"))?;
        let mut found: Vec<String> =
            found.lines().filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect();
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// A DHCP client on the uplink; what it is given is set up as netifd would, and told to the hooks if
    /// that is asked for.
    pub fn dhcp(&mut self, hooks: bool) -> Res<()> {
        let root = self.product.root().display().to_string();
        let mut script = format!(
            "[ \"$1\" = bound ] || exit 0\n\
             ip addr replace $ip/24 dev $interface\n\
             ip route replace default via $router dev $interface metric 100\n\
             ip -6 addr replace 2001:db8:64::2/64 dev $interface nodad\n\
             ip -6 route replace default from 2001:db8:64::/64 via 2001:db8:64::1 dev $interface\n\
             cat > {root}/netifd.new <<E\n\
             {{\"interface\":[{{\"interface\":\"lan\",\"up\":true,\"l3_device\":\"br-lan\"}},\
             {{\"interface\":\"wan\",\"up\":true,\"l3_device\":\"$interface\",\
             \"dns-server\":[\"$dns\"],\"data\":{{\"ntpserver\":\"$ntpsrv\"}}}}]}}\n\
             E\n\
             mv {root}/netifd.new {root}/netifd.json\n"
        );
        if hooks {
            writeln!(
                script,
                "ACTION=ifup INTERFACE=wan {BINARY} --root {root} --platform generic hotplug"
            )?;
        }
        self.script("udhcpc", &script)?;
        let args = format!("udhcpc -i wan0 -f -t 20 -T 1 -s {root}/udhcpc");
        let args: Vec<&str> = args.split(' ').collect();
        self.daemons.push(self.router.spawn("busybox", &args, &[])?);
        Ok(())
    }

    /// Whether the client gets answers from the internet before so many seconds have passed.
    pub fn online(&self, seconds: f64) -> Res<()> {
        self.client.enter(|| -> Res<()> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            wait_for("an answer from the internet", seconds, || {
                drop(socket.send_to(b"hello", (INTERNET, ECHO)));
                socket.recv(&mut [0; 64]).is_ok()
            })
        })?
    }

    /// Starts the guard and waits until it is at its post.
    pub fn guard(&self) -> Res<Daemon> {
        let mut guard = self.product.spawn(&["guard"])?;
        wait_for("the guard", 10.0, || !guard.said().is_empty() || guard.alive().is_err())?;
        guard.alive()?;
        Ok(guard)
    }

    /// What went wrong, with everything that might tell why.
    pub fn explain(&self, e: &dyn std::fmt::Display) -> String {
        let run = |args: &[&str]| {
            let out = self.product.run(args).map(|o| [o.stdout, o.stderr].concat());
            String::from_utf8_lossy(&out.unwrap_or_default()).into_owned()
        };
        let mut text = format!("{e}\n--- status\n{}", run(&["status"]));
        let look = "ip -br addr; ip route; ip -6 route; wg show || :";
        let _ = write!(text, "--- router\n{}", self.router.sh(look).unwrap_or_default());
        for daemon in &self.daemons {
            let said = daemon.said();
            let from = said.char_indices().rev().nth(2000).map_or(0, |(at, _)| at);
            let _ = write!(text, "--- {}\n{}", daemon.id(), &said[from..]);
        }
        text
    }
}

fn provider_dns(provider: &Ns, hosts: &Path) -> Res<Daemon> {
    fs::write(hosts, "")?;
    let args = format!(
        "--no-daemon --conf-file=/dev/null --no-resolv --no-hosts --user=root --pid-file= \
         --addn-hosts={} --local=/example.net/ --local-ttl=60 --log-queries --bind-interfaces \
         --listen-address={DNS},{DNS6},{GATEWAY} --dhcp-range=100.64.7.100,100.64.7.100,1h \
         --dhcp-option=option:router,{GATEWAY} --dhcp-option=option:dns-server,{DNS} \
         --dhcp-option=option:ntp-server,{} --dhcp-authoritative --no-ping --dhcp-leasefile={}",
        hosts.display(),
        TIME[1],
        hosts.with_extension("leases").display()
    );
    let args: Vec<&str> = args.split_whitespace().collect();
    let mut dns = provider.spawn("dnsmasq", &args, &[])?;
    wait_for("the provider's resolver", 5.0, || {
        dns.said().contains("started") || dns.alive().is_err()
    })?;
    dns.alive()?;
    Ok(dns)
}

/// WireGuard with a server at the provider's, and its client half on the router.
pub struct WireGuard {
    /// The router's private key and the server's public one.
    pub private: String,
    pub public: String,
    _server: Daemon,
}

impl WireGuard {
    /// Starts the server.
    pub fn server(net: &Net) -> Res<Self> {
        let (server, router) = (key(&net.provider)?, key(&net.provider)?);
        let daemon = wireguard(&net.provider, "wgs0")?;
        configure(
            &net.provider,
            "wgs0",
            &format!(
                "[Interface]\nPrivateKey = {}\nListenPort = {WG_PORT}\n\
                 [Peer]\nPublicKey = {}\nAllowedIPs = 10.9.0.2/32\n",
                server.0, router.1
            ),
        )?;
        net.provider.ip("addr add 10.9.0.1/24 dev wgs0\nlink set wgs0 up\n")?;
        Ok(Self { private: router.0, public: server.1, _server: daemon })
    }

    /// The router's half in /etc/config/network.
    pub fn uci(&self, more: &str) -> String {
        format!(
            "config interface 'wg0'\n\toption proto 'wireguard'\n\toption private_key '{}'\n\
             \tlist addresses '10.9.0.2/24'\n{more}\n\
             config wireguard_wg0\n\toption public_key '{}'\n\toption endpoint_host '{WG}'\n\
             \toption endpoint_port '{WG_PORT}'\n\tlist allowed_ips '0.0.0.0/0'\n\
             \toption route_allowed_ips '1'\n",
            self.private, self.public
        )
    }

    /// Does on the router what netifd and its handler for WireGuard do: hands the name over, again and
    /// again until it resolves, then makes addresses and routes, the server's own one among them. Sets
    /// everything up again when netifd is asked for that.
    pub fn client(&self, net: &Net, hooks: bool, mark: Option<u32>) -> Res<[Daemon; 2]> {
        let device = wireguard(&net.router, "wg0")?;
        let root = net.product.root().display();
        let conf = net.product.root().join("wg0.conf");
        fs::write(
            &conf,
            format!(
                "[Interface]\nPrivateKey = {}\nFwMark = {}\n[Peer]\nPublicKey = {}\n\
                 Endpoint = {WG}:{WG_PORT}\nAllowedIPs = 0.0.0.0/0\nPersistentKeepalive = 5\n",
                self.private,
                mark.unwrap_or(0),
                self.public
            ),
        )?;
        let hook = if hooks {
            format!("ACTION=ifup INTERFACE=wg0 {BINARY} --root {root} --platform generic hotplug")
        } else {
            String::new()
        };
        let script = format!(
            "export WG_ENDPOINT_RESOLUTION_RETRIES=0\n\
             while :; do\n\
             until wg setconf wg0 {conf} 2>&1; do sleep 0.5; done\n\
             server=$(wg show wg0 endpoints | sed 's/.*\\t//; s/:[0-9]*$//')\n\
             ip route replace $server via {GATEWAY} dev wan0\n\
             ip addr replace 10.9.0.2/24 dev wg0\n\
             ip link set wg0 up\n\
             ip route replace default dev wg0 metric 5\n\
             {hook}\n\
             echo up at $server\n\
             until [ -s {root}/asked ]; do sleep 0.2; done\n\
             sed 's/^/asked: /' {root}/asked; rm {root}/asked; ip link set wg0 down\n\
             done",
            conf = conf.display()
        );
        Ok([device, net.router.spawn("sh", &["-c", &script], &[])?])
    }
}

/// What is allowed on the uplink.
pub struct Allowed {
    /// Names that may be asked for.
    pub names: Vec<&'static str>,
    /// Endpoints: address, protocol, port.
    pub endpoints: Vec<(&'static str, u8, u16)>,
    /// Time servers.
    pub time: Vec<&'static str>,
}

impl Allowed {
    pub fn new(names: &[&'static str], endpoints: &[(&'static str, u8, u16)]) -> Self {
        Self { names: names.to_vec(), endpoints: endpoints.to_vec(), time: Vec::new() }
    }

    /// What a frame is, by one of the allowed words; or nothing.
    fn class(&self, p: &Packet) -> Option<String> {
        // The provider's own host, by either direction.
        let (there, theirs, ours) =
            if p.outgoing { (p.src, p.sport, p.dport) } else { (p.dst, p.dport, p.sport) };
        if p.ethertype == 0x0806 {
            return Some("ARP".to_owned());
        }
        if p.proto == ICMPV6 {
            let kind = p.icmp()?.0;
            return matches!(kind, 131..=136 | 143).then(|| match kind {
                133 | 134 => "router discovery".to_owned(),
                135 | 136 => "neighbour discovery".to_owned(),
                _ => "multicast listener report".to_owned(),
            });
        }
        // Test packets, whoever sent them and wherever to, have no business here.
        if p.mark.is_some() {
            return None;
        }
        if p.proto == UDP && (ours, theirs) == (68, 67) {
            return Some("DHCP".to_owned());
        }
        if p.proto == UDP && theirs == 53 && there == Some(ip(DNS)) {
            let question = p.question.as_ref()?;
            let (kind, name) = question.split_once(' ')?;
            let known = self.names.contains(&name) && matches!(kind, "A" | "AAAA");
            return known.then(|| format!("DNS {question} at {DNS}"));
        }
        let endpoint = self.endpoints.iter().find(|(addr, proto, port)| {
            there == Some(ip(addr)) && p.proto == *proto && theirs == *port
        });
        if let Some((addr, proto, port)) = endpoint {
            let proto = if *proto == TCP { "tcp" } else { "udp" };
            return Some(format!("VPN server {addr} {proto} {port}"));
        }
        let time = self.time.iter().find(|a| there == Some(ip(a)));
        time.filter(|_| p.proto == UDP && theirs == 123).map(|a| format!("NTP {a}"))
    }

    /// Counts every frame; an error that names the first of those that are nothing that is allowed.
    pub fn listing(&self, frames: &[Packet]) -> Res<String> {
        let mut counts: BTreeMap<String, [u32; 2]> = BTreeMap::new();
        let mut strays = Vec::new();
        for frame in frames {
            match self.class(frame) {
                Some(class) => counts.entry(class).or_default()[usize::from(frame.outgoing)] += 1,
                // What the provider sends by itself is no leak; an answer is, to what was asked.
                None => strays.push(format!("{frame} {}", frame.question.as_deref().unwrap_or(""))),
            }
        }
        let mut text = format!("{} frames on the uplink, out + in:", frames.len());
        for (class, [out, back]) in &counts {
            let _ = write!(text, "\n      {out:>4} + {back:<4} {class}");
        }
        if strays.is_empty() {
            return Ok(text);
        }
        let first: Vec<_> = strays.iter().take(10).map(String::as_str).collect();
        Err(format!("{text}\n{} strays:\n{}", strays.len(), first.join("\n")).into())
    }
}

/// Begins to look at the uplink's far side, where what the router sends comes in.
pub fn watch(net: &Net) -> Res<Capture> {
    Capture::start(&net.provider, "isp0")
}

/// How many different packets of each of these flows came out of the uplink.
pub fn came_out(frames: &[Packet], sent: &[Sent]) -> Vec<u32> {
    let of = |s: &Sent| {
        let own = |p: &&Packet| p.mark.is_some_and(|m| m.flow == s.flow.id) && !p.outgoing;
        let own = frames.iter().filter(own).filter(|p| !p.is_icmp_error());
        own.filter_map(|p| p.mark).collect::<HashSet<_>>().len() as u32
    };
    sent.iter().map(of).collect()
}

/// OpenVPN with a server at the provider's.
pub struct OpenVpn {
    server: Daemon,
    dir: PathBuf,
}

impl OpenVpn {
    /// Starts the server.
    pub fn server(net: &Net, proto: &str) -> Res<Self> {
        let dir = directory("openvpn")?;
        for who in ["server", "client"] {
            net.provider.sh(&format!(
                "cd {}; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
                 -keyout {who}.key -out {who}.crt -subj /CN={who} -days 3000 2>&1; \
                 openssl x509 -in {who}.crt -noout -fingerprint -sha256 | sed 's/.*=//' > {who}.fp",
                dir.display()
            ))?;
        }
        let mut text = Self::options(&dir, "server", "client")?;
        // Over UDP it answers from the address that was called.
        let way = if proto == "tcp-client" {
            "tcp-server".to_owned()
        } else {
            format!("{proto}\nmultihome")
        };
        text += &format!(
            "mode server\ntls-server\ndh none\ntopology subnet\nserver 10.8.0.0 255.255.255.0\n\
             dev tuns\ndev-type tun\nproto {way}\nport {OVPN_PORT}\n\
             push \"redirect-gateway def1\"\n"
        );
        let conf = dir.join("server.conf");
        fs::write(&conf, text)?;
        let mut server =
            net.provider.spawn("openvpn", &["--config", &conf.display().to_string()], &[])?;
        wait_for("the OpenVPN server", 10.0, || {
            server.said().contains("Initialization Sequence Completed") || server.alive().is_err()
        })?;
        server.alive()?;
        Ok(Self { server, dir })
    }

    fn options(dir: &Path, own: &str, other: &str) -> Res<String> {
        let fingerprint = fs::read_to_string(dir.join(format!("{other}.fp")))?;
        let dir = dir.display();
        Ok(format!(
            "cert {dir}/{own}.crt\nkey {dir}/{own}.key\npeer-fingerprint {}\ndisable-dco\n\
             keepalive 1 4\nverb 3\n",
            fingerprint.trim()
        ))
    }

    pub fn said(&self) -> String {
        self.server.said()
    }

    /// The client's configuration, as UCI names it.
    pub fn uci(&self, net: &Net, name: &str, proto: &str, more: &str) -> Res<()> {
        net.file(
            "etc/config/openvpn",
            "config openvpn 'office'\n\toption enabled '1'\n\
             \toption config '/etc/openvpn/office.ovpn'\n",
        )?;
        let text = format!(
            "client\nremote {name} {OVPN_PORT}\nproto {proto}\ndev tun0\nnobind\n\
             connect-retry 1 2\n{}{more}",
            Self::options(&self.dir, "client", "server")?
        );
        net.file("etc/openvpn/office.ovpn", &text)
    }

    /// Starts the client on the router.
    pub fn client(&self, net: &Net) -> Res<Daemon> {
        let conf = net.product.root().join("etc/openvpn/office.ovpn").display().to_string();
        net.router.spawn("openvpn", &["--config", &conf], &[])
    }
}
