//! A real API server, and what agents find there.

pub mod objects;
pub mod prepare;
pub mod server;
