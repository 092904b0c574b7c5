//! Whatever a folder of manifests can hold: each row is put beside a good Service, and says which messages it makes and
//! what of it is served. The good Service is served in every row.

#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod fields;
mod files;
mod row;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use svc_agent::cluster::Cluster;
use svc_agent::compile::Facts;
use svc_agent::desired::Protocol;
use svc_agent::plan::{Actual, Capacities, Planner};
use svc_agent::reconcile::Reconciler;
use svc_agent::source::manifests;
use svc_common::family::{Family, V4};
use svc_common::table::Scope;

use row::Row;

/// A folder that goes with the row.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("svc-agent-bad-{}-{count}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("good.yaml"), GOOD).unwrap();
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const GOOD: &str = "
apiVersion: v1
kind: Service
metadata: {name: good}
spec: {clusterIP: 10.96.0.9, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: good, labels: {kubernetes.io/service-name: good}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.9]}]
ports: [{port: 8080}]
";
const GOOD_SERVED: &str = "good 10.96.0.9:80/TCP→10.0.0.9:8080";

/// What a folder leads to: messages, and each address that a client inside is answered at, with who answers.
fn outcome(dir: &Path) -> (BTreeSet<String>, BTreeSet<String>) {
    let (events, refusals) = manifests::read(dir).unwrap();
    let mut said: BTreeSet<String> = refusals.iter().map(ToString::to_string).collect();
    let planner = Planner::from_actual(
        Actual::default(),
        Actual::default(),
        Default::default(),
        Capacities::default(),
    );
    let mut reconciler = Reconciler::new(Cluster::new("here"), planner);
    let facts = Facts {
        node_name: "here".into(),
        node_port_addresses: vec!["172.18.0.11".parse().unwrap()],
        ..Facts::default()
    };
    reconciler.set_facts(facts, BTreeSet::new());
    for event in events {
        reconciler.apply(event);
    }
    let round = reconciler.round();
    said.extend(round.refusals.values().flatten().map(ToString::to_string));
    let (maps, labels) = (reconciler.planner.v4(), reconciler.planner.labels());
    let inside = maps
        .frontends
        .iter()
        .filter(|(key, _)| key.scope == Scope::Internal as u8);
    let served = inside.map(|(key, frontend)| {
        let label = &labels[&frontend.service];
        let name = label
            .trim_start_matches("default/")
            .split([':', '/'])
            .next();
        let run = maps.run(frontend).unwrap_or_default().iter();
        let by: Vec<String> = run
            .map(|b| format!("{}:{}", V4::addr_to_std(b.addr), b.port.get()))
            .collect();
        format!(
            "{} {}:{}/{}→{}",
            name.unwrap(),
            V4::addr_to_std(key.addr),
            key.port.get(),
            Protocol::from_number(key.proto).unwrap(),
            by.join(",")
        )
    });
    let served = served.collect();
    (said, served)
}

/// Whether the parts are there one after the other, the first one at the start.
fn fits(text: &str, pattern: &str) -> bool {
    let mut rest = text;
    for (i, part) in pattern.split('…').enumerate() {
        match rest.find(part) {
            Some(at) if i > 0 || at == 0 => rest = &rest[at + part.len()..],
            _ => return false,
        }
    }
    true
}

#[test]
fn whatever_is_wrong_is_said_and_the_rest_is_served() {
    let mut wrong = Vec::new();
    for Row {
        input,
        says,
        serves,
        make,
    } in fields::rows().into_iter().chain(files::rows())
    {
        let dir = Dir::new();
        make(&dir.0);
        let (said, served) = outcome(&dir.0);
        let as_told = said.len() == says.len()
            && says.iter().all(|s| said.iter().any(|text| fits(text, s)))
            && said.iter().all(|text| !text.contains('\n'));
        let mut expected: BTreeSet<String> = serves.into_iter().collect();
        expected.insert(GOOD_SERVED.into());
        if !as_told || served != expected {
            let short = |texts: &BTreeSet<String>| {
                let cut = |t: &String| t.chars().take(300).collect::<String>();
                texts.iter().map(cut).collect::<Vec<_>>()
            };
            wrong.push(format!(
                "{input}\n  said     {:?}\n  expected {says:?}\n  served   {:?}\n  expected {:?}\n",
                short(&said),
                short(&served),
                short(&expected)
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} rows:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn a_row_of_a_pattern_fits_its_text() {
    assert!(fits("file a: line 1 is bad", "file a…bad") && !fits("a file", "file"));
}
