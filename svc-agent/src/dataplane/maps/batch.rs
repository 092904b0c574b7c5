//! Many entries of a map in one call, which aya 0.14 does not have: a second descriptor beside aya's typed map.

use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};

use aya::maps::{Map, MapError};
use aya::sys::SyscallError;

use super::failing;
use crate::dataplane::{Error, sys};

/// Entries per call: the kernel is asked 256 times for a million of them.
const AT_ONCE: usize = 4096;

/// Writes to a map whose keys and values are of these types.
pub(super) struct Batch<K, V> {
    map: OwnedFd,
    name: &'static str,
    entry: PhantomData<(K, V)>,
}

impl<K: aya::Pod, V: aya::Pod> Batch<K, V> {
    pub(super) fn new(map: &Map, name: &'static str) -> Result<Self, Error> {
        let (Map::HashMap(data) | Map::Array(data)) = map else {
            return Err(Error::Missing(name));
        };
        let sizes = data.info().map_err(failing("inspect", name))?;
        let fits = |size: u32, is: usize| size as usize == is;
        if !fits(sizes.key_size(), size_of::<K>()) || !fits(sizes.value_size(), size_of::<V>()) {
            return Err(Error::Missing(name));
        }
        let map = data.fd().as_fd().try_clone_to_owned();
        let map = map.map_err(|error| failing("open", name)(syscall(error)))?;
        Ok(Self {
            map,
            name,
            entry: PhantomData,
        })
    }

    /// Writes entries, there already or not.
    pub(super) fn write(&self, entries: impl IntoIterator<Item = (K, V)>) -> Result<(), Error> {
        let (keys, values): (Vec<K>, Vec<V>) = entries.into_iter().unzip();
        for (keys, values) in keys.chunks(AT_ONCE).zip(values.chunks(AT_ONCE)) {
            sys::map_update_batch(self.map.as_fd(), keys, values)
                .map_err(|error| failing("write", self.name)(syscall(error)))?;
        }
        Ok(())
    }
}

fn syscall(io_error: std::io::Error) -> MapError {
    MapError::SyscallError(SyscallError {
        call: "bpf_map_update_batch",
        io_error,
    })
}
