//! `svc-agent top`: what each Service does now. Reads the pinned maps at each look; needs no running agent. Redrawn by
//! plain control sequences: there is nothing to choose or to scroll, so a terminal library would bring nothing.

use std::io::{ErrorKind, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::config::{Output, Top, Topped};
use crate::dataplane::Pinned;
use crate::inspect::{self, Filter, Look, Snapshot, TopItem};
use crate::say::{complain, say};
use crate::sockets;

/// Prints tables until nobody reads them, or once.
pub fn top(options: &Top) -> Result<()> {
    let Topped::Services = options.what;
    let pinned = Pinned::open(&options.bpf_root)?;
    let table = matches!(options.output, Output::Table | Output::Wide);
    let once = options.once || !table || !std::io::stdout().is_terminal();
    let start = Instant::now();
    let (_, mut before) = look(&pinned, start.elapsed())?;
    if before.counts.is_none() {
        complain(
            "the agent counts nothing by Service: run it with --service-metrics connections or traffic",
        );
    }
    loop {
        std::thread::sleep(options.interval);
        let (snapshot, now) = look(&pinned, start.elapsed())?;
        let filter = Filter {
            namespace: options.namespace.as_deref(),
            name: options.name.as_deref(),
        };
        let mut items = inspect::top_items(&snapshot, &before, &now, filter, options.sort);
        if once {
            return say(&inspect::top(&items, options.output));
        }
        let all = items.len();
        if options.lines > 0 {
            items.truncate(options.lines);
        }
        match redraw(&page(&items, all, options)) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            other => other.context("writing to standard output")?,
        }
        before = now;
    }
}

/// What is there, and what has been counted until now.
fn look(pinned: &Pinned, at: Duration) -> Result<(Snapshot, Look)> {
    let snapshot = pinned.read()?;
    let sockets = sockets::live(&pinned.connected_sockets()?);
    let live = inspect::live(
        &snapshot,
        &pinned.flows()?,
        &pinned.config()?,
        sockets.as_ref(),
    );
    let counts = pinned.counts(snapshot.services.keys().copied())?;
    Ok((snapshot, Look { at, counts, live }))
}

fn page(items: &[TopItem], all: usize, options: &Top) -> String {
    let mut page = format!(
        "svcplane: {} of {all} Service ports, every {:?}\n\n{}",
        items.len(),
        options.interval,
        inspect::top(items, options.output)
    );
    if items.len() < all {
        page += "more: --lines 0, -n NAMESPACE, or a NAME\n";
    }
    page
}

/// Home, each line and then the rest of the screen erased: what stays the same does not flicker.
fn redraw(page: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    write!(out, "\x1b[H")?;
    for line in page.lines() {
        writeln!(out, "{line}\x1b[K")?;
    }
    write!(out, "\x1b[J")?;
    out.flush()
}
