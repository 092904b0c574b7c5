//! The user side of svcplane.
//!
//! ```text
//! Kubernetes API | manifests ─watch→ Cluster ─compile→ Desired ─diff(Actual)→ Changes ─apply→ maps
//! ```

pub mod cluster;
pub mod desired;
