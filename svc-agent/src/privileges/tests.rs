use super::*;
use crate::config::{self, Verb};

fn options(more: &[&str]) -> Run {
    let argv = ["svc-agent", "run"].iter().chain(more);
    match config::parse(argv.map(Into::into)).unwrap().verb {
        Verb::Run(run) => *run,
        other => panic!("not run: {other:?}"),
    }
}

#[test]
fn in_a_pod_it_keeps_what_devices_and_maps_ask_for() {
    assert_eq!(
        kept(&options(&[])).to_string(),
        "NET_BIND_SERVICE, NET_ADMIN, BPF"
    );
}

#[test]
fn settings_that_ask_for_more_keep_more() {
    for (flag, names) in [
        ("--socket-lb=all", &["SYS_PTRACE", "SYS_ADMIN"][..]),
        ("--manifests=x", &["DAC_READ_SEARCH"]),
        ("--kubeconfig=x", &["DAC_READ_SEARCH"]),
        ("--socket-lb=host-only", &[]),
        ("--takeover", &[]),
        ("--host-routing=auto", &[]),
    ] {
        let (more, less) = (kept(&options(&[flag])), kept(&options(&[])));
        let new: Vec<&str> = Set(more.0 & !less.0).iter().map(Capability::name).collect();
        assert_eq!(new, names, "{flag}");
    }
}

#[test]
fn what_is_held_is_read_from_proc() {
    let status = "Name:\tsvc-agent\nCapPrm:\t0000008000001400\nCapEff:\t0000008000001400\n\
                  CapBnd:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";
    let held = Held::parse(status).unwrap();
    assert_eq!(
        held.to_string(),
        "NET_BIND_SERVICE, NET_ADMIN, BPF; no new ones; system calls are filtered"
    );
    assert_eq!(held.bounding, Set::default());
    assert_eq!(Held::parse("Name:\tx\n"), None);
    let root = status.replace("CapEff:\t0000008000001400", "CapEff:\t000001ffffffffff");
    let root = root.replace("NoNewPrivs:\t1", "NoNewPrivs:\t0");
    let held = Held::parse(&root).unwrap();
    assert_eq!(
        held.to_string(),
        "root's (41 capabilities); system calls are filtered"
    );
    assert_eq!(held.effective, Set::ALL);
}

/// In a thread of its own: the others are other tests'.
#[test]
fn a_thread_that_lets_go_has_no_more_and_nothing_that_it_executes_has_any() {
    let lowered = std::thread::spawn(|| {
        let before = Set(sys::permitted().unwrap());
        let keep = [Capability::BPF, Capability::NET_ADMIN]
            .into_iter()
            .collect();
        lower(keep).unwrap();
        let held = Held::read().unwrap();
        (before, held)
    });
    let (before, held) = lowered.join().unwrap();
    let all = [Capability::BPF, Capability::NET_ADMIN].into_iter();
    let expected: Set = all.filter(|capability| before.has(*capability)).collect();
    assert_eq!(held.effective, expected);
    if before.has(Capability::SETPCAP) {
        assert_eq!(held.bounding, Set::default());
    }
    assert_eq!(Held::read().unwrap().effective, before, "other threads");
}
