//! What is refused of a Service is an Event of it, in the API itself.

use std::collections::BTreeSet;
use std::net::TcpListener;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::{Value, json};
use xtask::agents::eventually;
use xtask::topology::in_namespace;

use crate::objects::{create_service, set_endpoints};
use crate::server::ApiServer;
use crate::{Cluster, SOON, topology};

/// Creates a Service and returns its uid.
fn create(api: &ApiServer, name: &str, spec: Value) -> String {
    let service: Service =
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
    api.admin(|client| async move {
        let services = Api::<Service>::namespaced(client, "default");
        let created = services.create(&PostParams::default(), &service).await?;
        Ok(created.metadata.uid.unwrap())
    })
    .unwrap()
}

/// Our Events of a reason.
fn events(api: &ApiServer, reason: &str) -> Vec<Event> {
    let all = api
        .admin(|client| async move {
            let events = Api::<Event>::namespaced(client, "default");
            Ok(events.list(&ListParams::default()).await?.items)
        })
        .unwrap();
    let ours = all.into_iter().filter(|e| {
        e.reporting_controller.as_deref() == Some("svcplane.io/svc-agent")
            && e.reason.as_deref() == Some(reason)
    });
    ours.collect()
}

#[test]
fn a_conflict_is_one_event_of_the_newer_service_and_nothing_is_granted_that_is_not_asked_for() {
    let topology = topology();
    let cluster = Cluster::start(&topology);
    let spec = json!({"externalIPs": ["198.51.100.99"], "ports": [{"port": 80}]});
    create(&cluster.api, "a-first", spec.clone());
    let uid = create(&cluster.api, "b-second", spec);
    let found = || Ok(!events(&cluster.api, "FrontendConflict").is_empty());
    if let Err(error) = eventually("there is an Event", SOON, found) {
        panic!("{error}\n{}", cluster.logs());
    }
    // Both nodes have said it by then.
    for agent in &cluster.agents {
        let said = || {
            Ok(agent
                .log()
                .contains("belongs to the older Service default/a-first"))
        };
        eventually("the log says it", SOON, said).unwrap();
    }
    let all = events(&cluster.api, "FrontendConflict");
    let [event] = &all[..] else {
        panic!("{all:#?}")
    };
    let regarding = event.regarding.clone().unwrap();
    assert_eq!(
        (regarding.kind.as_deref(), regarding.name.as_deref()),
        (Some("Service"), Some("b-second"))
    );
    assert_eq!(regarding.uid, Some(uid));
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    let note = event.note.as_deref().unwrap();
    assert!(
        note.starts_with("198.51.100.99 port 80/TCP belongs to the older Service default/a-first"),
        "{note}"
    );
    // By now the agents have asked for all that they ever ask for.
    let (granted, asked) = (granted(&cluster.api), cluster.api.asked().unwrap());
    let used: BTreeSet<_> = asked.iter().map(|(what, _)| what.clone()).collect();
    assert_eq!(used, granted, "asked for, and granted by the chart");
    assert!(asked.iter().all(|(_, code)| *code != 403), "{asked:?}");
}

/// What the ClusterRole of the manifest lets the agents do.
fn granted(api: &ApiServer) -> BTreeSet<[String; 3]> {
    let role = api
        .admin(|client| async move {
            Ok(Api::<ClusterRole>::all(client)
                .get("svcplane:svc-agent")
                .await?)
        })
        .unwrap();
    let mut granted = BTreeSet::new();
    for rule in role.rules.unwrap() {
        for group in rule.api_groups.unwrap() {
            for resource in rule.resources.iter().flatten() {
                let verbs = rule.verbs.iter();
                granted.extend(verbs.map(|verb| [group.clone(), resource.clone(), verb.clone()]));
            }
        }
    }
    granted
}

#[test]
fn a_health_check_port_in_use_is_kube_proxys_event_and_the_other_node_answers() {
    let topology = topology();
    let cluster = Cluster::start(&topology);
    let node1 = topology.place("node1");
    let taken = in_namespace(&node1.namespace_file(), || {
        Ok(TcpListener::bind((node1.v4, 32_200))?)
    })
    .unwrap();
    let spec = json!({
        "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32_200,
        "ports": [{"port": 80}],
    });
    create(&cluster.api, "checked", spec);
    let reason = "FailedToStartServiceHealthcheck";
    let found = || Ok(!events(&cluster.api, reason).is_empty());
    if let Err(error) = eventually("there is an Event", SOON, found) {
        panic!("{error}\n{}", cluster.logs());
    }
    let all = events(&cluster.api, reason);
    let [event] = &all[..] else {
        panic!("{all:#?}")
    };
    let note = event.note.as_deref().unwrap();
    assert!(
        note.starts_with("node node1: its health check at 172.18.0.11:32200 cannot be served"),
        "{note}"
    );
    assert_eq!(event.reporting_instance.as_deref(), Some("node1"));
    drop(taken);
    let logs = cluster.logs();
    assert!(
        !logs.to_lowercase().contains("forbidden"),
        "the agent lacks a right:\n{logs}"
    );
}

#[test]
fn the_api_servers_own_address_is_nobodys_and_that_is_an_event() {
    let topology = topology();
    let cluster = Cluster::start(&topology);
    let address = topology.place("lan").v4;
    let spec = json!({"externalIPs": [address], "ports": [{"name": "api", "port": 6443}, {"name": "web", "port": 80}]});
    create(&cluster.api, "captor", spec);
    let reason = "AddressNotAllowed";
    let found = || Ok(!events(&cluster.api, reason).is_empty());
    if let Err(error) = eventually("there is an Event", SOON, found) {
        panic!("{error}\n{}", cluster.logs());
    }
    let all = events(&cluster.api, reason);
    let notes: Vec<&str> = all.iter().filter_map(|e| e.note.as_deref()).collect();
    let own = format!(
        "externalIP {address} port 6443/TCP is the API server's own; write another address or port"
    );
    assert_eq!(notes, [own.as_str()]);
    for agent in &cluster.agents {
        let said = || Ok(agent.log().contains(&own));
        eventually("the log says it", SOON, said).unwrap();
    }
    // The agents still hear of what is new: nothing stands between them and the API server.
    create_service(&cluster.api).unwrap();
    set_endpoints(&cluster.api, &topology, &["pod-a"]).unwrap();
    cluster.expect_answers_from(&["pod-a"]);
}
