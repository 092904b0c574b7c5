//! `svc-agent monitor`: what the programs tell, a line an event. Several may run at once; the programs write records only
//! while one does.

pub(crate) mod names;
pub(crate) mod record;
mod words;

use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::time::{ClockId, clock_gettime};
use svc_common::event::Event;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Monitor, Stream};
use crate::dataplane::{Events, Pinned, Watched};
use crate::say::complain;
use names::Names;
use record::Record;

/// Between two looks at the ring: it holds what comes in this time at 160,000 events a second.
const LOOK: Duration = Duration::from_millis(50);
/// Between two signs of life, each good for [`svc_common::event::LEASE`].
pub(crate) const SIGN: Duration = Duration::from_secs(1);

/// Prints events until it is told to end, or nobody reads them.
pub fn monitor(options: &Monitor) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(watch(options))
}

async fn watch(options: &Monitor) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("handling SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handling SIGINT")?;
    let pinned = Pinned::open(&options.bpf_root)?;
    let mut events = Events::open(&options.bpf_root)?;
    let mut names = Names::new(pinned);
    let what = Watched {
        losses: options.drops || !options.flows,
        flows: options.flows || !options.drops,
    };
    events.renew(what)?;
    complain(format_args!(
        "watching {}; Ctrl-C ends",
        match (what.losses, what.flows) {
            (true, true) => "what is dropped or refused, and new flows",
            (true, false) => "what is dropped or refused",
            (false, _) => "new flows",
        }
    ));
    let mut sign = tokio::time::interval(SIGN);
    let mut look = tokio::time::interval(LOOK);
    let mut lost_in_all = 0;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = sign.tick() => {
                events.renew(what)?;
                continue;
            }
            _ = look.tick() => (),
        }
        let (new, lost) = events.news()?;
        lost_in_all += lost;
        match print(options, &mut names, &new, lost) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            other => other.context("writing to standard output")?,
        }
        if nobody_reads() {
            return Ok(());
        }
    }
    if lost_in_all > 0 {
        complain(format_args!(
            "{lost_in_all} events were lost: they came faster than they were read"
        ));
    }
    Ok(())
}

fn print(options: &Monitor, names: &mut Names, events: &[Event], lost: u64) -> std::io::Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    // What the two clocks differ by, now.
    let offset = wall().saturating_sub(monotonic());
    if lost > 0 {
        let time = record::time(wall());
        match options.output {
            Stream::Text => writeln!(
                out,
                "{}  lost     {lost} events: they came too fast",
                record::clock(&time)
            )?,
            Stream::Json => {
                let line = serde_json::json!({ "time": time, "event": "lost", "count": lost });
                writeln!(out, "{line}")?;
            }
        }
    }
    for event in events {
        let at = Duration::from_nanos(event.time) + offset;
        let Some(record) = Record::of(event, at, names) else {
            continue;
        };
        if !shows(options, &record) {
            continue;
        }
        match options.output {
            Stream::Text => writeln!(out, "{record}")?,
            Stream::Json => {
                serde_json::to_writer(&mut out, &record)?;
                writeln!(out)?;
            }
        }
    }
    out.flush()
}

/// Whether the flags let an event through.
fn shows(options: &Monitor, record: &Record) -> bool {
    let kind = match (options.drops, options.flows) {
        (true, false) => record.reason.is_some(),
        (false, true) => record.reason.is_none(),
        _ => true,
    };
    let namespace = options.namespace.as_ref();
    let service = options.service.as_deref().is_none_or(|wanted| {
        let (wanted, port) = match wanted.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (wanted, None),
        };
        record.name.as_deref() == Some(wanted)
            && port.is_none_or(|port| record.port_name.as_deref() == Some(port))
    });
    kind && service
        && namespace.is_none_or(|wanted| record.namespace.as_ref() == Some(wanted))
        && options
            .from
            .is_none_or(|range| record.from.is_some_and(|ip| range.contains(ip)))
}

/// Whether the reader of a pipe is gone. Without events nothing is written that would show it.
pub(crate) fn nobody_reads() -> bool {
    let stdout = std::io::stdout();
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
        && fds[0]
            .revents()
            .is_some_and(|events| events.intersects(gone))
}

pub(crate) fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

pub(crate) fn wall() -> Duration {
    SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default()
}
