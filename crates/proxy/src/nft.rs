//! The model as nftables: one table of our own, replaced atomically.
//!
//! ```text
//! prerouting, output ──► services ──(verdict map: address . protocol . port)──► one chain per Service port
//!                                 └─(verdict map: protocol . node port, if the address is the host's)─┘
//! Service chain ──(affinity set, or numgen random)──► one chain per pod: dnat
//! postrouting ──► masquerade what was marked, and pods that reach themselves
//! input, forward, output (filter) ──► reject what has no pod behind it
//! ```
//!
//! Verdict maps are hash tables, so a packet costs the same with one Service as with thousands.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::Ipv4Addr;

use crate::model::{Endpoint, Entry};

/// What the rules depend on besides the model.
#[derive(Clone, Debug)]
pub struct Parameters {
    /// The table's name; one per cluster on a host.
    pub table: String,
    /// The pods' network: clients outside of it are masqueraded.
    pub pod_cidr: String,
    /// Masquerade pods as well: needed where bridged traffic does not pass netfilter on its way back.
    pub masquerade_all: bool,
}

/// Packets with this mark are masqueraded; the bit that kube-proxy uses.
const MASQUERADE: &str = "0x4000";

/// The script that replaces the table by one that does what `entries` say.
pub fn script(entries: &[Entry], parameters: &Parameters) -> String {
    let mut out = String::with_capacity(2048 + entries.len() * 512);
    let table = &parameters.table;
    // Adding before deleting makes the deletion succeed whether or not there was one.
    let _ = write!(out, "add table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n");
    let (mut by_ip, mut by_node_port, mut dead_ips, mut dead_ports) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (number, entry) in entries.iter().enumerate() {
        let key = |ip: &Ipv4Addr| format!("{ip} . {} . {}", entry.protocol, entry.port);
        let inside = format!("svc{number}");
        if entry.internal.is_empty() {
            dead_ips.extend(entry.cluster_ips.iter().map(key));
        } else {
            by_ip.extend(entry.cluster_ips.iter().map(|ip| format!("{} : goto {inside}", key(ip))));
            service_chain(&mut out, &inside, entry, &entry.internal, parameters, false);
        }
        if !entry.is_external() {
            continue;
        }
        let outside = format!("ext{number}");
        let node_port = entry.node_port.map(|port| format!("{} . {port}", entry.protocol));
        if entry.external.is_empty() {
            dead_ips.extend(entry.external_ips.iter().map(key));
            dead_ports.extend(node_port);
        } else {
            by_ip.extend(entry.external_ips.iter().map(|ip| format!("{} : goto {outside}", key(ip))));
            by_node_port.extend(node_port.map(|port| format!("{port} : goto {outside}")));
            service_chain(&mut out, &outside, entry, &entry.external, parameters, true);
        }
    }
    map(&mut out, "map service_ips", "ipv4_addr . inet_proto . inet_service : verdict", &by_ip);
    map(&mut out, "map service_nodeports", "inet_proto . inet_service : verdict", &by_node_port);
    map(&mut out, "set dead_ips", "ipv4_addr . inet_proto . inet_service", &dead_ips);
    map(&mut out, "set dead_nodeports", "inet_proto . inet_service", &dead_ports);
    let all: BTreeSet<_> = entries.iter().flat_map(|e| e.internal.iter().chain(&e.external)).map(|e| e.ip).collect();
    let hairpins: Vec<_> = all.iter().map(|ip| format!("{ip} . {ip}")).collect();
    map(&mut out, "set hairpins", "ipv4_addr . ipv4_addr", &hairpins);
    out.push_str(&base_chains());
    out.push_str("}\n");
    out
}

fn map(out: &mut String, declaration: &str, kind: &str, elements: &[String]) {
    let _ = write!(out, "\t{declaration} {{\n\t\ttype {kind}\n");
    if !elements.is_empty() {
        let _ = writeln!(out, "\t\telements = {{ {} }}", elements.join(",\n\t\t\t"));
    }
    out.push_str("\t}\n");
}

fn service_chain(
    out: &mut String,
    chain: &str,
    entry: &Entry,
    endpoints: &BTreeSet<Endpoint>,
    parameters: &Parameters,
    outside: bool,
) {
    let mut rules = String::new();
    if outside && !entry.source_ranges.is_empty() {
        let _ = writeln!(rules, "\t\tip saddr != {{ {} }} drop", entry.source_ranges.join(", "));
    }
    if !(outside && entry.keep_source) {
        let from =
            if parameters.masquerade_all { String::new() } else { format!("ip saddr != {} ", parameters.pod_cidr) };
        let _ = writeln!(rules, "\t\t{from}meta mark set meta mark or {MASQUERADE}");
    }
    for (number, endpoint) in endpoints.iter().enumerate() {
        let pod = format!("{chain}_{number}");
        if let Some(timeout) = entry.affinity {
            let _ = write!(
                out,
                "\tset {pod}_clients {{\n\t\ttype ipv4_addr\n\t\tflags dynamic,timeout\n\t\ttimeout {}s\n\t}}\n",
                timeout.as_secs()
            );
            let _ = writeln!(rules, "\t\tip saddr @{pod}_clients goto {pod}");
        }
        let _ = writeln!(out, "\tchain {pod} {{");
        if entry.affinity.is_some() {
            let _ = writeln!(out, "\t\tupdate @{pod}_clients {{ ip saddr }}");
        }
        let _ = writeln!(out, "\t\tmeta l4proto {} dnat to {}:{}\n\t}}", entry.protocol, endpoint.ip, endpoint.port);
    }
    let choices: Vec<_> = (0..endpoints.len()).map(|number| format!("{number} : goto {chain}_{number}")).collect();
    let _ = writeln!(rules, "\t\tnumgen random mod {} vmap {{ {} }}", choices.len(), choices.join(", "));
    let _ = write!(out, "\t# {}\n\tchain {chain} {{\n{rules}\t}}\n", entry.name);
}

fn base_chains() -> String {
    let dead = "\t\tct state new ip daddr . meta l4proto . th dport @dead_ips reject\n\
                \t\tct state new fib daddr type local meta l4proto . th dport @dead_nodeports reject\n";
    format!(
        "\tchain services {{\n\
         \t\tip daddr . meta l4proto . th dport vmap @service_ips\n\
         \t\tfib daddr type local meta l4proto . th dport vmap @service_nodeports\n\
         \t}}\n\
         \tchain nat_prerouting {{\n\t\ttype nat hook prerouting priority dstnat - 5; policy accept;\n\t\tjump services\n\t}}\n\
         \tchain nat_output {{\n\t\ttype nat hook output priority -105; policy accept;\n\t\tjump services\n\t}}\n\
         \tchain nat_postrouting {{\n\t\ttype nat hook postrouting priority srcnat - 5; policy accept;\n\
         \t\tmeta mark and {MASQUERADE} == {MASQUERADE} meta mark set meta mark xor {MASQUERADE} masquerade fully-random\n\
         \t\tct status dnat ip saddr . ip daddr @hairpins masquerade fully-random\n\t}}\n\
         \tchain filter_input {{\n\t\ttype filter hook input priority filter - 5; policy accept;\n{dead}\t}}\n\
         \tchain filter_forward {{\n\t\ttype filter hook forward priority filter - 5; policy accept;\n{dead}\t}}\n\
         \tchain filter_output {{\n\t\ttype filter hook output priority filter - 5; policy accept;\n{dead}\t}}\n"
    )
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use serde_json::json;

    use super::*;
    use crate::model::build;
    use crate::model::tests::{service, slice};

    fn parameters() -> Parameters {
        Parameters { table: "coracle-test".into(), pod_cidr: "10.244.0.0/16".into(), masquerade_all: false }
    }

    fn load_balancer() -> String {
        let service = service(json!({
            "clusterIP": "10.96.0.9", "type": "LoadBalancer", "sessionAffinity": "ClientIP",
            "loadBalancerSourceRanges": ["192.0.2.0/24"], "ports": [{ "port": 80, "nodePort": 30080 }],
        }));
        let slices = [slice(&[("10.244.1.2", "n1", true, true, false), ("10.244.2.2", "n2", true, true, false)])];
        script(&build(&[service], &slices, |_| true), &parameters())
    }

    #[test]
    fn every_address_of_a_service_leads_to_its_pods() {
        let script = load_balancer();
        for line in [
            "10.96.0.9 . tcp . 80 : goto svc0",
            "10.112.0.1 . tcp . 80 : goto ext0",
            "tcp . 30080 : goto ext0",
            "numgen random mod 2 vmap { 0 : goto svc0_0, 1 : goto svc0_1 }",
            "meta l4proto tcp dnat to 10.244.1.2:8080",
            "ip saddr != 10.244.0.0/16 meta mark set meta mark or 0x4000",
            "ip saddr != { 192.0.2.0/24 } drop",
            "timeout 10800s",
        ] {
            assert!(script.contains(line), "{line} is missing in\n{script}");
        }
    }

    #[test]
    fn a_service_without_pods_is_refused_not_routed_away() {
        let service = service(json!({ "clusterIP": "10.96.0.9", "ports": [{ "port": 80 }] }));
        let script = script(&build(&[service], &[], |_| true), &parameters());
        assert!(script.contains("elements = { 10.96.0.9 . tcp . 80,"), "{script}");
        assert!(!script.contains("goto svc0"), "{script}");
    }

    /// Where the gate runs, nothing is skipped: what Docker needs brings nftables too.
    fn skip(why: &str) {
        assert!(std::env::var("CORACLE_TEST_DOCKER").as_deref() != Ok("require"), "{why}");
        eprintln!("skipped: {why}");
    }

    #[test]
    fn nft_accepts_the_script() {
        let check = || -> std::io::Result<std::process::Output> {
            let mut nft = Command::new("nft")
                .args(["--check", "-f", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            std::io::Write::write_all(&mut nft.stdin.take().unwrap(), load_balancer().as_bytes())?;
            nft.wait_with_output()
        };
        match check() {
            Ok(output) => {
                let error = String::from_utf8_lossy(&output.stderr).into_owned();
                if error.contains("Operation not permitted") {
                    return skip("no right to use nftables");
                }
                assert!(output.status.success(), "{error}\n{}", load_balancer());
            }
            Err(error) => skip(&format!("no nft: {error}")),
        }
    }
}
