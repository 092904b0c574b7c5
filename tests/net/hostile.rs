//! What a Service may not take with externalIPs (CVE-2020-8554), on real sockets.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use xtask::agents::eventually;
use xtask::traffic::{Probe, Protocol};

use crate::Case;
use crate::lab::Lab;

pub const CASES: &[Case] = &[Case {
    name: "external_addresses_capture_nothing_of_others",
    settings: &["socket_tcp", "packets_only", "xdp_native"],
    test: capture,
}];

/// Every listener is looked for after ten seconds at the latest.
const SOON: Duration = Duration::from_secs(30);
const FILE: &str = "capture.yaml";

/// pod-c's Service asks for node1's address, at the port of a process there and at another one, and for one-a's ClusterIP.
fn manifest(lab: &Lab) -> String {
    let [v4, v6] = [false, true].map(|v6| lab.address("node1", v6));
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: captor, creationTimestamp: '1970-01-01T00:00:00Z'}}\n\
         spec:\n  clusterIP: 10.96.0.60\n  clusterIPs: [10.96.0.60, 'fd00:96::60']\n  selector: {{one: c}}\n  \
         externalIPs: [{v4}, '{v6}', 10.96.0.2, 'fd00:96::2']\n  ports:\n  \
         - {{name: taken, port: 8081, targetPort: 8080}}\n  - {{name: free, port: 7000, targetPort: 8080}}\n  \
         - {{name: web, port: 80, targetPort: 8080}}\n"
    )
}

fn capture(lab: &mut Lab) -> Result<()> {
    lab.write(FILE, &manifest(lab))?;
    let served = |at: SocketAddr, by: &str| {
        eventually(&format!("{at} is answered by {by}"), SOON, || {
            let answers = Probe::tcp(at).run(&lab.topology, "client")?;
            Ok(answers[0].by() == Some(by))
        })
    };
    for v6 in [false, true] {
        let node = lab.address("node1", v6);
        served((node, 7000).into(), "pod-c")?;
        // The process keeps its port, towards everybody who asks the node.
        for from in ["client", "pod-a", "node1"] {
            lab.answered_by(from, Protocol::Tcp, (node, 8081).into(), &["node1"])?;
        }
        let victim = if v6 { "fd00:96::2" } else { "10.96.0.2" };
        let victim = |port| SocketAddr::new(victim.parse().expect("an address"), port);
        for from in ["pod-b", "pod-d", "node1"] {
            lab.answered_by(from, Protocol::Tcp, victim(80), &["pod-a"])?;
            lab.refused(from, Protocol::Tcp, victim(7000))?;
        }
    }
    let log = lab.agents[0].log();
    for said in [
        "is what a process of node node1 listens on; write another address or port",
        "externalIP 10.96.0.2 is the clusterIP of Service default/one-a; write another address",
    ] {
        ensure!(log.contains(said), "the log does not say {said:?}");
    }
    std::fs::remove_file(lab.manifests.join(FILE))?;
    let gone = SocketAddr::new(lab.address("node1", false), 7000);
    eventually("the Service is gone", SOON, || {
        let answers = Probe::tcp(gone).run(&lab.topology, "client")?;
        Ok(answers[0].by().is_none())
    })
    .map(drop)
}
