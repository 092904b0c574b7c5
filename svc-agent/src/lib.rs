//! The user side of svcplane.
//!
//! ```text
//! Kubernetes API | manifests ─watch→ Cluster ─compile→ Desired ─diff(Actual)→ Changes ─apply→ maps
//! ```

// They panic where nobody reads; `say` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod check;
pub mod claims;
pub mod cluster;
pub mod compile;
pub mod config;
pub mod connections;
pub mod conntrack;
pub mod dataplane;
pub mod describe;
pub mod desired;
pub mod diff;
pub mod explain;
pub mod filter;
pub mod get;
pub mod guard;
pub mod health;
pub mod inspect;
pub mod logging;
pub mod look;
pub mod maglev;
pub mod metrics;
pub mod monitor;
pub mod netlink;
pub mod node;
pub mod notices;
pub mod packed;
pub mod plan;
pub mod privileges;
pub mod realtime;
pub mod reconcile;
pub mod refusals;
pub mod rivals;
pub mod routing;
pub mod run;
pub mod say;
pub mod shadow;
pub mod shared;
pub mod shares;
pub mod shell;
pub mod sockets;
pub mod source;
pub mod tally;
pub mod top;
