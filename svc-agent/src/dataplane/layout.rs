//! The kind and sizes of our maps, and whether what is pinned is like them.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::OnceLock;

use aya::maps::MapInfo;

use super::{Error, OBJECT, maps, sys};

/// What two maps must have in common so that one can stand for the other.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Layout {
    /// As `enum bpf_map_type` has it.
    kind: u32,
    key: u32,
    value: u32,
}

impl Layout {
    /// How it differs from what was expected.
    fn beside(self, expected: Self) -> String {
        let Self { kind, key, value } = self;
        if (key, value) == (expected.key, expected.value) {
            format!("a map of type {kind}")
        } else {
            format!("{key}-byte keys and {value}-byte values")
        }
    }
}

type Layouts = BTreeMap<String, Layout>;

/// The layouts of our maps. Read once: the object takes tens of MB while it is parsed.
fn ours() -> Result<&'static Layouts, Error> {
    static LAYOUTS: OnceLock<Layouts> = OnceLock::new();
    if let Some(layouts) = LAYOUTS.get() {
        return Ok(layouts);
    }
    let object = aya_obj::Object::parse(OBJECT).map_err(|e| Error::Load(e.into()))?;
    let maps = object.maps.into_iter().map(|(name, map)| {
        let layout = Layout {
            kind: map.map_type(),
            key: map.key_size(),
            value: map.value_size(),
        };
        (name, layout)
    });
    Ok(LAYOUTS.get_or_init(|| maps.collect()))
}

/// Refuses pinned maps that are unlike ours.
pub(super) fn check(folder: &Path) -> Result<(), Error> {
    match differences(folder)?.into_values().next() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// The pinned maps that are unlike ours, each with what that means. What is no map at all is an error.
pub(super) fn differences(folder: &Path) -> Result<BTreeMap<&'static str, Error>, Error> {
    let ours = ours()?;
    let mut differences = BTreeMap::new();
    for name in maps::PINNED {
        let path = folder.join(name);
        if !path.exists() {
            continue;
        }
        let expected = *ours.get(name).ok_or(Error::Missing(name))?;
        let found = pinned(&path)?;
        if found != expected {
            let error = Error::Layout {
                path,
                found: found.beside(expected),
                expected: expected.beside(found),
            };
            differences.insert(name, error);
        }
    }
    Ok(differences)
}

fn pinned(path: &Path) -> Result<Layout, Error> {
    let unreadable = |cause: String| Error::Unreadable {
        path: path.into(),
        cause,
    };
    let fd = sys::get_pinned(path).map_err(|error| unreadable(error.to_string()))?;
    // The kernel gives programs and links out by the same call.
    let kind = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    if let Ok(kind) = kind
        && !kind.to_string_lossy().ends_with("bpf-map")
    {
        return Err(unreadable(format!("it is {}", kind.display())));
    }
    let info = MapInfo::from_pin(path).map_err(|error| unreadable(error.to_string()))?;
    let kind = info
        .map_type()
        .map_err(|error| unreadable(error.to_string()))?;
    Ok(Layout {
        kind: kind as u32,
        key: info.key_size(),
        value: info.value_size(),
    })
}
