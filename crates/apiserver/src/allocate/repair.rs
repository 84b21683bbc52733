//! The ipallocator-repair-controller: one IPAddress for each Service's cluster IP, and no other that says it is one.
//!
//! It looks at Services and IPAddresses as they change. What is wrong with them, people did; an older server's
//! Services got their IPAddresses at the start (see [`crate::bootstrap`]).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use coracle_api::ApiResult;
use coracle_client::{EventRecorder, EventType};
use coracle_clock::Instant;
use coracle_store::{Compare, Revision, Txn};
use futures::future::select_all;
use k8s_openapi::api::core::v1::ObjectReference;
use serde_json::Value;

use super::addresses::{labelled, managed};
use super::{NETWORKING, Used, cluster_ips, ip_address};
use crate::bootstrap::born;
use crate::hooks::UserInfo;
use crate::server::ApiServer;
use crate::storage::cache::MAX_CHANGES;
use crate::storage::table::suffix;
use crate::storage::{Entry, Row, Storage};

/// For how long an IPAddress may be there without its Service.
const GRACE: Duration = Duration::from_secs(60);
/// What did not work is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// What is looked at: the Service or the IPAddress of a key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Service(Arc<str>),
    Address(Arc<str>),
}

/// What is still to be looked at, and when.
#[derive(Default)]
struct Agenda {
    seen: Revision,
    due: BTreeMap<Key, Instant>,
}

/// Runs for as long as the server is there.
pub async fn run(server: Weak<ApiServer>) {
    let mut agenda = Agenda::default();
    loop {
        let Some(server) = server.upgrade() else { return };
        let Some(repair) = Repair::of(&server) else { return };
        // Subscribed before anything is read, so that no change is missed.
        let mut changes = [&repair.services, &repair.addresses].map(|row| row.cache.subscribe());
        repair.pass(&mut agenda).await;
        drop((repair, server));
        let next = agenda.due.values().min().copied();
        tokio::select! {
            biased;
            _ = select_all(changes.iter_mut().map(|change| Box::pin(change.changed()))) => {}
            () = coracle_clock::sleep_until(next.unwrap_or_else(coracle_clock::instant)), if next.is_some() => {}
        }
    }
}

struct Repair {
    server: Arc<ApiServer>,
    services: Row,
    addresses: Row,
}

impl Repair {
    fn of(server: &Arc<ApiServer>) -> Option<Repair> {
        let table = server.config.storage.table();
        let row = |group, plural| table.find_any(group, plural).cloned();
        Some(Repair {
            server: server.clone(),
            services: row("", "services")?,
            addresses: row(NETWORKING, "ipaddresses")?,
        })
    }

    fn storage(&self) -> &Storage {
        &self.server.config.storage
    }

    /// Looks at what changed and at what is due.
    async fn pass(&self, agenda: &mut Agenda) {
        let (now, applied) = (coracle_clock::instant(), self.storage().applied());
        let changed = |row: &Row| match row.cache.changes(agenda.seen, MAX_CHANGES, applied, |_| true) {
            Ok((changes, _)) => changes.into_iter().map(|change| change.after).collect(),
            Err(_) => row.cache.list("", applied).0,
        };
        let services = changed(&self.services).into_iter().map(|entry| Key::Service(entry.key.clone()));
        let mut keys: Vec<Key> = services.collect();
        for entry in changed(&self.addresses) {
            keys.push(Key::Address(entry.key.clone()));
            // Whose address it is, or was.
            let parent = &entry.parse()["spec"]["parentRef"];
            keys.push(Key::Service(parent_key(parent).into()));
        }
        agenda.seen = applied;
        agenda.due.extend(keys.into_iter().map(|key| (key, now)));
        let due: Vec<Key> = agenda.due.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in due {
            agenda.due.remove(&key);
            let checked = match &key {
                Key::Service(key) => self.check_service(key).await.map(|()| None),
                Key::Address(key) => self.check_address(key).await,
            };
            let again = checked.unwrap_or_else(|error| {
                tracing::debug!(%error, "an IPAddress cannot be repaired yet");
                Some(RETRY)
            });
            agenda.due.extend(again.map(|after| (key, now + after)));
        }
    }

    /// Each of the Service's addresses has its IPAddress.
    async fn check_service(&self, key: &str) -> ApiResult<()> {
        let Some(entry) = self.services.cache.get(key) else { return Ok(()) };
        let service = entry.parse();
        let tell = |reason: &str, message: String| self.tell(&service, reason, message);
        for ip in Used::of(&service).ips {
            if !cluster_ips(self.storage(), false).iter().any(|range| range.contains(ip)) {
                let why = "is not within any configured Service CIDR; please recreate service";
                tell("ClusterIPOutOfRange", format!("Cluster IP [IPv4]: {ip} {why}"));
                continue;
            }
            let mut fault = format!("Cluster IP [IPv4]: {ip} is not allocated; repairing");
            if let Some(found) = self.addresses.cache.get(&suffix("", &ip.to_string())) {
                let address = found.parse();
                let parent = &address["spec"]["parentRef"];
                let mine = is_service(parent) && parent_key(parent) == key;
                if mine && labelled(&address) {
                    continue;
                }
                if !mine && is_service(parent) && self.has(&parent_key(parent), ip) {
                    let why = "was assigned to multiple services; please recreate service";
                    tell("ClusterIPAlreadyAllocated", format!("Cluster IP [IPv4]:{ip} {why}"));
                    continue;
                }
                self.remove(&found, Txn::default()).await?;
                fault = format!("the ClusterIP [IPv4]: {ip} for Service {key} has a wrong reference; repairing");
                if mine {
                    fault.clear();
                }
            }
            let address = born(&ip_address(ip, &service));
            let key = self.addresses.key("", &ip.to_string());
            if let Ok(stored) = self.storage().put_with(&key, 0, &address, 0, self.unless_changed(&entry)).await? {
                if !fault.is_empty() {
                    tell("ClusterIPNotAllocated", fault);
                }
                self.storage().wait_for(stored.revision).await?;
            }
        }
        Ok(())
    }

    /// An IPAddress that says that it is a Service's is one. Answers after what time to look again.
    async fn check_address(&self, key: &str) -> ApiResult<Option<Duration>> {
        let Some(entry) = self.addresses.cache.get(key) else { return Ok(None) };
        let address = entry.parse();
        if !managed(&address) {
            return Ok(None);
        }
        let parent = &address["spec"]["parentRef"];
        let (owner, name) = (parent_key(parent), &entry.key);
        let service = self.services.cache.get(&owner);
        let (reason, message) = match &service {
            _ if !is_service(parent) => {
                let what = "appears to have been modified, not referencing a Service";
                ("IPAddressNotAllocated", format!("IPAddress {name} {what} {parent}: cleaning up"))
            }
            None => {
                let born = address["metadata"]["creationTimestamp"].as_str().and_then(|text| text.parse().ok());
                let age = coracle_clock::now().duration_since(born.unwrap_or(jiff::Timestamp::UNIX_EPOCH));
                let age = Duration::try_from(age).unwrap_or_default();
                if age <= GRACE {
                    return Ok(Some(GRACE - age + RETRY));
                }
                let why = format!("IPAddress: {name} for Service {owner} appears to have leaked: cleaning up");
                ("IPAddressNotAllocated", why)
            }
            Some(_) if name.parse().is_ok_and(|ip| self.has(&owner, ip)) => return Ok(None),
            Some(_) => {
                let why = format!("IPAddress: {name} for Service {owner} has a wrong reference; cleaning up");
                ("IPAddressWrongReference", why)
            }
        };
        self.remove(&entry, service.map(|service| self.unless_changed(&service)).unwrap_or_default()).await?;
        self.tell(&address, reason, message);
        Ok(None)
    }

    /// Whether the Service of a key has an address.
    fn has(&self, service: &str, ip: Ipv4Addr) -> bool {
        self.services.cache.get(service).is_some_and(|entry| Used::of(&entry.parse()).ips.contains(&ip))
    }

    /// A condition: the Service is still this one.
    fn unless_changed(&self, service: &Entry) -> Txn {
        let key = Bytes::from(format!("{}{}", self.services.cache.prefix(), service.key));
        Txn { compare: vec![Compare::unchanged(key, service.revision)], ..Txn::default() }
    }

    async fn remove(&self, address: &Entry, unless: Txn) -> ApiResult<()> {
        let key = self.addresses.key("", &address.key);
        if let Ok(revision) = self.storage().remove_with(&key, address.revision, unless).await? {
            self.storage().wait_for(revision).await?;
        }
        Ok(())
    }

    fn tell(&self, object: &Value, reason: &str, message: String) {
        tracing::warn!(reason, "{message}");
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let meta = &object["metadata"];
        let about = ObjectReference {
            api_version: text(&object["apiVersion"]),
            kind: text(&object["kind"]),
            namespace: text(&meta["namespace"]),
            name: text(&meta["name"]),
            uid: text(&meta["uid"]),
            resource_version: text(&meta["resourceVersion"]),
            field_path: None,
        };
        let client = self.server.client_as(UserInfo::new("system:apiserver", &["system:masters"]));
        EventRecorder::new(client, "ipallocator-repair-controller", None).event(
            &about,
            EventType::Warning,
            reason,
            message,
        );
    }
}

fn is_service(parent: &Value) -> bool {
    parent["resource"] == "services" && parent["group"].as_str().unwrap_or_default().is_empty()
}

/// The key of the Service that an IPAddress refers to.
fn parent_key(parent: &Value) -> String {
    let text = |field: &str| parent[field].as_str().unwrap_or_default();
    suffix(text("namespace"), text("name"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::hooks::Authorizer;
    use crate::rbac::AlwaysAllow;
    use crate::server::Config;
    use crate::testing::{in_simulation, put, remove, storage};

    #[test]
    fn ip_addresses_are_put_right() {
        in_simulation(async || {
            let storage = storage().await;
            let range = json!({ "metadata": { "name": "r" }, "spec": { "cidrs": ["10.96.0.0/12"] } });
            put(&storage, NETWORKING, "servicecidrs", range).await;
            let service = json!({ "kind": "Service", "apiVersion": "v1", "spec": { "clusterIP": "10.96.0.7" },
                "metadata": { "name": "web", "namespace": "default", "uid": "u" } });
            put(&storage, "", "services", service).await;
            let authorizers: Vec<Box<dyn Authorizer>> = vec![Box::new(AlwaysAllow)];
            let server = ApiServer::new(Config { authorizers, ..Config::new(storage.clone()) });
            tokio::spawn(run(Arc::downgrade(&server)));
            let events = async || {
                coracle_clock::sleep(Duration::from_secs(5)).await;
                let mut told = storage.list("", "events", "").await.unwrap();
                told.sort_by_key(|event| {
                    event["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap()
                });
                told.pop().map(|event| format!("{}: {}", event["reason"], event["message"])).unwrap_or_default()
            };
            let owner = async |name: &str| {
                let found = storage.get(NETWORKING, "ipaddresses", "", name).await.unwrap();
                found.map(|address| parent_key(&address["spec"]["parentRef"]))
            };
            let told = "\"ClusterIPNotAllocated\": \"Cluster IP [IPv4]: 10.96.0.7 is not allocated; repairing\"";
            assert_eq!(events().await, told, "one is missing");
            assert_eq!(owner("10.96.0.7").await.as_deref(), Some("default/web"));

            remove(&storage, NETWORKING, "ipaddresses", "", "10.96.0.7").await;
            events().await;
            assert_eq!(owner("10.96.0.7").await.as_deref(), Some("default/web"), "one was deleted");

            let other = json!({ "metadata": { "namespace": "default", "name": "web" } });
            put(&storage, NETWORKING, "ipaddresses", born(&ip_address("10.96.0.8".parse().unwrap(), &other))).await;
            let told = "IPAddress: 10.96.0.8 for Service default/web has a wrong reference; cleaning up";
            assert_eq!(events().await, format!("\"IPAddressWrongReference\": \"{told}\""));
            assert_eq!(owner("10.96.0.8").await, None);

            let nobody = json!({ "metadata": { "namespace": "default", "name": "nobody" } });
            put(&storage, NETWORKING, "ipaddresses", born(&ip_address("10.96.0.9".parse().unwrap(), &nobody))).await;
            events().await;
            assert!(owner("10.96.0.9").await.is_some(), "its Service may still come");
            coracle_clock::sleep(GRACE).await;
            let told = "IPAddress: 10.96.0.9 for Service default/nobody appears to have leaked: cleaning up";
            assert_eq!(events().await, format!("\"IPAddressNotAllocated\": \"{told}\""));
            assert_eq!(owner("10.96.0.9").await, None);
        });
    }
}
