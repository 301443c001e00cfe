//! What the system's hooks call: an interface or a device changed, or the firewall was loaded again.
//!
//! Responsible for telling events that matter from those that do not. For availability and repair: it
//! never opens, stays no longer than an apply takes, and leaves nothing behind.

use crate::control::{Control, Error};
use crate::log::{Level, Log};

/// What a hook was called for, as its environment says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `ACTION`: what happened.
    pub action: String,
    /// `INTERFACE`: netifd's name in hotplug.d/iface, the device in hotplug.d/net.
    pub interface: String,
}

impl Event {
    /// The event of this process.
    pub fn from_environment() -> Self {
        // Names may be any bytes: one that is not text is not one of ours.
        let of = |name| std::env::var(name).unwrap_or_default();
        Self { action: of("ACTION"), interface: of("INTERFACE") }
    }

    /// Whether the rules may have to follow. Of an action that is not known here we cannot know.
    fn matters(&self) -> bool {
        // netifd: an attempt failed, or a configuration was read; what follows from that is told again.
        !matches!(self.action.as_str(), "ifup-failed" | "free" | "reload" | "create")
            && !matches!(self.interface.as_str(), "lo" | "loopback")
    }
}

/// Does what the event asks for. An error goes to the log as well: nobody reads what a hook prints.
///
/// # Errors
/// See [`Error`]; what was in force still is.
pub fn run(control: &Control, event: &Event) -> Result<(), Error> {
    if !event.matters() {
        return Ok(());
    }
    let result = control.hook();
    // A broken configuration is told when it is loaded, not with every event.
    if let Err(Error::Failed(why)) = &result {
        let what = format!("{} {}: {why}", event.action, event.interface);
        Log::default().write(Level::Error, &what);
    }
    result.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_matters() {
        let matters = |action: &str, interface: &str| {
            Event { action: action.to_owned(), interface: interface.to_owned() }.matters()
        };
        for action in ["ifup", "ifdown", "ifupdate", "add", "remove", "move", "firewall", ""] {
            assert!(matters(action, "wg0"), "{action}");
            assert!(matters(action, ""), "{action}");
            assert!(!matters(action, "loopback"), "{action}");
        }
        assert!(!matters("ifup-failed", "wg0") && !matters("create", "lan"));
    }
}
