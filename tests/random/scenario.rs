//! What is played: a node, the states of a cluster one after the other, and packets in each. Kept as JSON.

use serde::{Deserialize, Serialize};

use crate::model::objects::{Cluster, Node, Packet};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scenario {
    pub node: Node,
    pub stages: Vec<Stage>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    pub cluster: Cluster,
    /// The agent hears it by a list, else object by object.
    pub all_at_once: bool,
    pub steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// A new connection.
    Packet(Packet),
    /// Another packet of an earlier one, of those that got through.
    Again(u16),
    /// So many seconds pass.
    Wait(u32),
}
