//! Configuration: text of `/etc/config/vpn-killswitch` → a complete, validated configuration.
//!
//! Responsible for saying what the file means, or naming every error in it. Never skips a section:
//! a file with an error yields errors only.

pub mod edit;
pub mod uci;
