//! The packet line of svcplane, pure and `no_std`: all that can be wrong about a packet, testable on the host.
//!
//! ```text
//! packet | connect() ─parse→ Request ─frontend→ Flow ─steer→ Rewrite ─apply→ forward
//! ```
//!
//! Modules in the order of the line: [`family`] and [`wire`] say what differs between IPv4 and IPv6, [`mod@packet`] holds
//! bytes, [`parse`] reads a [`parse::Segment`], [`table`] is what the maps hold ([`filter`] is in front of one), [`select`] picks a backend ([`affinity`] the client's last), [`flow`]
//! remembers it, [`steer`] decides (a [`decision::Decision`]), [`rewrite`], [`refuse`] and [`echo`] change bytes, [`socket`] is the same decision for
//! `connect()`, [`tunnel`] carries packets to other nodes. [`reason`] names every way not to go through; [`event`] is what a watcher is
//! shown.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod affinity;
pub mod checksum;
pub mod crc32c;
pub mod decision;
pub mod echo;
pub mod event;
pub mod family;
pub mod filter;
pub mod flow;
#[cfg(any(test, feature = "user"))]
pub mod memory;
pub mod onward;
pub mod packet;
pub mod parse;
pub mod reason;
pub mod refuse;
pub mod rewrite;
pub mod select;
pub mod socket;
pub mod steer;
pub mod table;
pub mod tunnel;
pub mod wire;

#[cfg(test)]
mod testing;
