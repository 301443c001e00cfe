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

use std::fmt;

use crate::observe::{Link, SINK, SINK_TABLE, Sink};
use crate::policy::Policy;
use crate::types::Family;

/// The interface group of tunnels and local networks. A device that somebody put into another group
/// than the default is left there: routes over it are usable, which is what a group is for here.
pub const GROUP: u32 = 0x766b;
/// The group that every device begins in (`INIT_NETDEV_GROUP`, linux/netdevice.h).
const DEFAULT_GROUP: u32 = 0;

/// Who made a rule (`FRA_PROTOCOL`): rules with another number are not ours and are never touched.
pub const PROTOCOL: u8 = 107;

/// Just before `main` (32766): every rule of pbr, mwan3, netifd and wg-quick is asked earlier, and
/// layer 1 judges what they choose.
const PRIORITY_PASS: u32 = 32762;
const PRIORITY_MAIN: u32 = 32763;
const PRIORITY_SINK: u32 = 32764;
const PRIORITY_REFUSE: u32 = 32765;

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
            Does::ToSink => write!(f, "not iif lo lookup {SINK_TABLE}"),
            Does::Refuse => f.write_str("not iif lo prohibit"),
            Does::Else(what) => f.write_str(what),
        }
    }
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

/// The rules that should be there.
fn wanted(policy: &Policy) -> Vec<Rule> {
    Family::BOTH
        .into_iter()
        .flat_map(|family| {
            [
                (PRIORITY_PASS, Does::PassToMain(policy.pass_mark)),
                (PRIORITY_MAIN, Does::MainWithoutUplinks),
                (PRIORITY_SINK, Does::ToSink),
                (PRIORITY_REFUSE, Does::Refuse),
            ]
            .map(|(priority, does)| Rule { family, priority, does })
        })
        .collect()
}

/// The steps from what is there to what should be; without a policy nothing should.
///
/// In an order that never opens and, while it goes on, refuses nothing that will be allowed: grouped
/// devices first, then rules from the first to be asked to the last; old rules go last to first.
pub fn plan(policy: Option<&Policy>, links: &[Link], sink: Sink, installed: &[Rule]) -> Vec<Step> {
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
    steps.extend(wanted.iter().filter(|r| !installed.contains(r)).cloned().map(Step::Add));
    let mut old: Vec<_> = installed.iter().filter(|r| !wanted.contains(r)).collect();
    old.sort_by_key(|r| std::cmp::Reverse(r.priority));
    steps.extend(old.into_iter().cloned().map(Step::Delete));
    // A device that is no longer ours leaves the group at once when rules look at it, and behind the
    // rules when they go: either way nothing opens in between.
    if policy.is_some() {
        last.append(&mut steps);
        return last;
    }
    steps.append(&mut last);
    steps
}

/// Devices that layer 2 does not close: somebody put them into a group of their own, so that routes
/// over them are not left out.
pub fn uncovered(policy: &Policy, links: &[Link]) -> Vec<String> {
    links
        .iter()
        .filter(|l| l.group != DEFAULT_GROUP && l.group != GROUP)
        .filter(|l| !policy.is_tunnel(&l.name) && !policy.is_local(&l.name))
        .map(|l| format!("device {} is in group {} and not covered by routing", l.name, l.group))
        .collect()
}

impl Step {
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
    use crate::observe::Observed;

    fn policy() -> Policy {
        let text = "config killswitch\n option enabled 1\n list tunnel_device 'tun*'\n \
                    list local_device br-lan\n";
        let config = config::parse(text.as_bytes()).unwrap();
        crate::policy::derive(&config, &Observed::default()).unwrap().0
    }

    fn link(name: &str, index: u32, group: u32) -> Link {
        Link { name: name.into(), index, group, ..Link::default() }
    }

    const SINK_THERE: Sink = Sink { index: 9, up: true, route4: true, route6: true };

    #[test]
    fn groups_come_before_the_rules_that_look_at_them() {
        let links = [link("br-lan", 1, 0), link("tun0", 2, GROUP), link("wan", 3, 0)];
        let steps = plan(Some(&policy()), &links, Sink::default(), &[]);
        assert!(matches!(&steps[0], Step::Group { index: 1, group: GROUP, .. }));
        assert_eq!(steps[1], Step::AddSink);
        let priorities: Vec<u32> = steps
            .iter()
            .filter_map(|s| if let Step::Add(r) = s { Some(r.priority) } else { None })
            .collect();
        assert_eq!(priorities, [32762, 32763, 32764, 32765, 32762, 32763, 32764, 32765]);
        assert_eq!(steps.len(), 2 + 8);
    }

    #[test]
    fn when_all_is_there_nothing_is_done() {
        let links = [link("br-lan", 1, GROUP), link("x", 2, 7)];
        let policy = policy();
        assert_eq!(plan(Some(&policy), &links, SINK_THERE, &wanted(&policy)), []);
        assert_eq!(uncovered(&policy, &links).len(), 1);
    }

    #[test]
    fn a_sink_without_routes_gets_them() {
        let policy = policy();
        let sink = Sink { route6: false, ..SINK_THERE };
        let steps = plan(Some(&policy), &[], sink, &wanted(&policy));
        assert_eq!(steps, [Step::RouteToSink(Family::V6, 9)]);
        assert!(steps[0].is_optional());
    }

    #[test]
    fn switching_off_removes_refusals_first_and_only_what_is_ours() {
        let links = [link("br-lan", 1, GROUP), link("other", 2, 9)];
        let steps = plan(None, &links, SINK_THERE, &wanted(&policy()));
        assert!(matches!(&steps[0], Step::Delete(r) if r.does == Does::Refuse));
        assert!(steps.contains(&Step::DeleteSink(9)));
        assert!(steps.contains(&Step::Group { name: "br-lan".into(), index: 1, group: 0 }));
        assert_eq!(steps.len(), 8 + 2);
    }

    #[test]
    fn a_device_that_is_no_longer_ours_leaves_the_group_first() {
        let steps = plan(Some(&policy()), &[link("wan", 4, GROUP)], SINK_THERE, &[]);
        assert!(matches!(&steps[0], Step::Group { index: 4, group: DEFAULT_GROUP, .. }));
    }
}
