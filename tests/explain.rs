//! `explain` against the kernel: what it says about a packet is what becomes of a real one.
//!
//! The same clients send to the same places in every state that a router can be in, and captures tell
//! which packets left by the uplink, which by the tunnel, and which not at all.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a wrong index is a failed test"
)]

mod lab;

use lab::Res;
use lab::ns::Ns;
use lab::product::{Product, configuration};
use lab::topology::{CLOSED, ECHO, Lab, Tunnel, client, internet, resolver};
use lab::traffic::{Flow, Kind, send};
use lab::watch::Seen;
use serde_json::Value;
use std::net::IpAddr;

const GUEST: [&str; 2] = ["192.168.2.2", "2001:db8:1:2::2"];
const IOT: [&str; 2] = ["192.168.3.2", "2001:db8:1:3::2"];
const PACKETS: u32 = 5;

/// Where packets ended up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Tunnel,
    Uplink,
    Nowhere,
}

struct Scene {
    lab: Lab,
    product: Product,
}

impl Scene {
    fn new(main: &str, sections: &str) -> Res<Self> {
        let lab = Lab::new(Tunnel::Veth)?;
        let product = Product::new(env!("CARGO_BIN_EXE_vpn-killswitch"), &lab.router)?;
        product.configure(&(configuration("strict", main) + "\n" + sections))?;
        Ok(Self { lab, product })
    }

    fn explain(&self, source: &str, to: IpAddr, rest: (&str, Option<u16>)) -> Res<Value> {
        let place = match (to, rest.1) {
            (to, None) => to.to_string(),
            (IpAddr::V4(to), Some(port)) => format!("{to}:{port}"),
            (IpAddr::V6(to), Some(port)) => format!("[{to}]:{port}"),
        };
        let target = format!("{place}/{}", rest.0);
        Ok(serde_json::from_str(&self.product.ok(&["explain", source, &target, "--json"])?)?)
    }

    /// Sends from everybody, and compares. Returns how often each end was met.
    fn compare(&self, state: &str) -> Res<[u32; 3]> {
        let mut ends = [0; 3];
        let lan = client().map(|a| a.to_string());
        let lan = [lan[0].as_str(), lan[1].as_str()];
        let senders: [(&Ns, [&str; 2]); 4] = [
            (&self.lab.client, lan),
            (&self.lab.guest, GUEST),
            (&self.lab.iot, IOT),
            (&self.lab.router, ["router"; 2]),
        ];
        let (mut said, mut sent) = (Vec::new(), Vec::new());
        self.lab.forget_connections()?;
        let watch = self.lab.watch()?;
        for (ns, sources) in senders {
            for (n, source) in sources.iter().enumerate() {
                let to = internet()[n];
                for (kind, at, rest) in [
                    (Kind::Udp, (to, ECHO), ("udp", Some(ECHO))),
                    (Kind::Syn, (to, CLOSED), ("tcp", Some(CLOSED))),
                    (Kind::Ping, (to, 0), ("icmp", None)),
                    (Kind::Dns, (resolver()[n], 53), ("udp", Some(53))),
                ] {
                    said.push((
                        format!("{state}: {source} {kind:?}"),
                        self.explain(source, at.0, rest)?,
                    ));
                    sent.extend(send(ns, None, vec![Flow::new(kind, at)], PACKETS, 1000)?);
                }
            }
        }
        let seen = watch.finish()?;
        for ((what, said), sent) in said.iter().zip(&sent) {
            let met = |packets| Seen::distinct(packets, std::slice::from_ref(sent));
            assert!(sent.sent >= PACKETS);
            let end = match (met(&seen.uplink), met(&seen.vpn)) {
                (0, 0) => End::Nowhere,
                (0, n) if n == sent.sent => End::Tunnel,
                (n, _) if n == sent.sent => End::Uplink,
                other => return Err(format!("{what}: {other:?} of {}", sent.sent).into()),
            };
            ends[end as usize] += 1;
            let expected = match (said["verdict"].as_str(), said["place"].as_str()) {
                (Some("passes"), Some("tunnel")) => End::Tunnel,
                (Some("passes"), Some("outside")) => End::Uplink,
                (Some("refused" | "unreachable"), _) => End::Nowhere,
                _ => return Err(format!("{what}: {said:#}").into()),
            };
            assert_eq!(expected, end, "{what} said {said:#}");
            assert_eq!(said["certain"], true, "{what}: {said:#}");
        }
        Ok(ends)
    }

    /// Takes one layer away.
    fn without(&self, layer: &str) -> Res<()> {
        if layer == "netfilter" {
            return self.lab.router.nft("delete table inet vpn_killswitch\n");
        }
        for family in ["-4", "-6"] {
            self.lab.router.sh(&format!("ip {family} rule flush protocol 107"))?;
        }
        Ok(())
    }
}

#[test]
fn what_is_said_is_what_happens_to_packets() -> Res<()> {
    let exempt = "config exempt\n\toption name 'Guest'\n\tlist src_ip '192.168.2.0/24'\n\
                  \tlist dest_port '7'\n\toption proto 'udp'\n";
    let mut scene = Scene::new("", exempt)?;
    let [tunnel, uplink, nowhere] = scene.compare("open")?;
    assert_eq!((tunnel, uplink, nowhere), (32, 0, 0), "an open router whose tunnel is up");

    scene.product.ok(&["apply"])?;
    let [tunnel, uplink, nowhere] = scene.compare("protecting")?;
    // The exempt guest's packets go on using the tunnel: an exemption is no route.
    assert!(tunnel > 20 && uplink == 0 && nowhere < 12, "{tunnel} {uplink} {nowhere}");

    scene.lab.tunnel_down()?;
    let [tunnel, uplink, nowhere] = scene.compare("blocking")?;
    assert_eq!((tunnel, uplink, nowhere), (0, 1, 31), "blocking");

    scene.product.ok(&["pause", "10m", "--client", "192.168.1.2"])?;
    let [tunnel, uplink, nowhere] = scene.compare("paused")?;
    assert_eq!((tunnel, uplink, nowhere), (0, 5, 27), "paused");
    scene.product.ok(&["resume"])?;

    scene.product.ok(&["disable"])?;
    assert_eq!(scene.compare("disabled")?, [0, 32, 0]);
    scene.lab.tunnel_up()?;
    assert_eq!(scene.compare("disabled, tunnel up")?, [32, 0, 0]);
    Ok(())
}

#[test]
fn a_layer_that_is_missing_is_not_said_to_refuse() -> Res<()> {
    let scene = Scene::new("", "")?;
    scene.product.ok(&["apply"])?;
    scene.lab.tunnel_down()?;
    let to = internet()[0];
    for (gone, left) in [("netfilter", "routing"), ("routing", "netfilter")] {
        scene.without(gone)?;
        let said = scene.explain("192.168.1.2", to, ("udp", Some(ECHO)))?;
        assert_eq!(said["verdict"], "refused", "without {gone}: {said:#}");
        for layer in said["layers"].as_array().unwrap() {
            let name = layer["name"].as_str().unwrap();
            assert_eq!(layer["in_force"], name == left, "without {gone}: {said:#}");
            assert_eq!(layer["says"] == "refuses", name == left, "without {gone}: {said:#}");
        }
        scene.product.ok(&["apply"])?;
    }
    scene.without("routing")?;
    scene.without("netfilter")?;
    let said = scene.explain("192.168.1.2", to, ("udp", Some(ECHO)))?;
    assert_eq!(
        (said["verdict"].as_str(), said["place"].as_str()),
        (Some("passes"), Some("outside"))
    );
    assert_eq!(said["reason"], "protection is off", "{said:#}");
    Ok(())
}

#[test]
fn a_rule_that_somebody_added_makes_it_uncertain() -> Res<()> {
    let scene = Scene::new("", "")?;
    scene.product.ok(&["apply"])?;
    scene.lab.tunnel_down()?;
    scene.lab.router.nft("insert rule inet vpn_killswitch forward accept\n")?;
    let said = scene.explain("192.168.1.2", internet()[0], ("udp", Some(ECHO)))?;
    assert_eq!(said["certain"], false, "{said:#}");
    assert!(said["notes"].as_array().unwrap().iter().any(|n| n["code"] == "differs"), "{said:#}");
    Ok(())
}

#[test]
fn questions_without_an_answer_are_refused_with_the_reason() -> Res<()> {
    let scene = Scene::new("", "")?;
    for (args, code, why) in [
        (&["explain", "192.168.1.2"][..], 2, "needs SRC and DST"),
        (&["explain", "192.168.1.2", "example.org:80/tcp"], 2, "names are not looked up"),
        (&["explain", "192.168.1.2", "192.0.2.80:80/tcp", "--in", "eth9"], 2, "no device 'eth9'"),
    ] {
        let out = scene.product.run(args)?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(code), "{said}");
        assert!(said.contains(why), "{said}");
    }
    // By another device than the way back: a client's forged source is judged like any other.
    let args = ["explain", "192.168.1.2", "192.0.2.80:80/tcp", "--in", "br-iot"];
    assert!(scene.product.ok(&args)?.contains("br-iot is none of the local networks"));
    Ok(())
}
