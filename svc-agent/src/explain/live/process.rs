//! Whose a process is: whether the network namespace that it is in has the client's address.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv6Addr};

/// None: it is not visible from here, or has ended.
pub(super) fn has_address(pid: u32, ip: IpAddr) -> Option<bool> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/net/{name}")).ok();
    Some(match ip {
        IpAddr::V4(_) => v4(&read("fib_trie")?).any(|own| own == ip),
        IpAddr::V6(_) => v6(&read("if_inet6")?).any(|own| own == ip),
    })
}

/// Whether it is in the network namespace that this runs in. None: as above.
pub(super) fn is_of_node(pid: u32) -> Option<bool> {
    let own = fs::read_link("/proc/self/ns/net").ok()?;
    Some(fs::read_link(format!("/proc/{pid}/ns/net")).ok()? == own)
}

/// The network namespace that it is in.
pub(super) fn namespace(pid: u32) -> Option<File> {
    File::open(format!("/proc/{pid}/ns/net")).ok()
}

/// `|-- ADDRESS`, and below it `/32 host LOCAL`.
fn v4(trie: &str) -> impl Iterator<Item = IpAddr> {
    let mut last = None;
    trie.lines().filter_map(move |line| {
        if let Some((_, address)) = line.split_once("|-- ") {
            last = address.trim().parse().ok();
            return None;
        }
        line.contains("/32 host LOCAL").then_some(last).flatten()
    })
}

/// 32 hexadecimal digits begin each line.
fn v6(table: &str) -> impl Iterator<Item = IpAddr> {
    table.lines().filter_map(|line| {
        let digits = line.split_whitespace().next()?;
        let number = u128::from_str_radix(digits, 16).ok()?;
        Some(Ipv6Addr::from(number).into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_namespace_are_those_that_are_local() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n\
                    Local:\n     |-- 10.244.1.5\n        /32 host LOCAL\n     |-- 10.244.1.255\n        /32 link BROADCAST\n";
        let own: Vec<IpAddr> = v4(trie).collect();
        assert_eq!(own, ["10.244.1.5".parse::<IpAddr>().unwrap()]);
        let table = "fd000000000000000000000000000005 02 40 00 80     eth0\n";
        let own: Vec<IpAddr> = v6(table).collect();
        assert_eq!(own, ["fd00::5".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn this_process_is_where_it_is_and_one_that_is_not_there_is_nowhere() {
        let own = std::process::id();
        assert_eq!(is_of_node(own), Some(true));
        assert_eq!(has_address(own, "192.0.2.77".parse().unwrap()), Some(false));
        assert_eq!(is_of_node(u32::MAX), None);
        assert_eq!(has_address(u32::MAX, "192.0.2.77".parse().unwrap()), None);
    }
}
