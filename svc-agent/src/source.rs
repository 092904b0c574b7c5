//! Where the cluster's objects come from. Either source says the same [`crate::cluster::Event`]s, first of all a full
//! list of every kind.

pub mod convert;
pub mod kube;
pub mod manifests;
pub mod once;

/// How many events may wait to be taken in.
pub const QUEUE: usize = 1024;
