//! What svcplane does differently by choice: rows of docs/semantics.md, and which differences they explain.

use super::matrix::{Frontend, Question};
use super::survey::Found;

pub struct Choice {
    pub row: &'static str,
    pub why: &'static str,
    explains: fn(&Question, &Found, &Found) -> bool,
}

/// The first that explains a difference stands for it.
pub const CHOICES: &[Choice] = &[
    Choice {
        row: "C1",
        why: "a ClusterIP is for the inside; `--external-cluster-ip` opens it",
        explains: |question, _, ours| {
            inside_only(question) && question.client == "client" && *ours == Found::Silent
        },
    },
    Choice {
        row: "C3",
        why: "an address that has a frontend answers echo",
        explains: |question, _, ours| question.protocol.is_none() && ours.answered().is_some(),
    },
    Choice {
        row: "C5",
        why: "NodePorts answer at loopback, by the socket hook",
        explains: |question, theirs, ours| {
            question.frontend == Frontend::Loopback
                && *theirs == Found::Refused
                && (ours.answered().is_some() || *ours == Found::KeptByOne)
        },
    },
    Choice {
        row: "D1",
        why: "the socket hook connects a pod to itself: there is no packet to masquerade",
        explains: |question, theirs, ours| {
            inside_only(question) && sees_the_client_where_they_masquerade(question, theirs, ours)
        },
    },
    Choice {
        row: "B8",
        why: "the client's address is kept wherever the answer comes back by this node",
        explains: |question, theirs, ours| {
            !inside_only(question) && sees_the_client_where_they_masquerade(question, theirs, ours)
        },
    },
    Choice {
        row: "B6, C11",
        why: "the socket hook cannot be silent: a connect() that is dropped fails at once",
        explains: |_, theirs, ours| *theirs == Found::Silent && ours.is_not_permitted(),
    },
    Choice {
        row: "B6, C11",
        why: "the packet path drops in silence; netfilter tells the node's own sockets",
        explains: |question, theirs, ours| {
            question.client == "this node" && theirs.is_not_permitted() && *ours == Found::Silent
        },
    },
    Choice {
        row: "B7",
        why: "a pod of another node is answered by the way it asked: masqueraded where its endpoint could answer it directly",
        explains: |question, theirs, ours| {
            question.client == "other-2" && theirs.is_silent_at_times() && ours.answered().is_some()
        },
    },
    Choice {
        row: "B4, C2",
        why: "the node's own sockets are refused as all others are",
        explains: |question, theirs, ours| {
            question.client == "this node" && theirs.is_not_permitted() && *ours == Found::Refused
        },
    },
    Choice {
        row: "D4",
        why: "both ends are this node: the frontend's address stands for the client, because answers to it come back to us",
        explains: |question, theirs, ours| {
            question.client == "this node"
                && who_answers(theirs).is_some()
                && who_answers(theirs) == who_answers(ours)
                && ours.sees_the_frontend()
        },
    },
];

pub fn of(question: &Question, theirs: &Found, ours: &Found) -> Option<&'static Choice> {
    CHOICES
        .iter()
        .find(|choice| (choice.explains)(question, theirs, ours))
}

fn inside_only(question: &Question) -> bool {
    matches!(
        question.frontend,
        Frontend::ClusterIp | Frontend::UndefinedPort
    )
}

fn who_answers(found: &Found) -> Option<Vec<&str>> {
    Some(
        found
            .answered()?
            .iter()
            .map(|(by, _)| by.as_str())
            .collect(),
    )
}

/// The same endpoints answer; where theirs see this node, ours see the client itself.
fn sees_the_client_where_they_masquerade(
    question: &Question,
    theirs: &Found,
    ours: &Found,
) -> bool {
    let (Some(theirs), Some(ours)) = (theirs.answered(), ours.answered()) else {
        return false;
    };
    theirs.len() == ours.len()
        && theirs.iter().zip(ours).all(|((they, seen), (we, see))| {
            they == we && (seen == see || seen == "this node" && see == question.client)
        })
}
