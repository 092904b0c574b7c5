//! The programs' ring of events, followed in place. Reading takes nothing away: any number of watchers see all of it.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{Ordering, fence};

use aya::maps::{Array, Map, MapData};
use svc_common::event::{Event, LEASE, MAX_EVENTS, Watch};

use super::error::failing;
use super::maps::{Supply, seconds_since_boot};
use super::sys::Mapping;
use super::{Error, pinned_maps};

/// How often a record that is not whole yet is looked at, before it counts as lost: its writer has been overtaken.
const PATIENCE: u32 = 10;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched {
    pub losses: bool,
    pub flows: bool,
}

/// One reader of the ring.
pub struct Events {
    watch: Array<MapData, Watch>,
    head: Array<MapData, u64>,
    /// Kept, for the mapping is of it.
    _map: Map,
    ring: Mapping,
    /// How many events there were that this reader is done with.
    seen: u64,
    waited: u32,
}

impl Events {
    /// Begins with what happens from now on.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let folder = pinned_maps(root)?;
        if !folder.join("EVENTS").exists() {
            return Err(Error::NoEvents(root.into()));
        }
        let mut maps = folder.as_path();
        let watch = Array::try_from(maps.take("WATCH")?).map_err(failing("use", "WATCH"))?;
        let head = maps.take("EVENT_HEAD")?;
        let head = Array::try_from(head).map_err(failing("use", "EVENT_HEAD"))?;
        let map = maps.take("EVENTS")?;
        let Map::Array(data) = &map else {
            return Err(Error::Missing("EVENTS"));
        };
        let bytes = usize::try_from(MAX_EVENTS).unwrap_or(0) * size_of::<Event>();
        let ring = Mapping::of(data.fd().as_fd(), bytes).map_err(|cause| Error::MapInto {
            name: "EVENTS",
            cause,
        })?;
        let mut this = Self {
            watch,
            head,
            _map: map,
            ring,
            seen: 0,
            waited: 0,
        };
        this.seen = this.count()?;
        Ok(this)
    }

    /// How many events there were.
    fn count(&self) -> Result<u64, Error> {
        self.head.get(&0, 0).map_err(failing("read", "EVENT_HEAD"))
    }

    /// Has the programs write what is watched for another [`LEASE`]. What other watchers asked for stays.
    pub fn renew(&mut self, what: Watched) -> Result<(), Error> {
        let mut watch = self.watch.get(&0, 0).map_err(failing("read", "WATCH"))?;
        let until = seconds_since_boot().saturating_add(LEASE);
        if what.losses {
            watch.losses = watch.losses.max(until);
        }
        if what.flows {
            watch.flows = watch.flows.max(until);
        }
        self.watch
            .set(0, watch, 0)
            .map_err(failing("write", "WATCH"))
    }

    /// What has happened since the last call, and how much of it is lost.
    pub fn news(&mut self) -> Result<(Vec<Event>, u64), Error> {
        let head = self.count()?;
        let mut events = Vec::new();
        let mut lost = head
            .saturating_sub(self.seen)
            .saturating_sub(u64::from(MAX_EVENTS));
        self.seen += lost;
        while self.seen < head {
            match self.at(self.seen) {
                Found::Whole(event) => events.push(event),
                Found::Overwritten => lost += 1,
                Found::Unfinished if self.waited < PATIENCE => {
                    self.waited += 1;
                    break;
                }
                Found::Unfinished => lost += 1,
            }
            self.waited = 0;
            self.seen += 1;
        }
        Ok((events, lost))
    }

    fn at(&self, place: u64) -> Found {
        // As the programs count: modulo 2³².
        let place = place as u32;
        let Some(slot) = self.ring.value::<Event>(place & (MAX_EVENTS - 1)) else {
            return Found::Overwritten;
        };
        let wanted = place.wrapping_add(1);
        // SAFETY: in the mapping; a record that changes meanwhile is told by its number, and is plain numbers.
        let event = unsafe {
            let number = &raw const (*slot).number;
            let before = number.read_volatile();
            fence(Ordering::Acquire);
            let event = slot.read_volatile();
            fence(Ordering::Acquire);
            (before == wanted && number.read_volatile() == wanted).then_some(event)
        };
        match event {
            Some(event) => Found::Whole(event),
            None => {
                // SAFETY: as above.
                let now = unsafe { (&raw const (*slot).number).read_volatile() };
                let later = now.wrapping_sub(wanted).cast_signed() > 0 && now != 0;
                if later {
                    Found::Overwritten
                } else {
                    Found::Unfinished
                }
            }
        }
    }
}

enum Found {
    Whole(Event),
    Unfinished,
    Overwritten,
}
