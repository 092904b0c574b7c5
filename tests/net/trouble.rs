//! What can go wrong on a node: signals while the agent starts, pods that are gone at once, limits, full disks, no bpffs.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xtask::agents::{Agent, eventually, healthy};
use xtask::traffic::Running;

use crate::Case;
use crate::churn::pod_b_leaves;
use crate::lab::Lab;
use crate::life::{links, new_connections};

/// Verifying the programs takes seconds of a CPU, and others may have it.
const BUSY: Duration = Duration::from_secs(90);

pub const CASES: &[Case] = &[
    Case {
        name: "a_signal_in_any_phase_of_a_start_leaves_nothing_that_cleanup_and_the_next_start_cannot_handle",
        settings: &["packets_only"],
        test: interrupted,
    },
    Case {
        name: "pods_that_are_gone_at_once_leave_nothing",
        settings: &["packets_only"],
        test: brief,
    },
    Case {
        name: "an_agent_raises_its_limit_of_open_files_or_says_that_it_cannot",
        settings: &["packets_only"],
        test: few_files,
    },
    Case {
        name: "a_full_disk_is_no_trouble",
        settings: &["packets_only"],
        test: full_disk,
    },
    Case {
        name: "a_bpf_file_system_that_is_not_mounted_is_mounted",
        settings: &["packets_only"],
        test: unmounted,
    },
];

fn end(agent: &mut Agent, signal: Signal) -> Result<ExitStatus> {
    kill(Pid::from_raw(agent.process.0.id().cast_signed()), signal)?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if let Some(status) = agent.process.0.try_wait()? {
            return Ok(status);
        }
        sleep(Duration::from_millis(5));
    }
    bail!("it goes on after {signal}; its log:\n{}", agent.log())
}

/// Removes the dataplane of node1, which has no agent; nothing of it may be left.
fn clean(lab: &Lab) -> Result<()> {
    let output = lab.agent("node1", "cleanup", &[])?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cleanup: {text}");
    let root = lab.topology.bpf_root("node1");
    let left = fs::read_dir(&root).into_iter().flatten().count();
    ensure!(left == 0, "{} holds {left} entries", root.display());
    Ok(())
}

fn interrupted(lab: &mut Lab) -> Result<()> {
    const PHASES: u32 = 8;
    let flags = lab.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    lab.agents[0].stop()?;
    clean(lab)?;
    let start = Instant::now();
    let mut agent = Agent::start(&lab.topology, "node1", &flags)?;
    agent.wait_until_healthy(&lab.topology, BUSY)?;
    let whole = start.elapsed();
    agent.stop()?;
    for phase in 0..2 * PHASES {
        let signal = [Signal::SIGTERM, Signal::SIGKILL][(phase % 2) as usize];
        // Every other pair starts where the one before was stopped, the rest from nothing.
        if phase / 2 % 2 == 0 {
            clean(lab)?;
        }
        let mut agent = Agent::start(&lab.topology, "node1", &flags)?;
        sleep(whole * phase / (2 * PHASES));
        let status = end(&mut agent, signal)?;
        // Before it listens to signals, it ends by them.
        ensure!(
            status.code().is_none_or(|code| code == 0),
            "{signal} after {phase}/{} of the start: {status}; its log:\n{}",
            2 * PHASES,
            agent.log()
        );
    }
    clean(lab)?;
    lab.agents.clear();
    lab.start(&[])?;
    new_connections(lab)
}

fn brief(lab: &mut Lab) -> Result<()> {
    let before = links(lab, "node2");
    fs::write(&lab.agents[1].log_file, "")?;
    let namespace = format!("{}-brief", lab.topology.name);
    for n in 0..30 {
        lab.tool("node2", &format!("ip netns add {namespace}"))?;
        let made = format!("ip link add vethbrief type veth peer name eth0 netns {namespace}");
        let made = lab.tool("node2", &made);
        sleep(Duration::from_millis(n));
        // The device goes with the namespace, a moment later.
        lab.tool("node2", &format!("ip netns del {namespace}"))?;
        made?;
        eventually("the device is gone", Duration::from_secs(10), || {
            Ok(lab.tool("node2", "ip link show vethbrief").is_err())
        })?;
    }
    eventually("no pin is left", Duration::from_secs(10), || {
        Ok(links(lab, "node2") == before)
    })?;
    ensure!(healthy(&lab.topology, "node2"), "the agent is not well");
    let log = lab.agents[1].log();
    let complaint = log
        .lines()
        .find(|l| l.contains("WARN") || l.contains("ERROR"));
    ensure!(complaint.is_none(), "{complaint:?}");
    new_connections(lab)
}

fn few_files(lab: &mut Lab) -> Result<()> {
    lab.agents[0].stop()?;
    let with = |lab: &Lab, soft, hard| -> Result<Command> {
        let mut command = lab.topology.agent("node1", "run")?;
        command.args(lab.flags()).stdin(Stdio::null());
        // SAFETY: one system call between fork and exec.
        unsafe {
            command.pre_exec(move || {
                setrlimit(Resource::RLIMIT_NOFILE, soft, hard).map_err(io::Error::from)
            });
        }
        Ok(command)
    };
    let output = with(lab, 48, 48)?.output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{}: {text}", output.status);
    let says = text.lines().find(|line| line.starts_with("svc-agent: "));
    ensure!(
        says.is_some_and(|line| line.contains("open files") && line.contains("48")),
        "{text}"
    );
    let child = with(lab, 48, 4_096)?
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    lab.agents[0].process = Running(child);
    lab.agents[0].wait_until_healthy(&lab.topology, BUSY)?;
    new_connections(lab)?;
    lab.agents[0].stop()?;
    lab.agents.clear();
    lab.start(&[])
}

/// Every line of its log is lost, and nothing else is written anywhere.
fn full_disk(lab: &mut Lab) -> Result<()> {
    lab.agents[0].stop()?;
    let full = || File::options().write(true).open("/dev/full");
    let child = lab
        .topology
        .agent("node1", "run")?
        .args(lab.flags())
        .stdin(Stdio::null())
        .stdout(full()?)
        .stderr(full()?)
        .spawn()?;
    lab.agents[0].process = Running(child);
    lab.agents[0].wait_until_healthy(&lab.topology, BUSY)?;
    pod_b_leaves(lab)?;
    lab.restore()?;
    new_connections(lab)?;
    let pid = lab.agents[0].process.0.id();
    let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
    ensure!(
        io.lines().any(|line| line == "write_bytes: 0"),
        "it has written to a disk: {io}"
    );
    let status = lab.agents[0].stop()?;
    ensure!(status.code() == Some(0), "it ended with {status}");
    lab.agents.clear();
    lab.start(&[])
}

const BPFFS: &str = "/sys/fs/bpf";

/// In a mount namespace of its own; when the agent goes, so do its pins, and with them its programs.
fn unmounted(lab: &mut Lab) -> Result<()> {
    lab.agents[0].stop()?;
    clean(lab)?;
    let agent = xtask::programs::workspace_binary("svc-agent")?;
    let mut command = lab.topology.command("node1", agent)?;
    let cgroup = lab.topology.place("node1").cgroup.clone();
    command
        .args(["run", "--hostname-override", "node1", "--bpf-root"])
        .arg(Path::new(BPFFS).join("svcplane"))
        .arg("--cgroup-root")
        .arg(cgroup)
        .args(lab.flags());
    for address in lab.topology.place("node1").addresses() {
        command.args(["--node-ip", &address.to_string()]);
    }
    // SAFETY: between fork and exec only system calls are made; the paths are there already.
    unsafe {
        command.pre_exec(|| {
            unshare(CloneFlags::CLONE_NEWNS)?;
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            while umount2(BPFFS, MntFlags::MNT_DETACH).is_ok() {}
            Ok(())
        });
    }
    let log = File::options().append(true).open(&lab.agents[0].log_file)?;
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn();
    lab.agents[0].process = Running(child.context("cannot start svc-agent")?);
    lab.agents[0].wait_until_healthy(&lab.topology, BUSY)?;
    new_connections(lab)?;
    lab.agents[0].stop()?;
    lab.agents.clear();
    lab.start(&[])?;
    new_connections(lab)
}
