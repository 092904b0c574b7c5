//! Test packets through the loaded programs (`BPF_PROG_TEST_RUN`): nobody sends or sees them, no flow comes of them.

use std::net::IpAddr;

use aya::Ebpf;
use aya::programs::{Program, SchedClassifier, TestRun, TestRunOptions};
use svc_common::family::Family;

/// `TCX_NEXT`, and TC_ACT_REDIRECT of what is sent back.
const NEXT: u32 = u32::MAX;
const REDIRECT: u32 = 7;

const ETH_LEN: usize = 14;
const ECHO_LEN: usize = 8;
/// What the program leaves as it is, and what is an answer's: the same lifetime.
const TTL: u8 = 64;

/// At the hook that pods' packets meet.
pub(super) fn run<F: Family>(ebpf: &Ebpf, cluster_ip: Option<F::Addr>) -> Result<(), String> {
    let program = match ebpf.program("pod_ingress") {
        Some(Program::SchedClassifier(program)) => program,
        _ => return Err("the object has no pod_ingress".into()),
    };
    let [client, nobody] = addresses::<F>().ok_or("no address of this family")?;
    let passing = ping::<F>(client, nobody);
    let (action, after) = meet(program, &passing)?;
    if action != NEXT || after != passing {
        return Err(format!(
            "a packet to {}, which is nobody's business here, did not pass as it was (verdict {action})",
            F::addr_to_std(nobody)
        ));
    }
    let Some(vip) = cluster_ip else {
        return Ok(());
    };
    let (action, after) = meet(program, &ping::<F>(client, vip))?;
    let mut answer = ping::<F>(vip, client);
    answer[ETH_LEN + F::LEN] = F::ECHO_REPLY;
    // MAC addresses change places, and the sum is the program's to correct.
    let compared = |frame: &[u8]| {
        let mut frame = frame.get(ETH_LEN..).unwrap_or_default().to_vec();
        if let Some(sum) = frame.get_mut(F::LEN + 2..F::LEN + 4) {
            sum.fill(0);
        }
        frame
    };
    if action != REDIRECT || compared(&after) != compared(&answer) {
        return Err(format!(
            "a ping of ClusterIP {} was not answered (verdict {action})",
            F::addr_to_std(vip)
        ));
    }
    Ok(())
}

/// A client of documentation's, and an address that nobody has: reserved (RFC 1112), or to be discarded (RFC 6666).
fn addresses<F: Family>() -> Option<[F::Addr; 2]> {
    let all: [IpAddr; 4] = [
        [198, 51, 100, 1].into(),
        [240, 0, 0, 1].into(),
        [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
        [0x100, 0, 0, 0, 0, 0, 0, 1].into(),
    ];
    let mut ours = all.into_iter().filter_map(F::addr_from_std);
    Some([ours.next()?, ours.next()?])
}

/// An echo request without data.
fn ping<F: Family>(src: F::Addr, dst: F::Addr) -> Vec<u8> {
    let mut frame = vec![0; ETH_LEN + F::LEN + ECHO_LEN];
    frame[ETH_LEN - 2..ETH_LEN].copy_from_slice(&F::ETHERTYPE.to_ne_bytes());
    let len = frame.len();
    let header = &mut frame[ETH_LEN..ETH_LEN + F::LEN];
    if F::VERSION == 4 {
        header[0] = 0x45;
        header[2..4].copy_from_slice(&length(len - ETH_LEN));
        header[9] = F::ICMP;
    } else {
        header[0] = 0x60;
        header[4..6].copy_from_slice(&length(ECHO_LEN));
        header[6] = F::ICMP;
    }
    header[F::TTL] = TTL;
    let bytes = size_of::<F::Addr>();
    header[F::SRC..F::SRC + bytes].copy_from_slice(bytemuck::bytes_of(&src));
    header[F::DST..F::DST + bytes].copy_from_slice(bytemuck::bytes_of(&dst));
    frame[ETH_LEN + F::LEN] = F::ECHO_REQUEST;
    frame
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

/// The verdict, and the frame afterwards.
fn meet(program: &SchedClassifier, frame: &[u8]) -> Result<(u32, Vec<u8>), String> {
    let mut after = vec![0; 256];
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut after),
        ..TestRunOptions::new()
    };
    let result = program
        .test_run(options)
        .map_err(|error| format!("the kernel does not run the program: {error}"))?;
    after.truncate(usize::try_from(result.data_size_out).unwrap_or(0));
    Ok((result.return_value, after))
}
