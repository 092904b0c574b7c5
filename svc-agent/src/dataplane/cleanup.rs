//! What the agent leaves behind is taken away, and then looked for in the kernel: pins, links, programs, maps, settings.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::maps::{MapInfo, loaded_maps};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{loaded_links, loaded_programs};

use super::{Error, links, settings};

/// The kernel frees in the background what has lost its last reference.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a kind of object is called, and its ids are in `/proc/PID/fdinfo`.
const KINDS: [(&str, &str); 3] = [
    ("program", "prog_id:"),
    ("map", "map_id:"),
    ("link", "link_id:"),
];

/// What was pinned, what hangs on it, and what became of it.
#[derive(Debug, Default)]
pub struct Removal {
    pub removed: Vec<PathBuf>,
    /// Settings of the kernel that are what they were, by their names.
    pub restored: Vec<(String, u32)>,
    /// What could not be removed, each with its reason.
    pub failed: Vec<String>,
    /// Ids in the order of [`KINDS`].
    ids: [BTreeSet<u32>; 3],
}

/// Removes every pin below `root`, and puts back the settings that the agent has changed. Goes on where one fails.
pub fn cleanup(root: &Path, procfs: &Path) -> Removal {
    let mut removal = Removal::default();
    if !root.exists() {
        return removal;
    }
    let versions = removal.entries(root).into_iter().filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.strip_prefix('v')
            .is_some_and(|rest| rest.parse::<u32>().is_ok())
    });
    let versions: Vec<PathBuf> = versions.collect();
    removal.ids = in_kernel(&versions);
    links::clsact::detach_all();
    for version in versions {
        // Links first: when they are gone no program of ours is met any more.
        for (kind, remove) in [
            ("links", links::remove as fn(&Path) -> Result<(), Error>),
            ("maps", unpin),
            ("next", unpin),
        ] {
            for path in removal.entries(&version.join(kind)) {
                let outcome = remove(&path);
                removal.took(path, outcome);
            }
        }
        for path in removal.entries(&version.join("settings")) {
            let outcome = settings::restore(&path, procfs);
            removal
                .restored
                .extend(outcome.as_ref().ok().cloned().flatten());
            let outcome = outcome.and_then(|_| unpin(&path));
            removal.took(path, outcome);
        }
        // What is not empty has been named.
        for kind in ["links", "maps", "next", "settings"] {
            let _ = fs::remove_dir(version.join(kind));
        }
        let _ = fs::remove_dir(&version);
        if version.exists() && removal.failed.is_empty() {
            removal
                .failed
                .push(format!("{} is not empty", version.display()));
        }
    }
    // It may be the mount point itself, or hold what is not ours: then it stays.
    let _ = fs::remove_dir(root);
    removal
}

impl Removal {
    /// Whether there was anything.
    pub fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.failed.is_empty()
    }

    /// How many programs, maps and links there were.
    pub fn counts(&self) -> [usize; 3] {
        self.ids.each_ref().map(BTreeSet::len)
    }

    /// What is left: what could not be removed, and, after some patience, what the kernel still has of it.
    pub fn left(&self) -> Vec<String> {
        let start = Instant::now();
        let mut still = self.still();
        while still.iter().any(|ids| !ids.is_empty()) && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(20));
            still = self.still();
        }
        let mut left = self.failed.clone();
        let [programs, ..] = still.each_ref().map(BTreeSet::len);
        left.extend(blame(&mut still));
        if programs > 0 {
            // They hold their maps.
            still[1].clear();
        }
        for ((kind, _), ids) in KINDS.iter().zip(&still) {
            if !ids.is_empty() {
                left.push(format!("{} (id {})", plural(ids.len(), kind), list(ids)));
            }
        }
        left
    }

    fn still(&self) -> [BTreeSet<u32>; 3] {
        let now = [
            loaded_programs()
                .flatten()
                .map(|program| program.id())
                .collect(),
            loaded_maps().flatten().map(|map| map.id()).collect(),
            loaded_links()
                .flatten()
                .map(|link| link.id())
                .collect::<BTreeSet<u32>>(),
        ];
        let mut both = self.ids.clone();
        for (ids, now) in both.iter_mut().zip(&now) {
            ids.retain(|id| now.contains(id));
        }
        both
    }

    fn entries(&mut self, folder: &Path) -> Vec<PathBuf> {
        let found = links::entries(folder);
        found.unwrap_or_else(|error| {
            self.failed.push(error.to_string());
            Vec::new()
        })
    }

    fn took(&mut self, path: PathBuf, outcome: Result<(), Error>) {
        match outcome {
            Ok(()) => self.removed.push(path),
            Err(error) => self.failed.push(error.to_string()),
        }
    }
}

fn unpin(path: &Path) -> Result<(), Error> {
    fs::remove_file(path).map_err(|cause| Error::Pin {
        what: "remove",
        path: path.into(),
        cause,
    })
}

/// The pinned links and maps, the programs behind them, and all that these use or hang on, wherever it is attached.
fn in_kernel(versions: &[PathBuf]) -> [BTreeSet<u32>; 3] {
    let pins = |kind: &str| -> Vec<PathBuf> {
        let folders = versions.iter().map(|version| version.join(kind));
        folders
            .flat_map(|folder| links::entries(&folder).unwrap_or_default())
            .collect()
    };
    let mut maps: BTreeSet<u32> = [pins("maps"), pins("next"), pins("settings")]
        .concat()
        .into_iter()
        .filter_map(|pin| Some(MapInfo::from_pin(pin).ok()?.id()))
        .collect();
    let mut programs: BTreeSet<u32> = pins("links")
        .into_iter()
        .filter_map(|pin| {
            let link: FdLink = PinnedLink::from_pin(pin).ok()?.into();
            Some(link.info().ok()?.program_id())
        })
        .collect();
    for program in loaded_programs().flatten() {
        let used = program.map_ids().ok().flatten().unwrap_or_default();
        if programs.contains(&program.id()) || used.iter().any(|id| maps.contains(id)) {
            programs.insert(program.id());
            maps.extend(used);
        }
    }
    let links = loaded_links()
        .flatten()
        .filter(|link| programs.contains(&link.program_id()))
        .map(|link| link.id())
        .collect();
    [programs, maps, links]
}

/// One sentence for each process that has some of these open; takes them out.
fn blame(still: &mut [BTreeSet<u32>; 3]) -> Vec<String> {
    if still.iter().all(BTreeSet::is_empty) {
        return Vec::new();
    }
    let mut holders: BTreeMap<u32, [BTreeSet<u32>; 3]> = BTreeMap::new();
    for (pid, info) in open_files() {
        for (at, (_, field)) in KINDS.iter().enumerate() {
            let id = info
                .lines()
                .find_map(|line| line.strip_prefix(field)?.trim().parse().ok());
            if let Some(id) = id.filter(|id| still[at].contains(id)) {
                holders.entry(pid).or_default()[at].insert(id);
            }
        }
    }
    let mut said = Vec::new();
    for (pid, held) in holders {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let what: Vec<String> = KINDS
            .iter()
            .zip(&held)
            .filter(|(_, ids)| !ids.is_empty())
            .map(|((kind, _), ids)| plural(ids.len(), kind))
            .collect();
        said.push(format!(
            "process {pid} ({}) has {} open: end it",
            name.trim(),
            what.join(", ")
        ));
        for (ids, held) in still.iter_mut().zip(&held) {
            ids.retain(|id| !held.contains(id));
        }
    }
    said
}

/// What `/proc` says of every process's open files.
fn open_files() -> impl Iterator<Item = (u32, String)> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .flat_map(|pid| {
            let files = fs::read_dir(format!("/proc/{pid}/fdinfo"))
                .into_iter()
                .flatten();
            files
                .flatten()
                .filter_map(move |file| Some((pid, fs::read_to_string(file.path()).ok()?)))
        })
}

/// Programs with the names of ours that are loaded. Of a dataplane of which nothing is pinned any more nothing else says
/// whose it was.
pub fn namesakes() -> usize {
    loaded_programs()
        .flatten()
        .filter(|program| links::is_ours(program.name_as_str().unwrap_or_default()))
        .count()
}

/// "1 program", "17 programs".
pub fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn list(ids: &BTreeSet<u32>) -> String {
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    ids.join(", ")
}
