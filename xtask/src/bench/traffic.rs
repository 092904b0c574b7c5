//! Instrument 2: what connections and requests cost in a network of namespaces, beside no proxy at all and beside the
//! real kube-proxy. All contestants are up at the same time, and short bursts of each alternate.

mod api;
mod contestants;
mod floor;
mod objects;
mod report;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::load::{Burst, Work, shared_cpu};
use xtask::topology::Options;

use super::figure::Outcome;
use super::table::grouped;
use super::{Bench, step};
use contestants::{Carrier, Contestant, Field, Way};

/// How long a burst of the direct contestant takes.
const BURST: Duration = Duration::from_millis(10);

const DIRECT: Contestant = Contestant {
    name: "direct",
    carrier: Carrier::Nobody,
};

/// Where there are rules of netfilter for pods' traffic, as most CNI plugins with NetworkPolicies have, `auto` is this.
const BY_STACK: [&str; 2] = ["--host-routing", "kernel"];

/// Contestants that run side by side, on a network of one kind.
struct Stage {
    title: &'static str,
    options: Options,
    ways: &'static [Way],
    contestants: Vec<(Contestant, When)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    InFull,
}

use When::{Always, InFull};

fn stages(agent: &Path) -> [Stage; 2] {
    let contestant = |name, carrier, when| (Contestant { name, carrier }, when);
    let options = Options {
        agent: Some(agent.to_owned()),
        ..Options::default()
    };
    [
        Stage {
            title: "From pods",
            options: options.clone(),
            ways: &[Way::PodToPod, Way::PodToLocal, Way::PodToRemote],
            contestants: vec![
                (DIRECT, Always),
                contestant("empty hooks", Carrier::EmptyHooks, InFull),
                contestant("socket", Carrier::Svcplane(&[]), Always),
                contestant(
                    "packets",
                    Carrier::Svcplane(&["--socket-lb", "off"]),
                    Always,
                ),
                contestant("socket, by stack", Carrier::Svcplane(&BY_STACK), InFull),
                contestant(
                    "packets, by stack",
                    Carrier::Svcplane(&["--socket-lb", "off", BY_STACK[0], BY_STACK[1]]),
                    InFull,
                ),
                contestant("nftables", Carrier::KubeProxy("nftables"), Always),
                contestant("iptables", Carrier::KubeProxy("iptables"), InFull),
            ],
        },
        Stage {
            title: "From outside",
            // XDP_TX needs it; all contestants get the same.
            options: Options {
                like_nics: true,
                ..options
            },
            ways: &[Way::OutsideToLocal, Way::OutsideToRemote],
            contestants: vec![
                (DIRECT, Always),
                contestant("without node1", Carrier::NobodyNorNode1, InFull),
                contestant("empty hooks", Carrier::EmptyHooks, InFull),
                contestant("tc", Carrier::Svcplane(&["--xdp", "off"]), Always),
                contestant("xdp", Carrier::Svcplane(&["--xdp", "native"]), Always),
                contestant(
                    "tc, by stack",
                    Carrier::Svcplane(&["--xdp", "off", BY_STACK[0], BY_STACK[1]]),
                    InFull,
                ),
                contestant(
                    "generic xdp",
                    Carrier::Svcplane(&["--xdp", "generic"]),
                    InFull,
                ),
                contestant("dsr", Carrier::Svcplane(&["--dsr", "ipip"]), InFull),
                contestant("nftables", Carrier::KubeProxy("nftables"), Always),
                contestant("iptables", Carrier::KubeProxy("iptables"), InFull),
            ],
        },
    ]
}

/// One line of the report: the same work for all contestants.
struct Case {
    stage: &'static str,
    services: usize,
    v6: bool,
    way: Way,
    work: Work,
    /// By contestant, one burst per round; that of `direct` is first.
    bursts: Vec<(&'static str, Vec<Burst>)>,
}

pub(super) fn run(bench: &Bench<'_>) -> Result<Outcome> {
    let exe = std::env::current_exe().context("cannot find this executable")?;
    let target = exe.ancestors().nth(2);
    let target = target.context("xtask lies in no target folder")?;
    let run = Run {
        bench,
        cpu: shared_cpu()?,
        kube_proxy: crate::assets::program(target, "kube-proxy")?,
        sizes: sizes(bench)?,
    };
    let mut cases = Vec::new();
    for stage in stages(&bench.binary("svc-agent")?) {
        run.stage(&stage, &mut cases)?;
    }
    ensure!(
        !cases.is_empty(),
        "no row has {:?} in its name",
        bench.args.only
    );
    Ok(report::outcome(&cases))
}

/// Numbers of Services, the two that are measured among them.
fn sizes(bench: &Bench<'_>) -> Result<Vec<usize>> {
    let sizes = match (&bench.args.services, bench.args.quick) {
        (Some(given), _) => given,
        (None, true) => "2,1000",
        (None, false) => "2,1000,10000,50000",
    };
    let size = |text: &str| text.trim().parse();
    let sizes: Result<Vec<usize>, _> = sizes.split(',').map(size).collect();
    sizes.context("--services takes numbers, such as 2,1000")
}

struct Run<'a> {
    bench: &'a Bench<'a>,
    /// Client and server run there.
    cpu: usize,
    kube_proxy: PathBuf,
    sizes: Vec<usize>,
}

impl Run<'_> {
    fn stage(&self, stage: &Stage, cases: &mut Vec<Case>) -> Result<()> {
        let args = self.bench.args;
        let rows: Vec<(Way, Work)> = stage
            .ways
            .iter()
            .flat_map(|way| Work::ALL.map(|work| (*way, work)))
            .filter(|(way, work)| format!("{} {work}", way.name()).contains(&args.only))
            .collect();
        if rows.is_empty() {
            return Ok(());
        }
        let mut fields = Vec::new();
        for (who, when) in &stage.contestants {
            let named = |part: &String| who.name.contains(part);
            let wanted = match args.contestants.is_empty() {
                true => *when == Always || !args.quick,
                false => args.contestants.iter().any(named),
            };
            if wanted || *who == DIRECT {
                fields.push(Field::new(*who, &stage.options, self.cpu).context(who.name)?);
            }
        }
        let families: &[bool] = if args.quick { &[false] } else { &[false, true] };
        for services in &self.sizes {
            let count = i64::try_from(*services).unwrap_or(i64::MAX);
            for field in &mut fields {
                let took = field.program(*services, &self.kube_proxy)?;
                step(&format!(
                    "{}: {} Services after {:.1} s",
                    field.who.name,
                    grouped(count),
                    took.as_secs_f64()
                ));
            }
            for v6 in families {
                for (way, work) in &rows {
                    let case = Case {
                        stage: stage.title,
                        services: *services,
                        v6: *v6,
                        way: *way,
                        work: *work,
                        bursts: self.measure(&mut fields, *way, *v6, *work)?,
                    };
                    step(&report::line(&case));
                    cases.push(case);
                }
            }
        }
        Ok(())
    }

    fn measure(
        &self,
        fields: &mut [Field],
        way: Way,
        v6: bool,
        work: Work,
    ) -> Result<Vec<(&'static str, Vec<Burst>)>> {
        let rounds = match (self.bench.args.rounds, self.bench.args.quick) {
            (Some(rounds), _) => rounds as usize,
            (None, true) => 15,
            (None, false) => 30,
        };
        // Warm everything up, and find out how much a burst is.
        let mut round_trips = 8;
        for field in fields.iter_mut() {
            let burst = field.burst(way, v6, work, 8, true)?;
            field.burst(way, v6, work, round_trips.min(64), false)?;
            if field.who == DIRECT {
                let each = u128::from(burst.cpu) / burst.round_trips as u128;
                let fit = BURST.as_nanos() / each.max(1);
                round_trips = usize::try_from(fit)?.clamp(8, 5_000);
            }
        }
        let named = |field: &Field| (field.who.name, Vec::with_capacity(rounds));
        let mut bursts: Vec<_> = fields.iter().map(named).collect();
        for round in 0..rounds {
            for turn in 0..fields.len() {
                let index = (round + turn) % fields.len();
                let burst = fields[index].burst(way, v6, work, round_trips, false)?;
                bursts[index].1.push(burst);
            }
        }
        Ok(bursts)
    }
}
