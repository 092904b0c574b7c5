//! Maps that are pinned with another layout, by another version of the agent, and that can be filled anew: they are made
//! beside the old ones. The running programs go on with theirs; when all is written the links are swapped, and the new
//! pins take the old ones' places. An agent that ends before that has changed nothing, and the next one begins again.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{Error, layout};

/// Maps that are made anew together, because what one says means something only with the others.
const GROUPS: [&[&str]; 2] = [
    // What the agent writes.
    &[
        "ADDRESSES_V4",
        "ADDRESSES_V6",
        "FILTER_V4",
        "FILTER_V6",
        "FRONTENDS_V4",
        "FRONTENDS_V6",
        "SLOTS_V4",
        "SLOTS_V6",
        "BACKENDS_V4",
        "BACKENDS_V6",
        "RANGES_V4",
        "RANGES_V6",
        "DEVICES_V4",
        "DEVICES_V6",
        "TURNS",
        "CONFIG",
        "PEERS",
        "XDP_DEVICES",
    ],
    // What is told: counters begin again.
    &[
        "REASONS",
        "CONNECTIONS",
        "TRAFFIC",
        "WATCH",
        "EVENTS",
        "EVENT_HEAD",
    ],
];

#[derive(Debug)]
pub(super) struct Renewal {
    /// The pins that programs are attached with.
    folder: PathBuf,
    /// The pins that are to replace them.
    beside: PathBuf,
    /// In the order in which they do.
    names: Vec<&'static str>,
}

impl Renewal {
    /// Decides what has to be made anew. Refuses what has another layout and cannot be: connections would be lost with it.
    pub(super) fn begin(folder: &Path) -> Result<Self, Error> {
        let beside = folder.with_file_name("next");
        let mut others = layout::differences(folder)?;
        let groups = GROUPS.into_iter().filter(|group| {
            let mut names = group.iter();
            names.any(|name| others.contains_key(name))
        });
        let mut names: Vec<&str> = groups.flatten().copied().collect();
        // The others last: whoever finds one of them, because this ended half-way, begins again.
        names.sort_by_key(|name| others.contains_key(name));
        let unlike: Vec<&str> = others.keys().copied().collect();
        others.retain(|name, _| !names.contains(name));
        if let Some(error) = others.into_values().next() {
            return Err(error);
        }
        discard(&beside)?;
        if !names.is_empty() {
            fs::create_dir(&beside).map_err(|cause| Error::Pin {
                what: "create",
                path: beside.clone(),
                cause,
            })?;
            tracing::info!(
                "the pinned maps are another version's ({}): new ones are filled beside them, and what runs goes on until then",
                unlike.join(", ")
            );
        }
        Ok(Self {
            folder: folder.into(),
            beside,
            names,
        })
    }

    pub(super) fn is_under_way(&self) -> bool {
        !self.names.is_empty()
    }

    /// Where a map is pinned now.
    pub(super) fn pin(&self, name: &'static str) -> PathBuf {
        let new = self.names.contains(&name);
        if new { &self.beside } else { &self.folder }.join(name)
    }

    /// The new pins take the old ones' places, one after the other.
    pub(super) fn end(&mut self) -> Result<(), Error> {
        while let Some(name) = self.names.first() {
            let path = self.folder.join(name);
            fs::rename(self.beside.join(name), &path).map_err(|cause| Error::Pin {
                what: "replace",
                path,
                cause,
            })?;
            self.names.remove(0);
        }
        discard(&self.beside)
    }
}

/// Lets go of what is pinned beside.
fn discard(beside: &Path) -> Result<(), Error> {
    let failed = |cause| Error::Pin {
        what: "remove",
        path: beside.into(),
        cause,
    };
    match fs::read_dir(beside) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(pins) => {
            for pin in pins {
                fs::remove_file(pin.map_err(failed)?.path()).map_err(failed)?;
            }
        }
    }
    fs::remove_dir(beside).map_err(failed)
}
