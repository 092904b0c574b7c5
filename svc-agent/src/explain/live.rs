//! `svc-agent explain --live`: waits for a packet such as was asked about, and tells what really becomes of it: by the
//! events that the programs write, by the flow table, and of sockets by the kernel's socket diagnostics.

mod compare;
mod process;
mod stage;
mod story;
mod tell;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, interval, sleep_until};

use super::judge::Asked;
use super::report::Explanation;
use super::tables::Maps;
use crate::config::Explain;
use crate::dataplane::{Events, Pinned, Watched};
use crate::monitor::{SIGN, nobody_reads};
use crate::say::complain;
use story::Story;

/// Short connections are over soon, and their process cannot be asked any more.
const LOOK: Duration = Duration::from_millis(10);
const ALL: Watched = Watched {
    losses: true,
    flows: true,
};
/// Until nothing happens any more.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Prints what was foretold, and then what happens.
pub(super) fn follow(
    options: &Explain,
    asked: &Asked,
    explanation: &Explanation,
    maps: &Maps,
) -> Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(watch(options, asked, explanation, maps))
}

async fn watch(
    options: &Explain,
    asked: &Asked,
    explanation: &Explanation,
    maps: &Maps,
) -> Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).context("handling SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handling SIGINT")?;
    let mut events = Events::open(&options.bpf_root)?;
    events.renew(ALL)?;
    let pinned = Pinned::open(&options.bpf_root)?;
    let mut story = Story::new(options, asked, explanation, maps, pinned)?;
    story.begin()?;
    let limit = options.timeout.0.map(|s| Duration::from_secs(s.into()));
    complain(format_args!(
        "watching for such a packet{}; Ctrl-C ends",
        limit.map_or(String::new(), |limit| format!(" for {limit:?}"))
    ));
    let deadline = Instant::now() + limit.unwrap_or(FOREVER);
    let mut sign = interval(SIGN);
    let mut look = interval(LOOK);
    while !story.is_over() && !nobody_reads() {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = sleep_until(deadline) => break,
            _ = sign.tick() => events.renew(ALL)?,
            _ = look.tick() => {
                let (news, lost) = events.news()?;
                story.lost(lost);
                for event in &news {
                    story.hear(event)?;
                }
                story.look()?;
            }
        }
    }
    story.end()
}
