//! Addresses for this node's pods, out of its podCIDR.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;

/// Why there is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpError {
    /// The text is no IPv4 network.
    #[error("{0:?} is not an IPv4 network such as 10.244.1.0/24")]
    InvalidCidr(String),
    /// All addresses are taken.
    #[error("no IP addresses available in range set: {0}")]
    Exhausted(String),
}

/// The addresses of a network but the first two (network and node) and the last (broadcast). The next one given out
/// is the one after the last given out, so that an address rests before it is somebody else's.
#[derive(Debug)]
pub struct IpPool {
    cidr: String,
    first: u32,
    last: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: u32,
    taken: BTreeSet<u32>,
}

impl IpPool {
    /// The pool of a network.
    ///
    /// # Errors
    /// The text is no IPv4 network.
    pub fn new(cidr: &str) -> Result<IpPool, IpError> {
        let invalid = || IpError::InvalidCidr(cidr.to_owned());
        let (address, bits) = cidr.split_once('/').ok_or_else(invalid)?;
        let address: Ipv4Addr = address.parse().map_err(|_| invalid())?;
        let bits: u32 = bits.parse().ok().filter(|bits| (1..=29).contains(bits)).ok_or_else(invalid)?;
        let size = 1_u32 << (32 - bits);
        let network = u32::from(address) & !(size - 1);
        let (first, last) = (network + 2, network + size - 2);
        let state = Mutex::new(State { next: first, taken: BTreeSet::new() });
        Ok(IpPool { cidr: cidr.to_owned(), first, last, state })
    }

    /// Takes the next free address.
    ///
    /// # Errors
    /// There is none.
    pub fn allocate(&self) -> Result<IpAddr, IpError> {
        let mut state = self.lock();
        let next = state.next;
        let candidates = (next..=self.last).chain(self.first..next);
        let found = candidates.into_iter().find(|candidate| !state.taken.contains(candidate));
        let found = found.ok_or_else(|| IpError::Exhausted(self.cidr.clone()))?;
        state.taken.insert(found);
        state.next = if found == self.last { self.first } else { found + 1 };
        Ok(IpAddr::V4(found.into()))
    }

    /// Marks an address of an adopted sandbox as taken.
    pub fn reserve(&self, ip: IpAddr) {
        if let IpAddr::V4(ip) = ip {
            self.lock().taken.insert(ip.into());
        }
    }

    /// Gives an address back.
    pub fn release(&self, ip: IpAddr) {
        if let IpAddr::V4(ip) = ip {
            self.lock().taken.remove(&ip.into());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_round_and_none_is_given_twice() {
        let pool = IpPool::new("10.244.1.0/29").unwrap();
        let next = || pool.allocate().map(|ip| ip.to_string());
        pool.reserve("10.244.1.3".parse().unwrap());
        assert_eq!(next().unwrap(), "10.244.1.2");
        pool.release("10.244.1.2".parse().unwrap());
        assert_eq!(next().unwrap(), "10.244.1.4", "a released address rests");
        assert_eq!((next().unwrap().as_str(), next().unwrap().as_str()), ("10.244.1.5", "10.244.1.6"));
        assert_eq!(next().unwrap(), "10.244.1.2");
        assert_eq!(next(), Err(IpError::Exhausted("10.244.1.0/29".into())));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for cidr in ["", "10.0.0.0", "10.0.0.0/33", "x/24", "10.0.0.0/31"] {
            assert!(IpPool::new(cidr).is_err(), "{cidr}");
        }
    }
}
