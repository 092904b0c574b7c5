use proptest::prelude::*;
use svc_common::table::Scope;

use super::*;
use crate::desired::{Algorithm, Endpoint, Frontend, FrontendKind, Protocol, Run, ServicePortName};

fn name(n: &str) -> ServiceName {
    ServiceName {
        namespace: "default".into(),
        name: n.into(),
    }
}

fn addr(port: u16) -> FrontendAddr {
    FrontendAddr {
        ip: [192, 0, 2, 1].into(),
        port,
        protocol: Protocol::Tcp,
        scope: Scope::External,
    }
}

/// A Service with one port, and a run of its own for each frontend.
fn service(n: &str, frontends: &[u16]) -> Service {
    service_by(FrontendKind::ExternalIp, n, frontends)
}

fn service_by(kind: FrontendKind, n: &str, frontends: &[u16]) -> Service {
    let run = |p: &u16| Run {
        algorithm: Algorithm::Random,
        endpoints: vec![Endpoint {
            ip: [10, 0, 0, 1].into(),
            port: *p,
            local: true,
            weight: 1,
        }],
    };
    let frontend = |run| Frontend {
        kind,
        run,
        drop_when_empty: false,
        local_set: false,
        restricted: false,
    };
    Service {
        ports: vec![Port {
            name: ServicePortName {
                service: name(n),
                port: "".into(),
            },
            affinity: 0,
            runs: frontends.iter().map(run).collect(),
            frontends: frontends
                .iter()
                .enumerate()
                .map(|(i, p)| (addr(*p), frontend(i)))
                .collect(),
            listed: BTreeMap::new(),
            ranges: BTreeSet::new(),
        }],
    }
}

#[test]
fn the_older_service_wins_and_the_loser_gets_it_when_the_winner_goes() {
    let mut claims = Claims::default();
    let young = service("a-young", &[80]);
    assert!(
        claims
            .update(
                &name("a-young"),
                Some(&"2026-02-01T00:00:00Z".into()),
                &young
            )
            .is_empty()
    );
    let old = service("b-old", &[80]);
    assert_eq!(
        claims.update(&name("b-old"), Some(&"2026-01-01T00:00:00Z".into()), &old),
        [name("a-young")].into()
    );

    let (served, refusals) = claims.award(&name("a-young"), young.clone());
    assert!(served.ports[0].frontends.is_empty() && served.ports[0].runs.is_empty());
    assert_eq!(
        refusals[0].to_string(),
        "Service default/a-young: 192.0.2.1 port 80/TCP belongs to the older Service default/b-old; give one of them another address or port"
    );
    assert_eq!(claims.award(&name("b-old"), old.clone()), (old, vec![]));

    assert_eq!(
        claims.update(&name("b-old"), None, &Service::default()),
        [name("a-young")].into()
    );
    assert_eq!(
        claims.award(&name("a-young"), young.clone()),
        (young, vec![])
    );
}

#[test]
fn of_two_of_the_same_age_the_name_decides() {
    let mut claims = Claims::default();
    claims.update(&name("b"), None, &service("b", &[80]));
    assert_eq!(
        claims.update(&name("a"), None, &service("a", &[80])),
        [name("b")].into()
    );
    assert_eq!(claims.owner(&addr(80)), Some(&name("a")));
}

#[test]
fn a_loser_keeps_its_other_frontends_with_their_own_runs() {
    let mut claims = Claims::default();
    claims.update(&name("a"), None, &service("a", &[80]));
    let loser = service("b", &[80, 443]);
    assert!(claims.update(&name("b"), None, &loser).is_empty());
    let (served, refusals) = claims.award(&name("b"), loser);
    let port = &served.ports[0];
    assert_eq!(refusals.len(), 1);
    assert_eq!(
        port.frontends.keys().copied().collect::<Vec<_>>(),
        [addr(443)]
    );
    assert_eq!(
        port.runs[port.frontends[&addr(443)].run].endpoints[0].port,
        443
    );
}

proptest! {
    /// Whatever the history, the state is that of the last claims alone, and everybody whose share changed was told.
    #[test]
    fn owners_are_the_oldest_claimants_and_every_change_of_a_share_is_reported(
        steps in prop::collection::vec((0usize..5, 0u8..3, prop::collection::btree_set(1u16..6, 0..4)), 1..40)
    ) {
        let mut claims = Claims::default();
        let mut last: BTreeMap<ServiceName, (Option<Arc<str>>, Service)> = BTreeMap::new();
        for (who, age, ports) in steps {
            let who = name(["a", "b", "c", "d", "e"][who]);
            let created =
                (age > 0).then(|| Arc::<str>::from(format!("2026-0{age}-01T00:00:00Z")));
            let wanted = service(&who.name, &ports.into_iter().collect::<Vec<_>>());
            let share = |claims: &Claims, n: &ServiceName, s: &Service| claims.award(n, s.clone()).0;
            let before: Vec<_> = last.iter().map(|(n, (_, s))| share(&claims, n, s)).collect();

            let affected = claims.update(&who, created.as_ref(), &wanted);

            for ((n, (_, s)), before) in last.iter().zip(before).filter(|((n, _), _)| **n != who) {
                prop_assert_eq!(share(&claims, n, s) != before, affected.contains(n), "{}", n);
            }
            last.insert(who, (created, wanted));
            for port in 1..6 {
                let claims_it = |(n, (c, s)): (&ServiceName, &(Option<Arc<str>>, Service))| {
                    s.ports[0].frontends.contains_key(&addr(port)).then(|| (c.clone(), n.clone()))
                };
                let oldest = last.iter().filter_map(claims_it).min();
                prop_assert_eq!(claims.owner(&addr(port)), oldest.as_ref().map(|(_, n)| n));
            }
        }
    }
}

#[test]
fn a_place_has_one_owner_from_wherever_it_is_asked() {
    let mut claims = Claims::default();
    let mut older = service("older", &[80]);
    let inside = FrontendAddr {
        scope: Scope::Internal,
        ..addr(80)
    };
    let frontends = &mut older.ports[0].frontends;
    let frontend = frontends.remove(&addr(80)).unwrap();
    frontends.insert(inside, frontend);
    let younger = service("younger", &[80]);
    claims.update(&name("older"), Some(&"2026-01-01T00:00:00Z".into()), &older);
    claims.update(
        &name("younger"),
        Some(&"2026-02-01T00:00:00Z".into()),
        &younger,
    );
    let (served, refusals) = claims.award(&name("younger"), younger);
    assert!(served.ports[0].frontends.is_empty());
    assert_eq!(refusals.len(), 1);
}

fn frontends(service: &Service) -> Vec<u16> {
    service.ports[0].frontends.keys().map(|a| a.port).collect()
}

/// What was there first does not matter: who is given an address by the API server cannot know what others wrote before.
#[test]
fn whose_address_is_harder_to_forge_wins_whoever_is_older() {
    use FrontendKind::{ClusterIp, ExternalIp, LoadBalancer, NodePort};
    let kinds = [ClusterIp, NodePort, LoadBalancer, ExternalIp];
    let words = ["the clusterIP", "a nodePort", "the load balancer's address"];
    for (i, kind) in kinds.into_iter().enumerate() {
        for forger in &kinds[i + 1..] {
            let mut claims = Claims::default();
            let (old, young) = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z");
            let forged = service_by(*forger, "a-forger", &[80]);
            claims.update(&name("a-forger"), Some(&old.into()), &forged);
            let owned = service_by(kind, "victim", &[80]);
            let affected = claims.update(&name("victim"), Some(&young.into()), &owned);
            assert_eq!(affected, [name("a-forger")].into());
            assert_eq!(
                claims.award(&name("victim"), owned.clone()),
                (owned, vec![])
            );
            let (served, refusals) = claims.award(&name("a-forger"), forged);
            assert!(frontends(&served).is_empty());
            let why = format!(
                "192.0.2.1 port 80/TCP is {} of Service default/victim; give one of them another address or port",
                words[i]
            );
            assert_eq!(refusals[0].why, why);
            assert_eq!(refusals[0].fault, Fault::FrontendConflict);
        }
    }
}

#[test]
fn no_external_address_is_another_services_cluster_ip_not_even_at_an_unused_port() {
    let mut claims = Claims::default();
    let forged = service("forger", &[8080]);
    claims.update(&name("forger"), None, &forged);
    assert_eq!(
        frontends(&claims.award(&name("forger"), forged.clone()).0),
        [8080]
    );
    let victim = service_by(FrontendKind::ClusterIp, "victim", &[53]);
    assert_eq!(
        claims.update(&name("victim"), None, &victim),
        [name("forger")].into()
    );
    let (served, refusals) = claims.award(&name("forger"), forged.clone());
    assert!(frontends(&served).is_empty());
    assert_eq!(
        refusals[0].to_string(),
        "Service default/forger: externalIP 192.0.2.1 is the clusterIP of Service default/victim; write another address"
    );
    // A Service's own clusterIP is no news to it.
    let both = service_by(FrontendKind::LoadBalancer, "victim", &[9090]);
    assert!(claims.award(&name("victim"), both).1.is_empty());
    assert_eq!(
        claims.update(&name("victim"), None, &Service::default()),
        [name("forger")].into()
    );
    assert!(claims.award(&name("forger"), forged).1.is_empty());
}

#[test]
fn what_is_held_no_external_address_has_and_what_was_given_out_is_not_touched() {
    use FrontendKind::{ClusterIp, ExternalIp, LoadBalancer, NodePort};
    let at = |port: u16| {
        let at = SocketAddr::from(([192, 0, 2, 1], port));
        (at, Protocol::Tcp)
    };
    let held = Held::from([(at(22), Holder::Process), (at(6443), Holder::ApiServer)]);
    for kind in [ClusterIp, NodePort, LoadBalancer, ExternalIp] {
        let mut claims = Claims::default();
        let asked = service_by(kind, "web", &[22, 80, 6443]);
        claims.update(&name("web"), None, &asked);
        let affected = claims.hold(held.clone(), "node1");
        let (served, refusals) = claims.award(&name("web"), asked.clone());
        if !kind.is_external() {
            assert!(affected.is_empty() && refusals.is_empty(), "{kind:?}");
            continue;
        }
        assert_eq!(affected, [name("web")].into());
        assert_eq!(frontends(&served), [80]);
        let field = kind.field();
        let whys: Vec<&str> = refusals.iter().map(|r| r.why.as_str()).collect();
        assert_eq!(
            whys,
            [
                format!(
                    "{field} 192.0.2.1 port 22/TCP is what a process of node node1 listens on; write another address or port"
                ),
                format!(
                    "{field} 192.0.2.1 port 6443/TCP is the API server's own; write another address or port"
                ),
            ]
        );
        assert!(refusals.iter().all(|r| r.fault == Fault::AddressNotAllowed));
        assert!(claims.hold(held.clone(), "node1").is_empty(), "no news");
        assert_eq!(claims.hold(Held::new(), "node1"), [name("web")].into());
        assert!(claims.award(&name("web"), asked).1.is_empty());
    }
}

/// A load balancer in front of the API servers is a Service like any other.
#[test]
fn who_sends_to_the_api_servers_may_have_their_address() {
    let api = |text: &str| (text.parse().unwrap(), Protocol::Tcp);
    let held = Held::from([
        (api("192.0.2.1:6443"), Holder::ApiServer),
        (api("10.0.0.1:6443"), Holder::ApiServer),
    ]);
    let mut claims = Claims::default();
    // Its endpoint is 10.0.0.1 at the port's own number.
    let front = service("front", &[6443]);
    claims.update(&name("front"), None, &front);
    claims.hold(held, "node1");
    assert!(claims.award(&name("front"), front.clone()).1.is_empty());
    let mut forged = front;
    forged.ports[0].runs[0].endpoints[0].ip = [10, 0, 0, 2].into();
    assert_eq!(claims.award(&name("front"), forged).1.len(), 1);
}
