//! Settings of the kernel that the agent has changed, and what they were: pinned beside the maps, where no restart loses
//! them, so that `cleanup` can put them back.

use std::fs;
use std::io;
use std::path::Path;

use aya::maps::{Array, Map, MapData, MapError};

use super::error::failing;
use super::{Error, VERSION};

/// Below a proc file system. Whoever reads it sees the settings of his own network namespace, here the node's.
pub const FOLDER: &str = "sys/net/netfilter";

/// One value: what the setting was, and what it was set to.
type Change = Array<MapData, [u32; 2]>;

/// Notes that a setting will be `ours` and is `now`. What it was before an earlier agent changed it stays noted.
pub fn note(root: &Path, name: &'static str, now: u32, ours: u32) -> Result<(), Error> {
    let folder = root.join(VERSION).join("settings");
    fs::create_dir_all(&folder).map_err(|cause| Error::Pin {
        what: "create",
        path: folder.clone(),
        cause,
    })?;
    let path = folder.join(name);
    let failed = failing("note what a setting was in", name);
    if path.exists() {
        let mut change = open(&path).map_err(&failed)?;
        let [before, set] = change.get(&0, 0).map_err(&failed)?;
        let before = if set == now { before } else { now };
        return change.set(0, [before, ours], 0).map_err(&failed);
    }
    let mut change = Change::create(1, 0).map_err(&failed)?;
    change.set(0, [now, ours], 0).map_err(&failed)?;
    change.pin(&path).map_err(|error| Error::Pin {
        what: "pin",
        path,
        cause: io::Error::other(error),
    })
}

/// Puts a noted setting back, unless somebody else has changed it since; says what it is then.
pub(super) fn restore(pin: &Path, procfs: &Path) -> Result<Option<(String, u32)>, Error> {
    let Ok([before, ours]) = open(pin).and_then(|change| change.get(&0, 0)) else {
        // Not one of ours: nothing to put back.
        return Ok(None);
    };
    let name = pin
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let file = procfs.join(FOLDER).join(&name);
    match fs::read_to_string(&file) {
        Ok(value) if value.trim() == ours.to_string() => match fs::write(&file, before.to_string())
        {
            Ok(()) => Ok(Some((name, before))),
            Err(cause) => Err(Error::Setting {
                name,
                ours,
                before,
                cause,
            }),
        },
        _ => Ok(None),
    }
}

fn open(pin: &Path) -> Result<Change, MapError> {
    Map::from_map_data(MapData::from_pin(pin)?)?.try_into()
}
