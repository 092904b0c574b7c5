//! Manifests in, the text of the maps out: one folder under `cases` per feature. `UPDATE=1` rewrites what is expected.
//!
//! Every case is seen from the node `node1` in `zone-a` with the addresses 172.18.0.11 and fd00:18::11, and runs the
//! agent's own line: manifests → Cluster → compile → claims → plan.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod dump;
mod explain;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use svc_agent::cluster::{Cluster, Event};
use svc_agent::compile::Facts;
use svc_agent::plan::{Capacities, Planner};
use svc_agent::reconcile::Reconciler;
use svc_agent::source::manifests;

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cases")
}

/// An agent on node1 that has heard `events`; its maps are what `planner` says.
fn agent(case: &str, events: Vec<Event>, planner: Planner) -> Reconciler {
    let mut cluster = Cluster::new("node1");
    for event in events {
        cluster.apply(event);
    }
    let addresses = ["172.18.0.11", "fd00:18::11"].map(|ip| ip.parse::<IpAddr>().unwrap());
    let facts = Facts {
        node_name: "node1".into(),
        zone: Some("zone-a".into()),
        node_port_addresses: addresses.to_vec(),
        node_addresses: addresses.to_vec(),
        external_cluster_ip: case == "external-cluster-ip",
        ..Facts::default()
    };
    let mut agent = Reconciler::new(cluster, planner);
    agent.set_facts(facts, BTreeSet::from(addresses));
    agent
}

fn run(case: &str) {
    let folder = cases().join(case);
    let (events, mut refusals) = manifests::read(&folder).unwrap();

    let mut first = agent(case, events.clone(), Planner::empty(Capacities::default()));
    let mut refused = BTreeMap::new();
    // The agent's loop: what could not be had at first is asked for again once something became free.
    for round in std::iter::repeat_with(|| first.round()) {
        refused.extend(round.refusals);
        if round.changes.is_empty() {
            break;
        }
    }
    refusals.extend(refused.into_values().flatten());
    compare(
        &folder.join("maps.txt"),
        &dump::text(&first.planner, &refusals),
    );

    if let Some(answers) = explain::answers(&folder, &events, &first.planner) {
        compare(&folder.join("explain.txt"), &answers);
    }

    // The same is heard again, by an agent that finds the maps as they are.
    let (v4, v6) = (first.planner.v4().clone(), first.planner.v6().clone());
    let labels = first.planner.labels().clone();
    let restored = Planner::from_actual(v4, v6, labels, Capacities::default());
    let changes = agent(case, events, restored).round().changes;
    assert!(
        changes.is_empty(),
        "a restart writes what is there already: {changes:#?}"
    );
}

fn compare(file: &Path, found: &str) {
    if std::env::var_os("UPDATE").is_some_and(|v| v == "1") {
        fs::write(file, found).unwrap();
        return;
    }
    let expected = fs::read_to_string(file).unwrap_or_default();
    if expected == found {
        return;
    }
    let mut diff = String::new();
    for line in expected
        .lines()
        .filter(|line| !found.lines().any(|l| l == *line))
    {
        diff += &format!("- {line}\n");
    }
    for line in found
        .lines()
        .filter(|line| !expected.lines().any(|l| l == *line))
    {
        diff += &format!("+ {line}\n");
    }
    panic!(
        "{} differs (UPDATE=1 rewrites it):\n{diff}\nfound:\n{found}",
        file.display()
    );
}

macro_rules! cases {
    ($($test:ident = $case:literal;)*) => {
        $(#[test] fn $test() { run($case); })*

        #[test]
        fn every_folder_is_a_case() {
            let listed = BTreeSet::from([$($case.to_owned()),*]);
            let there = fs::read_dir(cases()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
            assert_eq!(there.collect::<BTreeSet<_>>(), listed);
        }
    };
}

cases! {
    a_cluster_ip_sends_to_the_target_port = "clusterip-targetport";
    a_port_without_target_port_is_its_own_target = "no-targetport";
    a_node_port_with_several_named_ports_answers_on_the_node = "nodeport-multiport-named";
    a_load_balancer_answers_on_its_ingress_addresses = "loadbalancer-ingress";
    external_ips_are_served = "external-ips";
    headless_and_external_name_have_no_frontends = "headless-and-external-name";
    a_service_without_endpoints_is_refused_at_once = "empty-endpoints";
    only_ready_endpoints_are_used = "readiness";
    pods_answer_by_label_and_readiness = "pods-by-selector";
    a_selector_that_matches_nothing_is_told_what_there_is = "selector-typo";
    a_named_port_can_be_another_number_on_each_pod = "named-ports-per-pod";
    each_family_has_its_own_endpoints = "dual-stack";
    external_policy_local_keeps_outside_traffic_on_the_node = "etp-local";
    internal_policy_local_keeps_cluster_traffic_on_the_node = "itp-local";
    an_endpoint_in_two_slices_counts_once = "duplicate-slices";
    terminating_endpoints_serve_when_no_other_is_left = "terminating-fallback";
    what_makes_no_sense_is_refused_and_the_rest_served = "bad-input";
    the_older_service_keeps_a_contested_frontend = "port-clash";
    services_of_another_proxy_are_left_alone = "proxy-name-label";
    zone_hints_are_followed = "hints-zone";
    node_hints_go_before_zone_hints = "hints-node";
    one_endpoint_without_hint_switches_hints_off = "hints-incomplete";
    one_port_number_in_two_protocols = "protocols";
    session_affinity_is_noted = "session-affinity";
    source_ranges_restrict_load_balancer_addresses = "source-ranges";
    weights_are_shares_of_new_connections = "weights";
    the_algorithm_is_chosen_by_annotation = "algorithms";
    a_cluster_ip_answers_outside_when_told_to = "external-cluster-ip";
}
