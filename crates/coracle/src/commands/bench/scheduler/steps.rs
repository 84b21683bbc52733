//! Takes a workload's steps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use coracle_apiserver::{ApiServer, UserInfo};
use coracle_clock::{instant, random_below, sleep, timeout, watch};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind, PartialObjectMeta};
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::super::resident_bytes;
use super::{Churn, Claims, Csi, Delete, Measured, Nodes, Pods, Step, Templates};

/// So many objects are being created at a time.
const AT_ONCE: usize = 64;
/// What takes longer has failed.
const LIMIT: Duration = Duration::from_secs(600);
/// Whose the devices are.
const DRIVER: &str = "test-driver.cdi.k8s.io";
/// The API group of devices.
const DEVICES: &str = "resource.k8s.io";

/// A workload on its way.
pub(super) struct Run {
    client: Client,
    templates: Arc<Templates>,
    shutdown: CancellationToken,
    nodes: usize,
    namespaces: BTreeSet<String>,
    /// How many pods have been bound in each namespace.
    bound: watch::Receiver<BTreeMap<String, usize>>,
    /// How many of them were waited for.
    expected: BTreeMap<String, usize>,
    /// What goes on beside the steps.
    background: JoinSet<anyhow::Result<()>>,
}

fn resource(group: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind))
}

fn api(client: &Client, namespace: Option<&str>, group: &str, kind: &str) -> Api<DynamicObject> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource(group, kind)),
        None => Api::all_with(client.clone(), &resource(group, kind)),
    }
}

async fn create(api: &Api<DynamicObject>, object: Value) -> anyhow::Result<()> {
    api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    Ok(())
}

/// Does something for each of many, for some at a time.
async fn at_once<T, F>(all: impl IntoIterator<Item = T>, work: impl Fn(T) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let tasks = stream::iter(all).map(|one| tokio::spawn(work(one))).buffer_unordered(AT_ONCE);
    tasks.map(|done| done?).try_collect().await
}

fn pod(template: &Value, name: &str) -> Value {
    let mut pod = template.clone();
    (pod["apiVersion"], pod["kind"]) = ("v1".into(), "Pod".into());
    pod["metadata"]["name"] = name.into();
    pod
}

fn node(name: &str, shape: &Nodes, zone: Option<&String>) -> Value {
    let mut labels = json!({ "kubernetes.io/hostname": name });
    if let Some(zone) = zone {
        labels["topology.kubernetes.io/zone"] = zone.as_str().into();
    }
    let resources = json!({ "cpu": "4", "memory": "32Gi", "pods": shape.pods.unwrap_or(110).to_string() });
    let status = json!({
        "capacity": resources, "allocatable": resources, "conditions": [{ "type": "Ready", "status": "True" }],
    });
    let metadata = json!({ "name": name, "labels": labels });
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": status })
}

fn node_name(number: usize) -> String {
    format!("scheduler-perf-{number:05}")
}

fn device_name(number: usize) -> String {
    format!("instance-{number}")
}

fn csi_node(name: &str, csi: &Csi) -> Value {
    let migrated = csi.migrated.iter().map(|plugin| ("storage.alpha.kubernetes.io/migrated-plugins", plugin));
    let driver = json!({ "name": csi.driver, "nodeID": name, "allocatable": { "count": csi.volumes } });
    let annotations: BTreeMap<_, _> = migrated.collect();
    json!({ "metadata": { "name": name, "annotations": annotations }, "spec": { "drivers": [driver] } })
}

/// What a driver publishes of a node's devices.
fn slice(node: &str, count: usize) -> Value {
    let device = |number: usize| {
        json!({
            "name": device_name(number),
            "attributes": {
                "model": { "string": "A100" }, "family": { "string": "GPU" }, "driverVersion": { "version": "1.2.3" },
                "dra.example.com/numa": { "int": number },
            },
            "capacity": { "memory": { "value": "1Gi" } },
        })
    };
    let devices: Vec<_> = (0..count).map(device).collect();
    let pool = json!({ "name": node, "generation": 1, "resourceSliceCount": 1 });
    let spec = json!({ "driver": DRIVER, "nodeName": node, "pool": pool, "devices": devices });
    json!({ "metadata": { "name": node }, "spec": spec })
}

/// What a claim of one device asks for.
fn one_device() -> Value {
    json!({ "devices": { "requests": [{ "name": "req-0", "exactly": { "deviceClassName": "test-class" } }] } })
}

/// A volume and a claim that are bound to each other.
async fn create_volume(client: &Client, mut spec: Value, namespace: &str, name: &str) -> anyhow::Result<()> {
    let (claims, volumes) =
        (api(client, Some(namespace), "", "PersistentVolumeClaim"), api(client, None, "", "PersistentVolume"));
    let own = format!("{namespace}-{name}");
    for (source, id) in [("awsElasticBlockStore", "volumeID"), ("csi", "volumeHandle")] {
        if let Some(source) = spec.get_mut(source) {
            source[id] = own.as_str().into();
        }
    }
    let wanted = json!({
        "volumeName": own, "accessModes": spec["accessModes"], "resources": { "requests": spec["capacity"] },
    });
    let metadata = json!({ "name": name, "annotations": { "pv.kubernetes.io/bind-completed": "true" } });
    create(&claims, json!({ "metadata": metadata, "spec": wanted })).await?;
    set_status(&claims, name, json!({ "phase": "Bound" })).await?;
    spec["claimRef"] =
        json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": name });
    create(&volumes, json!({ "metadata": { "name": own }, "spec": spec })).await?;
    set_status(&volumes, &own, json!({ "phase": "Bound" })).await
}

async fn set_status(api: &Api<DynamicObject>, name: &str, status: Value) -> anyhow::Result<()> {
    let status = Patch::Merge(json!({ "status": status }));
    api.patch_status(name, &PatchParams::default(), &status).await?;
    Ok(())
}

impl Run {
    pub(super) fn new(api: &Arc<ApiServer>, templates: Arc<Templates>, shutdown: CancellationToken) -> Run {
        let client = api.client_as(UserInfo::new("kubernetes-admin", &["kubeadm:cluster-admins"]));
        let (sender, bound) = watch::channel(BTreeMap::new());
        tokio::spawn(count_bound(client.clone(), sender, shutdown.clone()));
        let (namespaces, expected) = (BTreeSet::new(), BTreeMap::new());
        Run { client, templates, shutdown, nodes: 0, namespaces, bound, expected, background: JoinSet::new() }
    }

    fn template(&self, name: &str) -> anyhow::Result<Value> {
        self.templates.pods.get(name).cloned().with_context(|| format!("there is no pod {name:?}"))
    }

    /// Takes the steps; what those that are measured came to.
    pub(super) async fn measure(&mut self, steps: &[Step]) -> anyhow::Result<Measured> {
        let classes = api(&self.client, None, "scheduling.k8s.io", "PriorityClass");
        create(&classes, json!({ "metadata": { "name": "high" }, "value": 10 })).await?;
        let selector = json!({ "cel": { "expression": format!("device.driver == \"{DRIVER}\"") } });
        let class = json!({ "metadata": { "name": "test-class" }, "spec": { "selectors": [selector] } });
        create(&api(&self.client, None, DEVICES, "DeviceClass"), class).await?;
        let mut measured = Measured { pods: 0, took: Duration::ZERO, resident: 0 };
        for step in steps {
            match step {
                Step::Nodes(nodes) => self.create_nodes(nodes).await?,
                Step::Pods(pods) => {
                    let (begin, before) = (instant(), self.bound_in(pods));
                    self.create_pods(pods).await?;
                    if pods.measure {
                        let resident =
                            resident_bytes(std::process::id()).context("cannot read the process's memory")?;
                        let (pods, took) = (self.bound_in(pods) - before, begin.elapsed());
                        measured = Measured { pods, took, resident };
                    }
                }
                Step::Claims(claims) => self.create_claims(claims).await?,
                Step::Churn(churn) => {
                    self.namespace("churn").await?;
                    let (client, template) = (self.client.clone(), self.template(&churn.of)?);
                    self.background.spawn(go_on(client, churn.clone(), template, self.shutdown.clone()));
                }
                Step::Delete(delete) => {
                    let (pods, delete) = (api(&self.client, Some(&delete.namespace), "", "Pod"), delete.clone());
                    self.background.spawn(remove(pods, delete, self.shutdown.clone()));
                }
            }
        }
        Ok(measured)
    }

    /// Waits for what goes on beside the steps, which ends at the shutdown.
    pub(super) async fn end(mut self) -> anyhow::Result<()> {
        while let Some(ended) = self.background.join_next().await {
            ended??;
        }
        Ok(())
    }

    async fn create_nodes(&mut self, shape: &Nodes) -> anyhow::Result<()> {
        let nodes = api(&self.client, None, "", "Node");
        let drivers = api(&self.client, None, "storage.k8s.io", "CSINode");
        let slices = api(&self.client, None, DEVICES, "ResourceSlice");
        let first = self.nodes;
        self.nodes += shape.count;
        // What admission gives to all new nodes is taken off, as the node lifecycle controller would.
        let taints: Vec<_> = shape.taint.iter().map(|key| json!({ "key": key, "effect": "NoSchedule" })).collect();
        let ready = Patch::Merge(json!({ "spec": { "taints": taints } }));
        let create = |number: usize| {
            let name = shape.name.clone().unwrap_or_else(|| node_name(number));
            let node = node(&name, shape, shape.zones.get(number % shape.zones.len().max(1)));
            let driver = shape.csi.as_ref().map(|csi| (drivers.clone(), csi_node(&name, csi)));
            let slice = (shape.devices > 0).then(|| (slices.clone(), slice(&name, shape.devices)));
            let (nodes, ready) = (nodes.clone(), ready.clone());
            async move {
                create(&nodes, node).await?;
                nodes.patch(&name, &PatchParams::default(), &ready).await?;
                for (api, object) in driver.into_iter().chain(slice) {
                    create(&api, object).await?;
                }
                Ok(())
            }
        };
        at_once(first..self.nodes, create).await
    }

    /// Makes a namespace with what its pods need.
    async fn namespace(&mut self, name: &str) -> anyhow::Result<()> {
        if !self.namespaces.insert(name.to_owned()) {
            return Ok(());
        }
        let metadata = json!({ "name": name, "labels": { "team": "devops" } });
        create(&api(&self.client, None, "", "Namespace"), json!({ "metadata": metadata })).await?;
        for (kind, needed) in [("ServiceAccount", "default"), ("Secret", "secret")] {
            create(&api(&self.client, Some(name), "", kind), json!({ "metadata": { "name": needed } })).await?;
        }
        let template = json!({ "metadata": { "name": "test-claim-template" }, "spec": { "spec": one_device() } });
        create(&api(&self.client, Some(name), DEVICES, "ResourceClaimTemplate"), template).await
    }

    fn bound_in(&self, pods: &Pods) -> usize {
        self.bound.borrow().get(&pods.namespace).copied().unwrap_or_default()
    }

    async fn create_pods(&mut self, pods: &Pods) -> anyhow::Result<()> {
        let namespaces: Vec<String> = match pods.over {
            None => vec![pods.namespace.clone()],
            Some(count) => (0..count).map(|number| format!("{}-{number}", pods.namespace)).collect(),
        };
        for namespace in &namespaces {
            self.namespace(namespace).await?;
        }
        let Some(seconds) = pods.steady_seconds else { return self.bind_pods(pods, &namespaces).await };
        let begin = instant();
        while begin.elapsed().as_secs_f64() < seconds {
            self.bind_pods(pods, &namespaces).await?;
            let all = api(&self.client, Some(&pods.namespace), "", "Pod");
            all.delete_collection(&DeleteParams::default().grace_period(0), &Default::default()).await?;
        }
        Ok(())
    }

    async fn bind_pods(&mut self, pods: &Pods, namespaces: &[String]) -> anyhow::Result<()> {
        let template = self.template(&pods.of)?;
        let volume = pods.volume.as_ref().map(|name| self.templates.volumes.get(name).context("no such volume"));
        let volume = volume.transpose()?;
        let apis: Vec<_> = namespaces.iter().map(|name| api(&self.client, Some(name), "", "Pod")).collect();
        let first: usize = self.expected.values().sum();
        let create = |number: usize| {
            let (namespace, api) = (namespaces[number % apis.len()].clone(), apis[number % apis.len()].clone());
            let name = format!("{}-{}", pods.of, first + number);
            let (mut pod, volume, client) = (pod(&template, &name), volume.cloned(), self.client.clone());
            async move {
                if let Some(volume) = volume {
                    create_volume(&client, volume, &namespace, &name).await?;
                    pod["spec"]["volumes"] = json!([{ "name": "vol", "persistentVolumeClaim": { "claimName": name } }]);
                }
                create(&api, pod).await
            }
        };
        at_once(0..pods.count, create).await?;
        for number in 0..pods.count {
            *self.expected.entry(namespaces[number % namespaces.len()].clone()).or_default() += 1;
        }
        if !pods.wait {
            for namespace in namespaces {
                self.expected.insert(namespace.clone(), 0);
            }
            return Ok(());
        }
        let all = |bound: &BTreeMap<String, usize>| {
            namespaces.iter().all(|name| bound.get(name).copied().unwrap_or_default() >= self.expected[name])
        };
        timeout(LIMIT, self.bound.clone().wait_for(all)).await.context("not all pods were bound")??;
        Ok(())
    }

    async fn create_claims(&mut self, Claims { count, per_node }: &Claims) -> anyhow::Result<()> {
        self.namespace("init").await?;
        let claims = api(&self.client, Some("init"), DEVICES, "ResourceClaim");
        let mut taken = vec![0; self.nodes];
        let mut devices = Vec::new();
        for _ in 0..*count {
            let mut node = random_below(self.nodes);
            while taken[node] == *per_node {
                node = (node + 1) % self.nodes;
            }
            devices.push((node_name(node), device_name(taken[node])));
            taken[node] += 1;
        }
        let create = |(number, (node, device)): (usize, (String, String))| {
            let name = format!("test-claim-{number}");
            let result = json!({ "request": "req-0", "driver": DRIVER, "pool": node, "device": device });
            let field = json!({ "key": "metadata.name", "operator": "In", "values": [node] });
            let here = json!({ "nodeSelectorTerms": [{ "matchFields": [field] }] });
            let allocation = json!({ "devices": { "results": [result] }, "nodeSelector": here });
            let claims = claims.clone();
            async move {
                create(&claims, json!({ "metadata": { "name": name }, "spec": one_device() })).await?;
                set_status(&claims, &name, json!({ "allocation": allocation })).await
            }
        };
        at_once(devices.into_iter().enumerate(), create).await
    }
}

/// Counts the pods that are bound, by namespace.
async fn count_bound(client: Client, counts: watch::Sender<BTreeMap<String, usize>>, shutdown: CancellationToken) {
    let pods = Api::<PartialObjectMeta<Pod>>::all(client);
    let mut events = watcher(pods, watcher::Config::default().fields("spec.nodeName!=")).boxed();
    let mut seen = BTreeSet::new();
    loop {
        let event = tokio::select! { biased;
            () = shutdown.cancelled() => return,
            event = events.next() => event,
        };
        let Some(event) = event else { return };
        if let Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) = event {
            let namespace = pod.namespace().unwrap_or_default();
            if seen.insert((namespace.clone(), pod.name_any())) {
                counts.send_if_modified(|counts| {
                    *counts.entry(namespace).or_default() += 1;
                    true
                });
            }
        }
    }
}

/// Creates a pod again and again.
async fn go_on(client: Client, churn: Churn, template: Value, shutdown: CancellationToken) -> anyhow::Result<()> {
    let pods = api(&client, Some("churn"), "", "Pod");
    let (nodes, services) = (api(&client, None, "", "Node"), api(&client, Some("churn"), "", "Service"));
    let shape = Nodes::default();
    for number in 0.. {
        let pause = sleep(Duration::from_millis(churn.every_ms));
        tokio::select! { biased;
            () = shutdown.cancelled() => break,
            () = pause => {}
        }
        let name = format!("churn-{number}");
        create(&pods, pod(&template, &name)).await?;
        let mut made = vec![&pods];
        if churn.with_node_and_service {
            create(&nodes, node(&name, &shape, None)).await?;
            let spec = json!({ "selector": { "app": "churn" }, "ports": [{ "port": 8080 }] });
            create(&services, json!({ "metadata": { "name": name }, "spec": spec })).await?;
            made.extend([&nodes, &services]);
        }
        if churn.recreate {
            for api in made {
                api.delete(&name, &DeleteParams::default()).await?;
            }
        }
    }
    Ok(())
}

/// Deletes pods, one after the other.
async fn remove(pods: Api<DynamicObject>, delete: Delete, shutdown: CancellationToken) -> anyhow::Result<()> {
    let now = DeleteParams::default().grace_period(0);
    for pod in pods.list_metadata(&Default::default()).await? {
        tokio::select! { biased;
            () = shutdown.cancelled() => return Ok(()),
            () = sleep(Duration::from_millis(1000 / delete.per_second.max(1))) => {}
        }
        pods.delete(&pod.name_any(), &now).await?;
    }
    shutdown.cancelled().await;
    Ok(())
}
