//! The second layer: policy routing that refuses what would be forwarded over an uplink.
//!
//! Independent of netfilter: it holds through `nft flush ruleset`, and needs no process. Devices of
//! tunnels and local networks are put into an interface group; traffic that is forwarded may use the
//! routes of the main table that lead over grouped devices, and is refused otherwise. Uplinks are
//! never named, so a new one is closed, and so is a tunnel that was created again until it is grouped.
//!
//! What is refused is routed to a sink, a bridge without ports: it passes the forward hook on its way,
//! so that layer 1 can tell the client, count it and remember it, and it ends there when layer 1 is
//! gone. Without the sink a last rule refuses it outright.
//!
//! This module plans: what should be there, what is, and the steps between. Pure; [`kernel`] reads and
//! writes. It has no policy of its own: tunnels, local networks and the pass mark come from
//! [`Policy`].

pub mod kernel;
mod message;

use std::fmt;

pub use message::concerns_us;

use crate::observe::{Link, Observed, SINK, SINK_TABLE, Sink};
use crate::policy::Policy;
use crate::types::Family;

/// The interface group of tunnels and local networks. A device that somebody put into another group
/// than the default is left there: routes over it are usable, which is what a group is for here.
pub const GROUP: u32 = 0x766b;
/// The group that every device begins in (`INIT_NETDEV_GROUP`, linux/netdevice.h).
const DEFAULT_GROUP: u32 = 0;

/// Who made a rule (`FRA_PROTOCOL`): rules with another number are not ours and are never touched.
pub const PROTOCOL: u8 = 107;

/// The last place before `main` (32766), for all our rules, in their order: rules of the same priority
/// are asked in the order in which they came. So every rule of somebody else's that chooses a tunnel's
/// table is asked before ours refuse, also one that took 32765 or 32764 because it came without a
/// priority (wg-quick's do), and layer 1 judges what it chooses.
const PRIORITY: u32 = 32765;

/// A routing rule of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its family.
    pub family: Family,
    /// Its place; lower is asked earlier.
    pub priority: u32,
    /// What it does.
    pub does: Does,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Does {
    /// What carries the pass mark uses the main table as it is.
    PassToMain(u32),
    /// What is forwarded uses the main table's routes, except those over devices without a group.
    MainWithoutUplinks,
    /// What is forwarded uses the main table, uplinks and all: what a kernel before 3.12 makes of
    /// [`Self::MainWithoutUplinks`]. It closes nothing, and is only ever deleted.
    Main,
    /// What is forwarded goes to the sink.
    ToSink,
    /// What is forwarded is refused.
    Refuse,
    /// Something that this version does not make.
    Else(String),
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IPv{} rule {}: ", self.family.digit(), self.priority)?;
        match &self.does {
            Does::PassToMain(mark) => write!(f, "fwmark {mark:#x}/{mark:#x} lookup main"),
            Does::MainWithoutUplinks => {
                write!(f, "not iif lo lookup main suppress_ifgroup {DEFAULT_GROUP}")
            }
            Does::Main => f.write_str("not iif lo lookup main"),
            Does::ToSink => write!(f, "not iif lo lookup {SINK_TABLE}"),
            Does::Refuse => f.write_str("not iif lo prohibit"),
            Does::Else(what) => f.write_str(what),
        }
    }
}

/// What there is of our rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// Our rules, in the order in which they are asked.
    pub rules: Vec<Rule>,
    /// Families in which somebody's rule stands between ours and `main`, where it is never asked.
    pub overtaken: Vec<Family>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Moves a device into a group.
    Group {
        /// The device's name, for people.
        name: String,
        /// Its index.
        index: u32,
        /// The group.
        group: u32,
    },
    /// Creates the sink, or switches it on.
    AddSink,
    /// Adds the route to the sink, whose index is given.
    RouteToSink(Family, u32),
    /// Deletes the sink, and its routes with it.
    DeleteSink(u32),
    /// Adds a rule.
    Add(Rule),
    /// Deletes a rule.
    Delete(Rule),
}

impl fmt::Display for Step {
    /// As a difference, seen from what should be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group { name, group: GROUP, .. } => {
                write!(f, "routing: device {name} is not in group {GROUP}")
            }
            Self::Group { name, .. } => {
                write!(f, "routing: device {name} is in group {GROUP} and should not be")
            }
            Self::AddSink => write!(f, "routing: device {SINK} is missing or off"),
            Self::RouteToSink(family, _) => {
                write!(f, "routing: no IPv{} route to {SINK}", family.digit())
            }
            Self::DeleteSink(_) => write!(f, "routing: device {SINK} should not be there"),
            Self::Add(rule) => write!(f, "routing: missing: {rule}"),
            Self::Delete(rule) => write!(f, "routing: should not be there: {rule}"),
        }
    }
}

/// The rules that should be there, in their order.
fn wanted(policy: &Policy) -> Vec<Rule> {
    Family::BOTH
        .into_iter()
        .flat_map(|family| {
            [
                Does::PassToMain(policy.pass_mark),
                Does::MainWithoutUplinks,
                Does::ToSink,
                Does::Refuse,
            ]
            .map(|does| Rule { family, priority: PRIORITY, does })
        })
        .collect()
}

/// Whether a rule that the family's refusals depend on is among those that the kernel refused.
fn cannot(family: Family, unable: &[Rule]) -> bool {
    unable.iter().any(|r| r.family == family && r.does != Does::ToSink)
}

/// The steps from what is there to what should be; without a policy nothing should. Rules that the
/// kernel refused are not tried again: without the one to the sink a family is as good as it gets, and
/// without another it is left as it is, for then the rest would refuse what is allowed.
///
/// In an order that never opens and, while it goes on, refuses nothing that will be allowed: grouped
/// devices first, then rules from the first to be asked to the last; old rules go last to first.
pub fn plan(
    policy: Option<&Policy>,
    links: &[Link],
    sink: Sink,
    installed: &Installed,
    unable: &[Rule],
) -> Vec<Step> {
    let policy = policy.filter(|p| left_out(p).is_none());
    let wanted = policy.map(wanted).unwrap_or_default();
    let belongs = |name: &str| policy.is_some_and(|p| p.is_tunnel(name) || p.is_local(name));
    let step =
        |link: &Link, group| Step::Group { name: link.name.clone(), index: link.index, group };
    let (mut steps, mut last) = (Vec::new(), Vec::new());
    for link in links {
        match (belongs(&link.name), link.group) {
            (true, DEFAULT_GROUP) => steps.push(step(link, GROUP)),
            (false, GROUP) => last.push(step(link, DEFAULT_GROUP)),
            _ => {}
        }
    }
    // The sink only makes a refusal audible: its table refuses nothing while it is empty.
    match policy {
        Some(_) if sink.index == 0 || !sink.up => steps.push(Step::AddSink),
        Some(_) => {
            let missing = [(Family::V4, sink.route4), (Family::V6, sink.route6)];
            let missing = missing.into_iter().filter(|(_, there)| !there);
            steps.extend(missing.map(|(family, _)| Step::RouteToSink(family, sink.index)));
        }
        None if sink.index != 0 => last.push(Step::DeleteSink(sink.index)),
        None => {}
    }
    // Rules have an order and no number: where anything differs, all of a family are added behind what
    // is there, and then what was there goes, from the refusal on where nothing is to stay.
    for family in Family::BOTH {
        let of = |rules: &[Rule]| -> Vec<Rule> {
            rules.iter().filter(|r| r.family == family).cloned().collect()
        };
        let (mut new, mut old) = (of(&wanted), of(&installed.rules));
        new.retain(|rule| !unable.contains(rule));
        if policy.is_some() && cannot(family, unable) {
            // What closes nothing must not look as if it did: then all of the family goes.
            if old.iter().any(|r| r.does == Does::Main) {
                steps.extend(old.into_iter().rev().map(Step::Delete));
            }
            continue;
        }
        let overtaken = installed.overtaken.contains(&family) && policy.is_some();
        if new == old && !overtaken {
            continue;
        }
        if new.is_empty() {
            old.reverse();
        }
        // What an apply that could not go on has left behind the others is where it should be.
        let begun = |n: &usize| new.get(..*n).is_some_and(|begin| old.ends_with(begin));
        let begun = (0..=new.len()).rev().find(begun).filter(|_| !overtaken).unwrap_or(0);
        old.truncate(old.len().saturating_sub(begun));
        steps.extend(new.into_iter().skip(begun).map(Step::Add));
        steps.extend(old.into_iter().map(Step::Delete));
    }
    // A device that is no longer ours leaves the group at once when rules look at it, and behind the
    // rules when they go: either way nothing opens in between.
    if policy.is_some() {
        last.append(&mut steps);
        return last;
    }
    steps.append(&mut last);
    steps
}

/// Why this layer is left out; `None` where it is wanted.
pub fn left_out(policy: &Policy) -> Option<String> {
    policy.ipsec.then(|| {
        "routing cannot tell what IPsec policies will encrypt, so option ipsec leaves this layer out; \
         IPsec with a device of its own (proto xfrm) as tunnel_interface has both layers"
            .to_owned()
    })
}

/// What layer 2 does not close: devices that somebody put into a group of their own, so that routes
/// over them are not left out; routes over several devices, of which the kernel looks at the first one
/// only; and somebody's routes in the sink's table.
pub fn uncovered(policy: &Policy, seen: &Observed) -> Vec<String> {
    let ours = |name: &str| policy.is_tunnel(name) || policy.is_local(name);
    let devices = seen
        .links
        .iter()
        .filter(|l| l.group != DEFAULT_GROUP && l.group != GROUP && !ours(&l.name))
        .map(|l| format!("device {} is in group {} and not covered by routing", l.name, l.group));
    let routes = seen
        .multipath
        .iter()
        .filter(|of| of.iter().any(|d| ours(d)) && !of.iter().all(|d| ours(d)))
        .map(|of| format!("a route over {} together is not covered by routing", of.join(" and ")));
    let table = seen
        .sink
        .foreign
        .then(|| format!("routing table {SINK_TABLE} has a route that does not lead to {SINK}"));
    devices.chain(routes).chain(table).collect()
}

/// The steps as differences, in words: those that matter, and those that only make refusals audible. A
/// rule that is only to be moved is named as such.
pub fn differences(steps: &[Step]) -> (Vec<String>, Vec<String>) {
    let added = |rule: &Rule| steps.contains(&Step::Add(rule.clone()));
    let deleted = |rule: &Rule| steps.contains(&Step::Delete(rule.clone()));
    let (mut real, mut optional) = (Vec::new(), Vec::new());
    for family in Family::BOTH {
        let moved = |s: &&Step| matches!(s, Step::Add(r) if r.family == family && r.does == Does::Refuse && deleted(r));
        if steps.iter().any(|s| moved(&s)) {
            real.push(format!(
                "routing: the rules of IPv{} are not complete, in their order and the last before main",
                family.digit()
            ));
        }
    }
    for step in steps {
        match step {
            Step::Add(rule) if deleted(rule) => {}
            Step::Delete(rule) if added(rule) => {}
            step if step.is_optional() => optional.push(step.to_string()),
            step => real.push(step.to_string()),
        }
    }
    (real, optional)
}

impl Step {
    /// The rule that it is about.
    fn rule(&self) -> Option<&Rule> {
        match self {
            Self::Add(rule) | Self::Delete(rule) => Some(rule),
            _ => None,
        }
    }

    /// Whether the layer refuses without it too: it only makes the refusal audible.
    pub fn is_optional(&self) -> bool {
        match self {
            Self::AddSink | Self::RouteToSink(..) => true,
            Self::Add(rule) => rule.does == Does::ToSink,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn policy() -> Policy {
        let text = "config killswitch\n option enabled 1\n list tunnel_device 'tun*'\n \
                    list local_device br-lan\n";
        let config = config::parse(text.as_bytes()).unwrap();
        crate::policy::derive(&config, &Observed::default()).unwrap().0
    }

    fn link(name: &str, index: u32, group: u32) -> Link {
        Link { name: name.into(), index, group, ..Link::default() }
    }

    fn there(policy: &Policy) -> Installed {
        Installed { rules: wanted(policy), overtaken: Vec::new() }
    }

    const SINK_THERE: Sink =
        Sink { index: 9, up: true, route4: true, route6: true, foreign: false };

    #[test]
    fn groups_come_before_the_rules_that_look_at_them() {
        let links = [link("br-lan", 1, 0), link("tun0", 2, GROUP), link("wan", 3, 0)];
        let steps = plan(Some(&policy()), &links, Sink::default(), &Installed::default(), &[]);
        assert!(matches!(&steps[0], Step::Group { index: 1, group: GROUP, .. }));
        assert_eq!(steps[1], Step::AddSink);
        let added: Vec<&Does> = steps
            .iter()
            .filter_map(|s| if let Step::Add(r) = s { Some(&r.does) } else { None })
            .collect();
        assert_eq!(added.len(), 8);
        assert!(matches!(added[0], Does::PassToMain(_)) && *added[3] == Does::Refuse);
        assert_eq!(steps.len(), 2 + 8);
    }

    #[test]
    fn when_all_is_there_nothing_is_done() {
        let links = [link("br-lan", 1, GROUP), link("x", 2, 7)];
        let policy = policy();
        assert_eq!(plan(Some(&policy), &links, SINK_THERE, &there(&policy), &[]), []);
        let seen = Observed { links: links.into(), ..Observed::default() };
        assert_eq!(uncovered(&policy, &seen).len(), 1);
    }

    #[test]
    fn a_sink_without_routes_gets_them() {
        let policy = policy();
        let sink = Sink { route6: false, ..SINK_THERE };
        let steps = plan(Some(&policy), &[], sink, &there(&policy), &[]);
        assert_eq!(steps, [Step::RouteToSink(Family::V6, 9)]);
        assert!(steps[0].is_optional());
    }

    #[test]
    fn switching_off_removes_refusals_first_and_only_what_is_ours() {
        let links = [link("br-lan", 1, GROUP), link("other", 2, 9)];
        let steps = plan(None, &links, SINK_THERE, &there(&policy()), &[]);
        assert!(matches!(&steps[0], Step::Delete(r) if r.does == Does::Refuse));
        assert!(steps.contains(&Step::DeleteSink(9)));
        assert!(steps.contains(&Step::Group { name: "br-lan".into(), index: 1, group: 0 }));
        assert_eq!(steps.len(), 8 + 2);
    }

    #[test]
    fn a_device_that_is_no_longer_ours_leaves_the_group_first() {
        let steps =
            plan(Some(&policy()), &[link("wan", 4, GROUP)], SINK_THERE, &Installed::default(), &[]);
        assert!(matches!(&steps[0], Step::Group { index: 4, group: DEFAULT_GROUP, .. }));
    }

    #[test]
    fn rules_in_another_order_or_before_somebodys_are_put_behind() {
        let policy = policy();
        let mut swapped = there(&policy);
        swapped.rules.swap(1, 2);
        let overtaken = Installed { overtaken: vec![Family::V4], ..there(&policy) };
        for installed in [swapped, overtaken] {
            let steps = plan(Some(&policy), &[], SINK_THERE, &installed, &[]);
            assert_eq!(steps.len(), 8);
            assert!(matches!(&steps[3], Step::Add(r) if r.does == Does::Refuse));
            assert!(matches!(&steps[4], Step::Delete(r) if r.family == Family::V4));
        }
    }

    #[test]
    fn what_the_kernel_refused_is_not_tried_again() {
        let policy = policy();
        let all = wanted(&policy);
        let of = |family| all.iter().filter(move |r| r.family == family).cloned();
        let v4: Vec<Rule> = of(Family::V4).collect();
        for refused in of(Family::V6) {
            let unable = [refused];
            let mut installed = Installed { rules: v4.clone(), overtaken: Vec::new() };
            let steps = plan(Some(&policy), &[], SINK_THERE, &installed, &unable);
            if unable[0].does == Does::ToSink {
                let without = of(Family::V6).filter(|r| r.does != Does::ToSink);
                assert_eq!(steps, without.clone().map(Step::Add).collect::<Vec<_>>());
                installed.rules.extend(without);
            }
            assert_eq!(plan(Some(&policy), &[], SINK_THERE, &installed, &unable), []);
            // What is there goes all the same when it is switched off.
            let steps = plan(None, &[], SINK_THERE, &there(&policy), &unable);
            assert_eq!(steps.len(), 8 + 1);
        }
    }
}
