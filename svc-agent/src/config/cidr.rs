//! `192.0.2.0/24`: an address range.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    network: IpAddr,
    length: u8,
}

impl Cidr {
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

impl FromStr for Cidr {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let wrong = || format!("{s:?} is not an address range, such as 192.0.2.0/24 or fd00::/8");
        let (network, length) = s.split_once('/').ok_or_else(wrong)?;
        let cidr = Cidr {
            network: network.parse().map_err(|_| wrong())?,
            length: length.parse().map_err(|_| wrong())?,
        };
        if cidr.length > if cidr.is_ipv4() { 32 } else { 128 } {
            Err(wrong())
        } else {
            Ok(cidr)
        }
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
