//! Kernels of another time, played: they drop the attributes that they do not know, and refuse what they
//! are told to refuse.

use super::super::message::{FRA_PROTOCOL, FRA_SUPPRESS_IFGROUP, Maker};
use super::super::{GROUP, PRIORITY};
use super::*;
use crate::config;
use crate::netlink::attr::bytes;

const HEADER: usize = 12;
/// `FRA_SUPPRESS_PREFIXLEN`: a kernel that can suppress tells it of each rule.
const SUPPRESS_PREFIXLEN: u16 = 14;

#[derive(Default)]
struct Old {
    /// Attributes that it does not know.
    unknown: Vec<u16>,
    groups: bool,
    links: Vec<Link>,
    sink: Sink,
    /// As it would list them.
    rules: Vec<Vec<u8>>,
    /// What it refuses.
    refuses: Option<fn(&Step) -> bool>,
    /// Everything that was asked of it.
    asked: Vec<Step>,
}

/// The attributes of a message.
fn attrs(message: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let (mut rest, mut out) = (&message[HEADER..], Vec::new());
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        out.push((u16::from_ne_bytes([rest[2], rest[3]]), rest[4..length].to_vec()));
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
    out
}

impl Old {
    /// Linux 4.4: everything but who made a rule.
    fn v4_4() -> Self {
        Self { unknown: vec![FRA_PROTOCOL], groups: true, links: links(), ..Self::default() }
    }

    /// Linux 3.10: it cannot suppress either.
    fn v3_10() -> Self {
        let unknown = vec![FRA_PROTOCOL, FRA_SUPPRESS_IFGROUP, SUPPRESS_PREFIXLEN];
        Self { unknown, ..Self::v4_4() }
    }

    /// What it makes of a message: what it knows, and what it adds by itself.
    fn taken(&self, message: &[u8]) -> Vec<u8> {
        let mut out = message[..HEADER].to_vec();
        let known = |kind: &u16| !self.unknown.contains(kind);
        for (kind, value) in attrs(message).iter().filter(|(kind, _)| known(kind)) {
            bytes(&mut out, *kind, value);
        }
        if known(&SUPPRESS_PREFIXLEN) {
            bytes(&mut out, SUPPRESS_PREFIXLEN, &u32::MAX.to_ne_bytes());
        }
        out
    }

    fn listed(&self) -> Vec<(Rule, Maker)> {
        self.rules.iter().map(|rule| decode(rule).unwrap().unwrap()).collect()
    }

    /// Somebody's own rule.
    fn somebodys(&mut self, family: Family, priority: u32, does: Does) {
        let rule = self.taken(&encode(&Rule { family, priority, does }));
        self.rules.insert(0, rule);
    }

    fn ours(&self) -> Vec<Rule> {
        ours(&self.listed()).rules
    }
}

impl Kernel for Old {
    fn devices(&mut self) -> io::Result<(Vec<Link>, Sink)> {
        Ok((self.links.clone(), self.sink))
    }

    fn rules(&mut self) -> io::Result<Installed> {
        Ok(ours(&self.listed()))
    }

    fn act(&mut self, step: &Step) -> Result<(), Refusal> {
        self.asked.push(step.clone());
        if self.refuses.is_some_and(|refuses| refuses(step)) {
            let error = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
            return Err(Refusal { index: 0, error, words: None });
        }
        match step {
            Step::Add(rule) => {
                // Behind those of its priority: all of these tests' are of one.
                let rule = self.taken(&encode(rule));
                self.rules.push(rule);
            }
            Step::Delete(rule) => {
                // The first with the same action and the attributes that are named; it looks at no flags.
                let asked = self.taken(&encode(rule));
                let (action, named) = (asked[7], attrs(&asked));
                let fits = |have: &Vec<u8>| {
                    let has = attrs(have);
                    have[0] == asked[0]
                        && (action == 0 || have[7] == action)
                        && named.iter().all(|attr| has.contains(attr))
                };
                if let Some(at) = self.rules.iter().position(fits) {
                    self.rules.remove(at);
                }
            }
            Step::Group { index, group, .. } if self.groups => {
                self.links.iter_mut().filter(|l| l.index == *index).for_each(|l| l.group = *group);
            }
            Step::Group { .. } => {}
            Step::AddSink => self.sink = Sink { index: 9, up: true, ..self.sink },
            Step::RouteToSink(Family::V4, _) => self.sink.route4 = true,
            Step::RouteToSink(Family::V6, _) => self.sink.route6 = true,
            Step::DeleteSink(_) => self.sink = Sink::default(),
        }
        Ok(())
    }
}

fn links() -> Vec<Link> {
    let link = |name: &str, index| Link { name: name.into(), index, ..Link::default() };
    vec![link("br0", 1), link("tun1", 2), link("vlan2", 3)]
}

fn policy(mark: &str) -> Policy {
    let text = format!(
        "config killswitch\n option enabled 1\n list tunnel_device 'tun1'\n \
         list local_device br0\n option pass_mark '{mark}'\n"
    );
    let config = config::parse(text.as_bytes()).unwrap();
    crate::policy::derive(&config, &Observed::default()).unwrap().0
}

const MARK: &str = "0x10000000";

fn differences(kernel: &mut Old, policy: Option<&Policy>) -> Vec<Step> {
    let installed = kernel.rules().unwrap();
    wanted_steps(policy, &kernel.links.clone(), kernel.sink, &installed, &[])
}

#[test]
fn without_a_maker_our_rules_are_recognised_and_nothing_is_done_twice() {
    let (mut kernel, policy) = (Old::v4_4(), policy(MARK));
    let applied = rounds(&mut kernel, Some(&policy), None, &mut Vec::new()).unwrap();
    assert_eq!((kernel.rules.len(), applied.refused), (8, vec![]));
    assert!(kernel.listed().iter().all(|(_, maker)| *maker == Maker::Unsaid));
    assert_eq!(differences(&mut kernel, Some(&policy)), []);
    // Again: nothing is asked of the kernel.
    kernel.asked.clear();
    let again = rounds(&mut kernel, Some(&policy), None, &mut Vec::new()).unwrap();
    assert_eq!((again.changes, kernel.asked.len()), (vec![], 0));
    // One that goes missing is a difference, and comes back, behind what is there.
    kernel.rules.remove(3);
    assert!(!differences(&mut kernel, Some(&policy)).is_empty());
    rounds(&mut kernel, Some(&policy), None, &mut Vec::new()).unwrap();
    assert_eq!((kernel.rules.len(), differences(&mut kernel, Some(&policy))), (8, vec![]));
    // Off: all of them go.
    rounds(&mut kernel, None, None, &mut Vec::new()).unwrap();
    assert_eq!((kernel.rules.len(), kernel.sink), (0, Sink::default()));
    assert!(kernel.links.iter().all(|l| l.group == 0));
}

#[test]
fn another_pass_mark_leaves_no_rule_for_the_old_one() {
    let mut kernel = Old::v4_4();
    rounds(&mut kernel, Some(&policy(MARK)), None, &mut Vec::new()).unwrap();
    rounds(&mut kernel, Some(&policy("0x4000")), None, &mut Vec::new()).unwrap();
    let marks: Vec<_> =
        kernel.ours().into_iter().filter(|r| matches!(r.does, Does::PassToMain(_))).collect();
    assert_eq!((marks.len(), kernel.rules.len()), (2, 8));
    assert!(marks.iter().all(|r| r.does == Does::PassToMain(0x4000)));
}

#[test]
fn what_is_not_exactly_ours_is_nobodys_of_us() {
    let (mut kernel, policy) = (Old::v4_4(), policy(MARK));
    let others = [
        // A mark's way to main, which the kernel put at our priority because it came without one.
        (Family::V4, PRIORITY, Does::PassToMain(1)),
        (Family::V4, 100, Does::Refuse),
        (Family::V6, 32000, Does::MainWithoutUplinks),
        // A kernel that can suppress says so; without that it is no rule of ours.
        (Family::V6, PRIORITY, Does::Main),
    ];
    for (family, priority, does) in others.clone() {
        kernel.somebodys(family, priority, does);
    }
    let before = kernel.rules.clone();
    assert_eq!(kernel.ours(), []);
    rounds(&mut kernel, Some(&policy), None, &mut Vec::new()).unwrap();
    assert_eq!((kernel.ours().len(), kernel.rules.len()), (8, 8 + others.len()));
    rounds(&mut kernel, None, None, &mut Vec::new()).unwrap();
    assert_eq!(kernel.rules, before);
}

#[test]
fn a_kernel_that_says_who_made_a_rule_is_believed() {
    let mut kernel = Old { unknown: vec![], ..Old::v4_4() };
    let rule = Rule { family: Family::V4, priority: PRIORITY, does: Does::Refuse };
    let mut message = encode(&rule);
    let last = message.len() - 4;
    message[last] = 4; // RTPROT_STATIC, as of ip(8).
    kernel.rules.push(message);
    assert_eq!(kernel.listed(), [(rule, Maker::Others)]);
    assert_eq!(kernel.ours(), []);
}

#[test]
fn a_kernel_that_cannot_suppress_keeps_no_rule_that_only_looks_like_one() {
    let (mut kernel, policy) = (Old::v3_10(), policy(MARK));
    let mut unable = Vec::new();
    let applied = rounds(&mut kernel, Some(&policy), None, &mut unable).unwrap();
    assert_eq!(kernel.rules, Vec::<Vec<u8>>::new());
    assert_eq!(applied.refused.len(), 2, "one for each family: {:?}", applied.refused);
    assert!(applied.refused.iter().all(|why| why.contains("suppress_ifgroup")));
    // The status compares without that knowledge: the layer is not in force.
    let (real, _) = super::super::differences(&differences(&mut kernel, Some(&policy)));
    assert_eq!(real.len(), 2 * 3, "{real:?}");
    // Who remembers does not try again.
    kernel.asked.clear();
    let again = rounds(&mut kernel, Some(&policy), None, &mut unable).unwrap();
    assert_eq!((again.changes.len(), again.refused.len(), kernel.asked.len()), (0, 0, 0));
}

#[test]
fn what_a_crash_left_on_such_a_kernel_goes_when_it_is_switched_off_or_on() {
    let policy = policy(MARK);
    for on in [Some(&policy), None] {
        let mut kernel = Old::v3_10();
        for family in Family::BOTH {
            for does in [Does::PassToMain(policy.pass_mark), Does::MainWithoutUplinks] {
                kernel.act(&Step::Add(Rule { family, priority: PRIORITY, does })).unwrap();
            }
        }
        assert_eq!(kernel.ours().len(), 4);
        rounds(&mut kernel, on, None, &mut Vec::new()).unwrap();
        assert_eq!(kernel.rules.len(), 0);
    }
}

#[test]
fn a_kernel_without_groups_comes_to_rest() {
    let (mut kernel, policy) = (Old { groups: false, ..Old::v3_10() }, policy(MARK));
    let applied = rounds(&mut kernel, Some(&policy), None, &mut Vec::new()).unwrap();
    let groups = applied.refused.iter().filter(|why| why.contains(&format!("group {GROUP}")));
    assert_eq!((groups.count(), kernel.rules.len()), (2, 0));
}

/// Whichever rule it refuses, to be added or to be deleted: it comes to rest, and no family has a
/// refusal without what allows.
#[test]
fn a_refused_rule_ends_its_familys_rounds() {
    let refusals: [fn(&Step) -> bool; 6] = [
        |s| matches!(s, Step::Add(r) if r.does == Does::ToSink && r.family == Family::V4),
        |s| matches!(s, Step::Delete(r) if r.does == Does::ToSink),
        |s| matches!(s, Step::Delete(_)),
        |s| matches!(s, Step::Add(r) if r.does == Does::MainWithoutUplinks),
        |s| matches!(s, Step::Add(r) if r.does == Does::Refuse),
        |s| matches!(s, Step::Add(r) if matches!(r.does, Does::PassToMain(_))),
    ];
    for (n, refuses) in refusals.into_iter().enumerate() {
        // From nothing, and from rules in another order.
        for before in [false, true] {
            // One that says who made a rule: what waits alone behind the others is known by that only.
            let mut kernel = Old { unknown: vec![], ..Old::v4_4() };
            let policy = policy(MARK);
            if before {
                rounds(&mut kernel, Some(&policy), None, &mut Vec::new()).unwrap();
                kernel.rules.swap(2, 3);
            }
            kernel.refuses = Some(refuses);
            let applied = rounds(&mut kernel, Some(&policy), None, &mut Vec::new());
            let applied = applied.unwrap_or_else(|e| panic!("{n} {before}: {e}"));
            // However often it is tried, nothing grows.
            let many = kernel.rules.len();
            let again = rounds(&mut kernel, Some(&policy), None, &mut Vec::new());
            assert!(again.is_ok() && kernel.rules.len() <= many, "{n} {before}");
            // Without old rules nothing is deleted.
            let deletes = matches!(n, 1 | 2);
            assert_eq!(applied.refused.is_empty(), deletes && !before, "{n} {before}");
            for family in Family::BOTH {
                let rules = kernel.ours();
                let of: Vec<_> = rules.iter().filter(|r| r.family == family).collect();
                let main = of.iter().position(|r| r.does == Does::MainWithoutUplinks);
                let refuse = of.iter().position(|r| r.does == Does::Refuse);
                assert!(refuse.is_none() || main < refuse, "{n} {before}: {of:?}");
                assert!(refuse.is_none() || main.is_some(), "{n} {before}: {of:?}");
            }
        }
    }
}
