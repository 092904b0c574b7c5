//! What `/metrics` says of the API: how long changes take, and how the watches do.

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use xtask::agents::{eventually, metric};

use crate::objects::{create_service, set_endpoints};
use crate::{Cluster, SOON, topology};

/// The value of a series at node1's agent.
fn value(cluster: &Cluster<'_>, series: &str) -> Option<f64> {
    metric(cluster.topology, "node1", series).unwrap()
}

/// Changes the slice of IPv4 as its controller would.
fn patch(cluster: &Cluster<'_>, patch: Value) {
    cluster
        .api
        .admin(|client| async move {
            let api = Api::<EndpointSlice>::namespaced(client, "default");
            api.patch("web-ipv4", &PatchParams::default(), &Patch::Merge(patch))
                .await?;
            Ok(())
        })
        .unwrap();
}

fn stamped(now: jiff::Timestamp) -> Value {
    json!({"annotations": {"endpoints.kubernetes.io/last-change-trigger-time": now.to_string()}})
}

#[test]
fn a_stamped_change_is_measured_once_and_others_are_not() {
    let topology = topology();
    let cluster = Cluster::start(&topology);
    create_service(&cluster.api).unwrap();
    set_endpoints(&cluster.api, &topology, &["pod-a", "pod-c"]).unwrap();
    cluster.expect_answers_from(&["pod-a", "pod-c"]);
    let measured = "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"}";
    assert_eq!(value(&cluster, measured), Some(0.0), "nothing was stamped");
    let pod = topology.place("pod-a").v4;
    patch(
        &cluster,
        json!({
            "metadata": stamped(jiff::Timestamp::now()),
            "endpoints": [{"addresses": [pod], "conditions": {"ready": true}, "nodeName": "node1"}],
        }),
    );
    let once = || Ok(value(&cluster, measured) == Some(1.0));
    if let Err(error) = eventually("the change is measured", SOON, once) {
        panic!("{error}\n{}", cluster.logs());
    }
    let sum = "kubeproxy_network_programming_duration_seconds_sum{ip_family=\"IPv4\"}";
    let took = value(&cluster, sum).unwrap();
    assert!(took > 0.0 && took < 10.0, "{took} s");
    let lag = value(&cluster, "svcplane_api_lag_seconds_sum{ip_family=\"IPv4\"}").unwrap();
    assert!(lag > 0.0 && lag <= took, "{lag} s of {took} s");
    // A new stamp on what is known already, as with a change of labels, tells nothing of programming.
    let events = "kubeproxy_sync_proxy_rules_endpoint_changes_total";
    let before = value(&cluster, events).unwrap();
    patch(
        &cluster,
        json!({"metadata": {"labels": {"other": "yes"}, "annotations": stamped(jiff::Timestamp::now())["annotations"]}}),
    );
    let seen = || Ok(value(&cluster, events).unwrap() > before);
    eventually("the other change is seen", SOON, seen).unwrap();
    assert_eq!(value(&cluster, measured), Some(1.0));
    for resource in ["services", "endpointslices", "nodes"] {
        let series = format!("svcplane_api_watch_up{{resource=\"{resource}\"}}");
        assert_eq!(value(&cluster, &series), Some(1.0), "{resource}");
        let series = format!("svcplane_api_lists_total{{resource=\"{resource}\"}}");
        assert_eq!(value(&cluster, &series), Some(1.0), "{resource}");
    }
}
