//! What is tried on a kernel, as a shell script: the same for a guest and for the kernel that runs here.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

/// The test executables that the stages start.
pub(super) const TESTS: [&str; 2] = ["kernel", "net"];

/// Real sockets through real agents: by socket hooks, packet by packet at tc, and at XDP; and an agent that comes and goes.
const SOCKETS: [&str; 4] = [
    "socket_tcp::a_p",
    "packets_only::outside_reaches",
    "packets_only::traffic_goes_on",
    "xdp_native::outside_reaches",
];

/// Those of `--long`, in their place.
const MORE_SOCKETS: [&str; 3] = ["socket_all::", "packets_only::", "xdp_native::"];

/// `$DIR` is where the programs are.
pub(super) fn script(long: bool) -> String {
    let mut script = String::from(
        "stage() { name=$1; shift; echo; echo \"== begin $name\"; \"$@\"; status=$?; echo; echo \"== end $name $status\"; }\n\
         echo \"== kernel $(uname -r)\"\n\
         stage check $DIR/svc-agent check\n\
         stage programs $DIR/kernel --exact --nocapture \
         budget::every_program_is_verified_in_fewer_than_200_000_instructions\n\
         stage packets $DIR/kernel --skip budget::",
    );
    if !long {
        // Random clusters and histories: minutes where every instruction is emulated.
        script += " --skip agree:: --skip any_history";
    }
    script += "\n";
    let sockets: &[&str] = if long { &MORE_SOCKETS } else { &SOCKETS };
    for filter in sockets {
        script += &format!("stage sockets $DIR/net {filter}\n");
    }
    script + "echo \"== done\"\n"
}

/// Runs the script on the kernel that runs here.
pub(super) fn run_here(script: &str, programs: &Path, log: &Path) -> Result<()> {
    let output = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    Command::new("sh")
        .args(["-c", script])
        .env("DIR", programs)
        .env("SVCPLANE_BIN", programs)
        .stdin(Stdio::null())
        .stderr(output.try_clone()?)
        .stdout(output)
        .status()
        .context("cannot run sh")?;
    Ok(())
}
