//! `any`, `none`, or address ranges: which addresses Services may ask for.

use std::net::IpAddr;
use std::str::FromStr;

use super::Cidr;

/// `--service-external-ip-range`, `--loadbalancer-ip-range`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Allowed {
    #[default]
    Any,
    /// Nothing, if there is none.
    In(Vec<Cidr>),
}

impl Allowed {
    pub fn allows(&self, ip: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::In(ranges) => ranges.iter().any(|range| range.contains(ip)),
        }
    }
}

impl FromStr for Allowed {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "any" => Ok(Self::Any),
            "none" => Ok(Self::In(Vec::new())),
            _ => s
                .split(',')
                .map(|range| range.trim().parse())
                .collect::<Result<_, _>>()
                .map(Self::In)
                .map_err(|why| format!("{why}, nor is it `any` or `none`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_no_range_is_not_allowed_of_either_family() {
        let allows = |setting: &str, ip: &str| {
            let setting = setting.parse::<Allowed>().unwrap();
            setting.allows(ip.parse().unwrap())
        };
        assert!(allows("any", "8.8.8.8") && allows("any", "2001:db8::1"));
        assert!(!allows("none", "8.8.8.8") && !allows("none", "2001:db8::1"));
        let some = "192.0.2.0/24, 198.51.100.7/32";
        assert!(allows(some, "192.0.2.9") && allows(some, "198.51.100.7"));
        assert!(!allows(some, "8.8.8.8") && !allows(some, "2001:db8::1"));
        let error = "192.0.2.0".parse::<Allowed>().unwrap_err();
        assert!(error.ends_with("nor is it `any` or `none`"), "{error}");
    }
}
