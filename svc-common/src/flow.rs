//! The flow record: made once, followed by every later packet of either direction.

use crate::decision::{Decision, Route};
use crate::family::{Addr, Family};
use crate::parse::Segment;
use crate::reason::Reason;
use crate::select::{ports, tuple_hash};
use crate::table::{
    BackendKey, Flow, FlowKey, Insert, NodeConfig, TCP, Tables, flow_flags, flow_state,
};
use crate::wire::tcp;

mod backing;
pub mod table;
pub mod worth;

/// No duplicate of an old SYN lives longer (RFC 9293's MSL): after so long a silence a SYN is a new connection, and one
/// that nobody answers is over (nf_conntrack_tcp_timeout_syn_sent).
const MSL_SECONDS: u32 = 120;
/// How long the peers of a closed TCP connection may still speak of it: the kernel's own TIME_WAIT.
const TIME_WAIT_SECONDS: u32 = 60;
const CONFIRMED_BY_ANSWERED: u8 = flow_state::CONFIRMED / flow_state::ESTABLISHED;
/// How many SNAT ports are looked at for one that is free. If none is, that of the flow among them which is worth the least
/// is taken, unless it is of a connection that both sides use.
const PORTS: u32 = 32;

impl<F: Family> Flow<F> {
    /// Fills in a new flow: the client that sent `key` asks for `backend`. Left to the caller: the epoch, which is read
    /// before the choice, the address that the backend will see, and the flags.
    #[inline(always)]
    pub fn begin(&mut self, key: &FlowKey<F>, backend: &BackendKey<F>, now: u32) {
        self.forward = *key;
        self.reply.src = backend.addr;
        self.reply.sport = backend.port;
        self.reply.dport = key.sport;
        self.reply.proto = key.proto;
        self.reply._pad = 0;
        self.seen = now;
        self.service = backend.service;
        self.client_state = 0;
        self.backend_state = 0;
        self._pad = [0; 3];
    }

    /// Its backend's key in BACKENDS.
    #[inline(always)]
    pub fn backend_key(&self) -> BackendKey<F> {
        BackendKey {
            service: self.service,
            addr: self.reply.src,
            port: self.reply.sport,
            _pad: 0,
        }
    }

    /// What its packets have said: bits of [`flow_state`].
    #[inline(always)]
    pub fn state(&self) -> u8 {
        self.client_state | self.backend_state
    }

    /// What is to be done with its packets: the client's, or the answers (`reply`).
    #[inline(always)]
    pub fn decide(&self, reply: bool, decision: &mut Decision<F>) {
        // The other direction's tuple, turned round.
        let other = if reply { &self.forward } else { &self.reply };
        decision.to.src.set(&other.dst);
        decision.to.dst.set(&other.src);
        decision.to.sport = other.dport;
        decision.to.dport = other.sport;
        decision.route = self.route(reply);
        decision.reply = reply;
        decision.service = self.service;
    }

    /// Notes a packet of the client's, or an answer.
    #[inline(always)]
    fn refresh(&mut self, reply: bool, segment: &Segment<F>, tables: &impl Tables<F>) -> Step {
        let now = tables.now();
        let silence = self.silence(now);
        let lost = !reply && backing::is_lost(self, segment.key.proto, tables);
        let known = self.state();
        let mut state = known;
        if segment.key.proto == TCP as u16 {
            let over = state & (flow_state::CLOSING | flow_state::CLIENT_FIN) != 0
                || silence > MSL_SECONDS;
            if reply {
                // The answer to a connection that does not go through us but has the tuple of one that did. What
                // follows is that connection's too.
                let flags = segment.tcp_flags & (tcp::SYN | tcp::ACK);
                if over && flags == tcp::SYN | tcp::ACK {
                    self.backend_state |= flow_state::GONE;
                }
                if self.backend_state & flow_state::GONE != 0 {
                    return Step::Renew;
                }
                state |= flow_state::ESTABLISHED;
            } else if segment.opens() {
                if over || lost || self.flags & flow_flags::FOREIGN != 0 {
                    return Step::Renew;
                }
                // A SYN in the midst of a connection keeps nothing alive; its peer will put it right.
                if state & flow_state::ESTABLISHED != 0 {
                    return Step::Follow;
                }
            } else if lost && segment.tcp_flags & tcp::RST == 0 {
                self.client_state |= flow_state::CLOSING;
                return Step::Reset;
            } else {
                state |= self.confirmed(state);
            }
            state = closing(state, segment.tcp_flags, reply);
            // What the backend says goes another way.
            if state & flow_state::CLIENT_FIN != 0 && !self.has_answers() {
                state |= flow_state::CLOSING;
            }
        } else {
            // Only what lasts longer than a tick asks for the lifetime.
            let over = silence > 1 && silence > self.lifetime(&config(tables));
            if lost {
                return Step::Renew;
            }
            if self.flags & flow_flags::FOREIGN != 0 {
                return self.foreign(reply, over, now, tables);
            }
            if over {
                return Step::Renew;
            }
            if reply {
                // A stream that only the backend keeps up, and for longer than an answer takes.
                let goes_on = state & (flow_state::ESTABLISHED * silence.min(1) as u8);
                state |= flow_state::ESTABLISHED | (goes_on * CONFIRMED_BY_ANSWERED);
            } else {
                state |= self.confirmed(state);
            }
        }
        // Written only when it is news: the cache line is another CPU's, too.
        if state != known {
            if reply {
                self.backend_state |= state & !known;
            } else {
                self.client_state |= state & !known;
            }
        }
        if self.seen != now {
            self.seen = now;
        }
        Step::Follow
    }

    /// A datagram of another proxy's flow. Nobody tells us of the answers, so its lifetime runs from the takeover on;
    /// then it becomes ours, with the backend that it has.
    #[inline(always)]
    fn foreign(&mut self, reply: bool, over: bool, now: u32, tables: &impl Tables<F>) -> Step {
        if reply || !over {
            return Step::Follow;
        }
        if self.state() & flow_state::ESTABLISHED == 0
            || self.silence(now) / 2 > self.lifetime(&config(tables))
        {
            return Step::Renew;
        }
        self.flags &= !flow_flags::FOREIGN;
        self.seen = now;
        Step::Follow
    }

    /// How many seconds of silence end the flow of a protocol other than TCP.
    #[inline(always)]
    fn lifetime(&self, config: &NodeConfig) -> u32 {
        // Whether a tunnelled flow is answered is not seen here.
        if self.state() & flow_state::ESTABLISHED != 0 || !self.has_answers() {
            config.udp_stream
        } else {
            config.udp
        }
    }

    /// Whether it is an open connection of its backend.
    pub fn is_counted(&self, now: u32, config: &NodeConfig) -> bool {
        self.flags & (flow_flags::COUNTED | flow_flags::LATE) == flow_flags::COUNTED
            && self.state() & flow_state::CLOSING == 0
            && !self.is_over(now, false, config)
    }

    /// Whether it is a connection of its own that may still have packets.
    pub fn is_open(&self, now: u32, config: &NodeConfig) -> bool {
        self.flags & flow_flags::LATE == 0 && !self.is_over(now, true, config)
    }

    /// CONFIRMED, if a packet of the client's after its first says that it has heard the answer; of a tunnel's we cannot
    /// know. Not by branches: the verifier walks everything after each of them once more.
    #[inline(always)]
    pub(crate) fn confirmed(&self, state: u8) -> u8 {
        let answered = (state & flow_state::ESTABLISHED) * CONFIRMED_BY_ANSWERED;
        let tunnelled =
            (self.flags & flow_flags::TUNNEL) * (flow_state::CONFIRMED / flow_flags::TUNNEL);
        answered | tunnelled
    }

    /// Seconds since the last packet. Another CPU's clock may be a tick ahead of ours.
    #[inline(always)]
    fn silence(&self, now: u32) -> u32 {
        now.saturating_sub(self.seen)
    }

    /// Which way its packets go on.
    #[inline(always)]
    fn route(&self, reply: bool) -> Route {
        if self.flags & flow_flags::LOOP != 0 {
            Route::Inject
        } else if self.flags & flow_flags::TUNNEL != 0 {
            Route::Tunnel
        } else if self.flags & flow_flags::NODE_CLIENT != 0 {
            if reply { Route::Stack } else { Route::Forward }
        } else if !self.reply.dst.is(&self.forward.src) {
            Route::Forward
        } else {
            Route::Stack
        }
    }

    /// Whether another flow may take over its place. A closed TCP connection keeps it for as long as its peers
    /// remember it, unless `hard_pressed`.
    #[inline(always)]
    pub fn is_over(&self, now: u32, hard_pressed: bool, config: &NodeConfig) -> bool {
        let silence = self.silence(now);
        if self.forward.proto != TCP as u16 {
            return silence > self.lifetime(config);
        }
        let state = self.state();
        if worth::is_closed(state) {
            hard_pressed || silence > TIME_WAIT_SECONDS
        } else {
            silence > tcp_lifetime(state, config)
        }
    }

    /// Seconds of silence until it is over; of one that is not.
    pub fn remaining(&self, now: u32, config: &NodeConfig) -> u32 {
        let lifetime = if self.forward.proto == TCP as u16 {
            tcp_lifetime(self.state(), config)
        } else {
            self.lifetime(config)
        };
        lifetime.saturating_sub(self.silence(now))
    }
}

/// How many seconds of silence end a TCP connection that is not closed.
#[inline(always)]
const fn tcp_lifetime(state: u8, config: &NodeConfig) -> u32 {
    if state & flow_state::BOTH_FIN != 0 {
        config.tcp_close_wait
    } else if state & flow_state::ESTABLISHED != 0 {
        config.tcp_established
    } else {
        MSL_SECONDS
    }
}

/// The node's settings; before there are any, the kernel's lifetimes.
#[inline(always)]
fn config<F: Family>(tables: &impl Tables<F>) -> NodeConfig {
    tables.config().unwrap_or_default()
}

/// The state after a TCP packet of the backend's (`reply`) or the client's.
#[inline(always)]
const fn closing(state: u8, tcp_flags: u8, reply: bool) -> u8 {
    if tcp_flags & tcp::RST != 0 {
        return state | flow_state::CLOSING;
    }
    if tcp_flags & tcp::FIN == 0 {
        return state;
    }
    let own = if reply {
        flow_state::BACKEND_FIN
    } else {
        flow_state::CLIENT_FIN
    };
    let state = state | own;
    if state & flow_state::BOTH_FIN == flow_state::BOTH_FIN {
        state | flow_state::CLOSING
    } else {
        state
    }
}

/// What a packet of a known flow leads to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// It starts a new flow.
    Renew,
    Follow,
    /// Its backend is gone, and the client is to know (D6).
    Reset,
}

/// What is known of a packet's flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    /// Nothing, or this packet starts a new one.
    No,
    Yes,
    /// It is another proxy's.
    Foreign,
    /// It is becoming another proxy's.
    Held,
    /// Its backend is gone, and the client is to know (D6).
    Gone,
}

/// Decides for a packet of a known flow.
#[inline(always)]
pub fn follow<F: Family>(
    segment: &Segment<F>,
    tables: &impl Tables<F>,
    decision: &mut Decision<F>,
) -> Known {
    let known = tables.flow(
        &segment.key,
        #[inline(always)]
        |flow, reply| note(flow, reply, segment, tables, decision),
    );
    known.unwrap_or(Known::No)
}

/// The same in functions of its own, for packets that seldom come: with less stack.
#[inline(never)]
pub fn follow_apart<F: Family>(
    segment: &Segment<F>,
    tables: &impl Tables<F>,
    decision: &mut Decision<F>,
) -> Known {
    let known = tables.flow(&segment.key, |flow, reply| {
        note_apart(flow, reply, segment, tables, decision)
    });
    known.unwrap_or(Known::No)
}

#[inline(never)]
fn note_apart<F: Family>(
    flow: &mut Flow<F>,
    reply: bool,
    segment: &Segment<F>,
    tables: &impl Tables<F>,
    decision: &mut Decision<F>,
) -> Known {
    note(flow, reply, segment, tables, decision)
}

#[inline(always)]
fn note<F: Family>(
    flow: &mut Flow<F>,
    reply: bool,
    segment: &Segment<F>,
    tables: &impl Tables<F>,
    decision: &mut Decision<F>,
) -> Known {
    let was = flow.state();
    let step = if segment.is_error() {
        Step::Follow
    } else {
        flow.refresh(reply, segment, tables)
    };
    if flow.flags & flow_flags::COUNTED != 0 && (was ^ flow.state()) & flow_state::CLOSING != 0 {
        count(flow, -1, tables);
    }
    flow.decide(reply, decision);
    match step {
        Step::Renew => Known::No,
        Step::Reset => Known::Gone,
        Step::Follow if flow.flags & flow_flags::FOREIGN != 0 => {
            if flow.flags & flow_flags::HELD == 0 {
                Known::Foreign
            } else {
                Known::Held
            }
        }
        Step::Follow => Known::Yes,
    }
}

/// Counts the start or the end of a connection for its backend.
#[inline(never)]
pub fn count<F: Family>(flow: &Flow<F>, difference: i64, tables: &impl Tables<F>) {
    tables.count_connection(&flow.backend_key(), difference);
}

/// Writes down a new flow. `flow.reply.dst` is set; the port there is found here.
#[inline(always)]
pub fn open<F: Family>(flow: &mut Flow<F>, tables: &impl Tables<F>) -> Result<(), Reason> {
    if !flow.has_answers() {
        return placed(tables.insert_flow(flow, worth::OVER));
    }
    let config = tables.config().ok_or(Reason::SnatPortsExhausted)?;
    placed(tables.place_flow(flow, &config))
}

/// Inserts a flow with a port that the backend shall see: the client's own first, where that cannot collide, then ports of
/// the node's SNAT range.
#[inline(always)]
pub fn place<F: Family>(
    flow: &mut Flow<F>,
    config: &NodeConfig,
    mut insert: impl FnMut(&Flow<F>, u32) -> Insert,
) -> Insert {
    let range = config.snat_max.wrapping_sub(config.snat_min) as u32 + 1;
    let client_port = flow.forward.sport.get();
    let own_address = flow.reply.dst == flow.forward.src;
    let own_port_is_free = own_address
        || flow.flags & flow_flags::LOOP != 0
        || (client_port >= config.snat_min && client_port <= config.snat_max);

    // A flow that was lost finds its port again.
    let ports = ports(flow.forward.sport, flow.forward.dport);
    let start = tuple_hash(
        &flow.forward.src,
        &flow.forward.dst,
        ports,
        flow.forward.proto,
    );
    // A packet must not be its own answer.
    flow.reply.dport = flow.forward.dport;
    let barred = flow.reply == flow.forward;
    let (mut best, mut least) = (flow.forward.sport, worth::KEPT);
    let mut i = if own_port_is_free { 0 } else { 1 };
    while i <= PORTS {
        flow.reply.dport = if i == 0 {
            flow.forward.sport
        } else {
            let offset = start.wrapping_add((i - 1).wrapping_mul(7919)) % range;
            crate::family::Port::new(config.snat_min.wrapping_add(offset as u16))
        };
        // A client that uses its own port again has done with the old connection.
        let limit = if i == 0 && own_address {
            table::OR_CLOSED
        } else {
            worth::OVER
        };
        if !(barred && flow.reply.dport == flow.forward.dport) {
            match insert(flow, limit) {
                Insert::Taken(worth) if worth < least => {
                    (best, least) = (flow.reply.dport, worth);
                }
                Insert::Taken(_) => {}
                outcome => return outcome,
            }
        }
        i += 1;
    }
    if least > worth::UNCONFIRMED {
        return Insert::Taken(least);
    }
    flow.reply.dport = best;
    insert(flow, least)
}

#[inline(always)]
const fn placed(outcome: Insert) -> Result<(), Reason> {
    match outcome {
        Insert::Done => Ok(()),
        Insert::Taken(_) => Err(Reason::SnatPortsExhausted),
        Insert::Full => Err(Reason::FlowTableFull),
    }
}
