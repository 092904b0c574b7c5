//! The text as scrapers and promtool read it, and docs/metrics.md as people do.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use super::*;
use crate::cluster::{Change, Event, Trigger};

/// Metrics of an agent without maps, with something of everything.
fn scrape(format: Format) -> String {
    let metrics = Metrics::default();
    metrics.answered("/healthz", true);
    metrics.answered("/nothing", true);
    let none = Change::All(BTreeMap::new());
    metrics.programming.queued(&Event::Service(none));
    metrics.programming.triggered(Trigger {
        at: SystemTime::now(),
        v6: false,
    });
    let written = Written {
        took: Duration::from_millis(3),
        families: [true; 2],
    };
    metrics.programming.settled(written, 5);
    metrics.watches.heard("services");
    metrics.watches.failed("nodes");
    metrics.state.no_local_endpoints("IPv4", "external", 2);
    metrics.state.tested([true, false]);
    let fill = |table, family| Fill {
        table,
        family,
        entries: 3,
        capacity: 10,
    };
    let fills = vec![fill("frontends", "IPv4"), fill("service_ports", "")];
    metrics.state.tables(fills, 7);
    metrics.state.hooks(Hooks {
        programs: [("node_ingress", (2, 1))].into(),
        devices: [
            (("eth0".to_owned(), "node_ingress"), true),
            (("odd\"name\\".to_owned(), "node_ingress"), false),
        ]
        .into(),
    });
    let registry = metrics.registry("/nowhere".into(), Notices::default(), 10);
    text(&registry, format)
}

/// A family: its type, and the names of its labels.
type Families = BTreeMap<String, (String, BTreeSet<String>)>;

/// Reads the classic format as strictly as it is written down; what is wrong is a panic.
fn parse(text: &str) -> Families {
    let mut families = Families::new();
    let mut helped = BTreeSet::new();
    let mut seen = BTreeSet::new();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, what] => {
                assert!(!what.is_empty() && helped.insert(name.to_owned()), "{line}");
            }
            ["#", "TYPE", name, kind] => {
                assert!(helped.contains(name), "{name} has no HELP");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                let family = (kind.to_owned(), BTreeSet::new());
                assert!(families.insert(name.to_owned(), family).is_none(), "{line}");
            }
            _ => {
                let (series, value) = line.rsplit_once(' ').expect("a value");
                value.parse::<f64>().expect("a number");
                assert!(seen.insert(series.to_owned()), "{series} twice");
                assert!(!series.ends_with("{}"), "{series}");
                let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
                let base = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|suffix| name.strip_suffix(suffix))
                    .filter(|base| families.get(*base).is_some_and(|f| f.0 == "histogram"))
                    .unwrap_or(name);
                let family = families.get_mut(base);
                let family = family.unwrap_or_else(|| panic!("{name} has no TYPE"));
                assert!(family.0 != "counter" || name.ends_with("_total"), "{line}");
                let labels = labels.strip_suffix('}').expect("a closing brace");
                let names = labels
                    .split("\",")
                    .filter_map(|label| label.split_once("=\""));
                let names = names.map(|(name, _)| name.to_owned());
                family.1.extend(names.filter(|name| name != "le"));
            }
        }
    }
    families
}

#[test]
fn the_text_is_what_scrapers_read() {
    let families = parse(&scrape(Format::Classic));
    let open = scrape(Format::OpenMetrics);
    assert!(open.ends_with("# EOF\n"));
    assert!(families.len() > 30, "{families:#?}");
    assert!(
        open.contains(
            "\nkubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1\n"
        )
    );
    assert!(
        open.contains("\nsvcplane_table_entries{table=\"frontends\",ip_family=\"IPv4\"} 3.0\n")
    );
    assert!(open.contains("device=\"odd\\\"name\\\\\""), "escaped");
}

#[test]
fn promtool_finds_nothing_wrong_where_it_is_installed() {
    let Ok(mut promtool) = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    else {
        return;
    };
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(scrape(Format::Classic).as_bytes()).unwrap();
    drop(stdin);
    let output = promtool.wait_with_output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    // kube-proxy's own name for a gauge.
    let ours: Vec<&str> = complaints
        .lines()
        .filter(|line| !line.starts_with("kubeproxy_sync_proxy_rules_no_local_endpoints_total "))
        .collect();
    assert!(ours.is_empty(), "{complaints}");
}

#[test]
fn the_page_lists_every_metric_with_its_type_and_labels() {
    let page = include_str!("../../../docs/metrics.md");
    let mut listed = Families::new();
    for line in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, meaning, _] = cells[..] else {
            panic!("{line}")
        };
        assert!(!meaning.is_empty(), "{line}");
        let labels = labels.split(", ").filter(|label| !label.is_empty());
        let family = (kind.to_owned(), labels.map(str::to_owned).collect());
        let name = name.trim_matches('`').to_owned();
        assert!(listed.insert(name, family).is_none(), "{line}");
    }
    let told = parse(&scrape(Format::Classic));
    let names = |families: &Families| families.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(
        names(&told),
        names(&listed),
        "docs/metrics.md and the agent"
    );
    for (name, (kind, labels)) in told {
        assert_eq!(kind, listed[&name].0, "{name}");
        // Without maps there are no samples of some.
        assert!(
            labels.is_empty() || labels == listed[&name].1,
            "{name}: {labels:?}, and the page says {:?}",
            listed[&name].1
        );
    }
}
