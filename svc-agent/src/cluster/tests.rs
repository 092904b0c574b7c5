use std::collections::BTreeMap;

use super::*;

fn name(n: &str) -> ServiceName {
    ServiceName {
        namespace: "default".into(),
        name: n.into(),
    }
}

fn slice_name(n: &str) -> SliceName {
    SliceName {
        namespace: "default".into(),
        name: n.into(),
    }
}

fn slice(service: &str) -> Slice {
    Slice {
        service: name(service),
        endpoints: Vec::new(),
        ports: Vec::new(),
    }
}

fn service(port: u16) -> Service {
    Service {
        cluster_ips: vec![IpAddr::from([10, 96, 0, port as u8])],
        ..Service::default()
    }
}

fn services(names: &[&str]) -> Event {
    Event::Service(Change::All(
        names.iter().map(|n| (name(n), service(1))).collect(),
    ))
}

fn synced(names: &[&str]) -> Cluster {
    let mut cluster = Cluster::new("node1");
    cluster.apply(services(names));
    cluster.apply(Event::Slice(Change::All(BTreeMap::new())));
    cluster.apply(Event::Node(Change::All(BTreeMap::new())));
    cluster
}

#[test]
fn nothing_is_dirty_before_every_kind_was_listed_and_then_all_is() {
    let mut cluster = Cluster::new("node1");
    assert!(
        cluster
            .apply(Event::Service(Change::Applied(name("early"), service(1))))
            .is_empty()
    );
    assert!(cluster.apply(services(&["a", "b"])).is_empty());
    assert!(
        cluster
            .apply(Event::Slice(Change::All(BTreeMap::new())))
            .is_empty()
    );
    assert!(!cluster.synced());
    assert_eq!(
        cluster.apply(Event::Node(Change::All(BTreeMap::new()))),
        [name("a"), name("b")]
    );
    assert!(cluster.synced());
}

#[test]
fn what_a_new_list_does_not_name_is_gone_and_dirty() {
    let mut cluster = synced(&["a", "b"]);
    assert_eq!(cluster.apply(services(&["b", "c"])), [name("a"), name("c")]);
    assert!(cluster.service(&name("a")).is_none());
}

#[test]
fn an_object_that_did_not_change_makes_nothing_dirty() {
    let mut cluster = synced(&["a"]);
    assert!(
        cluster
            .apply(Event::Service(Change::Applied(name("a"), service(1))))
            .is_empty()
    );
    assert_eq!(
        cluster.apply(Event::Service(Change::Applied(name("a"), service(2)))),
        [name("a")]
    );
    assert_eq!(
        cluster.apply(Event::Service(Change::Deleted(name("a")))),
        [name("a")]
    );
    assert!(
        cluster
            .apply(Event::Service(Change::Deleted(name("a"))))
            .is_empty()
    );
}

#[test]
fn a_slice_dirties_its_service_and_the_one_it_belonged_to_before() {
    let mut cluster = synced(&["a", "b"]);
    assert_eq!(
        cluster.apply(Event::Slice(Change::Applied(slice_name("s"), slice("a")))),
        [name("a")]
    );
    assert_eq!(
        cluster.apply(Event::Slice(Change::Applied(slice_name("s"), slice("b")))),
        [name("a"), name("b")]
    );
    assert_eq!(cluster.slices_of(&name("a")).count(), 0);
    assert_eq!(cluster.slices_of(&name("b")).count(), 1);
    assert_eq!(
        cluster.apply(Event::Slice(Change::Deleted(slice_name("s")))),
        [name("b")]
    );
    assert!(
        cluster
            .apply(Event::Slice(Change::Applied(
                slice_name("s"),
                slice("unknown")
            )))
            .is_empty()
    );
}

#[test]
fn only_this_node_counts_and_its_change_dirties_all() {
    let mut cluster = synced(&["a", "b"]);
    let node = Node {
        addresses: vec![IpAddr::from([172, 18, 0, 11])],
        ..Node::default()
    };
    assert!(
        cluster
            .apply(Event::Node(Change::Applied("node2".into(), node.clone())))
            .is_empty()
    );
    assert_eq!(
        cluster
            .apply(Event::Node(Change::Applied("node1".into(), node.clone())))
            .len(),
        2
    );
    assert!(
        cluster
            .apply(Event::Node(Change::Applied("node1".into(), node)))
            .is_empty(),
        "a heartbeat changes nothing"
    );
    assert_eq!(
        cluster
            .apply(Event::Node(Change::Deleted("node1".into())))
            .len(),
        2
    );
}

#[test]
fn the_primary_addresses_are_the_first_of_each_family() {
    let addresses = ["fd00::1", "10.0.0.1", "10.0.0.2", "fd00::2"]
        .map(|a| a.parse().unwrap())
        .to_vec();
    let node = Node {
        addresses,
        ..Node::default()
    };
    assert_eq!(
        node.primary_addresses(),
        [
            "10.0.0.1".parse::<IpAddr>().unwrap(),
            "fd00::1".parse().unwrap()
        ]
    );
}

#[test]
fn other_nodes_addresses_are_kept_where_tunnels_need_them() {
    let node = |last| Node {
        addresses: vec![IpAddr::from([172, 18, 0, last])],
        ..Node::default()
    };
    let nodes = |names: &[(&str, u8)]| {
        let all = names
            .iter()
            .map(|(name, last)| ((*name).into(), node(*last)));
        Event::Node(Change::All(all.collect()))
    };
    let peers = |cluster: &Cluster| {
        let v4 = |addr| match addr {
            IpAddr::V4(addr) => addr.octets()[3],
            IpAddr::V6(_) => 0,
        };
        cluster.peer_addresses().map(v4).collect::<Vec<_>>()
    };
    let mut cluster = Cluster::new("node1").with_peers();
    cluster.apply(nodes(&[("node1", 11), ("node2", 12), ("node3", 13)]));
    assert_eq!(peers(&cluster), [12, 13]);
    cluster.apply(Event::Node(Change::Applied("node4".into(), node(14))));
    cluster.apply(Event::Node(Change::Applied("node2".into(), node(22))));
    cluster.apply(Event::Node(Change::Deleted("node3".into())));
    assert_eq!(peers(&cluster), [22, 14]);
    cluster.apply(nodes(&[("node4", 14)]));
    assert_eq!(peers(&cluster), [14]);
    let mut other = Cluster::new("node1");
    other.apply(nodes(&[("node1", 11), ("node2", 12)]));
    assert!(peers(&other).is_empty());
}
