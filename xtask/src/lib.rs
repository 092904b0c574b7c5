//! xtask as a library: the network of namespaces, and the traffic in it, that the demo and the tests share.
//! It never links svc-agent: xtask is what installs the toolchain that svc-agent needs. It runs it.

pub mod agents;
pub mod ebpf;
pub mod load;
pub mod programs;
pub mod signals;
pub mod topology;
pub mod traffic;
