//! Ranges of IPv4 addresses.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A range such as `10.96.0.0/12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Cidr {
    base: u32,
    prefix: u8,
}

/// Text that is no range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid CIDR address: {0}")]
pub struct CidrError(String);

impl FromStr for Ipv4Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            let (address, prefix): (Ipv4Addr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
            (prefix <= 32).then(|| Ipv4Cidr { base: address.to_bits() & mask(prefix), prefix })
        };
        parse().ok_or_else(|| CidrError(text.to_owned()))
    }
}

impl fmt::Display for Ipv4Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.base), self.prefix)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl Ipv4Cidr {
    /// How many addresses services can have: all but the first (the network) and the last (broadcast).
    pub fn size(&self) -> u32 {
        (!mask(self.prefix)).saturating_sub(1)
    }

    /// The address of an index below [`Ipv4Cidr::size`]; index 0 is the first that services can have.
    pub fn address(&self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.wrapping_add(1).wrapping_add(index))
    }

    /// Whether services can have this address.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let offset = address.to_bits().wrapping_sub(self.base);
        offset >= 1 && offset <= self.size()
    }
}
