//! How a pod resolves names: its `resolv.conf`, `/etc/hosts` and hostname.

use std::path::Path;

use k8s_openapi::api::core::v1::Pod;

use crate::runtime::DnsConfig;

/// The resolver reads no more name servers than these.
const SERVERS_MAX: usize = 3;
/// A hostname is one DNS label.
const HOSTNAME_MAX: usize = 63;

/// What of the cluster goes into a pod's resolver configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterDns {
    /// Addresses of the cluster's DNS service.
    pub servers: Vec<String>,
    /// The cluster's domain, `cluster.local`.
    pub domain: String,
    /// The node's own configuration.
    pub host: DnsConfig,
}

/// The node's own configuration from the text of its `resolv.conf`.
pub fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            Some("search") => config.searches = words.map(str::to_owned).collect(),
            Some("options") => config.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    config
}

/// The text of a `resolv.conf`.
pub fn resolv_conf(config: &DnsConfig) -> String {
    let mut text = String::new();
    if !config.searches.is_empty() {
        text.push_str(&format!("search {}\n", config.searches.join(" ")));
    }
    for server in &config.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !config.options.is_empty() {
        text.push_str(&format!("options {}\n", config.options.join(" ")));
    }
    text
}

/// A pod's resolver configuration, by its `dnsPolicy` and `dnsConfig`.
pub fn pod_dns(pod: &Pod, cluster: &ClusterDns) -> DnsConfig {
    let spec = pod.spec.clone().unwrap_or_default();
    let host_network = spec.host_network == Some(true);
    let mut config = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "None" => DnsConfig::default(),
        "Default" => cluster.host.clone(),
        // With the host's network, `ClusterFirst` means the host's resolver.
        "ClusterFirst" if host_network || cluster.servers.is_empty() => cluster.host.clone(),
        _ => cluster_first(pod, cluster),
    };
    if let Some(own) = spec.dns_config {
        config.servers = merged(own.nameservers.unwrap_or_default(), config.servers, true);
        config.searches = merged(own.searches.unwrap_or_default(), config.searches, false);
        for option in own.options.unwrap_or_default() {
            let name = option.name.unwrap_or_default();
            config.options.retain(|o| o.split(':').next() != Some(name.as_str()));
            config.options.push(option.value.map_or(name.clone(), |value| format!("{name}:{value}")));
        }
    }
    config.servers.truncate(SERVERS_MAX);
    config
}

/// A pod's own servers come before, its own search domains after the policy's; nothing twice.
fn merged(own: Vec<String>, policy: Vec<String>, own_first: bool) -> Vec<String> {
    let all = if own_first { own.into_iter().chain(policy) } else { policy.into_iter().chain(own) };
    let mut out = Vec::new();
    for item in all {
        if !out.contains(&item) {
            out.push(item);
        }
    }
    out
}

fn cluster_first(pod: &Pod, cluster: &ClusterDns) -> DnsConfig {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let domain = &cluster.domain;
    let own = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
    DnsConfig {
        servers: cluster.servers.clone(),
        searches: merged(own, cluster.host.searches.clone(), true),
        options: vec!["ndots:5".into()],
    }
}

/// A pod's hostname and, with `spec.subdomain`, the domain it is in.
pub fn hostname_and_domain(pod: &Pod, cluster_domain: &str) -> (String, Option<String>) {
    let spec = pod.spec.clone().unwrap_or_default();
    if let Some(host) = spec.hostname_override.filter(|host| !host.is_empty()) {
        return (host, None);
    }
    let name = pod.metadata.name.clone().unwrap_or_default();
    let mut hostname = spec.hostname.filter(|h| !h.is_empty()).unwrap_or(name);
    if hostname.len() > HOSTNAME_MAX {
        hostname.truncate(HOSTNAME_MAX);
        hostname = hostname.trim_end_matches(['-', '.']).to_owned();
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let domain = spec.subdomain.filter(|s| !s.is_empty()).map(|s| format!("{s}.{namespace}.svc.{cluster_domain}"));
    (hostname, domain)
}

/// The name that a pod's processes see as theirs: the hostname, or with `setHostnameAsFQDN` all of it.
pub fn kernel_hostname(pod: &Pod, cluster_domain: &str) -> String {
    let (hostname, domain) = hostname_and_domain(pod, cluster_domain);
    let whole = pod.spec.as_ref().and_then(|s| s.set_hostname_as_fqdn) == Some(true);
    match domain.filter(|_| whole) {
        Some(domain) => format!("{hostname}.{domain}"),
        None => hostname,
    }
}

/// The text of a pod's `/etc/hosts`. With the host's network it begins with the host's own.
pub fn hosts_file(pod: &Pod, pod_ips: &[String], cluster_domain: &str, host_file: &Path) -> String {
    let spec = pod.spec.clone().unwrap_or_default();
    let mut text = if spec.host_network == Some(true) {
        let host = std::fs::read_to_string(host_file).unwrap_or_default();
        format!("# Kubernetes-managed hosts file (host network).\n{host}")
    } else {
        let (hostname, domain) = hostname_and_domain(pod, cluster_domain);
        let mut text = String::from(
            "# Kubernetes-managed hosts file.\n\
             127.0.0.1\tlocalhost\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\n\
             fe00::0\tip6-mcastprefix\n\
             fe00::1\tip6-allnodes\n\
             fe00::2\tip6-allrouters\n",
        );
        for ip in pod_ips {
            match &domain {
                Some(domain) => text.push_str(&format!("{ip}\t{hostname}.{domain}\t{hostname}\n")),
                None => text.push_str(&format!("{ip}\t{hostname}\n")),
            }
        }
        text
    };
    let aliases = spec.host_aliases.unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.unwrap_or_default().join("\t")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::pod;

    fn cluster() -> ClusterDns {
        ClusterDns {
            servers: vec!["10.96.0.10".into()],
            domain: "cluster.local".into(),
            host: parse_resolv_conf("# c\nnameserver 1.1.1.1\nsearch corp.example\noptions timeout:1\n"),
        }
    }

    #[test]
    fn the_policy_chooses_the_resolver() {
        let cluster_text = "search default.svc.cluster.local svc.cluster.local cluster.local corp.example\n\
                            nameserver 10.96.0.10\noptions ndots:5\n";
        let host_text = "search corp.example\nnameserver 1.1.1.1\noptions timeout:1\n";
        for (spec, expected) in [
            (json!({}), cluster_text),
            (json!({ "dnsPolicy": "Default" }), host_text),
            (json!({ "hostNetwork": true }), host_text),
            (json!({ "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet" }), cluster_text),
            (
                json!({ "dnsPolicy": "None", "dnsConfig": { "nameservers": ["9.9.9.9"], "searches": ["x"], "options": [{ "name": "ndots", "value": "2" }] } }),
                "search x\nnameserver 9.9.9.9\noptions ndots:2\n",
            ),
            (
                json!({ "dnsConfig": { "options": [{ "name": "ndots", "value": "1" }, { "name": "edns0" }] } }),
                "search default.svc.cluster.local svc.cluster.local cluster.local corp.example\n\
                 nameserver 10.96.0.10\noptions ndots:1 edns0\n",
            ),
        ] {
            let mut whole = spec.clone();
            whole["containers"] = json!([]);
            assert_eq!(resolv_conf(&pod_dns(&pod("p", whole), &cluster())), expected, "{spec}");
        }
    }

    #[test]
    fn the_hosts_file_names_the_pod_and_its_aliases() {
        let pod = pod(
            "p",
            json!({
                "hostname": "db", "subdomain": "mysql", "containers": [],
                "hostAliases": [{ "ip": "1.2.3.4", "hostnames": ["a", "b"] }],
            }),
        );
        let text = hosts_file(&pod, &["10.244.1.2".into()], "cluster.local", Path::new("/etc/hosts"));
        assert!(text.contains("10.244.1.2\tdb.mysql.default.svc.cluster.local\tdb\n"), "{text}");
        assert!(text.ends_with("\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"), "{text}");
    }

    #[test]
    fn a_long_name_makes_a_hostname_of_63_characters_at_most() {
        let name = format!("{}-{}", "a".repeat(62), "b".repeat(20));
        let (hostname, _) = hostname_and_domain(&pod(&name, json!({ "containers": [] })), "cluster.local");
        assert_eq!(hostname, "a".repeat(62));
    }
}
