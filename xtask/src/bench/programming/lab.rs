//! One API server, svcplane and a kube-proxy that follow it, and the Service that they are asked by packets for.

use std::ops::Range;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use xtask::agents::healthy;
use xtask::topology::Topology;
use xtask::traffic::Running;

use super::super::figure::Figure;
use super::super::step;
use super::plane::{Plane, Programs, Writer};
use super::process::{Usage, map_memory, usage};
use super::{ENDPOINTS, Extent, PEERS, SVCPLANE, Side, figure, objects, probe};

/// kube-proxy takes its time with many Services.
pub(super) const PATIENCE: Duration = Duration::from_secs(600);

pub(super) struct Lab<'a> {
    pub(super) topology: &'a Topology,
    plane: Plane<'a>,
    pub(super) writer: Writer,
    changes: u32,
    /// By all churns so far: what one has written is no change for the next.
    pub(super) churned: u32,
    _servers: probe::Servers,
}

impl<'a> Lab<'a> {
    pub(super) fn start(topology: &'a Topology, programs: Programs, writer: &Path) -> Result<Self> {
        let plane = Plane::start(topology, programs)?;
        let servers = probe::Servers::start(topology, "pod-a")?;
        let mut writer = plane.writer(writer)?;
        let namespace = serde_json::json!({"metadata": {"name": objects::NAMESPACE}});
        writer.write("POST", "/api/v1/namespaces", &namespace)?;
        for node in [SVCPLANE.node, PEERS[0].node] {
            let node = objects::node(topology.place(node));
            writer.write("POST", "/api/v1/nodes", &node)?;
        }
        let mut lab = Self {
            topology,
            plane,
            writer,
            changes: 0,
            churned: 0,
            _servers: servers,
        };
        lab.plane.put(&objects::probe(topology.place("pod-a").v4))?;
        lab.change()?;
        Ok(lab)
    }

    /// Makes sure that Services of these numbers are there.
    pub(super) fn fill(&self, numbers: Range<u32>) -> Result<()> {
        self.plane.fill(numbers, ENDPOINTS)
    }

    /// Gives the probed Service another backend; returns it, and when the API server had answered.
    pub(super) fn change(&mut self) -> Result<(u16, u64)> {
        let port = self.next_port();
        self.changes += 1;
        let answered = self.writer.write(
            "PATCH",
            objects::PROBE_SLICE,
            &objects::probe_change(self.topology.place("pod-a").v4, port),
        )?;
        Ok((port, answered))
    }

    fn next_port(&self) -> u16 {
        probe::port(self.changes + 1)
    }

    /// Starts of all alternate; after the last one of each, more is measured of it. One runs at a time: a neighbour would
    /// be measured, too.
    pub(super) fn measure(&mut self, extent: &Extent, services: u32) -> Result<Vec<Figure>> {
        let mut samples = Samples::default();
        for start in 0..extent.starts {
            for side in extent.sides(services) {
                let starts = extent.starts(side, services);
                if start >= starts {
                    continue;
                }
                let process = self.cold_start(side, &mut samples)?;
                if start + 1 == starts {
                    self.at_rest(side, &process, extent, &mut samples)?;
                    self.latency(side, extent.changes(side, services), &mut samples)?;
                    self.churn(side, &process, extent, services, &mut samples)?;
                }
            }
        }
        Ok(samples.0)
    }

    /// Starts a side without anything of an earlier one, and waits until packets go the right way.
    fn cold_start(&mut self, side: Side, samples: &mut Samples) -> Result<Running> {
        let (port, _) = self.change()?;
        self.plane.clean(side)?;
        let begin = Instant::now();
        let process = self.plane.follow(side)?;
        let place = self.topology.place(side.pod);
        let is_up = || -> Result<bool> {
            Ok(healthy(self.topology, side.node)
                && probe::first_packet(place, port, Duration::from_secs(1))?.is_some())
        };
        while !is_up()? {
            if begin.elapsed() > PATIENCE {
                let log = self.plane.log(side.node);
                bail!("{} did not come up; its log:\n{log}", side.name);
            }
            sleep(Duration::from_millis(20));
        }
        let wall = begin.elapsed();
        let Usage {
            cpu, most_resident, ..
        } = usage(&process)?;
        step(&format!(
            "{} has started: {:.2} s, {:.2} s of CPU, {most_resident:.0} MiB",
            side.name,
            wall.as_secs_f64(),
            cpu.as_secs_f64()
        ));
        samples.add("cold start, CPU", side, "s", [cpu.as_secs_f64()]);
        samples.add("cold start, wall", side, "s", [wall.as_secs_f64()]);
        samples.add("memory, most", side, "MiB", [most_resident]);
        Ok(process)
    }

    /// Memory, and what is done when there is nothing to do.
    fn at_rest(
        &self,
        side: Side,
        process: &Running,
        extent: &Extent,
        samples: &mut Samples,
    ) -> Result<()> {
        // Until what a start leaves behind was given back.
        sleep(Duration::from_secs(4));
        let before = usage(process)?;
        sleep(extent.idle);
        let after = usage(process)?;
        let idle = (after.cpu - before.cpu).as_secs_f64() / extent.idle.as_secs_f64();
        samples.add("memory, at rest", side, "MiB", [after.resident]);
        samples.add("CPU, at rest", side, "% of a core", [idle * 100.0]);
        if side.mode.is_none() {
            samples.add("memory of the maps", side, "MiB", [map_memory(process)?]);
        }
        Ok(())
    }

    /// From the API server's answer until the first packet takes the new path.
    fn latency(&mut self, side: Side, changes: usize, samples: &mut Samples) -> Result<()> {
        let place = self.topology.place(side.pod);
        for _ in 0..changes {
            let port = self.next_port();
            let (answered, seen) = std::thread::scope(|scope| -> Result<_> {
                let asking = scope.spawn(move || probe::first_packet(place, port, PATIENCE));
                sleep(Duration::from_millis(5));
                let (_, answered) = self.change()?;
                let seen = asking.join();
                Ok((
                    answered,
                    seen.map_err(|_| anyhow::anyhow!("a probing thread panicked"))??,
                ))
            })?;
            let seen = seen.context("a change did not reach the packets")?;
            samples.add(
                "write to packet",
                side,
                "ms",
                [milliseconds(answered, seen)],
            );
            // Not in step with anybody's timers.
            sleep(Duration::from_millis(20 + u64::from(self.changes) * 7 % 40));
        }
        Ok(())
    }
}

/// A packet may have gone the new way before the answer was here.
pub(super) fn milliseconds(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64 / 1e6
}

/// All samples of a row and side are one figure.
#[derive(Default)]
pub(super) struct Samples(Vec<Figure>);

impl Samples {
    pub(super) fn add(
        &mut self,
        row: &str,
        side: Side,
        unit: &str,
        samples: impl IntoIterator<Item = f64>,
    ) {
        let same = |known: &&mut Figure| known.row == row && known.contestant == side.name;
        let mut samples = Vec::from_iter(samples);
        if samples.is_empty() {
            return;
        }
        match self.0.iter_mut().find(same) {
            Some(known) => {
                samples.splice(..0, known.samples.drain(..));
                *known = figure(row, side, unit, samples);
            }
            None => self.0.push(figure(row, side, unit, samples)),
        }
    }
}
