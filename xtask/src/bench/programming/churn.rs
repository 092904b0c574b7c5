//! Many endpoints change; one Service beside these is watched by packets.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use xtask::traffic::Running;

use super::lab::{Lab, PATIENCE, Samples, milliseconds};
use super::process::usage;
use super::{Extent, Side, objects, probe};

/// Endpoint changes per second.
const CHURN: u32 = 100;
/// Of so many changes one is that of the Service that is watched.
const WATCHED: u32 = 25;

impl Lab<'_> {
    pub(super) fn churn(
        &mut self,
        side: Side,
        process: &Running,
        extent: &Extent,
        services: u32,
        samples: &mut Samples,
    ) -> Result<()> {
        let mut lag = Vec::new();
        let (begin, before) = (Instant::now(), usage(process)?);
        let place = self.topology.place(side.pod);
        let mut share = 0.0;
        std::thread::scope(|scope| -> Result<()> {
            let mut asking = None;
            let mut sent: u32 = 0;
            while begin.elapsed() < extent.churn {
                let due = (begin.elapsed().as_secs_f64() * f64::from(CHURN)) as u32;
                while sent < due {
                    sent += 1;
                    self.churned += 1;
                    // Spread over the Services, each time another endpoint.
                    let service = sent.wrapping_mul(7919) % services.max(1);
                    let (path, body) = objects::churn(service, self.churned);
                    self.writer.send("PATCH", &path, &body)?;
                    if sent.is_multiple_of(WATCHED) && asking.is_none() {
                        let (port, answered) = self.change()?;
                        let seen = scope.spawn(move || probe::first_packet(place, port, PATIENCE));
                        asking = Some((answered, seen));
                    }
                }
                if asking.as_ref().is_some_and(|(_, seen)| seen.is_finished()) {
                    lag.extend(asking.take().map(joined).transpose()?);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            let used = usage(process)?.cpu - before.cpu;
            share = used.as_secs_f64() / begin.elapsed().as_secs_f64();
            // A slow one is still waited for, or it would seem to be fast.
            lag.extend(asking.map(joined).transpose()?);
            Ok(())
        })?;
        self.writer.settle()?;
        let changes = format!("at {CHURN} changes a second");
        samples.add(
            &format!("CPU {changes}"),
            side,
            "% of a core",
            [share * 100.0],
        );
        samples.add(&format!("write to packet {changes}"), side, "ms", lag);
        Ok(())
    }
}

type Asking<'scope> = (
    u64,
    std::thread::ScopedJoinHandle<'scope, Result<Option<u64>>>,
);

fn joined((answered, seen): Asking<'_>) -> Result<f64> {
    let seen = seen
        .join()
        .map_err(|_| anyhow!("a probing thread panicked"))??;
    let seen = seen.ok_or_else(|| anyhow!("a change did not reach the packets"))?;
    Ok(milliseconds(answered, seen))
}
