//! What is counted by service port.

use std::collections::BTreeMap;

use prometheus_client::encoding::DescriptorEncoder;
use svc_common::table::Traffic;

use super::{Rows, counters};
use crate::plan::Label;
use crate::tally::{Count, Counts};

/// A namespace that no Service has: of those without series of their own.
const OTHERS: [&str; 4] = ["", "other", "", ""];

type Way = (&'static str, fn(&Traffic) -> [u64; 2]);

/// Towards the backends, and back: packets and bytes.
const WAYS: [Way; 2] = [
    ("in", |traffic| [traffic.packets_in, traffic.bytes_in]),
    ("out", |traffic| [traffic.packets_out, traffic.bytes_out]),
];

pub(super) fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    labels: &BTreeMap<u32, String>,
    own: &Counts,
    others: Option<Count>,
) -> std::fmt::Result {
    let own: Vec<([String; 4], Count)> = own
        .iter()
        .filter_map(|(id, count)| Some((names(labels.get(id)?)?, *count)))
        .chain(others.map(|count| (OTHERS.map(Into::into), count)))
        .collect();
    let mut rows = counters(
        encoder,
        "svcplane_service_connections",
        "New connections by Service port, of packets and of sockets that were connected to a backend",
    )?;
    for (names, count) in &own {
        row(&mut rows, names, None, count.connections)?;
    }
    for (i, (name, help)) in [
        (
            "svcplane_service_packets",
            "Packets that were translated by Service port, to the backends (in) and back (out)",
        ),
        (
            "svcplane_service_bytes",
            "Bytes of the packets that were translated, with their IP headers",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let mut rows = counters(encoder, name, help)?;
        for (names, count) in &own {
            for (way, of) in WAYS {
                if let Some(traffic) = &count.traffic {
                    row(&mut rows, names, Some(way), of(traffic)[i])?;
                }
            }
        }
    }
    Ok(())
}

fn names(label: &str) -> Option<[String; 4]> {
    let Label { port, protocol } = Label::parse(label)?;
    Some([
        port.service.namespace.to_string(),
        port.service.name.to_string(),
        port.port.to_string(),
        protocol.to_string(),
    ])
}

fn row(
    rows: &mut Rows<'_>,
    [namespace, name, port, protocol]: &[String; 4],
    direction: Option<&str>,
    value: u64,
) -> std::fmt::Result {
    let labels = [
        ("namespace", &**namespace),
        ("name", name),
        ("port", port),
        ("protocol", protocol),
        ("direction", direction.unwrap_or_default()),
    ];
    let shown = if direction.is_some() { 5 } else { 4 };
    rows.counter(&labels[..shown], value)
}

#[cfg(test)]
mod tests {
    use prometheus_client::collector::Collector;
    use prometheus_client::encoding::DescriptorEncoder;
    use prometheus_client::registry::Registry;

    use super::super::{Format, text};
    use super::*;

    #[derive(Debug)]
    struct Told(BTreeMap<u32, String>, Counts, Option<Count>);

    impl Collector for Told {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
            super::encode(&mut encoder, &self.0, &self.1, self.2)
        }
    }

    fn told(traffic: Option<Traffic>) -> String {
        let labels = [
            (1, "default/web:http/TCP".to_owned()),
            (2, "kube-system/dns/UDP".to_owned()),
        ];
        let count = |connections| Count {
            connections,
            traffic,
        };
        let own = [(1, count(3)), (2, count(4)), (9, count(5))];
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Told(labels.into(), own.into(), Some(count(7)))));
        text(&registry, Format::Classic)
    }

    fn samples(text: &str) -> Vec<&str> {
        text.lines().filter(|line| !line.starts_with('#')).collect()
    }

    #[test]
    fn a_service_port_has_one_series_by_its_names() {
        assert_eq!(
            samples(&told(None)),
            [
                r#"svcplane_service_connections_total{namespace="default",name="web",port="http",protocol="TCP"} 3"#,
                r#"svcplane_service_connections_total{namespace="kube-system",name="dns",port="",protocol="UDP"} 4"#,
                r#"svcplane_service_connections_total{namespace="",name="other",port="",protocol=""} 7"#,
            ],
            "and an id that has no label any more is nobody's"
        );
    }

    #[test]
    fn packets_and_bytes_have_a_direction() {
        let text = told(Some(Traffic {
            packets_in: 1,
            bytes_in: 60,
            packets_out: 2,
            bytes_out: 3000,
        }));
        for line in [
            r#"svcplane_service_packets_total{namespace="default",name="web",port="http",protocol="TCP",direction="in"} 1"#,
            r#"svcplane_service_packets_total{namespace="default",name="web",port="http",protocol="TCP",direction="out"} 2"#,
            r#"svcplane_service_bytes_total{namespace="default",name="web",port="http",protocol="TCP",direction="in"} 60"#,
            r#"svcplane_service_bytes_total{namespace="default",name="web",port="http",protocol="TCP",direction="out"} 3000"#,
        ] {
            assert!(samples(&text).contains(&line), "{line} in {text}");
        }
    }
}
