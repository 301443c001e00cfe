//! A kill switch for routers, kept as a property of the kernel's rules.
//!
//! Data flows in one direction; a module imports only from those named before it:
//! [`config`] and [`observe`] → [`policy`] → [`ruleset`] → [`backend`] → kernel, and back from the
//! kernel through the backend's reader to [`status`]. Beside the backend, [`routing`] holds the second
//! layer and [`conntrack`] ends the connections that the rules refuse. Pure modules do no input or
//! output, and the modules that do decide nothing.

pub mod backend;
pub mod cli;
pub mod config;
pub mod conntrack;
pub mod control;
pub mod explain;
pub mod follow;
pub mod guard;
pub mod hotplug;
pub mod json;
pub mod lock;
pub mod log;
pub mod names;
pub mod netlink;
pub mod observe;
pub mod pause;
pub mod platform;
pub mod policy;
pub mod program;
pub mod resolve;
pub mod routing;
pub mod rpcd;
pub mod ruleset;
pub mod setup;
pub mod status;
pub mod streams;
pub mod survive;
pub mod types;
