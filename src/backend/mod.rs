//! Backends: the rule model → a kernel's firewall, and back. They translate and decide nothing; what
//! one cannot express is an error, never left out.

pub mod nft;
