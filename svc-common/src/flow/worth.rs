//! What would be lost with a flow, when another one needs its place in the table or its SNAT port.

use crate::family::Family;
use crate::table::{Flow, NodeConfig, flow_state};

/// What has the lowest worth goes first; within a class, who has been silent for longer.
pub const FREE: u32 = 0;
pub const OVER: u32 = 1;
const CLASS: u32 = 1 << 28;
/// Nobody has answered for more than a second: a client that is there has asked again by then.
pub const UNANSWERED: u32 = CLASS;
/// Closed, and its peers may still speak of it.
pub const CLOSED: u32 = 2 * CLASS;
/// Its client has not been heard of since the answer. It may be on its way, or the source of a flood.
pub const UNCONFIRMED: u32 = 3 * CLASS;
/// Confirmed, and silent for more than ten minutes.
pub const IDLE: u32 = 4 * CLASS;
pub const KEPT: u32 = u32::MAX;

/// A confirmed flow may have to go for a new one only after so many seconds of silence.
const KEPT_SECONDS: u32 = 600;

impl<F: Family> Flow<F> {
    #[inline(always)]
    pub fn worth(&self, now: u32, config: &NodeConfig) -> u32 {
        let silence = self.silence(now);
        let (state, age) = (self.state(), silence.min(CLASS / 4));
        let answered = state & flow_state::ESTABLISHED != 0;
        if self.is_over(now, false, config) {
            OVER
        } else if is_closed(state) {
            CLOSED - age
        } else if state & flow_state::CONFIRMED != 0 {
            if silence > KEPT_SECONDS {
                IDLE - age
            } else {
                KEPT
            }
        } else if !answered && silence > 1 {
            UNANSWERED - age
        } else {
            // Of the same second, the one that was answered stays.
            UNCONFIRMED - 2 * age - !answered as u32
        }
    }
}

/// Whether both sides have closed it, or one has reset it.
#[inline(always)]
pub(super) const fn is_closed(state: u8) -> bool {
    state & flow_state::CLOSING != 0 || state & flow_state::BOTH_FIN == flow_state::BOTH_FIN
}
