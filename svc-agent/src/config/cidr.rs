//! `192.0.2.0/24`: an address range.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    network: IpAddr,
    length: u8,
}

impl Cidr {
    /// None for more bits than an address has.
    pub fn new(network: IpAddr, length: u8) -> Option<Self> {
        let most = if network.is_ipv4() { 32 } else { 128 };
        (length <= most).then_some(Self { network, length })
    }

    /// The range of one address.
    pub fn host(ip: IpAddr) -> Self {
        Self {
            network: ip,
            length: if ip.is_ipv4() { 32 } else { 128 },
        }
    }

    /// The same range, named by its first address.
    pub fn canonical(self) -> Self {
        Self {
            network: self.network(),
            ..self
        }
    }

    /// The first address of the range.
    pub fn network(&self) -> IpAddr {
        match self.network {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.length));
                IpAddr::V4((ip.to_bits() & mask.unwrap_or(0)).into())
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.length));
                IpAddr::V6((ip.to_bits() & mask.unwrap_or(0)).into())
            }
        }
    }

    /// How many bits its addresses have in common.
    pub fn length(&self) -> u8 {
        self.length
    }

    pub fn is_ipv4(&self) -> bool {
        self.network.is_ipv4()
    }

    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.network, ip) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                (network.to_bits() ^ ip.to_bits())
                    .checked_shr(32 - u32::from(self.length))
                    .unwrap_or(0)
                    == 0
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                (network.to_bits() ^ ip.to_bits())
                    .checked_shr(128 - u32::from(self.length))
                    .unwrap_or(0)
                    == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// The bits in front of an IPv4-mapped address.
const MAPPED: u8 = 96;

impl FromStr for Cidr {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let wrong = || format!("{s:?} is not an address range, such as 192.0.2.0/24 or fd00::/8");
        let (network, length) = s.split_once('/').ok_or_else(wrong)?;
        let network: IpAddr = network.parse().map_err(|_| wrong())?;
        let length: u8 = length.parse().map_err(|_| wrong())?;
        match network {
            // RFC 4291 §2.5.5.2: who writes this means IPv4, and no packet of IPv6 has such an address.
            IpAddr::V6(ip) if length >= MAPPED && ip.to_ipv4_mapped().is_some() => {
                Cidr::new(network.to_canonical(), length - MAPPED)
            }
            _ => Cidr::new(network, length),
        }
        .ok_or_else(wrong)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_what_shares_its_prefix_and_nothing_of_the_other_family() {
        let holds =
            |range: &str, ip: &str| range.parse::<Cidr>().unwrap().contains(ip.parse().unwrap());
        assert!(holds("192.0.2.0/24", "192.0.2.255"));
        assert!(!holds("192.0.2.0/24", "192.0.3.0"));
        assert!(holds("192.0.2.7/32", "192.0.2.7") && !holds("192.0.2.7/32", "192.0.2.6"));
        assert!(holds("0.0.0.0/0", "255.255.255.255") && !holds("0.0.0.0/0", "::1"));
        assert!(
            holds("fd00::/8", "fdff::1")
                && !holds("fd00::/8", "fe00::1")
                && holds("::/0", "fe80::1")
        );
    }

    #[test]
    fn a_range_begins_at_its_first_address() {
        let first = |range: &str| range.parse::<Cidr>().unwrap().network().to_string();
        assert_eq!(first("192.0.2.77/26"), "192.0.2.64");
        assert_eq!(first("192.0.2.77/32"), "192.0.2.77");
        assert_eq!(first("192.0.2.77/0"), "0.0.0.0");
        assert_eq!(first("fd00:1::1/16"), "fd00::");
    }

    #[test]
    fn a_range_of_ipv4_mapped_addresses_is_one_of_ipv4() {
        let range: Cidr = "::ffff:192.0.2.0/120".parse().unwrap();
        assert_eq!(range, "192.0.2.0/24".parse().unwrap());
        assert!("::ffff:192.0.2.0/129".parse::<Cidr>().is_err());
        // More than the IPv4-mapped ones.
        assert!(!"::/0".parse::<Cidr>().unwrap().is_ipv4());
    }

    #[test]
    fn what_is_not_a_range_is_refused_with_an_example() {
        for wrong in [
            "192.0.2.0",
            "192.0.2.0/33",
            "::/129",
            "a/8",
            "10.0.0.0/-1",
            "",
        ] {
            let error = wrong.parse::<Cidr>().unwrap_err();
            assert!(error.contains("such as 192.0.2.0/24"), "{error}");
        }
    }
}
