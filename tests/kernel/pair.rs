//! A host and a kernel with the same tables, fed the same frames.

use nix::time::{ClockId, clock_gettime};
use std::time::Duration;

use svc_common::memory::Memory;
use svc_common::table::{Flow, FlowKey};

use crate::host::{self, Program, Verdict};
use crate::kernel::{Kernel, Keyed};
use crate::network::Network;
use crate::world::{self, MAX_RUN, SNAT_MAX, SNAT_MIN};

pub(crate) struct Pair<F: Keyed> {
    network: Network,
    pub(crate) kernel: Kernel,
    pub(crate) host: Memory<F>,
    /// How often each reason came up on the host.
    reasons: Vec<u64>,
}

impl<F: Keyed> Pair<F> {
    pub(crate) fn new(network: &Network) -> Self {
        let host = world::new::<F>();
        let mut kernel = Kernel::load(network);
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
        // The first number picks a slot, the next one a port; with Maglev the first picks the port.
        let numbers = 0..MAX_RUN.max(u32::from(SNAT_MAX - SNAT_MIN) + 1);
        for choice in numbers.clone() {
            for port in numbers.clone() {
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

    /// A flow of the host's that the kernel has not, or has otherwise.
    fn unlike(&mut self, host: &Memory<F>) -> Option<String> {
        let flows = self.kernel.flows::<F>();
        host.flows
            .borrow()
            .iter()
            .find_map(|(key, expected)| match flows.get(key, 0) {
                Ok(found) if found == *expected => None,
                found => Some(format!("{key:?}\nhost   {expected:?}\nkernel {found:?}")),
            })
    }

    /// The slower comparisons: no flow too many, the same counters.
    #[track_caller]
    pub(crate) fn check_all(&mut self) {
        let keys: Vec<FlowKey<F>> = self
            .kernel
            .flows::<F>()
            .keys()
            .collect::<Result<_, _>>()
            .expect("readable");
        let unknown: Vec<_> = keys
            .iter()
            .filter(|key| !self.host.flows.borrow().contains_key(key))
            .collect();
        assert!(
            unknown.is_empty(),
            "flows that the host does not have: {unknown:?}"
        );
        assert_eq!(
            self.kernel.reasons(),
            self.reasons,
            "counters, in the order of Reason::ALL"
        );
    }

    /// Drops an entry, as the LRU may.
    pub(crate) fn evict(&mut self, key: &FlowKey<F>) {
        self.host.flows.borrow_mut().remove(key);
        self.kernel
            .flows::<F>()
            .remove(key)
            .expect("the kernel had it too");
    }

    /// Changes all flows.
    pub(crate) fn change_flows(&mut self, change: impl Fn(&mut Flow<F>)) {
        self.host.flows.borrow_mut().values_mut().for_each(change);
        self.kernel.set_flows(&self.host);
    }
}

/// The second that the programs will see: waits where it is about to end.
fn settled_second() -> u32 {
    loop {
        let time = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).expect("a clock of Linux");
        if time.tv_nsec() < 900_000_000 {
            return time.tv_sec() as u32;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
