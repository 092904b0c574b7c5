//! What is to be done with a packet: the value between deciding and doing.

use crate::family::Family;
use crate::rewrite::Rewrite;

/// How a rewritten packet goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// As the host's stack routes it.
    Stack,
    /// Looked up and sent by us: its source is not what the stack would accept, or the stack has routed it already.
    Forward,
    /// Back into the device it was about to leave by: both ends are this node.
    Inject,
    /// Untouched, in a tunnel to the backend's node, which answers the client itself (DSR).
    Tunnel,
    /// Handed to the pod of this node that it is for, past the stack ([`crate::onward`]).
    Peer,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision<F: Family> {
    pub to: Rewrite<F>,
    pub route: Route,
    /// An answer, from backend to client.
    pub reply: bool,
    /// Whose packets these are, for those who count them.
    pub service: u32,
}
