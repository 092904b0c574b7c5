//! What the object may cost: verified instructions, memory, and (told, not judged) time per packet.

use aya::EbpfLoader;
use aya::maps::Map;
use aya::programs::ProgramError;
use aya::util::KernelVersion;

use svc_common::family::{V4, V6};
use svc_common::table::counted;

use crate::frames::{tcp, udp};
use crate::host::Program::{NodeEgress, NodeIngress, NodeXdp, PodEgress, PodIngress};
use crate::kernel::{Keyed, load, memory_of, object};
use crate::network::within;
use crate::pair::Pair;
use crate::world::at;

/// A fifth of what the kernel allows: other compilers and kernels must have room too.
const MAX_INSTRUCTIONS: u32 = 200_000;
/// Before Linux 6.5 the verifier walks many times what a later one takes for the same.
const MAX_OF_OLD_KERNELS: u32 = 500_000;
const MAX_MEMORY: u64 = 200 << 20;

/// Tells every program's count or why it is refused, on whatever kernel; `cargo xtask kernels` reads it.
#[test]
fn every_program_is_verified_in_fewer_than_200_000_instructions() {
    let mut loader = EbpfLoader::new();
    let everything = counted::CONNECTIONS | counted::TRAFFIC;
    loader.override_global("SERVICE_METRICS", &everything, true);
    let old = KernelVersion::current().expect("Linux tells") < KernelVersion::new(6, 5, 0);
    let most = if old {
        MAX_OF_OLD_KERNELS
    } else {
        MAX_INSTRUCTIONS
    };
    let mut wrong = Vec::new();
    for (name, program) in object(&mut loader).programs_mut() {
        if let Err(error) = svc_agent::dataplane::load_program(program) {
            println!("{name}: refused: {}", verdict(&error));
            wrong.push(name.to_owned());
            continue;
        }
        let info = program.info().expect("loaded");
        // Told since Linux 5.16.
        let verified = info.verified_instruction_count();
        println!(
            "{name}: {} verified instructions, {} bytes of machine code",
            verified.map_or("?".into(), |verified| verified.to_string()),
            info.size_jitted()
        );
        if verified.is_some_and(|verified| verified >= most) {
            wrong.push(name.to_owned());
        }
    }
    assert!(wrong.is_empty(), "refused, or too many: {wrong:?}");
}

/// The last thing that the verifier said, in a line.
fn verdict(error: &ProgramError) -> String {
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return error.to_string();
    };
    let log = verifier_log.to_string();
    let sums = ["processed ", "verification time", "stack depth"];
    let is_sum = |line: &&str| sums.iter().any(|sum| line.starts_with(sum));
    let mut said = log.lines().filter(|line| !is_sum(line));
    match said.rfind(|line| !line.trim().is_empty()) {
        Some(last) => format!("{io_error}: {last}"),
        None => io_error.to_string(),
    }
}

#[test]
fn all_maps_are_less_than_200_mb() {
    within(|_| {
        let ebpf = load(&mut EbpfLoader::new());
        let mut all = 0;
        for (name, map) in ebpf.maps() {
            let (Map::Array(map)
            | Map::HashMap(map)
            | Map::LruHashMap(map)
            | Map::LpmTrie(map)
            | Map::PerCpuArray(map)
            | Map::DevMapHash(map)) = map
            else {
                panic!("{name} is of a new kind: add it here");
            };
            let bytes = memory_of(map);
            println!("{name}: {} KiB", bytes >> 10);
            all += bytes;
        }
        println!("all maps: {} MiB", all >> 20);
        assert!(all < MAX_MEMORY, "{all} bytes");
    });
}

#[test]
fn the_time_per_packet_is_told() {
    within(|network| {
        tell_times(&mut Pair::<V4>::new(network));
        tell_times(&mut Pair::<V6>::new(network));
    });
}

/// Packets that come out as they went in, run after run: what a repeat needs.
fn tell_times<F: Keyed>(pair: &mut Pair<F>) {
    let elsewhere = tcp(at::<F>(1, 1), at::<F>(9, 1));
    let unanswered = udp(at::<F>(9, 1), at::<F>(50, 3)).port(81);
    for (what, program, frame) in [
        ("not ours", PodIngress, &elsewhere),
        ("not ours", PodEgress, &elsewhere),
        ("not ours", NodeIngress, &elsewhere),
        ("not ours", NodeEgress, &elsewhere),
        ("not ours", NodeXdp, &elsewhere),
        ("our address, other port", NodeIngress, &unanswered),
        ("our address, other port", NodeXdp, &unanswered),
    ] {
        let result = pair.kernel.test(program, &frame.build(), None, 200_000);
        println!(
            "IPv{} {}, {what}: {} ns",
            F::VERSION,
            program.name(),
            result.duration.as_nanos()
        );
    }
    // A known flow is rewritten by the first run; the rest are somebody else's. XDP passes what has no neighbour.
    let known = udp(at::<F>(9, 1), at::<F>(50, 3)).sport(1_003);
    for sport in 1_000..1_010 {
        let frame = known.clone().sport(sport);
        if pair.run(NodeIngress, &frame.build()).reason.is_none() {
            let result = pair.kernel.test(NodeXdp, &frame.build(), None, 200_000);
            println!(
                "IPv{} node_xdp, known flow, route looked up: {} ns",
                F::VERSION,
                result.duration.as_nanos()
            );
            return;
        }
    }
    panic!("no flow towards a backend with a route");
}
