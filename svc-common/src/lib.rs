//! The packet line of svcplane.
//!
//! ```text
//! packet | connect() ─parse→ Request ─frontend→ Flow ─steer→ Rewrite ─apply→ forward
//! ```
#![cfg_attr(not(test), no_std)]

pub mod family;
pub mod reason;
pub mod table;
pub mod wire;
