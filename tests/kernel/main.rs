//! The same frame, the same tables: the host and the loaded programs (`BPF_PROG_TEST_RUN`) must agree on verdict, bytes,
//! flows and counters. Needs root; the devices and routes are in network namespaces that die with their threads.

mod agree;
mod budget;
mod cases;
mod choice;
mod dsr;
mod ends;
mod events;
mod flood;
mod history;
mod host;
mod kernel;
mod network;
mod pair;
mod pool;
mod refill;
mod tally;
mod world;

#[path = "../frames.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    reason = "written for svc-common's tests as well"
)]
mod frames;
