//! WireGuard peers whose server has moved while the tunnel is down.
//!
//! WireGuard looks a name up once, when it is set up, and calls that address for ever. Responsible for
//! noticing that a silent peer calls an address that its server's name no longer has ([`moved`] and
//! [`Follower`], which are pure), and for having it set up again by the platform's own commands
//! ([`call`]). Never touches a peer that answers or that nobody uses, and never goes by a name for which
//! no address is known now.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::config::Host;
use crate::json;
use crate::observe::vpn::{Found, Running};
use crate::observe::{Observed, netifd};
use crate::policy::{Policy, current_addrs};
use crate::types::Sorted;

/// A peer without a handshake for so long has no keys any more (WireGuard's `REJECT_AFTER_TIME`).
const SILENT_SECS: u64 = 180;
/// How often it is looked whether a silent peer that once answered is used at all.
const LOOK: Duration = Duration::from_secs(30);
/// A peer that still does not answer is left alone for so long.
const PAUSE: Duration = Duration::from_secs(300);
/// Where `wg` is, below the root directory.
const WG: &str = "usr/bin/wg";

/// A peer that calls where its server is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The tunnel's device.
    pub device: String,
    /// Its netifd interface, if that has no other peer that answers: then all of it is set up again,
    /// which makes the route to the new address as well.
    pub interface: Option<String>,
    /// The peer's public key in base64.
    pub key: String,
    /// The server's name.
    pub host: String,
    /// Where it is called.
    pub from: SocketAddr,
    /// Where it is.
    pub to: SocketAddr,
    /// Seconds until it has been silent for long enough.
    pub wait: u64,
    /// Whether it ever answered.
    pub answered: bool,
    /// Bytes that were sent to it.
    pub sent: u64,
}

/// Which peers are to be called elsewhere, and when to look again.
#[derive(Clone, Debug, Default)]
pub struct Follower {
    /// When a peer was called elsewhere, by device and key.
    called: Sorted<(String, String), Instant>,
    /// What had been sent to a peer when it was first seen silent.
    sent: Sorted<(String, String), u64>,
}

impl Follower {
    /// Those of `moved` whose time has come; and when to look again.
    pub fn due<'a>(
        &mut self,
        moved: &'a [Moved],
        now: Instant,
    ) -> (Vec<&'a Moved>, Option<Duration>) {
        let name = |peer: &Moved| (peer.device.clone(), peer.key.clone());
        self.called.retain(|_, at| now.duration_since(*at) < PAUSE);
        self.sent.retain(|of, _| moved.iter().any(|peer| name(peer) == *of));
        let (mut due, mut again) = (Vec::new(), Vec::new());
        for peer in moved {
            // A server may answer from another address than it has in DNS. While nobody uses the tunnel
            // that looks the same as one that is gone; but then nothing is sent.
            let first = self.sent.get(&name(peer)).copied().unwrap_or(peer.sent);
            self.sent.insert(name(peer), first);
            if peer.wait > 0 {
                self.sent.remove(&name(peer));
                again.push(Duration::from_secs(peer.wait));
            } else if let Some(at) = self.called.get(&name(peer)) {
                again.push(PAUSE.saturating_sub(now.duration_since(*at)));
            } else if peer.answered && peer.sent == first {
                again.push(LOOK);
            } else {
                self.called.insert(name(peer), now);
                again.push(PAUSE);
                due.push(peer);
            }
        }
        (due, again.into_iter().min())
    }
}

/// The peers of tunnels that call an address which their server's name no longer has.
pub fn moved(policy: &Policy, observed: &Observed) -> Vec<Moved> {
    // Seconds since a handshake; none for one that never was, or that a wrong clock has timed.
    let age = |running: &Running| {
        let age = observed.clock.checked_sub(running.handshake);
        age.filter(|_| running.handshake != 0)
    };
    let answers = |f: &Found| f.running.as_ref().and_then(age).is_some_and(|age| age < SILENT_SECS);
    let of = |found: &Found| {
        let (running, device) = (found.running.as_ref()?, found.device.as_ref()?.to_string());
        let Host::Name(host) = &found.host else { return None };
        let addrs = current_addrs(observed, host);
        let now = running.addr.ip().to_canonical();
        if addrs.contains(&now) || !policy.is_tunnel(&device) {
            return None;
        }
        let same_family = addrs.iter().find(|a| a.is_ipv4() == now.is_ipv4());
        let to = *same_family.or(addrs.first())?;
        let beside = observed.vpn.iter().any(|f| f.device == found.device && answers(f));
        Some(Moved {
            interface: found.interface.clone().filter(|_| !beside),
            key: running.key.clone(),
            host: host.clone(),
            from: running.addr,
            to: SocketAddr::new(to, found.port?),
            wait: age(running).map_or(0, |age| SILENT_SECS.saturating_sub(age)),
            answered: running.handshake != 0,
            sent: running.sent,
            device,
        })
    };
    observed.vpn.iter().filter_map(of).collect()
}

/// Has the peer call its server where it is now.
///
/// # Errors
/// Which command did not do its work, for a person.
pub fn call(root: &Path, peer: &Moved) -> Result<(), String> {
    if let Some(interface) = &peer.interface {
        let message = json::text(&[("interface", interface)]);
        // What `ifup` does. One that is down already is no reason not to bring it up.
        let asked = ["down", "up"].map(|what| {
            netifd::ubus(root, &["call", "network.interface", what, &message]).is_some()
        });
        if asked == [true, true] {
            return Ok(());
        }
        // Without netifd nobody makes routes either.
    }
    let own = root.join(WG);
    let program = if own.is_file() { own } else { Path::new("/").join(WG) };
    let to = peer.to.to_string();
    let mut words = vec![program.as_os_str()];
    words.extend(["set", &peer.device, "peer", &peer.key, "endpoint", &to].map(OsStr::new));
    let done = netifd::answer(&words).is_some();
    done.then_some(()).ok_or_else(|| format!("{} set {} failed", program.display(), peer.device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::names::{Known, tests_known};
    use crate::policy;
    use crate::types::{DevicePattern, Proto};

    const NOW: u64 = 1_800_000_000;

    fn peer(name: &str, key: &str, addr: &str, handshake: u64) -> Found {
        Found {
            name: key.to_owned(),
            host: Host::parse(name).unwrap(),
            port: Some(51820),
            proto: Proto::Udp,
            source_port: Some(1),
            mark: None,
            user: None,
            interface: Some("vpn".to_owned()),
            device: DevicePattern::parse("wg0").ok(),
            source: String::new(),
            running: Some(Running {
                key: key.to_owned(),
                addr: addr.parse().unwrap(),
                handshake,
                sent: 148,
            }),
        }
    }

    fn look(tunnel: &str, known: &[(&str, &[&str])], vpn: Vec<Found>) -> Vec<Moved> {
        let text = format!(
            "config killswitch\n option enabled 1\n list local_device br-lan\n\
             list tunnel_device {tunnel}\n"
        );
        let config = config::parse(text.as_bytes()).unwrap();
        let known: Known = tests_known(known);
        let observed = Observed { vpn, known, clock: NOW, ..Observed::default() };
        let (policy, _) = policy::derive(&config, &observed).unwrap();
        moved(&policy, &observed)
    }

    const HOME: &str = "home.example.net";

    #[test]
    fn a_silent_peer_follows_its_name() {
        let old = || vec![peer(HOME, "a", "192.0.2.1:51820", 0)];
        let found = look("wg0", &[(HOME, &["2001:db8::2", "192.0.2.2"])], old());
        assert_eq!(found.len(), 1);
        // To the same family, since that is known to be there.
        assert_eq!(found[0].to, "192.0.2.2:51820".parse().unwrap());
        assert_eq!((found[0].wait, found[0].interface.as_deref()), (0, Some("vpn")));
        let found = look("wg0", &[(HOME, &["2001:db8::2"])], old());
        assert_eq!(found[0].to, "[2001:db8::2]:51820".parse().unwrap());
    }

    #[test]
    fn nobody_else_does() {
        let old = |handshake| vec![peer(HOME, "a", "192.0.2.1:51820", handshake)];
        let there: &[(&str, &[&str])] = &[(HOME, &["192.0.2.2"])];
        // No address is known; it is one of those that are; it is not our tunnel; it has no name.
        assert!(look("wg0", &[], old(0)).is_empty());
        assert!(look("wg0", &[(HOME, &["192.0.2.2", "192.0.2.1"])], old(0)).is_empty());
        let mapped = vec![peer(HOME, "a", "[::ffff:192.0.2.2]:51820", 0)];
        assert!(look("wg0", there, mapped).is_empty());
        assert!(look("wg1", there, old(0)).is_empty());
        let by_address = vec![peer("192.0.2.9", "a", "192.0.2.1:51820", 0)];
        assert!(look("wg0", there, by_address).is_empty());
    }

    #[test]
    fn one_that_answered_lately_has_time() {
        let old = |handshake| vec![peer(HOME, "a", "192.0.2.1:51820", handshake)];
        let there: &[(&str, &[&str])] = &[(HOME, &["192.0.2.2"])];
        let wait = |handshake| look("wg0", there, old(handshake))[0].wait;
        assert_eq!((wait(NOW), wait(NOW - 100), wait(NOW - 181)), (180, 80, 0));
        // The clock was wrong then, or is now.
        assert_eq!(wait(NOW + 1000), 0);
    }

    /// What a follower does with one peer, at these times: silent for so long, after so many bytes.
    fn follow(answered: bool, looks: &[(u64, u64, u64)]) -> Vec<(bool, u64)> {
        let begin = Instant::now();
        let mut follower = Follower::default();
        let there: &[(&str, &[&str])] = &[(HOME, &["192.0.2.2"])];
        let mut moved = look("wg0", there, vec![peer(HOME, "a", "192.0.2.1:51820", 0)]);
        let mut out = Vec::new();
        for (at, wait, sent) in looks {
            (moved[0].answered, moved[0].wait, moved[0].sent) = (answered, *wait, *sent);
            let (due, again) = follower.due(&moved, begin + Duration::from_secs(*at));
            out.push((!due.is_empty(), again.unwrap().as_secs()));
        }
        out
    }

    #[test]
    fn one_that_never_answered_is_called_at_once_and_then_left_alone_for_a_while() {
        let looks = [(0, 0, 148), (1, 0, 296), (299, 0, 400), (300, 0, 400)];
        assert_eq!(follow(false, &looks), [(true, 300), (false, 299), (false, 1), (true, 300)]);
    }

    #[test]
    fn one_that_nobody_uses_is_left_alone() {
        let looks = [(0, 80, 500), (80, 0, 600), (110, 0, 600), (140, 0, 748), (141, 0, 896)];
        let done = [(false, 80), (false, 30), (false, 30), (true, 300), (false, 299)];
        assert_eq!(follow(true, &looks), done);
        let (due, again) = Follower::default().due(&[], Instant::now());
        assert!(due.is_empty() && again.is_none());
    }

    #[test]
    fn beside_a_peer_that_answers_nothing_is_set_up_again() {
        let peers = vec![
            peer(HOME, "a", "192.0.2.1:51820", 0),
            peer("192.0.2.9", "b", "192.0.2.9:51820", NOW - 5),
        ];
        let found = look("wg0", &[(HOME, &["192.0.2.2"])], peers);
        assert_eq!((found.len(), found[0].interface.as_deref()), (1, None));
    }
}
