//! The packet line on the host, with the maps that the agent plans, against the model (`tests/model.rs`).

use svc_tests::random::{host::Host, run};

#[test]
fn the_packet_line_does_what_the_model_says() {
    let mut host = Host::default();
    let tally = run::random(&mut [&mut host]);
    // Nothing of what is to be compared is so rare that the comparison says little.
    for (what, count) in [
        ("not ours", tally.not_ours),
        ("refused", tally.refused),
        ("dropped", tally.dropped),
        ("masqueraded", tally.masqueraded),
        ("sets reached in full", tally.covered),
        ("calls", tally.calls),
    ] {
        assert!(
            count * 100 > tally.packets,
            "{what}: only {count} of {tally:?}"
        );
    }
}

#[test]
fn what_failed_once_does_not_fail_again() {
    let mut host = Host::default();
    run::known(&mut [&mut host]);
}
