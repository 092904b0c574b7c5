//! CONNECTIONS and TRAFFIC: what the programs count by service port.

use aya::maps::{Array, MapData, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use svc_common::table::{Traffic, counter, node_flags};

use super::batch::Batch;
use super::{Supply, batched, failing, typed};
use crate::dataplane::Error;
use crate::tally::Count;

pub(super) struct Counters {
    connections: Array<MapData, u64>,
    zeros: Batch<u32, u64>,
    traffic: PerCpuArray<MapData, Traffic>,
}

impl Counters {
    pub(super) fn take(supply: &mut impl Supply) -> Result<Self, Error> {
        let (connections, zeros) = batched(supply, "CONNECTIONS")?;
        Ok(Self {
            connections,
            zeros,
            traffic: typed(supply, "TRAFFIC")?,
        })
    }

    /// What was counted for a service id. `flags`: what is counted at all.
    pub(super) fn of(&self, id: u32, flags: u32) -> Result<Count, Error> {
        let at = counter(id);
        let connections = self.connections.get(&at, 0);
        let traffic = || {
            let per_cpu = self.traffic.get(&at, 0);
            let per_cpu = per_cpu.map_err(failing("read", "TRAFFIC"))?;
            let mut sum = Traffic::default();
            per_cpu.iter().for_each(|cpu| sum.add(cpu));
            Ok::<_, Error>(sum)
        };
        // While the agent that was told to count is only just starting, the map is the old one's.
        let counts = flags & node_flags::COUNTS_TRAFFIC != 0 && at < self.traffic.len();
        Ok(Count {
            connections: connections.map_err(failing("read", "CONNECTIONS"))?,
            traffic: counts.then(traffic).transpose()?,
        })
    }

    /// Starts at nothing for service ids that are new.
    pub(super) fn clear(&mut self, ids: impl Iterator<Item = u32> + Clone) -> Result<(), Error> {
        self.zeros.write(ids.clone().map(|id| (counter(id), 0)))?;
        if self.traffic.len() == 1 {
            return Ok(());
        }
        let cpus = nr_cpus().map_err(|(_, cause)| Error::Cpus(cause))?;
        for id in ids {
            let zeros = PerCpuValues::try_from(vec![Traffic::default(); cpus]);
            let zeros = zeros.map_err(Error::Cpus)?;
            self.traffic
                .set(counter(id), zeros, 0)
                .map_err(failing("write", "TRAFFIC"))?;
        }
        Ok(())
    }
}
