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
        kind: FrontendKind::ExternalIp,
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
