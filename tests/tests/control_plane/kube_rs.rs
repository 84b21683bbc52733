//! kube-rs over TLS with a kubeconfig.

use std::future::Future;
use std::time::Duration;

use coracle_tests::{Parts, Section, sections};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, VersionMatch, WatchEvent, WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::watcher;
use kube::{Api, Client, Config, Discovery, ResourceExt};
use serde_json::json;

pub const SECTIONS: &[Section<Parts>] = sections![
    the_kubeconfig_says_who_one_is,
    discovery_finds_every_group,
    discovery_finds_a_new_custom_resource,
    objects_are_created_patched_applied_and_watched,
    lists_are_paged_at_one_version,
    a_write_that_comes_too_late_is_a_conflict,
    a_deployment_becomes_available_and_its_pods_are_seen,
    what_is_refused_is_a_status,
];

/// Runs a future that has a client by a token's kubeconfig; for a minute at most.
fn with<F: Future<Output = anyhow::Result<()>>>(parts: &Parts, token: &str, play: impl FnOnce(Client) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let kubeconfig = Kubeconfig::read_from(parts.kubeconfig(token, "default")).expect("a kubeconfig");
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        let client = Client::try_from(config.expect("a configuration")).expect("a client");
        let played = tokio::time::timeout(Duration::from_secs(60), play(client)).await;
        played.expect("a minute is enough").unwrap_or_else(|error| panic!("{error:?}"));
    });
}

fn the_kubeconfig_says_who_one_is(parts: &Parts) {
    with(parts, "visitor", async |client: Client| {
        let review = Api::all(client.clone()).create(&PostParams::default(), &SelfSubjectReview::default()).await?;
        let user = review.status.and_then(|status| status.user_info).unwrap_or_default();
        assert_eq!(user.username.as_deref(), Some("vera"));
        assert_eq!(client.apiserver_version().await?.minor, "36");
        Ok(())
    });
}

fn discovery_finds_every_group(parts: &Parts) {
    with(parts, "admin", async |client: Client| {
        let discovery = Discovery::new(client).run_aggregated().await?;
        for (group, kind) in [
            ("", "Pod"),
            ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"),
            ("apiextensions.k8s.io", "CustomResourceDefinition"),
            ("apiregistration.k8s.io", "APIService"),
            ("apps", "Deployment"),
            ("authentication.k8s.io", "TokenReview"),
            ("authorization.k8s.io", "SelfSubjectRulesReview"),
            ("autoscaling", "HorizontalPodAutoscaler"),
            ("batch", "CronJob"),
            ("certificates.k8s.io", "CertificateSigningRequest"),
            ("coordination.k8s.io", "Lease"),
            ("discovery.k8s.io", "EndpointSlice"),
            ("events.k8s.io", "Event"),
            ("flowcontrol.apiserver.k8s.io", "FlowSchema"),
            ("networking.k8s.io", "Ingress"),
            ("node.k8s.io", "RuntimeClass"),
            ("policy", "PodDisruptionBudget"),
            ("rbac.authorization.k8s.io", "ClusterRole"),
            ("resource.k8s.io", "ResourceClaim"),
            ("scheduling.k8s.io", "PriorityClass"),
            ("storage.k8s.io", "CSIDriver"),
        ] {
            let found = discovery.get(group).unwrap_or_else(|| panic!("no group {group:?}"));
            assert!(found.recommended_kind(kind).is_some(), "{group} {kind}");
        }
        Ok(())
    });
}

fn discovery_finds_a_new_custom_resource(parts: &Parts) {
    with(parts, "admin", async |client: Client| {
        let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
        let definition = serde_json::from_value(json!({
            "metadata": { "name": "foos.example.com" },
            "spec": {
                "group": "example.com", "scope": "Namespaced", "names": { "plural": "foos", "kind": "Foo" },
                "versions": [{
                    "name": "v1", "served": true, "storage": true,
                    "schema": { "openAPIV3Schema": { "type": "object" } },
                }],
            },
        }))?;
        definitions.create(&PostParams::default(), &definition).await?;
        await_condition(definitions.clone(), "foos.example.com", conditions::is_crd_established()).await?;
        let discovery = Discovery::new(client.clone()).run_aggregated().await?;
        let group = discovery.get("example.com").expect("the group is there");
        assert!(group.recommended_kind("Foo").is_some());
        let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let request = http::Request::get("/apis").header("accept", aggregated).body(vec![])?;
        let raw: serde_json::Value = client.request(request).await?;
        let groups = raw["items"].as_array().expect("a list");
        let group = groups.iter().find(|group| group["metadata"]["name"] == "example.com").expect("the group is there");
        assert_eq!(group["versions"][0]["resources"][0]["resource"], "foos");
        definitions.delete("foos.example.com", &DeleteParams::default()).await?;
        Ok(())
    });
}

fn objects_are_created_patched_applied_and_watched(parts: &Parts) {
    with(parts, "admin", async |client: Client| {
        let maps: Api<ConfigMap> = Api::default_namespaced(client);
        let start = maps.list(&ListParams::default()).await?.metadata.resource_version.unwrap_or_default();
        let params = WatchParams::default().fields("metadata.name=typed").timeout(30);
        let mut watch = maps.watch(&params, &start).await?.boxed();
        let map: ConfigMap = serde_json::from_value(json!({ "metadata": { "name": "typed" }, "data": { "k": "v" } }))?;
        maps.create(&PostParams::default(), &map).await?;
        maps.patch("typed", &PatchParams::default(), &Patch::Merge(json!({ "data": { "more": "m" } }))).await?;
        let apply = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "typed" }, "data": { "applied": "a" } });
        let applied = maps.patch("typed", &PatchParams::apply("rust"), &Patch::Apply(apply)).await?;
        assert_eq!(applied.data.unwrap_or_default().len(), 3);
        maps.delete("typed", &DeleteParams::default()).await?;
        let mut seen = vec![];
        while seen.len() < 4
            && let Some(event) = watch.try_next().await?
        {
            seen.push(match event {
                WatchEvent::Added(_) => "added",
                WatchEvent::Modified(_) => "modified",
                WatchEvent::Deleted(_) => "deleted",
                other => anyhow::bail!("{other:?}"),
            });
        }
        assert_eq!(seen, ["added", "modified", "modified", "deleted"]);
        Ok(())
    });
}

fn lists_are_paged_at_one_version(parts: &Parts) {
    with(parts, "admin", async |client: Client| {
        let maps: Api<ConfigMap> = Api::default_namespaced(client);
        let map =
            |name: &str| serde_json::from_value(json!({ "metadata": { "name": name, "labels": { "book": "a" } } }));
        for name in ["page-1", "page-2", "page-3"] {
            maps.create(&PostParams::default(), &map(name)?).await?;
        }
        let params = ListParams::default().labels("book=a").limit(2);
        let first = maps.list(&params).await?;
        maps.create(&PostParams::default(), &map("page-4")?).await?;
        let token = first.metadata.continue_.clone().unwrap_or_default();
        let rest = maps.list_metadata(&params.clone().continue_token(&token)).await?;
        assert_eq!(first.metadata.resource_version, rest.metadata.resource_version);
        let names = |items: Vec<String>| items.join(" ");
        assert_eq!(names(first.iter().map(ResourceExt::name_any).collect()), "page-1 page-2");
        assert_eq!(names(rest.iter().map(ResourceExt::name_any).collect()), "page-3", "as it was at the first page");
        let then = first.metadata.resource_version.unwrap_or_default();
        let exact = ListParams::default().labels("book=a").at(&then).matching(VersionMatch::Exact);
        assert_eq!(maps.list(&exact).await?.items.len(), 3);
        assert_eq!(maps.list(&ListParams::default().labels("book=a")).await?.items.len(), 4);
        maps.delete_collection(&DeleteParams::default(), &ListParams::default().labels("book=a")).await?;
        Ok(())
    });
}

fn a_write_that_comes_too_late_is_a_conflict(parts: &Parts) {
    with(parts, "admin", async |client: Client| {
        let maps: Api<ConfigMap> = Api::default_namespaced(client);
        let map =
            serde_json::from_value(json!({ "metadata": { "name": "late", "finalizers": ["example.com/hold"] } }))?;
        let mut late: ConfigMap = maps.create(&PostParams::default(), &map).await?;
        let merge = |patch| Patch::Merge(patch);
        maps.patch("late", &PatchParams::default(), &merge(json!({ "data": { "a": "1" } }))).await?;
        late.data = Some([("a".to_owned(), "2".to_owned())].into());
        let Err(kube::Error::Api(status)) = maps.replace("late", &PostParams::default(), &late).await else {
            panic!("it was changed meanwhile")
        };
        assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
        let other = Preconditions { uid: Some("another".into()), resource_version: None };
        let Err(kube::Error::Api(status)) = maps.delete("late", &DeleteParams::default().preconditions(other)).await
        else {
            panic!("it is another")
        };
        assert_eq!(status.code, 409);
        maps.delete("late", &DeleteParams::default()).await?;
        assert!(maps.get("late").await?.metadata.deletion_timestamp.is_some(), "its finalizer holds it");
        maps.patch("late", &PatchParams::default(), &merge(json!({ "metadata": { "finalizers": null } }))).await?;
        assert!(maps.get_opt("late").await?.is_none());
        Ok(())
    });
}

fn a_deployment_becomes_available_and_its_pods_are_seen(parts: &Parts) {
    with(parts, "admin", async |client: Client| {
        let nodes: Api<Node> = Api::all(client.clone());
        let ready = |node: Option<&Node>| {
            let conditions = node.and_then(|node| node.status.as_ref()?.conditions.as_ref());
            conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
        };
        await_condition(nodes, "a", ready).await?;
        let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
        let deployment = serde_json::from_value(json!({
            "metadata": { "name": "web" },
            "spec": {
                "replicas": 3, "selector": { "matchLabels": { "app": "web" } },
                "template": {
                    "metadata": { "labels": { "app": "web" } },
                    "spec": { "containers": [{ "name": "web", "image": "serve:1" }] },
                },
            },
        }))?;
        deployments.create(&PostParams::default(), &deployment).await?;
        await_condition(deployments.clone(), "web", conditions::is_deployment_completed()).await?;
        // A streaming list: all pods there are, then a bookmark, then what changes.
        let pods: Api<Pod> = Api::default_namespaced(client);
        let config = watcher::Config::default().labels("app=web").streaming_lists();
        let mut events = watcher(pods, config).boxed();
        let mut names = vec![];
        loop {
            match events.try_next().await? {
                Some(watcher::Event::InitApply(pod)) => names.push(pod.name_any()),
                Some(watcher::Event::InitDone) => break,
                Some(_) => {}
                None => anyhow::bail!("the watcher ended"),
            }
        }
        assert_eq!(names.len(), 3);
        deployments.delete("web", &DeleteParams::foreground()).await?;
        await_condition(deployments, "web", |deployment: Option<&Deployment>| deployment.is_none()).await?;
        Ok(())
    });
}

fn what_is_refused_is_a_status(parts: &Parts) {
    with(parts, "visitor", async |client: Client| {
        let pods: Api<Pod> = Api::default_namespaced(client);
        let Err(kube::Error::Api(status)) = pods.get("web").await else { panic!("vera may not") };
        assert_eq!((status.code, status.reason.as_str()), (403, "Forbidden"));
        let why = "pods \"web\" is forbidden: User \"vera\" cannot get resource \"pods\" in API group \"\" in the namespace \"default\"";
        assert_eq!(status.message, why);
        Ok(())
    });
}
