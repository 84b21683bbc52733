//! The model as nftables: one table of our own, of which only what differs is ever rewritten.
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
//!
//! A transaction of nftables is atomic, but a packet that is in a chain while it is made goes on in chains of before
//! with maps of after. Were the whole table replaced, such a packet would find the new maps empty in the old chains,
//! or the new chains empty, and its connection would lead nowhere. So no chain ever changes: [`Table::change_from`]
//! adds the new ones first, turns the maps to them in a second transaction, and leaves it to the next change to take
//! away those that nothing leads to any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
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
    /// Whether the kernel can be told how long it remembers connections that are over ([`FORGET`]).
    pub forget: bool,
}

/// How long the kernel remembers TCP connections to Services that are over; two minutes, were it not told.
///
/// When a pod goes, Docker lists what the kernel remembers of it and then deletes that entry by entry. If a client
/// meanwhile uses a source port again, the new connection's entry has the same addresses and, made in the same place
/// of memory, the same ID as the old one: Docker deletes it although it leads to another pod, whose answers then
/// never arrive. What is forgotten at once cannot be mistaken.
const FORGET: &str =
    "ct timeout ended {\n\t\tprotocol tcp\n\t\tl3proto ip\n\t\tpolicy = { time_wait : 1, close : 1 }\n\t}";

/// Packets with this mark are masqueraded; the bit that kube-proxy uses.
const MASQUERADE: &str = "0x4000";

/// The maps and sets whose elements come and go, and their types.
const MAPS: [(&str, &str, &str); 5] = [
    ("map", "service_ips", "ipv4_addr . inet_proto . inet_service : verdict"),
    ("map", "service_nodeports", "inet_proto . inet_service : verdict"),
    ("set", "dead_ips", "ipv4_addr . inet_proto . inet_service"),
    ("set", "dead_nodeports", "inet_proto . inet_service"),
    ("set", "hairpins", "ipv4_addr . ipv4_addr"),
];

/// The table's changing contents.
#[derive(Clone, Debug, Default)]
pub struct Table {
    name: String,
    forget: bool,
    /// Chains, and sets of clients that stay with their pod. One comes after those that it names; and what has the
    /// same name is equal, for the name has a hash of the body.
    objects: BTreeMap<String, Object>,
    /// Objects of an earlier table that are still there.
    stale: BTreeMap<String, Object>,
    /// Map and key, to what follows the key.
    elements: BTreeMap<(&'static str, String), String>,
}

#[derive(Clone, Debug)]
struct Object {
    kind: &'static str,
    body: String,
}

impl Table {
    /// The table that does what `entries` say.
    pub fn new(entries: &[Entry], parameters: &Parameters) -> Table {
        let mut table = Table { name: parameters.table.clone(), forget: parameters.forget, ..Table::default() };
        for entry in entries {
            let key = |ip: &Ipv4Addr| format!("{ip} . {} . {}", entry.protocol, entry.port);
            let node_port = entry.node_port.iter().map(|port| format!("{} . {port}", entry.protocol));
            let inside = table.service(entry, &entry.internal, parameters, false);
            table.lead(["service_ips", "dead_ips"], entry.cluster_ips.iter().map(key), inside);
            if entry.is_external() {
                let outside = table.service(entry, &entry.external, parameters, true);
                table.lead(["service_ips", "dead_ips"], entry.external_ips.iter().map(key), outside.clone());
                table.lead(["service_nodeports", "dead_nodeports"], node_port, outside);
            }
        }
        for pod in entries.iter().flat_map(|entry| entry.internal.iter().chain(&entry.external)) {
            table.elements.insert(("hairpins", format!("{0} . {0}", pod.ip)), String::new());
        }
        table
    }

    /// Leads `keys` to a chain by the first map, or to their refusal by the second.
    fn lead(&mut self, maps: [&'static str; 2], keys: impl Iterator<Item = String>, chain: Option<String>) {
        let (map, verdict) = match chain {
            Some(chain) => (maps[0], format!(" : goto {chain}")),
            None => (maps[1], String::new()),
        };
        for key in keys {
            // Of two Services that claim an address the first has it.
            self.elements.entry((map, key)).or_insert_with(|| verdict.clone());
        }
    }

    /// The chain that chooses one of `pods`, if there is any.
    fn service(
        &mut self,
        entry: &Entry,
        pods: &BTreeSet<Endpoint>,
        parameters: &Parameters,
        outside: bool,
    ) -> Option<String> {
        let mut rules = String::new();
        if outside && !entry.source_ranges.is_empty() {
            let _ = writeln!(rules, "\t\tip saddr != {{ {} }} drop", entry.source_ranges.join(", "));
        }
        if !(outside && entry.keep_source) {
            let from =
                if parameters.masquerade_all { String::new() } else { format!("ip saddr != {} ", parameters.pod_cidr) };
            let _ = writeln!(rules, "\t\t{from}meta mark set meta mark or {MASQUERADE}");
        }
        let mut choices = Vec::new();
        for (number, pod) in pods.iter().enumerate() {
            let mut body = String::new();
            let address = format!("{}/{}", pod.ip, pod.port);
            let clients = entry.affinity.map(|timeout| {
                let seconds = timeout.as_secs();
                let body = format!("\t\ttype ipv4_addr\n\t\tflags dynamic,timeout\n\t\ttimeout {seconds}s\n");
                self.object("set", "clients", &format!("{}/{address}", entry.name), body)
            });
            if let Some(clients) = &clients {
                let _ = writeln!(body, "\t\tupdate @{clients} {{ ip saddr }}");
            }
            if parameters.forget && entry.protocol == "tcp" {
                let _ = writeln!(body, "\t\tct timeout set \"ended\"");
            }
            let _ = writeln!(body, "\t\tmeta l4proto {} dnat to {}:{}", entry.protocol, pod.ip, pod.port);
            let chain = self.object("chain", "pod", &address, body);
            if let Some(clients) = clients {
                let _ = writeln!(rules, "\t\tip saddr @{clients} goto {chain}");
            }
            choices.push(format!("{number} : goto {chain}"));
        }
        if choices.is_empty() {
            return None;
        }
        let _ = writeln!(rules, "\t\tnumgen random mod {} vmap {{ {} }}", choices.len(), choices.join(", "));
        Some(self.object("chain", "service", &entry.name, rules))
    }

    /// Adds an object and tells its name: what it is for, for people, with a hash that differs where `body` does.
    fn object(&mut self, kind: &'static str, prefix: &str, what: &str, body: String) -> String {
        let mut hasher = DefaultHasher::new();
        (what, &body).hash(&mut hasher);
        let mut name = format!("{prefix}-{:08x}-{what}", hasher.finish() as u32);
        // The kernel's limit is 127 bytes.
        name.truncate(120);
        self.objects.insert(name.clone(), Object { kind, body });
        name
    }

    /// The script that makes this table, whatever was there.
    pub fn script(&self) -> String {
        let table = &self.name;
        // Adding before deleting makes the deletion succeed whether or not there was one.
        let mut out = format!("add table ip {table}\ndelete table ip {table}\ntable ip {table} {{\n");
        for (kind, name, types) in MAPS {
            let _ = write!(out, "\t{kind} {name} {{\n\t\ttype {types}\n\t}}\n");
        }
        if self.forget {
            let _ = writeln!(out, "\t{FORGET}");
        }
        out.push_str(&base_chains());
        out.push_str("}\n");
        self.add(&Table::default(), &mut out);
        self.turn(&Table::default(), &mut out);
        out
    }

    /// The scripts that make this table out of `old`, one transaction each.
    pub fn change_from(&mut self, old: Table) -> Vec<String> {
        let (mut objects, mut elements) = (String::new(), String::new());
        self.add(&old, &mut objects);
        self.turn(&old, &mut elements);
        let gone = |(name, _): &(&String, &Object)| !self.objects.contains_key(*name);
        for (name, Object { kind, .. }) in old.stale.iter().rev().filter(gone) {
            let _ = writeln!(objects, "delete {kind} ip {} {name}", self.name);
        }
        self.stale = old.objects.into_iter().filter(|(name, _)| !self.objects.contains_key(name)).collect();
        [objects, elements].into_iter().filter(|script| !script.is_empty()).collect()
    }

    /// Adds the objects that `old` has not.
    fn add(&self, old: &Table, out: &mut String) {
        let there = |name: &String| old.objects.contains_key(name) || old.stale.contains_key(name);
        let news = self.objects.keys().any(|name| !there(name));
        for (name, Object { kind, body }) in &self.objects {
            // `nft` knows only the sets that a script names, so those that are there are added again, which does
            // nothing.
            if !there(name) || (news && *kind == "set") {
                let _ = write!(out, "add {kind} ip {} {name} {{\n{body}\t}}\n", self.name);
            }
        }
    }

    /// Takes the elements away that `old` has and this has not, and adds those that are new.
    fn turn(&self, old: &Table, out: &mut String) {
        let mut write = |verb: &str, from: &Table, to: &Table| {
            for (_, map, _) in MAPS {
                let of_map = from.elements.iter().filter(|((name, _), _)| *name == map);
                let differing = of_map.filter(|(item, verdict)| to.elements.get(*item) != Some(*verdict));
                let elements: Vec<_> = differing.map(|((_, key), verdict)| format!("{key}{verdict}")).collect();
                if !elements.is_empty() {
                    let _ = writeln!(out, "{verb} element ip {} {map} {{ {} }}", self.name, elements.join(",\n\t"));
                }
            }
        };
        write("delete", old, self);
        write("add", self, old);
    }
}

/// A script that succeeds where the kernel knows [`FORGET`], and leaves nothing.
pub fn probe_forget() -> String {
    format!("table ip coracle-probe {{\n\t{FORGET}\n}}\ndelete table ip coracle-probe\n")
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
    use std::io::{self, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::process::{Command, Stdio};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::model::build;
    use crate::model::tests::{service, slice};

    fn table(services: &[serde_json::Value], pods: &[&str]) -> Table {
        let parameters = Parameters {
            table: "coracle-test".into(),
            pod_cidr: "10.244.0.0/16".into(),
            masquerade_all: false,
            forget: true,
        };
        let services: Vec<_> = services.iter().map(|spec| service(spec.clone())).collect();
        let pods: Vec<_> = pods.iter().map(|ip| (*ip, "n1", true, true, false)).collect();
        Table::new(&build(&services, &[slice(&pods)], |_| true), &parameters)
    }

    fn load_balancer() -> serde_json::Value {
        json!({
            "clusterIP": "10.96.0.8", "type": "LoadBalancer", "sessionAffinity": "ClientIP",
            "loadBalancerSourceRanges": ["192.0.2.0/24"], "ports": [{ "port": 80, "nodePort": 30080 }],
        })
    }

    fn cluster_ip() -> serde_json::Value {
        json!({ "clusterIP": "10.96.0.9", "ports": [{ "port": 80 }] })
    }

    #[test]
    fn every_address_of_a_service_leads_to_its_pods() {
        let script = table(&[load_balancer()], &["10.244.1.2", "10.244.2.2"]).script();
        let is_hash = |part: &str| part.len() == 8 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        let shape: Vec<_> = script.split('-').map(|part| if is_hash(part) { "#" } else { part }).collect();
        let shape = shape.join("-");
        for line in [
            "10.96.0.8 . tcp . 80 : goto service-#-default/web",
            "10.112.0.1 . tcp . 80 : goto service-#-default/web",
            "tcp . 30080 : goto service-#-default/web",
            "numgen random mod 2 vmap { 0 : goto pod-#-10.244.1.2/8080, 1 : goto pod-#-10.244.2.2/8080 }",
            "ip saddr @clients-#-default/web/10.244.1.2/8080 goto pod-#-10.244.1.2/8080",
            "meta l4proto tcp dnat to 10.244.1.2:8080",
            "ip saddr != 10.244.0.0/16 meta mark set meta mark or 0x4000",
            "ip saddr != { 192.0.2.0/24 } drop",
            "timeout 10800s",
            "ct timeout set \"ended\"",
        ] {
            assert!(shape.contains(line), "{line} is missing in\n{shape}");
        }
    }

    #[test]
    fn a_service_without_pods_is_refused_not_routed_away() {
        let script = table(&[cluster_ip()], &[]).script();
        assert!(script.contains("dead_ips { 10.112.0.1 . tcp . 80,\n\t10.96.0.9 . tcp . 80 }"), "{script}");
        assert!(!script.contains("goto"), "{script}");
    }

    #[test]
    fn a_change_touches_only_what_differs() {
        let (two, three) = (["10.244.1.2", "10.244.2.2"], ["10.244.1.2", "10.244.2.2", "10.244.2.3"]);
        let [old, mut new] = [&two[..], &three].map(|pods| table(&[load_balancer()], pods));
        assert_eq!(old.clone().change_from(old.clone()), [""; 0]);
        let chains = |table: &Table, prefix| {
            let named = table.objects.keys().filter(move |name| name.starts_with(prefix));
            named.map(|name| format!("chain ip coracle-test {name}")).collect::<Vec<_>>()
        };
        let scripts = new.change_from(old.clone());
        let [objects, elements] = &scripts[..] else { panic!("two transactions, not {scripts:?}") };
        assert!(objects.contains("10.244.2.3") && !objects.contains("delete"), "{objects}");
        assert!(chains(&old, "pod-").iter().all(|chain| !objects.contains(chain)), "{objects}");
        assert!(elements.lines().all(|line| !line.contains(" chain ")), "{elements}");

        // What nothing leads to goes with the next change, unless it is wanted again.
        let scripts = table(&[load_balancer()], &two[..1]).change_from(new.clone());
        assert!(chains(&old, "service-").iter().all(|chain| scripts[0].contains(&format!("delete {chain}"))));
        let mut again = old.clone();
        assert!(again.change_from(new.clone()).iter().all(|script| !script.contains(" chain ")));
        assert_eq!(
            again.stale.len(),
            new.objects.len() - old.objects.len() + 2,
            "a pod with its clients, two Services"
        );
    }

    /// Where the gate runs, nothing is skipped: what Docker needs brings nftables too.
    fn skip(why: &str) {
        assert!(std::env::var("CORACLE_TEST_DOCKER").as_deref() != Ok("require"), "{why}");
        eprintln!("skipped: {why}");
    }

    /// Runs the script; what `nft` says if it refuses.
    fn nft(script: &str) -> io::Result<()> {
        let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        nft.stdin.take().unwrap().write_all(script.as_bytes())?;
        let output = nft.wait_with_output()?;
        let error = || io::Error::other(format!("{}{script}", String::from_utf8_lossy(&output.stderr)));
        if output.status.success() { Ok(()) } else { Err(error()) }
    }

    /// Runs the test again with a network of its own. Whether this is that run.
    fn in_a_network_of_its_own(test: &str) -> bool {
        const INSIDE: &str = "CORACLE_TEST_NETWORK";
        if std::env::var_os(INSIDE).is_some() {
            return true;
        }
        let exe = std::env::current_exe().unwrap();
        let output = Command::new("unshare")
            .arg("--net")
            .arg(exe)
            .args(["--exact", test, "--nocapture"])
            .env(INSIDE, "1")
            .output();
        match output {
            Err(error) => skip(&format!("no unshare: {error}")),
            Ok(output) => {
                let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
                if said.contains("unshare failed") {
                    skip(&said);
                } else {
                    assert!(output.status.success() && said.contains("1 passed"), "{said}");
                }
            }
        }
        false
    }

    #[test]
    fn no_connection_is_lost_while_pods_come_and_go() {
        if !in_a_network_of_its_own("nft::tests::no_connection_is_lost_while_pods_come_and_go") {
            return;
        }
        for line in [
            "link set lo up",
            "link add pods type veth peer name others",
            "address add 10.244.0.1/16 dev pods",
            "address add 10.244.0.2/16 dev pods",
            "link set pods up",
            "link set others up",
            "route add 10.96.0.0/16 dev pods",
        ] {
            assert!(Command::new("ip").args(line.split(' ')).status().unwrap().success(), "{line}");
        }
        let listeners = ["10.244.0.1:8080", "10.244.0.2:8080"].map(|address| TcpListener::bind(address).unwrap());
        let [one, two] = [&["10.244.0.1"][..], &["10.244.0.1", "10.244.0.2"]]
            .map(|pods| table(&[load_balancer(), cluster_ip()], pods));
        nft(&one.script()).unwrap();
        let mut now = one.clone();
        let (over, deserted) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for listener in &listeners {
                scope.spawn(|| listener.incoming().take_while(|_| !deserted.load(Ordering::Relaxed)).count());
            }
            let client = || {
                let address = "10.96.0.9:80".parse().unwrap();
                let mut connections = 0;
                while !over.load(Ordering::Relaxed) {
                    // Read to its end, so that no more wait to be accepted than there are clients.
                    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
                    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
                    stream.read_to_end(&mut Vec::new())?;
                    connections += 1;
                }
                Ok::<usize, io::Error>(connections)
            };
            let clients = [scope.spawn(client), scope.spawn(client)];
            let changes = (0..25).try_for_each(|_| {
                [&two, &one].into_iter().try_for_each(|next| {
                    let mut next = next.clone();
                    let scripts = next.change_from(now.clone());
                    now = next;
                    scripts.iter().try_for_each(|script| nft(script))
                })
            });
            over.store(true, Ordering::Relaxed);
            let connections = clients.map(|client| client.join().unwrap());
            deserted.store(true, Ordering::Relaxed);
            for listener in &listeners {
                drop(TcpStream::connect(listener.local_addr().unwrap()));
            }
            let connections = connections.map(Result::unwrap);
            changes.unwrap();
            assert!(connections.iter().all(|count| *count > 100), "{connections:?}");
            // `ipv4 2 tcp 6 <seconds left> TIME_WAIT ...`, where the kernel shows it.
            let remembered = std::fs::read_to_string("/proc/net/nf_conntrack").unwrap_or_default();
            let mut ended =
                remembered.lines().filter(|line| line.contains(" TIME_WAIT ") && line.contains("dport=80 "));
            let forgotten = |line: &str| line.split_whitespace().nth(4).is_some_and(|left| matches!(left, "0" | "1"));
            assert!(ended.all(forgotten), "{remembered}");
        });
    }
}
