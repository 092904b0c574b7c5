//! The lines of `explain --live`: text, or an object a line. Fields only ever get more.

use std::fmt::Display;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::stage::Stage;
use crate::explain::report::Explanation;
use crate::monitor::record::{Record, clock, time};
use crate::monitor::wall;
use crate::say::say;

/// Both of a connection's tuples: as the client has them, and as the backend has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Tuples {
    pub(super) client: String,
    pub(super) frontend: String,
    /// The client as the backend sees it; `null`: answers do not come by here, so nobody here knows.
    pub(super) seen_as: Option<String>,
    pub(super) backend: String,
    /// `packets`, or `socket`: its packets are the backend's from the start.
    pub(super) translated: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    AsForetold,
    Different,
    NotSeen,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct End {
    pub(super) outcome: Outcome,
    /// In words.
    pub(super) what: String,
    pub(super) differences: Vec<String>,
    pub(super) backend: Option<String>,
    /// How far the connection came; `null`: there was none.
    pub(super) state: Option<Stage>,
    pub(super) notes: Vec<String>,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Line<'a> {
    Foretold {
        explanation: &'a Explanation,
    },
    /// A connection that was there already.
    Known,
    Tuples(&'a Tuples),
    State {
        state: Stage,
        why: &'a str,
    },
    End(&'a End),
}

#[derive(Serialize)]
struct Stamped<'a> {
    time: String,
    #[serde(flatten)]
    line: Line<'a>,
}

/// Where the lines go, and how they are written.
pub(super) struct Teller {
    pub(super) json: bool,
}

impl Teller {
    pub(super) fn foretold(&self, explanation: &Explanation) -> Result<()> {
        if self.json {
            return self.object(Line::Foretold { explanation });
        }
        say(&format!("{}\n", explanation.text()))
    }

    /// An event, as `monitor` writes it.
    pub(super) fn event(&self, record: &Record) -> Result<()> {
        if self.json {
            return say(&(serde_json::to_string(record)? + "\n"));
        }
        say(&format!("{record}\n"))
    }

    pub(super) fn known(&self) -> Result<()> {
        if self.json {
            return self.object(Line::Known);
        }
        self.line("known", "this connection is there already")
    }

    pub(super) fn tuples(&self, tuples: &Tuples) -> Result<()> {
        if self.json {
            return self.object(Line::Tuples(tuples));
        }
        let Tuples {
            client,
            frontend,
            seen_as,
            backend,
            translated,
        } = tuples;
        let Some(seen_as) = seen_as else {
            return self.line(
                "there",
                format!("{client} → {frontend} goes to {backend} in a tunnel, which answers the client itself"),
            );
        };
        if *translated == "socket" {
            return self.line(
                "socket",
                format!("{seen_as} is connected to {backend}, and believes it is {frontend}"),
            );
        }
        self.line(
            "there",
            format!("{client} → {frontend} becomes {seen_as} → {backend}"),
        )?;
        self.line(
            "back",
            format!("{backend} → {seen_as} becomes {frontend} → {client}"),
        )
    }

    pub(super) fn state(&self, state: Stage, why: &str) -> Result<()> {
        if self.json {
            return self.object(Line::State { state, why });
        }
        self.line(state.name(), why)
    }

    pub(super) fn end(&self, end: &End) -> Result<()> {
        if self.json {
            return self.object(Line::End(end));
        }
        let mut text = match end.outcome {
            Outcome::AsForetold => format!("\nHappened:   as foretold: {}\n", end.what),
            Outcome::Different => format!("\nHappened:   NOT as foretold: {}\n", end.what),
            Outcome::NotSeen => format!("\nHappened:   nothing: {}\n", end.what),
        };
        for difference in &end.differences {
            text += &format!("Differs:    {difference}\n");
        }
        for note in &end.notes {
            text += &format!("Note:       {note}\n");
        }
        say(&text)
    }

    fn line(&self, what: &str, words: impl Display) -> Result<()> {
        say(&format!("{}  {what:<11}  {words}\n", clock(&time(wall()))))
    }

    fn object(&self, line: Line<'_>) -> Result<()> {
        let stamped = Stamped {
            time: time(wall()),
            line,
        };
        say(&(serde_json::to_string(&stamped)? + "\n"))
    }
}

/// `1.2s`.
pub(super) fn lasting(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}
