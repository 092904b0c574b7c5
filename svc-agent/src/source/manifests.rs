//! A folder of manifests as a source. Any change in it, by editors, renames or atomic replacement, makes it be read
//! again; a file that cannot be understood is reported and what it said before stays.

mod folder;
mod pods;
#[cfg(test)]
mod tests;
mod text;

use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use crate::cluster::{Change, Event};
use crate::desired::Refusal;
use crate::refusals::Refusals;
use folder::{Folder, Objects};
use text::Object;

/// Writers make several events of one change: the folder is read when it was quiet for so long.
const QUIET: Duration = Duration::from_millis(20);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading the manifests in {0}: {1}; give --manifests a folder of YAML or JSON files")]
    Folder(PathBuf, #[source] std::io::Error),
    #[error("watching {0}: {1}; raise fs.inotify.max_user_watches if it is exhausted")]
    Watch(PathBuf, #[source] notify::Error),
}

/// Reads the folder, says all, and then says what changes until the receiver is gone.
pub async fn run(dir: &Path, events: mpsc::Sender<Event>) -> Result<(), Error> {
    let dir = std::path::absolute(dir).map_err(|e| Error::Folder(dir.to_owned(), e))?;
    std::fs::read_dir(&dir).map_err(|e| Error::Folder(dir.clone(), e))?;
    let (mut watcher, mut stirs) = watch(&dir).map_err(|e| Error::Watch(dir.clone(), e))?;
    let mut folder = Folder::new(dir.clone());
    let mut refusals = Refusals::default();
    let mut said: Option<Objects> = None;
    loop {
        let (objects, found) = folder.read();
        refusals.update("folder", found);
        for event in news(said.as_ref(), &objects) {
            if events.send(event).await.is_err() {
                return Ok(());
            }
        }
        said = Some(objects);
        let mut stir = tokio::select! {
            stir = stirs.recv() => stir,
            () = events.closed() => return Ok(()),
        };
        while let Some(what) = stir {
            if what == Stir::Folder {
                // Another folder may have come in its place; the watch is on the one that was there.
                let _ = watcher.unwatch(&dir);
                let _ = watcher.watch(&dir, RecursiveMode::NonRecursive);
            }
            stir = tokio::time::timeout(QUIET, stirs.recv())
                .await
                .ok()
                .flatten();
        }
    }
}

/// Reads the folder once: what [`run`] says first, and what it refuses.
pub fn read(dir: &Path) -> Result<(Vec<Event>, Vec<Refusal>), Error> {
    let dir = std::path::absolute(dir).map_err(|e| Error::Folder(dir.to_owned(), e))?;
    std::fs::read_dir(&dir).map_err(|e| Error::Folder(dir.clone(), e))?;
    let (objects, refusals) = Folder::new(dir).read();
    Ok((news(None, &objects), refusals))
}

/// What a folder holds, for people to ask about.
pub struct Seen {
    pub events: Vec<Event>,
    pub refusals: Vec<Refusal>,
    pub pods: Vec<Pod>,
    pub slices: Vec<EndpointSlice>,
}

/// As [`read`], with the objects that an agent makes no further use of.
pub fn read_all(dir: &Path) -> Result<Seen, Error> {
    let dir = std::path::absolute(dir).map_err(|e| Error::Folder(dir.to_owned(), e))?;
    std::fs::read_dir(&dir).map_err(|e| Error::Folder(dir.clone(), e))?;
    let mut folder = Folder::new(dir);
    let (objects, refusals) = folder.read();
    let mut seen = Seen {
        events: news(None, &objects),
        refusals,
        pods: Vec::new(),
        slices: Vec::new(),
    };
    for object in folder.objects() {
        match object {
            Object::Pod(pod) => seen.pods.push((**pod).clone()),
            Object::Slice(slice) => seen.slices.push((**slice).clone()),
            Object::Service(_) | Object::Node(_) | Object::Other(_) => (),
        }
    }
    Ok(seen)
}

/// What differs from what was said last. Endpoints come before the Services that need them.
fn news(said: Option<&Objects>, now: &Objects) -> Vec<Event> {
    let mut events = Vec::new();
    if said.is_none_or(|said| said.nodes != now.nodes) {
        events.push(Event::Node(Change::All(now.nodes.clone())));
    }
    if said.is_none_or(|said| said.slices != now.slices) {
        events.push(Event::Slice(Change::All(now.slices.clone())));
    }
    if said.is_none_or(|said| said.services != now.services) {
        events.push(Event::Service(Change::All(now.services.clone())));
    }
    events
}

/// What stirred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stir {
    File,
    Folder,
}

fn watch(dir: &Path) -> Result<(RecommendedWatcher, mpsc::UnboundedReceiver<Stir>), notify::Error> {
    let (tx, rx) = mpsc::unbounded_channel();
    let own = dir.to_owned();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // A queue that overflowed has lost events: read all.
        let stir = match event {
            Ok(event) if is_reading(&event.kind) => None,
            Ok(event) if event.need_rescan() => Some(Stir::Folder),
            Ok(event) if event.paths.contains(&own) => Some(Stir::Folder),
            Ok(event) => event
                .paths
                .iter()
                .any(|p| p.parent() == Some(&own))
                .then_some(Stir::File),
            Err(_) => Some(Stir::Folder),
        };
        if let Some(stir) = stir {
            // Nobody listens any more when the source ends.
            let _ = tx.send(stir);
        }
    })?;
    watcher.watch(dir, RecursiveMode::NonRecursive)?;
    if let Some(parent) = dir.parent() {
        watcher.watch(parent, RecursiveMode::NonRecursive)?;
    }
    Ok((watcher, rx))
}

/// Our own reading must not make us read.
fn is_reading(kind: &EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if *access != AccessKind::Close(AccessMode::Write))
}
