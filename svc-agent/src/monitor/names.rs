//! What numbers in events are called: Services and devices. Asked of the maps and of the kernel once a second at most.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::dataplane::Pinned;
use crate::plan::Label;

/// A name may change hands after so long.
const FRESH: Duration = Duration::from_secs(1);
/// More names are not kept.
const MOST: usize = 4_096;

type Kept<K, V> = BTreeMap<K, (Instant, Option<V>)>;

pub(crate) struct Names {
    pinned: Pinned,
    services: Kept<u32, Label>,
    frontends: Kept<(IpAddr, u16, u8), u32>,
    devices: Kept<u32, String>,
}

impl Names {
    pub(crate) fn new(pinned: Pinned) -> Self {
        Self {
            pinned,
            services: Kept::new(),
            frontends: Kept::new(),
            devices: Kept::new(),
        }
    }

    /// By its id, or by what was asked for. Of an address that has no such port, the Service that has the address.
    pub(crate) fn service(&mut self, id: u32, ip: IpAddr, port: u16, proto: u8) -> Option<Label> {
        let pinned = &self.pinned;
        let id = match id {
            0 => {
                let at = |port| pinned.service_at(ip, port, proto).ok().flatten();
                kept(&mut self.frontends, (ip, port, proto), || {
                    at(port).or_else(|| at(0))
                })?
            }
            id => id,
        };
        kept(&mut self.services, id, || {
            Label::parse(&pinned.label(id).ok()??)
        })
    }

    pub(crate) fn device(&mut self, ifindex: u32) -> Option<String> {
        kept(&mut self.devices, ifindex, || {
            let name = nix::net::if_::if_indextoname(ifindex).ok()?;
            Some(name.to_string_lossy().into_owned())
        })
    }
}

fn kept<K: Ord, V: Clone>(
    known: &mut Kept<K, V>,
    key: K,
    find: impl FnOnce() -> Option<V>,
) -> Option<V> {
    let now = Instant::now();
    if let Some((since, value)) = known.get(&key)
        && now.duration_since(*since) < FRESH
    {
        return value.clone();
    }
    if known.len() >= MOST {
        known.clear();
    }
    let value = find();
    known.insert(key, (now, value.clone()));
    value
}
