//! The flow record: made once, kept in two halves, followed by every later packet.
//!
//! Both halves hold the whole record. A packet of either direction refreshes its own half about once a second and
//! puts the other one back if the LRU has dropped it, so the two halves of a live flow live and die together.

use crate::decision::{Decision, Route};
use crate::family::Family;
use crate::parse::Segment;
use crate::reason::Reason;
use crate::rewrite::Rewrite;
use crate::select::{ports, tuple_hash};
use crate::table::{BackendKey, Flow, FlowKey, NodeConfig, TCP, Tables, flow_flags, flow_state};
use crate::wire::tcp;

mod backing;

/// No duplicate of an old SYN lives longer (RFC 9293's MSL): after so long a silence a SYN is a new connection, and one
/// that nobody answers is over (nf_conntrack_tcp_timeout_syn_sent).
const MSL_SECONDS: u32 = 120;
/// How long the peers of a closed TCP connection may still speak of it: the kernel's own TIME_WAIT.
const TIME_WAIT_SECONDS: u32 = 60;
/// How many SNAT ports are tried before the packet is dropped.
const PORT_TRIES: u32 = 8;
/// The last of them take the place of connections that have only just closed.
const HARD_PRESSED: u32 = 6;

impl<F: Family> Flow<F> {
    /// Fills in a new flow: the client that sent `key` asks for `backend`. Left to the caller: the epoch, which is read
    /// before the choice, the address that the backend will see, and the flags.
    #[inline(always)]
    pub fn begin(&mut self, key: &FlowKey<F>, backend: &BackendKey<F>, now: u32) {
        self.seen = now;
        self.service = backend.service;
        self.client = key.src;
        self.frontend = key.dst;
        self.backend = backend.addr;
        self.client_port = key.sport;
        self.frontend_port = key.dport;
        self.backend_port = backend.port;
        self.nat_port = key.sport;
        self.state = 0;
    }

    /// The key of the half that packets from the client have.
    #[inline(always)]
    pub fn forward_key(&self, proto: u16) -> FlowKey<F> {
        FlowKey {
            src: self.client,
            dst: self.frontend,
            sport: self.client_port,
            dport: self.frontend_port,
            proto,
            _pad: 0,
        }
    }

    /// The key of the half that packets from the backend have.
    #[inline(always)]
    pub fn reply_key(&self, proto: u16) -> FlowKey<F> {
        FlowKey {
            src: self.backend,
            dst: self.nat,
            sport: self.backend_port,
            dport: self.nat_port,
            proto,
            _pad: 0,
        }
    }

    /// Its backend's key in BACKENDS.
    #[inline(always)]
    pub fn backend_key(&self) -> BackendKey<F> {
        BackendKey {
            service: self.service,
            addr: self.backend,
            port: self.backend_port,
            _pad: 0,
        }
    }

    #[inline(always)]
    pub fn is_reply(&self) -> bool {
        self.flags & flow_flags::REPLY != 0
    }

    /// Whether `key` is that of this half's other half.
    #[inline(always)]
    fn answers(&self, key: &FlowKey<F>) -> bool {
        if self.is_reply() {
            self.client_port == key.sport
                && self.frontend_port == key.dport
                && self.client == key.src
                && self.frontend == key.dst
        } else {
            self.backend_port == key.sport
                && self.nat_port == key.dport
                && self.backend == key.src
                && self.nat == key.dst
        }
    }

    /// What packets of this half become.
    #[inline(always)]
    fn rewrite(&self) -> Rewrite<F> {
        if self.is_reply() {
            Rewrite {
                src: self.frontend,
                dst: self.client,
                sport: self.frontend_port,
                dport: self.client_port,
            }
        } else {
            Rewrite {
                src: self.nat,
                dst: self.backend,
                sport: self.nat_port,
                dport: self.backend_port,
            }
        }
    }

    /// What is to be done with packets of this half.
    #[inline(always)]
    pub fn decide(&self, decision: &mut Decision<F>) {
        decision.to = self.rewrite();
        decision.route = self.route();
        decision.reply = self.is_reply();
    }

    /// Notes a packet of this half.
    #[inline(always)]
    fn refresh(&mut self, segment: &Segment<F>, tables: &impl Tables<F>) -> Step {
        let now = tables.now();
        let silence = self.silence(now);
        let reply = self.is_reply();
        let lost = !reply && backing::is_lost(self, segment.key.proto, tables);
        let mut state = self.state;
        if segment.key.proto == TCP as u16 {
            let over = state & (flow_state::CLOSING | flow_state::CLIENT_FIN) != 0
                || silence > MSL_SECONDS;
            if reply {
                // The answer to a connection that does not go through us but has the tuple of one that did. What
                // follows is that connection's too.
                let flags = segment.tcp_flags & (tcp::SYN | tcp::ACK);
                if over && flags == tcp::SYN | tcp::ACK {
                    self.state |= flow_state::GONE;
                }
                if self.state & flow_state::GONE != 0 {
                    return Step::Renew;
                }
                state |= flow_state::ESTABLISHED;
            } else if segment.opens() {
                if over || lost || self.flags & flow_flags::FOREIGN != 0 {
                    return Step::Renew;
                }
                // A SYN in the midst of a connection keeps nothing alive; its peer will put it right.
                if state & flow_state::ESTABLISHED != 0 {
                    return Step::Mirror;
                }
            } else if lost && segment.tcp_flags & tcp::RST == 0 {
                self.state |= flow_state::CLOSING;
                return Step::Reset;
            }
            state = closing(state, segment.tcp_flags, reply);
            // What the backend says goes another way.
            if state & flow_state::CLIENT_FIN != 0 && self.flags & flow_flags::TUNNEL != 0 {
                state |= flow_state::CLOSING;
            }
        } else {
            // Only what lasts longer than a tick asks for the lifetime.
            let over = silence > 1 && silence > self.lifetime(&config(tables));
            if lost {
                return Step::Renew;
            }
            if self.flags & flow_flags::FOREIGN != 0 {
                return self.foreign(over, now, tables);
            }
            if over {
                return Step::Renew;
            }
            if reply {
                state |= flow_state::ESTABLISHED;
            }
        }
        if self.seen == now && self.state == state {
            return Step::Follow;
        }
        self.seen = now;
        self.state = state;
        Step::Mirror
    }

    /// A datagram of another proxy's flow. Nobody tells us of the answers, so its lifetime runs from the takeover on;
    /// then it becomes ours, with the backend that it has.
    #[inline(always)]
    fn foreign(&mut self, over: bool, now: u32, tables: &impl Tables<F>) -> Step {
        if self.is_reply() || !over {
            return Step::Follow;
        }
        if self.state & flow_state::ESTABLISHED == 0
            || self.silence(now) / 2 > self.lifetime(&config(tables))
        {
            return Step::Renew;
        }
        self.flags &= !flow_flags::FOREIGN;
        self.seen = now;
        Step::Mirror
    }

    /// How many seconds of silence end the flow of a protocol other than TCP.
    #[inline(always)]
    fn lifetime(&self, config: &NodeConfig) -> u32 {
        // Whether a tunnelled flow is answered is not seen here.
        if self.state & flow_state::ESTABLISHED != 0 || self.flags & flow_flags::TUNNEL != 0 {
            config.udp_stream
        } else {
            config.udp
        }
    }

    /// Whether it is an open connection of its backend, told once: by the forward half.
    pub fn is_counted(&self, proto: u16, now: u32, config: &NodeConfig) -> bool {
        self.flags & (flow_flags::COUNTED | flow_flags::REPLY) == flow_flags::COUNTED
            && self.state & flow_state::CLOSING == 0
            && !self.is_over(proto, now, false, config)
    }

    /// Seconds since the last packet. Another CPU's clock may be a tick ahead of ours.
    #[inline(always)]
    fn silence(&self, now: u32) -> u32 {
        now.saturating_sub(self.seen)
    }

    /// Which way packets of this half go on.
    #[inline(always)]
    fn route(&self) -> Route {
        if self.flags & flow_flags::LOOP != 0 {
            Route::Inject
        } else if self.flags & flow_flags::TUNNEL != 0 {
            Route::Tunnel
        } else if self.flags & flow_flags::NODE_CLIENT != 0 {
            if self.is_reply() {
                Route::Stack
            } else {
                Route::Forward
            }
        } else if self.nat != self.client {
            Route::Forward
        } else {
            Route::Stack
        }
    }

    /// Whether another flow may take over its place. A closed TCP connection keeps it for as long as its peers
    /// remember it, unless `hard_pressed`.
    #[inline(always)]
    fn is_over(&self, proto: u16, now: u32, hard_pressed: bool, config: &NodeConfig) -> bool {
        let silence = self.silence(now);
        if proto != TCP as u16 {
            return silence > self.lifetime(config);
        }
        let state = self.state;
        if state & flow_state::CLOSING != 0 || state & flow_state::BOTH_FIN == flow_state::BOTH_FIN
        {
            hard_pressed || silence > TIME_WAIT_SECONDS
        } else if state & flow_state::BOTH_FIN != 0 {
            silence > config.tcp_close_wait
        } else if state & flow_state::ESTABLISHED != 0 {
            silence > config.tcp_established
        } else {
            silence > MSL_SECONDS
        }
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
    /// The other half may be missing, or must learn the new state.
    Mirror,
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
    /// Its backend is gone, and the client is to know (D6).
    Gone,
}

/// Decides for a packet of a known flow.
#[inline(never)]
pub fn follow<F: Family>(
    segment: &Segment<F>,
    tables: &impl Tables<F>,
    decision: &mut Decision<F>,
) -> Known {
    let mut foreign = false;
    let step = tables.flow(&segment.key, |flow| {
        let was = flow.state;
        let step = if segment.is_error() {
            Step::Follow
        } else {
            flow.refresh(segment, tables)
        };
        if flow.flags & flow_flags::COUNTED != 0 && (was ^ flow.state) & flow_state::CLOSING != 0 {
            count(flow, -1, tables);
        }
        flow.decide(decision);
        foreign = flow.flags & flow_flags::FOREIGN != 0;
        step
    });
    match step {
        None | Some(Step::Renew) => Known::No,
        Some(Step::Reset) => Known::Gone,
        // The other half of a tunnelled flow is on its backend's node.
        Some(Step::Mirror) if decision.route != Route::Tunnel && !mirror(segment, tables) => {
            Known::No
        }
        Some(Step::Follow | Step::Mirror) if foreign => Known::Foreign,
        Some(Step::Follow | Step::Mirror) => Known::Yes,
    }
}

/// Counts the start or the end of a connection for its backend.
#[inline(never)]
pub fn count<F: Family>(flow: &Flow<F>, difference: i64, tables: &impl Tables<F>) {
    tables.count_connection(&flow.backend_key(), difference);
}

/// Brings the other half up to date, or back. False: another flow has taken the place of our answers, so that this one
/// is to be opened anew.
#[inline(never)]
fn mirror<F: Family>(segment: &Segment<F>, tables: &impl Tables<F>) -> bool {
    let proto = segment.key.proto;
    let followed = tables.scratch(|flow| {
        if tables.flow(&segment.key, |half| *flow = *half).is_none() {
            return true;
        }
        let other = if flow.is_reply() {
            flow.forward_key(proto)
        } else {
            flow.reply_key(proto)
        };
        let own = tables.flow(&other, |half| {
            let own = half.answers(&segment.key);
            if own {
                half.state |= flow.state;
                half.seen = flow.seen;
                // A flow that was another proxy's has become ours.
                half.flags &= flow.flags | flow_flags::REPLY;
            }
            own
        });
        match own {
            Some(true) => true,
            // Late packets of an old flow still go their way, but say nothing about the client's new one.
            Some(false) if flow.is_reply() => true,
            Some(false) => {
                // Should opening fail, the next packet comes here again.
                tables.flow(&segment.key, |half| half.seen = 0);
                false
            }
            None => {
                flow.flags ^= flow_flags::REPLY;
                tables.insert_flow(&other, flow, true);
                true
            }
        }
    });
    followed.unwrap_or(true)
}

/// Writes both halves of a new flow. `flow.nat` is set; `flow.nat_port` is found here: the client's own port first,
/// where that cannot collide, then ports of the node's SNAT range.
#[inline(never)]
pub fn open<F: Family>(
    flow: &mut Flow<F>,
    proto: u16,
    tables: &impl Tables<F>,
) -> Result<(), Reason> {
    if flow.flags & flow_flags::TUNNEL != 0 {
        tables.insert_flow(&flow.forward_key(proto), flow, false);
        return Ok(());
    }
    let config = tables.config().ok_or(Reason::SnatPortsExhausted)?;
    let range = config.snat_max.wrapping_sub(config.snat_min) as u32 + 1;
    let client_port = flow.client_port.get();
    let own_address = flow.nat == flow.client;
    let own_port_is_free = own_address
        || flow.flags & flow_flags::LOOP != 0
        || (client_port >= config.snat_min && client_port <= config.snat_max);

    flow.flags |= flow_flags::REPLY;
    flow.nat_port = flow.client_port;
    // A client that uses its own port again has done with the old connection.
    let mut placed = own_port_is_free && place(flow, proto, own_address, tables);
    if !placed {
        // A flow that was lost finds its port again.
        let ports = ports(flow.client_port, flow.frontend_port);
        let start = tuple_hash(&flow.client, &flow.frontend, ports, proto);
        let mut i = 0;
        while i < PORT_TRIES && !placed {
            let offset = start.wrapping_add(i.wrapping_mul(7919)) % range;
            flow.nat_port = crate::family::Port::new(config.snat_min.wrapping_add(offset as u16));
            placed = place(flow, proto, i >= HARD_PRESSED, tables);
            i += 1;
        }
    }
    if !placed {
        return Err(Reason::SnatPortsExhausted);
    }
    flow.flags &= !flow_flags::REPLY;
    tables.insert_flow(&flow.forward_key(proto), flow, false);
    Ok(())
}

/// Takes the reply half's key, if it is free or its owner is over or is this very flow.
#[inline(never)]
fn place<F: Family>(
    flow: &Flow<F>,
    proto: u16,
    hard_pressed: bool,
    tables: &impl Tables<F>,
) -> bool {
    let key = flow.reply_key(proto);
    if tables.insert_flow(&key, flow, true) {
        return true;
    }
    let may_take = tables.flow(&key, |old| {
        old.is_over(proto, flow.seen, hard_pressed, &config(tables))
            || (old.client == flow.client
                && old.client_port == flow.client_port
                && old.frontend == flow.frontend
                && old.frontend_port == flow.frontend_port)
    });
    may_take.unwrap_or(true) && tables.insert_flow(&key, flow, false)
}
