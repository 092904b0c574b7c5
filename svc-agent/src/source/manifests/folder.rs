//! What the files of a folder say together.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::pods::{self, Pod};
use super::text::{self, Object, Problem};
use crate::cluster::{Node, Service, Slice, SliceName};
use crate::desired::{Refusal, ServiceName};
use crate::source::convert::{self, Converted, name};

/// Some hundred thousand Services; more than that is a mistake.
const MOST_BYTES: u64 = 256 << 20;

/// Everything a source can say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Objects {
    pub(super) services: BTreeMap<ServiceName, Service>,
    pub(super) slices: BTreeMap<SliceName, Slice>,
    pub(super) nodes: BTreeMap<String, Node>,
}

/// A folder and what its files said when they could last be understood.
pub(super) struct Folder {
    dir: PathBuf,
    files: BTreeMap<PathBuf, File>,
}

#[derive(Default)]
struct File {
    bytes: Vec<u8>,
    objects: Vec<Object>,
    problem: Option<Refusal>,
}

impl Folder {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            files: BTreeMap::new(),
        }
    }

    /// Reads what changed; returns what the folder says now, and what is wrong with it.
    pub(super) fn read(&mut self) -> (Objects, Vec<Refusal>) {
        let mut refusals = Vec::new();
        match manifests(&self.dir) {
            Ok(paths) => {
                self.files.retain(|path, _| paths.contains(path));
                for path in paths {
                    self.read_file(path);
                }
            }
            Err(error) => refusals.push(Refusal::invalid(
                format!("folder {}", self.dir.display()),
                format!("cannot be read: {error}; what it said last stays"),
            )),
        }
        refusals.extend(self.files.values().filter_map(|file| file.problem.clone()));
        let objects = together(
            self.files.values().flat_map(|file| &file.objects),
            &mut refusals,
        );
        (objects, refusals)
    }

    /// What the files said when they were read.
    pub(super) fn objects(&self) -> impl Iterator<Item = &Object> {
        self.files.values().flat_map(|file| &file.objects)
    }

    fn read_file(&mut self, path: PathBuf) {
        let bytes = match contents(&path) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                self.files.remove(&path);
                return;
            }
            Err(why) => {
                let why = format!("{why}; what it said last stays");
                let object = format!("file {}", file_name(&path));
                self.files.entry(path).or_default().problem = Some(Refusal::invalid(object, why));
                return;
            }
        };
        let known = self.files.entry(path.clone()).or_default();
        if known.bytes == bytes && known.problem.is_none() {
            return;
        }
        match understood(&path, &bytes) {
            Ok(objects) => {
                *known = File {
                    bytes,
                    objects,
                    problem: None,
                }
            }
            Err(Problem {
                document,
                line,
                what,
            }) => {
                let object = format!("file {} document {document} line {line}", file_name(&path));
                known.problem = Some(Refusal::invalid(
                    object,
                    format!("{what}; what the file said last stays"),
                ));
            }
        }
    }
}

/// The manifest files of a folder, in the order of their names.
fn manifests(dir: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut paths = BTreeSet::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let is_manifest = path
            .extension()
            .is_some_and(|e| ["yaml", "yml", "json"].iter().any(|ext| e == *ext));
        // Hidden files are editors' and kubelet's business.
        if is_manifest && !file_name(&path).starts_with('.') {
            paths.insert(path);
        }
    }
    Ok(paths)
}

/// Its bytes; none when it has gone since the folder was listed.
fn contents(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    let is = match std::fs::metadata(path) {
        Ok(is) => is,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match path.symlink_metadata() {
                Ok(_) => Err("is a link to a file that is not there".into()),
                Err(_) => Ok(None),
            };
        }
        Err(error) => return Err(unreadable(error)),
    };
    if is.is_dir() {
        return Err("is a folder: only the files beside it are read".into());
    }
    // A pipe would be waited for, a device has no end.
    if !is.is_file() {
        return Err("is no regular file".into());
    }
    if is.len() > MOST_BYTES {
        return Err(format!("is larger than {} MiB: split it", MOST_BYTES >> 20));
    }
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(error)),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn understood(path: &Path, bytes: &[u8]) -> Result<Vec<Object>, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let line = 1 + bytes[..e.valid_up_to()]
            .iter()
            .filter(|b| **b == b'\n')
            .count();
        Problem {
            document: 1,
            line,
            what: "is not UTF-8 text".into(),
        }
    })?;
    // Windows' editors begin a file so.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if path.extension().is_some_and(|e| e == "json") {
        text::json(text)
    } else {
        text::yaml(text)
    }
}

/// All objects of all files, with endpoints for the Services that have a selector and no slices.
fn together<'a>(all: impl Iterator<Item = &'a Object>, refusals: &mut Vec<Refusal>) -> Objects {
    let mut objects = Objects::default();
    let mut pods: Vec<Pod> = Vec::new();
    let mut seen = BTreeSet::new();
    for object in all {
        let (kind, meta) = match object {
            Object::Service(o) => ("Service", &o.metadata),
            Object::Slice(o) => ("EndpointSlice", &o.metadata),
            Object::Node(o) => ("Node", &o.metadata),
            Object::Pod(o) => ("Pod", &o.metadata),
            Object::Other(kind) => {
                let refusal = Refusal::invalid(
                    kind.clone(),
                    "is of no use here; all such objects are skipped",
                );
                if !refusals.contains(&refusal) {
                    refusals.push(refusal);
                }
                continue;
            }
        };
        let (namespace, name) = name(meta);
        let described = format!("{kind} {namespace}/{name}");
        if name.is_empty() {
            refusals.push(Refusal::invalid(
                kind,
                "has no metadata.name; it is skipped",
            ));
        } else if !seen.insert(described.clone()) {
            refusals.push(Refusal::invalid(
                described,
                "is there twice; the first one is used",
            ));
        } else {
            match object {
                Object::Service(o) => insert(&mut objects.services, convert::service(o), refusals),
                Object::Slice(o) => insert(&mut objects.slices, convert::slice(o), refusals),
                Object::Node(o) => insert(&mut objects.nodes, convert::node(o), refusals),
                Object::Pod(o) => {
                    let (pod, found) = pods::pod(o);
                    pods.extend(pod);
                    refusals.extend(found);
                }
                Object::Other(_) => {}
            }
        }
    }
    add_endpoints(&mut objects, &mut pods, refusals);
    objects
}

fn insert<K: Ord, V>(
    kind: &mut BTreeMap<K, V>,
    converted: Converted<K, V>,
    refusals: &mut Vec<Refusal>,
) {
    kind.extend(converted.value.map(|value| (converted.key, value)));
    refusals.extend(converted.refusals);
}

fn add_endpoints(objects: &mut Objects, pods: &mut [Pod], refusals: &mut Vec<Refusal>) {
    pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let with_slices: BTreeSet<ServiceName> = objects
        .slices
        .values()
        .map(|slice| slice.service.clone())
        .collect();
    for (name, service) in objects
        .services
        .iter()
        .filter(|(name, s)| pods::selects(s) && !with_slices.contains(name))
    {
        let (slices, found) = pods::slices(name, service, pods);
        objects.slices.extend(slices);
        refusals.extend(found);
    }
}
