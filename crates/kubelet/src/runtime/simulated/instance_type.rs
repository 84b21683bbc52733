//! EC2 instance types as nodes of EKS: what they hold, what the system keeps back, and what they cost.
//!
//! Pod limits are those of the VPC CNI (interfaces × (addresses − 1) + 2), reservations those of EKS' nodeadm. Prices
//! change; a scenario may state its own.

use std::str::FromStr;

use super::SimulatedConfig;
use crate::Config;

const TABLE: &str = include_str!("instance_types.tsv");

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InstanceType {
    /// Such as `m5.large`.
    pub name: &'static str,
    /// Processors.
    pub cpus: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// So many pods find addresses.
    pub max_pods: u32,
    /// USD per hour, on demand.
    pub price_per_hour: f64,
}

impl InstanceType {
    /// All that are known, in the table's order.
    pub fn all() -> impl Iterator<Item = InstanceType> {
        TABLE.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let mut cells = line.split('\t');
            let name = cells.next()?;
            let mut number = || cells.next()?.parse::<f64>().ok();
            let (cpus, gib, interfaces, addresses, price_per_hour) =
                (number()?, number()?, number()?, number()?, number()?);
            let (cpus, memory_bytes) = (cpus as u64, (gib * f64::from(1 << 30)) as u64);
            let max_pods = (interfaces * (addresses - 1.0) + 2.0) as u32;
            Some(InstanceType { name, cpus, memory_bytes, max_pods, price_per_hour })
        })
    }

    /// The type of a name.
    ///
    /// # Errors
    /// A message that names those there are.
    pub fn find(name: &str) -> Result<InstanceType, String> {
        Self::all().find(|known| known.name == name).ok_or_else(|| {
            let names: Vec<_> = Self::all().map(|known| known.name).collect();
            format!("there is no instance type {name:?}; known are {}", names.join(", "))
        })
    }

    /// What nodeadm keeps back of the processors, in thousandths: 6 % of the first, 1 % of the second, 0.5 % of the
    /// next two, 0.25 % of the rest.
    pub fn reserved_cpu_milli(&self) -> u64 {
        let tenths: f64 = (0..self.cpus)
            .map(|cpu| match cpu {
                0 => 60.0,
                1 => 10.0,
                2 | 3 => 5.0,
                _ => 2.5,
            })
            .sum();
        tenths as u64
    }

    /// What is kept back of the memory: 11 MiB for each pod and 255 MiB, and the eviction threshold of 100 MiB.
    pub fn reserved_memory_bytes(&self) -> u64 {
        (11 * u64::from(self.max_pods) + 255 + 100) << 20
    }

    /// The machine.
    pub fn machine(&self, base: SimulatedConfig) -> SimulatedConfig {
        SimulatedConfig { cpus: self.cpus, memory_bytes: self.memory_bytes, ..base }
    }

    /// Tells a kubelet that it is on one, in a node group and a zone (`us-east-1a`, or just a name).
    pub fn configure(&self, kubelet: &mut Config, group: &str, zone: &str, spot: bool) {
        kubelet.max_pods = self.max_pods;
        kubelet.reserved_cpu_milli = self.reserved_cpu_milli();
        kubelet.reserved_memory_bytes = self.reserved_memory_bytes();
        let region = zone.strip_suffix(|c: char| c.is_ascii_lowercase()).filter(|region| !region.is_empty());
        let capacity = if spot { "SPOT" } else { "ON_DEMAND" };
        let labels = [
            ("node.kubernetes.io/instance-type", self.name),
            ("topology.kubernetes.io/zone", zone),
            ("topology.kubernetes.io/region", region.unwrap_or("simulated")),
            ("eks.amazonaws.com/nodegroup", group),
            ("eks.amazonaws.com/capacityType", capacity),
        ];
        kubelet.labels.extend(labels.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }
}

impl FromStr for InstanceType {
    type Err = String;

    fn from_str(name: &str) -> Result<InstanceType, String> {
        InstanceType::find(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_hold_what_eks_says() {
        for (name, max_pods, cpu_left, reserved_mib) in [
            ("t3.micro", 4, 1930, None),
            ("t3.small", 11, 1930, None),
            ("t3.medium", 17, 1930, Some(442)),
            ("m5.large", 29, 1930, Some(574)),
            ("m5.xlarge", 58, 3920, Some(893)),
        ] {
            let found = InstanceType::find(name).unwrap();
            assert_eq!(
                (found.max_pods, found.cpus * 1000 - found.reserved_cpu_milli()),
                (max_pods, cpu_left),
                "{name}"
            );
            if let Some(mib) = reserved_mib {
                assert_eq!(found.reserved_memory_bytes() >> 20, mib + 100, "{name}");
            }
        }
        let rows = TABLE.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(InstanceType::all().count(), rows, "a row is malformed");
        let refused = InstanceType::find("m5.huge").unwrap_err();
        assert!(refused.contains("m5.huge") && refused.contains("m5.large"), "{refused}");
    }
}
