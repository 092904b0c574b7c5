//! Reverse path filters: which devices drop packets whose source is reached another way.

use std::fs;

/// Those of the devices whose filter is strict (1). The kernel takes the larger of `all` and the device's own.
pub fn strictly_filtered<T: AsRef<str>>(names: impl Iterator<Item = T>) -> Vec<T> {
    let read = |name: &str| {
        let value = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"));
        value
            .ok()
            .and_then(|value| value.trim().parse::<u8>().ok())
            .unwrap_or(0)
    };
    let all = read("all");
    names
        .filter(|name| read(name.as_ref()).max(all) == 1)
        .collect()
}
