//! What API objects cause, one scenario a test; the rows of docs/semantics.md stand beside each.

pub mod endpoints;
pub mod frontends;
pub mod types;
