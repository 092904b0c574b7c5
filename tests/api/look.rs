//! `explain`, `describe` and `diff` with an API server, and without one that answers: by the agent's own rights.

use std::path::Path;
use std::process::Output;

use xtask::agents::eventually;

use crate::objects::{create_service, set_endpoints};
use crate::{Cluster, SOON, topology};

/// Runs a verb on node1.
fn ask(cluster: &Cluster<'_>, kubeconfig: &Path, verb: &str, words: &[&str]) -> Output {
    let mut command = cluster.topology.agent("node1", verb).unwrap();
    command.arg("--kubeconfig").arg(kubeconfig);
    if verb != "diff" {
        command.args(["--hostname-override", "node1"]);
    }
    command.args(words).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn what_the_maps_say_is_held_against_the_api_server_by_the_agents_own_rights() {
    let topology = topology();
    let mut cluster = Cluster::start(&topology);
    let config = cluster.api.agent_kubeconfig().unwrap();
    create_service(&cluster.api).unwrap();
    set_endpoints(&cluster.api, &topology, &["pod-a", "pod-c"]).unwrap();
    cluster.expect_answers_from(&["pod-a", "pod-c"]);

    let mut last = String::new();
    let same = || {
        let output = ask(&cluster, &config, "diff", &[]);
        last = text(&output.stdout) + &text(&output.stderr);
        Ok(output.status.code() == Some(0))
    };
    if let Err(error) = eventually("the maps are what the API says", SOON, same) {
        panic!("{error}: {last}\n{}", cluster.logs());
    }

    let words = ["--from", "10.244.1.11", "svc/default/web:http"];
    let told = ask(&cluster, &config, "explain", &words);
    let told = text(&told.stdout) + &text(&told.stderr);
    for part in [
        "Service:    default/web:http, ClusterIP, asked from inside",
        "10.244.1.10:8080   -     this    50.0%   ready",
        "Verdict:    forwarded: to one of 2 backends, at random",
    ] {
        assert!(told.contains(part), "no {part:?} in\n{told}");
    }
    let page = text(&ask(&cluster, &config, "describe", &["service", "web"]).stdout);
    assert!(page.contains("Type:        NodePort"), "{page}");

    // Of all nights, in this one the API server does not answer.
    cluster.api.kill();
    let told = ask(&cluster, &config, "explain", &words);
    assert_eq!(told.status.code(), Some(0), "{}", text(&told.stderr));
    assert!(text(&told.stdout).contains("from the maps alone"));
    assert!(
        text(&told.stderr).contains("going by the maps alone"),
        "{}",
        text(&told.stderr)
    );
    let differs = ask(&cluster, &config, "diff", &[]);
    assert_eq!(differs.status.code(), Some(1));
    let errors = text(&differs.stderr);
    assert!(
        errors.contains("at the API server") && errors.lines().count() == 1,
        "{errors}"
    );
}
