//! Random clusters and packets through the agent's own line and into the packet line, held against the model.
//!
//! `SEED` repeats a run, `CASES` sets how many packets it judges. What fails is made small and kept in `regressions/`,
//! which every run plays first.

pub mod agree;
pub mod ask;
pub mod draw;
pub mod foretell;
pub mod game;
pub mod host;
pub mod objects;
pub mod player;
pub mod run;
pub mod scenario;
pub mod tables;
pub mod world;
