//! A host and a kernel with the same tables, fed the same frames.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use aya::maps::{HashMap, MapData};
use nix::time::{ClockId, clock_gettime};
use svc_common::memory::Memory;
use svc_common::table::{FlowKey, Source, flow_flags};

use crate::host::{self, Program, Verdict};
use crate::kernel::{Kernel, Keyed};
use crate::network::Network;
use crate::world::{self, MAX_RUN, SNAT_MAX, SNAT_MIN};

pub(crate) struct Pair<F: Keyed> {
    pub(crate) network: Network,
    pub(crate) kernel: Kernel,
    pub(crate) host: Memory<F>,
    /// How often each reason came up on the host.
    reasons: Vec<u64>,
}

impl<F: Keyed> Pair<F> {
    pub(crate) fn new(network: &Network) -> Self {
        Self::with(network, world::new::<F>())
    }

    pub(crate) fn with(network: &Network, host: Memory<F>) -> Self {
        Self::of(network, Kernel::load(network), host)
    }

    /// With this kernel.
    pub(crate) fn of(network: &Network, mut kernel: Kernel, host: Memory<F>) -> Self {
        kernel.fill(&host);
        let reasons = kernel.reasons();
        Self {
            network: *network,
            kernel,
            host,
            reasons,
        }
    }

    /// Runs a frame on both sides, and demands that they agree. Random numbers differ: the host tries all of them.
    #[track_caller]
    pub(crate) fn run(&mut self, program: Program, frame: &[u8]) -> Verdict {
        self.host.now.set(settled_second());
        let (action, after) = self.kernel.run(program, frame);
        let mut first = None;
        // The first number picks a slot (or two), the next one a port; with Maglev the first picks the port.
        let ports = u32::from(SNAT_MAX - SNAT_MIN) + 1;
        let pairs = (0..MAX_RUN).flat_map(|one| (1..MAX_RUN).map(move |other| other << 16 | one));
        for choice in (0..MAX_RUN.max(ports)).chain(pairs) {
            for port in 0..MAX_RUN.max(ports) {
                let host = self.host.clone();
                *host.dice.borrow_mut() = [choice, port].into();
                let verdict = host::run(program, &self.network, &host, frame);
                let unlike = self.unlike(&host);
                if (verdict.action, &verdict.frame) == (action, &after) && unlike.is_none() {
                    host.dice.borrow_mut().clear();
                    self.host = host;
                    if let Some(reason) = verdict.reason {
                        self.reasons[reason as usize] += 1;
                    }
                    return verdict;
                }
                first.get_or_insert((verdict, unlike));
            }
        }
        let (host, unlike) = first.expect("there was a first");
        panic!(
            "{program:?}, IPv{}: host and kernel disagree\nframe  {frame:02x?}\nhost   {:2} {:02x?} {:?}\nkernel {action:2} {after:02x?}\n{}",
            F::VERSION,
            host.action as i32,
            host.frame,
            host.reason,
            unlike.unwrap_or_default(),
        );
    }

    /// What the kernel has not as the host has it.
    fn unlike(&mut self, host: &Memory<F>) -> Option<String> {
        self.lacking_flow(host)
            .or_else(|| lacking(&self.kernel.affinities(), &host.affinities.borrow()))
            .or_else(|| lacking(&self.kernel.backends(), &host.backends.borrow()))
            .or_else(|| {
                host.turns.borrow().iter().find_map(|(first, turns)| {
                    let found = self.kernel.turns(*first);
                    (found != *turns)
                        .then(|| format!("turns at {first}: host {turns}, kernel {found}"))
                })
            })
    }

    /// A flow of the host's that the kernel does not find, or has otherwise.
    fn lacking_flow(&mut self, host: &Memory<F>) -> Option<String> {
        let flows = self.kernel.flows::<F>();
        host.flows.borrow().values().find_map(|expected| {
            let there = flows.get(&expected.forward);
            let back = flows.get(&expected.reply);
            let late = expected.flags & flow_flags::LATE != 0;
            let found = (late || there == Some((*expected, false)))
                && (!expected.has_answers() || back == Some((*expected, true)));
            (!found).then(|| format!("host   {expected:?}\nkernel {there:?}\n       {back:?}"))
        })
    }

    /// The slower comparisons: no flow too many, the same counters.
    #[track_caller]
    pub(crate) fn check_all(&mut self) {
        let flows = self.kernel.flows::<F>().all();
        let mut flows: Vec<FlowKey<F>> = flows.iter().map(|flow| *flow.own_key()).collect();
        flows.sort_unstable();
        assert_eq!(
            flows,
            Vec::from_iter(self.host.flows.borrow().keys().copied())
        );
        let clients: Vec<Source<F>> = keys(&self.kernel.affinities());
        assert_eq!(
            clients,
            Vec::from_iter(self.host.affinities.borrow().keys().copied())
        );
        assert_eq!(
            self.kernel.reasons(),
            self.reasons,
            "counters, in the order of Reason::ALL"
        );
    }

    /// Drops a flow, as one must that makes room for another.
    pub(crate) fn evict(&mut self, key: &FlowKey<F>) {
        let table = self.kernel.flows::<F>();
        // An older flow of the same client's may have the tuple, too: it stays.
        if let Some((flow, _)) = table.get(key) {
            table.remove(flow.own_key());
            self.host.flows.borrow_mut().remove(flow.own_key());
        }
    }

    /// Changes the tables.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Memory<F>)) {
        change(&mut self.host);
        self.kernel.follow(&self.host);
    }
}

type Entries<'a, K, V> = HashMap<&'a mut MapData, K, V>;

/// An entry of the host's that the kernel has not, or has otherwise.
fn lacking<K: aya::Pod + Debug, V: aya::Pod + PartialEq + Debug>(
    kernel: &Entries<'_, K, V>,
    host: &BTreeMap<K, V>,
) -> Option<String> {
    host.iter()
        .find_map(|(key, expected)| match kernel.get(key, 0) {
            Ok(found) if found == *expected => None,
            found => Some(format!("{key:?}\nhost   {expected:?}\nkernel {found:?}")),
        })
}

fn keys<K: aya::Pod + Ord, V: aya::Pod>(map: &Entries<'_, K, V>) -> Vec<K> {
    let mut keys: Vec<K> = map.keys().collect::<Result<_, _>>().expect("readable");
    keys.sort_unstable();
    keys
}

/// The second that the programs will see: waits where it is about to end.
pub(crate) fn settled_second() -> u32 {
    loop {
        let time = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).expect("a clock of Linux");
        if time.tv_nsec() < 900_000_000 {
            return time.tv_sec() as u32;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
