//! The hooks of sockets: there is no test run of these, so a socket that is met by them, and one that is not, make the same
//! calls in turn. Which one is met depends on the cgroup that the process was in when it made the socket.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use aya::programs::{CgroupAttachMode, CgroupSockAddr};

use crate::Options;
use crate::cluster::{FAR, NEAR, PODS, PORT, TARGET, VIPS};
use crate::measure::{Cost, tell};
use crate::rig::{Rig, Target};

/// Calls of a burst: half a millisecond, which the scheduler often leaves alone.
const CALLS: u32 = 400;
/// Bursts for each of a packet's.
const ROUNDS: u32 = 4;

/// A cgroup of the bench's own, below the root of cgroup v2; gone with this value.
struct Cgroup {
    path: PathBuf,
    root: PathBuf,
}

impl Cgroup {
    fn new() -> Result<Self> {
        let root = svc_agent::run::cgroup_root()?;
        let path = root.join(format!("svc-bench-{}", std::process::id()));
        fs::create_dir(&path).context("cannot make a cgroup")?;
        Ok(Self { path, root })
    }

    /// Runs `make` in here.
    fn within<T>(&self, make: impl FnOnce() -> T) -> Result<T> {
        let enter = |folder: &PathBuf| fs::write(folder.join("cgroup.procs"), "0");
        enter(&self.path).context("cannot enter a cgroup")?;
        let made = make();
        enter(&self.root).context("cannot leave a cgroup")?;
        Ok(made)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The process may be in it still: then the folder stays, empty.
        let _ = fs::write(self.root.join("cgroup.procs"), "0");
        let _ = fs::remove_dir(&self.path);
    }
}

/// What is called, and where it leads.
pub(crate) struct Call {
    program: &'static str,
    case: &'static str,
    v6: bool,
    to: SocketAddr,
    becomes: SocketAddr,
}

/// Those whose name holds `only`.
pub(crate) fn calls(only: &str) -> Vec<Call> {
    let families = [
        (false, "connect4", "getpeername4"),
        (true, "connect6", "getpeername6"),
    ];
    let of = |(v6, connect, getpeername)| {
        let endpoint = SocketAddr::new(PODS.at(v6, 2), TARGET);
        let elsewhere = SocketAddr::new(FAR.at(v6, 9_999), PORT);
        let call = |program, case, to, becomes| Call {
            program,
            case,
            v6,
            to,
            becomes,
        };
        let service = SocketAddr::new(VIPS.at(v6, NEAR), PORT);
        [
            call(connect, "not ours", elsewhere, elsewhere),
            call(connect, "a Service's address", service, endpoint),
            call(getpeername, "a Service's address", service, endpoint),
        ]
    };
    let mut calls: Vec<Call> = families.into_iter().flat_map(of).collect();
    calls.retain(|call| {
        let family = if call.v6 { "v6" } else { "v4" };
        format!("{} {} {family}", call.program, call.case).contains(only)
    });
    calls
}

/// The rows of `calls`, in the world of `rig`.
pub(crate) fn measure(rig: &mut Rig, services: u32, options: &Options) -> Result<()> {
    let calls = calls(&options.only);
    if calls.is_empty() {
        return Ok(());
    }
    if options.only.is_empty() {
        weigh(rig)?;
    }
    let cgroup = Cgroup::new()?;
    let folder = fs::File::open(&cgroup.path).context("cannot open the cgroup")?;
    for name in ["connect4", "connect6", "getpeername4", "getpeername6"] {
        let hook: &mut CgroupSockAddr = rig.hook(name)?;
        hook.attach(&folder, CgroupAttachMode::Single)
            .with_context(|| format!("cannot attach {name}"))?;
    }
    for call in calls {
        one(rig, &cgroup, &call, services, options)
            .with_context(|| format!("{} {}", call.program, call.case))?;
    }
    Ok(())
}

/// Tells the size of every program there is, measured or not.
fn weigh(rig: &Rig) -> Result<()> {
    for (program, weight) in rig.weights()? {
        tell(&Cost {
            program,
            case: "",
            v6: false,
            flows: 0,
            services: 0,
            weight,
            floor: &[],
            samples: &[],
        })?;
    }
    Ok(())
}

fn one(rig: &Rig, cgroup: &Cgroup, call: &Call, services: u32, options: &Options) -> Result<()> {
    let any = if call.v6 { "[::]:0" } else { "0.0.0.0:0" };
    let bind = || UdpSocket::bind(any).context("cannot make a socket");
    let (met, unmet) = (cgroup.within(bind)??, bind()?);
    let connect = |socket: &UdpSocket, to| socket.connect(to).context("cannot connect");
    connect(&met, call.to)?;
    connect(&unmet, call.becomes)?;
    // The socket with the hooks sees what it asked for, and its packets would come from where the other's do.
    ensure!(
        met.peer_addr()? == call.to && met.local_addr()?.ip() == unmet.local_addr()?.ip(),
        "the hooks do not do what they are measured for"
    );
    let (mut floor, mut samples) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds * ROUNDS {
        let connects = call.program.starts_with("connect");
        for (socket, to, times) in [
            (&unmet, call.becomes, &mut floor),
            (&met, call.to, &mut samples),
        ] {
            let start = Instant::now();
            for _ in 0..CALLS {
                if connects {
                    connect(socket, to)?;
                } else {
                    socket.peer_addr()?;
                }
            }
            times.push(start.elapsed().as_nanos() as f64 / f64::from(CALLS));
        }
    }
    tell(&Cost {
        program: call.program,
        case: call.case,
        v6: call.v6,
        flows: 1,
        services,
        weight: rig.weight(Target(call.program))?,
        floor: &floor,
        samples: &samples,
    })
}
