//! What keeps the planner from writing as it is told: other owners, full maps, maps that are not what they should be.

use super::*;

#[test]
fn a_frontend_of_another_service_is_not_taken() {
    let mut planner = Planner::empty(Capacities::default());
    planner.plan(
        &name("a"),
        Some(&cluster_ip("a", "10.96.0.1", &["10.0.0.1"])),
    );
    let before = planner.clone();
    let (changes, refusals) = planner.plan(
        &name("b"),
        Some(&cluster_ip("b", "10.96.0.1", &["10.0.0.2"])),
    );
    assert!(changes.is_empty());
    assert_eq!(refusals.len(), 1);
    assert_eq!(planner.v4(), before.v4());
    planner.plan(&name("a"), None);
    assert_eq!(
        planner.take_retries(),
        [name("b")],
        "at once: the key is free"
    );
}

#[test]
fn a_key_that_changes_hands_in_one_batch_ends_with_its_new_owner() {
    let mut world = World::default();
    let mut planner = Planner::empty(Capacities::default());
    world.apply(
        &planner
            .plan(
                &name("a"),
                Some(&cluster_ip("a", "10.96.0.1", &["10.0.0.1"])),
            )
            .0,
    );
    let mut batch = Changes::default();
    batch.merge(planner.plan(&name("a"), None).0);
    batch.merge(
        planner
            .plan(
                &name("b"),
                Some(&cluster_ip("b", "10.96.0.1", &["10.0.0.2"])),
            )
            .0,
    );
    world.apply(&batch);
    world.assert_mirrored_by(&planner);
    assert_eq!(
        world.services.values().collect::<Vec<_>>(),
        ["default/b:http/TCP"]
    );
}

#[test]
fn two_ports_with_one_name_and_protocol_are_refused() {
    let mut planner = Planner::empty(Capacities::default());
    let mut twice = cluster_ip("web", "10.96.0.1", &["10.0.0.1"]);
    twice
        .ports
        .extend(cluster_ip("web", "10.96.0.2", &["10.0.0.2"]).ports);
    let (_, refusals) = planner.plan(&name("web"), Some(&twice));
    assert_eq!(refusals.len(), 1);
    assert_eq!(planner.v4().frontends.len(), 1);
}

#[test]
fn a_run_can_change_hands_between_two_frontends_of_a_port() {
    let mut planner = Planner::empty(Capacities::default());
    let mut world = World::default();
    let external = ("192.0.2.1", FrontendKind::ExternalIp, Scope::Internal);
    for frontends in [[("10.96.0.1", CLUSTER.0, CLUSTER.1)], [external]] {
        let desired = service("web", &frontends, &["10.0.0.1"]);
        world.apply(&planner.plan(&name("web"), Some(&desired)).0);
        world.assert_mirrored_by(&planner);
        assert_eq!(planner.v4().slots.keys().collect::<Vec<_>>(), [&0]);
    }
}

#[test]
fn a_frontend_of_no_service_goes_to_the_one_that_asks_for_it() {
    let mut world = World::default();
    let desired = cluster_ip("web", "10.96.0.1", &["10.0.0.1"]);
    let mut planner = Planner::empty(Capacities::default());
    world.apply(&planner.plan(&name("web"), Some(&desired)).0);
    world.services.clear();
    let mut planner = world.restart(Capacities::default());
    world.apply(&planner.plan(&name("web"), Some(&desired)).0);
    let removed = planner.retain(&BTreeSet::from([name("web")]));
    assert!(removed.is_empty(), "{removed:?}");
}

#[test]
fn a_service_that_does_not_fit_keeps_its_old_state_and_comes_in_when_there_is_room() {
    let mut planner = Planner::empty(Capacities {
        slots: 3,
        ..Capacities::default()
    });
    let small = cluster_ip("web", "10.96.0.1", &["10.0.0.1"]);
    let large = cluster_ip("web", "10.96.0.1", &["10.0.0.1", "10.0.0.2"]);
    planner.plan(&name("web"), Some(&small));
    planner.plan(
        &name("db"),
        Some(&cluster_ip("db", "10.96.0.2", &["10.0.0.9"])),
    );
    let before = planner.v4().clone();
    let (changes, refusals) = planner.plan(&name("web"), Some(&large));
    assert!(changes.is_empty());
    assert_eq!(*planner.v4(), before);
    assert_eq!(
        refusals[0].to_string(),
        "Service default/web: table SLOTS_V4 is full: 2 more entries needed, room for 1 of 3; what the Service had \
         before stays, the rest is tried again when there is room"
    );
    assert!(planner.take_retries().is_empty());
    planner.plan(&name("db"), None);
    settle(&mut planner);
    assert_eq!(planner.take_retries(), [name("web")]);
    let (changes, refusals) = planner.plan(&name("web"), Some(&large));
    assert!(!changes.is_empty() && refusals.is_empty());
    assert!(planner.refused().is_empty());
}

#[test]
fn entries_on_their_way_out_still_take_room() {
    let mut planner = Planner::empty(Capacities {
        frontends: 1,
        ..Capacities::default()
    });
    planner.plan(&name("a"), Some(&cluster_ip("a", "10.96.0.1", &[])));
    planner.plan(&name("a"), None);
    assert!(
        !planner
            .plan(&name("b"), Some(&cluster_ip("b", "10.96.0.2", &[])))
            .1
            .is_empty()
    );
    settle(&mut planner);
    assert!(
        planner
            .plan(&name("b"), Some(&cluster_ip("b", "10.96.0.2", &[])))
            .1
            .is_empty()
    );
}

#[test]
fn what_nobody_claims_after_the_first_sync_is_removed() {
    let mut world = World::default();
    let mut planner = Planner::empty(Capacities::default());
    for (service, ip) in [("a", "10.96.0.1"), ("b", "10.96.0.2")] {
        world.apply(
            &planner
                .plan(
                    &name(service),
                    Some(&cluster_ip(service, ip, &["10.0.0.1"])),
                )
                .0,
        );
    }
    world.services.insert(77, "not a label".into());
    let stray = *world.v4.addresses.keys().next().unwrap();
    world.v4.addresses.insert(
        svc_common::family::Ip([stray.0[0], 0]),
        address_flags::EXTERNAL,
    );
    let mut planner = world.restart(Capacities::default());
    world.apply(&planner.retain(&BTreeSet::from([name("b")])));
    world.assert_mirrored_by(&planner);
    assert_eq!(
        world.services.values().collect::<Vec<_>>(),
        ["default/b:http/TCP"]
    );
    assert_eq!((world.v4.frontends.len(), world.v4.addresses.len()), (1, 1));
}

#[test]
fn damaged_maps_are_mended() {
    let mut world = World::default();
    let desired = cluster_ip("web", "10.96.0.1", &["10.0.0.1", "10.0.0.2"]);
    let other = cluster_ip("db", "10.96.0.2", &["10.0.0.3"]);
    let mut planner = Planner::empty(Capacities::default());
    world.apply(&planner.plan(&name("web"), Some(&desired)).0);
    world.apply(&planner.plan(&name("db"), Some(&other)).0);
    let whole = world.clone();

    let key = *world.v4.frontends.keys().next().unwrap();
    for (first, count) in [(0, 1), (1, 2), (u32::MAX, 3), (0, u32::MAX)] {
        world.v4.frontends.get_mut(&key).unwrap().first = first;
        world.v4.frontends.get_mut(&key).unwrap().count = count;
        let mut planner = world.restart(Capacities::default());
        for (service, desired) in [("web", &desired), ("db", &other)] {
            let (changes, refusals) = planner.plan(&name(service), Some(desired));
            assert!(refusals.is_empty());
            let others = world.v4.slots.clone();
            changes.v4.writes().for_each(|write| world.v4.write(&write));
            if (first, count) == (1, 2) {
                let kept = |slot: &u32| world.v4.slots[slot] == others[slot];
                assert!([1, 2].iter().all(kept), "slots that somebody may read stay");
            }
        }
        assert_eq!(world.v4.reachable(), whole.v4.reachable());
        let free = planner.free_slots();
        assert!(planner.plan(&name("web"), Some(&desired)).0.is_empty());
        assert_eq!(planner.free_slots(), free);
        world = whole.clone();
    }
}

#[test]
fn a_new_id_has_a_counter_of_its_own() {
    use svc_common::table::{MAX_SERVICES, counter};

    use crate::plan::Actual;
    // Ids have been given out for long: 3 and 4 are still in use, and the last one was 2 more than a round.
    let labels = [
        (3, "default/a/TCP"),
        (4, "default/b/TCP"),
        (MAX_SERVICES + 2, "default/c/TCP"),
    ];
    let labels = labels.map(|(id, text)| (id, text.to_owned()));
    let (v4, v6) = (Actual::default(), Actual::default());
    let mut planner = Planner::from_actual(v4, v6, labels.into(), Capacities::default());
    let (changes, refusals) = planner.plan(
        &name("new"),
        Some(&cluster_ip("new", "10.96.0.9", &["10.0.0.1"])),
    );
    assert_eq!(refusals, []);
    let ids: Vec<u32> = changes.services_in.keys().copied().collect();
    assert_eq!(ids, [MAX_SERVICES + 5]);
    let counters: BTreeSet<u32> = planner.labels().keys().map(|id| counter(*id)).collect();
    assert_eq!(counters.len(), planner.labels().len());
}
