//! Which objects count, and what a Service that changes its type or families leaves behind (rows A).

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use xtask::traffic::Protocol::Tcp;

use crate::Scenario;
use crate::cluster::TCP;
use crate::scene::Expect::{From, Nobody};
use crate::scene::{INSIDE, Scene};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "another_proxys_services_are_left_alone",
        test: proxy_name,
    },
    Scenario {
        name: "external_name_takes_the_frontends_and_gives_them_back",
        test: external_name,
    },
    Scenario {
        name: "a_headless_service_has_no_frontends",
        test: headless,
    },
    Scenario {
        name: "a_service_gains_and_loses_its_second_family",
        test: families,
    },
    Scenario {
        name: "mirrored_endpoints_of_a_service_without_selector_are_used",
        test: mirrored,
    },
    Scenario {
        name: "slices_made_by_hand_are_used",
        test: manual_slices,
    },
    Scenario {
        name: "a_node_that_is_about_to_go_gets_no_new_traffic_and_stays_live",
        test: doomed_node,
    },
];

/// A1.
fn proxy_name(scene: &Scene<'_>) -> Result<()> {
    let mut web = scene.service("web", &json!({"type": "NodePort"}))?;
    scene.pod("a", "pod-a", "web")?;
    let (inside, outside) = (web.cluster_ips(80)?, web.node_port("http", "node2")?);
    scene.expect(&INSIDE, Tcp, &inside, From(&["pod-a"]))?;
    web.patch_metadata(&json!({"labels": {"service.kubernetes.io/service-proxy-name": "other"}}))?;
    scene.expect(&INSIDE, Tcp, &inside, Nobody)?;
    scene.expect(&["client"], Tcp, &outside, Nobody)?;
    web.patch_metadata(&json!({"labels": {"service.kubernetes.io/service-proxy-name": null}}))?;
    scene.expect(&INSIDE, Tcp, &inside, From(&["pod-a"]))?;
    scene.expect(&["client"], Tcp, &outside, From(&["pod-a"]))
}

/// A3: both ways, from ClusterIP and from NodePort.
fn external_name(scene: &Scene<'_>) -> Result<()> {
    let mut web = scene.service("web", &json!({"type": "NodePort"}))?;
    scene.pod("a", "pod-a", "web")?;
    let (inside, outside) = (web.cluster_ips(80)?, web.node_port("http", "node2")?);
    scene.expect(&INSIDE, Tcp, &inside, From(&["pod-a"]))?;
    let gone = json!({"type": "ExternalName", "externalName": "www.example.com",
        "clusterIP": null, "clusterIPs": null, "ipFamilies": null, "ipFamilyPolicy": null,
        "internalTrafficPolicy": null, "externalTrafficPolicy": null, "ports": null});
    web.patch(&gone)?;
    scene.expect(&INSIDE, Tcp, &inside, Nobody)?;
    scene.expect(&["client"], Tcp, &outside, Nobody)?;
    let ports = json!([{"name": "http", "port": 80, "targetPort": "http"}]);
    for kind in ["ClusterIP", "NodePort"] {
        web.patch(&json!({"type": kind, "externalName": null, "ipFamilyPolicy": "PreferDualStack", "ports": ports}))?;
        let inside = web.cluster_ips(80)?;
        scene.expect(&INSIDE, Tcp, &inside, From(&["pod-a"]))?;
        if kind == "NodePort" {
            scene.expect(
                &["client"],
                Tcp,
                &web.node_port("http", "node2")?,
                From(&["pod-a"]),
            )?;
        }
        web.patch(&gone)?;
        scene.expect(&INSIDE, Tcp, &inside, Nobody)?;
    }
    Ok(())
}

/// A2. Its pods stay reachable by their own addresses.
fn headless(scene: &Scene<'_>) -> Result<()> {
    let headless = scene.service("web", &json!({"clusterIP": "None"}))?;
    scene.pod("a", "pod-a", "web")?;
    ensure!(
        headless.object["spec"]["clusterIP"] == "None",
        "a headless Service got a ClusterIP"
    );
    let direct: Vec<_> = scene
        .cluster
        .topology
        .place("pod-a")
        .addresses()
        .map(|ip| (ip, TCP).into())
        .to_vec();
    scene.expect(&["pod-b", "pod-d"], Tcp, &direct, From(&["pod-a"]))?;
    headless.delete()?;
    // One that was headless and comes again with an address.
    let web = scene.service("web", &json!({}))?;
    scene.expect(&INSIDE, Tcp, &web.cluster_ips(80)?, From(&["pod-a"]))
}

/// A12.
fn families(scene: &Scene<'_>) -> Result<()> {
    let mut web = scene.service("web", &json!({"ipFamilyPolicy": "SingleStack"}))?;
    scene.pod("a", "pod-a", "web")?;
    let one = web.cluster_ips(80)?;
    ensure!(one.len() == 1, "a single-stack Service has {one:?}");
    scene.expect(&INSIDE, Tcp, &one, From(&["pod-a"]))?;
    web.patch(&json!({"ipFamilyPolicy": "PreferDualStack"}))?;
    let both = web.cluster_ips(80)?;
    ensure!(both.len() == 2, "a dual-stack Service has {both:?}");
    scene.expect(&INSIDE, Tcp, &both, From(&["pod-a"]))?;
    web.patch(
        &json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"],
        "clusterIPs": [both[0].ip()]}),
    )?;
    scene.expect(&INSIDE, Tcp, &both[1..], Nobody)?;
    scene.expect(&INSIDE, Tcp, &both[..1], From(&["pod-a"]))
}

fn without_selector(scene: &Scene<'_>) -> Result<Vec<std::net::SocketAddr>> {
    scene
        .service("web", &json!({"selector": null}))?
        .cluster_ips(80)
}

/// A4: the mirroring controller makes the slices.
fn mirrored(scene: &Scene<'_>) -> Result<()> {
    let to = without_selector(scene)?;
    let path = |rest: &str| format!("/api/v1/namespaces/{}/endpoints{rest}", scene.namespace);
    let subsets = |place: &str| -> Value {
        let addresses = scene.cluster.topology.place(place).addresses();
        let addresses = addresses.map(|ip| json!({"ip": ip}));
        json!([{"addresses": addresses, "ports": [{"name": "http", "port": TCP}]}])
    };
    scene.cluster.plane.post(
        &path(""),
        &json!({"metadata": {"name": "web"}, "subsets": subsets("pod-c")}),
    )?;
    scene.expect(&INSIDE, Tcp, &to, From(&["pod-c"]))?;
    scene
        .cluster
        .plane
        .patch(&path("/web"), &json!({"subsets": subsets("pod-a")}))?;
    scene.expect(&INSIDE, Tcp, &to, From(&["pod-a"]))
}

/// A4, A7: only the first address of an endpoint; a slice without the label of a Service counts for none.
fn manual_slices(scene: &Scene<'_>) -> Result<()> {
    let to = without_selector(scene)?;
    let slice = |name: &str, place: &str, service: Option<&str>| {
        let ip = scene.cluster.topology.place(place).v4;
        let body = json!({
            "metadata": {"name": name, "labels": service.map(|name| json!({"kubernetes.io/service-name": name}))},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [ip, "10.244.9.9"]}],
            "ports": [{"name": "http", "port": TCP}],
        });
        let path = format!(
            "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices",
            scene.namespace
        );
        scene.cluster.plane.post(&path, &body).map(drop)
    };
    slice("unlabelled", "pod-c", None)?;
    slice("labelled", "pod-a", Some("web"))?;
    scene.expect(&INSIDE, Tcp, &to[..1], From(&["pod-a"]))?;
    for place in INSIDE {
        ensure!(
            scene.sees_only(place, to[0], "pod-a"),
            "{place} is sent to a second address of an endpoint"
        );
    }
    Ok(())
}

/// E1, E2: what the autoscaler writes on a node that it is going to delete.
fn doomed_node(scene: &Scene<'_>) -> Result<()> {
    let taint = |taints: Value| {
        let body = json!({"spec": {"taints": taints}});
        scene
            .cluster
            .plane
            .patch("/api/v1/nodes/node2", &body)
            .map(drop)
    };
    scene.expect_code("node2", "/healthz", 200)?;
    taint(json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]))?;
    let doomed = scene
        .expect_code("node2", "/healthz", 503)
        .and_then(|()| scene.expect_code("node2", "/livez", 200));
    taint(json!(null))?;
    doomed?;
    scene.expect_code("node2", "/healthz", 200)
}
