//! Notices → events.k8s.io/v1 Events. An Event's name follows from what it says, so that a cluster of many agents that
//! see the same mistake writes it once; what is busy saying things is cut off, as client-go's recorder does it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::mpsc::Receiver;

use super::one_line;
use crate::desired::Fault;
use crate::notices::{Notice, Regarding};

const CONTROLLER: &str = "svcplane.io/svc-agent";
/// The API server keeps an Event for an hour; until then it need not be said again.
const REMEMBERED: Duration = Duration::from_secs(3600);
const BURST: u32 = 25;
const ONE_MORE_EVERY: Duration = Duration::from_secs(10);
/// events.k8s.io/v1 refuses longer ones.
const NOTE_BYTES: usize = 1024;
/// An object's name may have 253, and 17 are to follow.
const NAME_BYTES: usize = 253 - 17;

/// Writes Events until nobody has notices any more.
pub(super) async fn record(client: Client, node_name: &str, mut notices: Receiver<Notice>) {
    let mut limit = Limit::new(Instant::now());
    let mut said_trouble = false;
    while let Some(notice) = notices.recv().await {
        let event = event(&notice, node_name, jiff::Timestamp::now());
        let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
        let name = event.metadata.name.as_deref().unwrap_or_default();
        if !limit.admits(format!("{namespace}/{name}"), Instant::now()) {
            continue;
        }
        let api: Api<Event> = Api::namespaced(client.clone(), namespace);
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => said_trouble = false,
            // It was said before, by another node or before a restart.
            Err(kube::Error::Api(status)) if status.code == 409 => (),
            Err(error) => {
                if !std::mem::replace(&mut said_trouble, true) {
                    let error = one_line(&error);
                    tracing::warn!(
                        "writing Events: {error}; the log has them (rights: deploy/svcplane.yaml)"
                    );
                }
            }
        }
    }
}

fn event(notice: &Notice, node_name: &str, now: jiff::Timestamp) -> Event {
    let Notice {
        regarding,
        fault,
        note,
    } = notice;
    // The other nodes see the mistakes in objects too; these are only this one's.
    let note = match fault {
        Fault::InvalidField | Fault::FrontendConflict | Fault::AddressNotAllowed => note.clone(),
        Fault::TableFull | Fault::FailedToStartServiceHealthcheck | Fault::NotAttached => {
            format!("node {node_name}: {note}")
        }
    };
    // What has no namespace has its Events in this one.
    let event_namespace = match regarding.namespace.as_str() {
        "" => "default",
        namespace => namespace,
    };
    let mut hash = DefaultHasher::new();
    (&regarding.uid, fault.name(), &note).hash(&mut hash);
    let Regarding {
        api_version,
        kind,
        namespace,
        name,
        uid,
    } = regarding;
    Event {
        metadata: ObjectMeta {
            name: Some(format!(
                "{}.{:016x}",
                &name[..name.floor_char_boundary(NAME_BYTES)],
                hash.finish()
            )),
            namespace: Some(event_namespace.to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        type_: Some("Warning".into()),
        reason: Some(fault.name().into()),
        action: Some(action(*fault).into()),
        note: Some(shortened(&note)),
        reporting_controller: Some(CONTROLLER.into()),
        reporting_instance: Some(node_name.into()),
        regarding: Some(ObjectReference {
            api_version: Some(api_version.clone()),
            kind: Some(kind.clone()),
            namespace: Some(namespace.clone()).filter(|n| !n.is_empty()),
            name: Some(name.clone()),
            uid: Some(uid.clone()),
            ..ObjectReference::default()
        }),
        ..Event::default()
    }
}

/// What was being done.
const fn action(fault: Fault) -> &'static str {
    match fault {
        Fault::InvalidField => "Read",
        Fault::FrontendConflict | Fault::AddressNotAllowed | Fault::TableFull => "Program",
        Fault::FailedToStartServiceHealthcheck => "Listen",
        Fault::NotAttached => "Attach",
    }
}

fn shortened(note: &str) -> String {
    let end = note.floor_char_boundary(NOTE_BYTES - '…'.len_utf8());
    if end == note.len() {
        note.to_owned()
    } else {
        format!("{}…", &note[..end])
    }
}

/// Each Event once, and not too many altogether.
struct Limit {
    said: BTreeMap<String, Instant>,
    left: u32,
    counted: Instant,
}

impl Limit {
    fn new(now: Instant) -> Self {
        Self {
            said: BTreeMap::new(),
            left: BURST,
            counted: now,
        }
    }

    fn admits(&mut self, id: String, now: Instant) -> bool {
        self.said
            .retain(|_, when| now.duration_since(*when) < REMEMBERED);
        while self.left < BURST && now.duration_since(self.counted) >= ONE_MORE_EVERY {
            self.left += 1;
            self.counted += ONE_MORE_EVERY;
        }
        if self.left == BURST {
            self.counted = now;
        }
        if self.left == 0 || self.said.contains_key(&id) {
            return false;
        }
        self.left -= 1;
        self.said.insert(id, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(fault: Fault, note: &str) -> Notice {
        Notice {
            regarding: Regarding {
                api_version: "v1".into(),
                kind: "Service".into(),
                namespace: "shop".into(),
                name: "web".into(),
                uid: "1234".into(),
            },
            fault,
            note: note.into(),
        }
    }

    fn of(node: &str, fault: Fault, note: &str) -> Event {
        event(&notice(fault, note), node, jiff::Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn two_nodes_that_see_the_same_mistake_make_one_event_and_each_its_own_of_its_own_trouble() {
        let name = |node, fault| of(node, fault, "no").metadata.name;
        for (fault, same) in [
            (Fault::FrontendConflict, true),
            (Fault::InvalidField, true),
            (Fault::AddressNotAllowed, true),
            (Fault::TableFull, false),
            (Fault::FailedToStartServiceHealthcheck, false),
        ] {
            assert_eq!(name("n1", fault) == name("n2", fault), same, "{fault:?}");
        }
        assert_ne!(
            of("n", Fault::InvalidField, "a").metadata.name,
            of("n", Fault::InvalidField, "b").metadata.name
        );
    }

    #[test]
    fn an_event_says_what_the_api_server_asks_of_it() {
        let event = of("n1", Fault::TableFull, &"é".repeat(2000));
        let note = event.note.unwrap();
        assert!(note.len() <= NOTE_BYTES && note.starts_with("node n1: é") && note.ends_with("é…"));
        let regarding = event.regarding.unwrap();
        assert_eq!(
            (regarding.namespace, regarding.uid),
            (event.metadata.namespace, Some("1234".into()))
        );
        assert_eq!(event.reason.as_deref(), Some("TableFull"));
        assert!(event.action.is_some() && event.event_time.is_some());
    }

    #[test]
    fn a_repeated_event_and_a_flood_are_cut_off_and_time_makes_room_again() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        assert!(limit.admits("a".into(), start) && !limit.admits("a".into(), start));
        let admitted = (0..100)
            .filter(|i| limit.admits(format!("b{i}"), start))
            .count();
        assert_eq!(admitted as u32, BURST - 1);
        let later = start + ONE_MORE_EVERY * 2;
        let admitted = (0..100)
            .filter(|i| limit.admits(format!("c{i}"), later))
            .count();
        assert_eq!(admitted, 2);
        assert!(limit.admits("a".into(), start + REMEMBERED));
    }
}
