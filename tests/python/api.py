"""The API through the Python client: typed objects, watches, the dynamic client with server-side apply.

Run with the path of a kubeconfig; asserts, and says nothing if all is well.
"""

import sys
import threading

from kubernetes import client, config, dynamic, watch

config.load_kube_config(config_file=sys.argv[1])
core, apps = client.CoreV1Api(), client.AppsV1Api()


def refused(code, reason, call):
    """Asserts that the call is refused, and returns the refusal's text."""
    try:
        call()
    except client.ApiException as error:
        assert error.status == code and reason in error.body, error
        return error.body
    raise AssertionError(f"expected {code} {reason}")


def typed_objects():
    name = client.V1ObjectMeta(name="typed", labels={"made-by": "python"})
    made = core.create_namespaced_config_map("default", client.V1ConfigMap(metadata=name, data={"k": "v"}))
    assert made.metadata.uid and made.data == {"k": "v"}
    refused(409, "AlreadyExists", lambda: core.create_namespaced_config_map("default", made.__class__(metadata=name)))
    made.data = {"k": "w"}
    replaced = core.replace_namespaced_config_map("typed", "default", made)
    assert replaced.data == {"k": "w"}
    refused(409, "Conflict", lambda: core.replace_namespaced_config_map("typed", "default", made))
    patched = core.patch_namespaced_config_map("typed", "default", {"data": {"more": "m"}})
    assert patched.data == {"k": "w", "more": "m"}
    json_patch = [{"op": "remove", "path": "/data/more"}]
    assert core.patch_namespaced_config_map("typed", "default", json_patch).data == {"k": "w"}
    listed = core.list_config_map_for_all_namespaces(label_selector="made-by=python")
    assert [item.metadata.name for item in listed.items] == ["typed"]
    core.delete_collection_namespaced_config_map("default", label_selector="made-by=python")
    refused(404, "NotFound", lambda: core.read_namespaced_config_map("typed", "default"))

    labels = {"app": "web"}
    container = client.V1Container(name="web", image="serve:1", ports=[client.V1ContainerPort(container_port=80)])
    deployment = client.V1Deployment(
        metadata=client.V1ObjectMeta(name="web"),
        spec=client.V1DeploymentSpec(
            replicas=2,
            selector=client.V1LabelSelector(match_labels=labels),
            template=client.V1PodTemplateSpec(
                metadata=client.V1ObjectMeta(labels=labels), spec=client.V1PodSpec(containers=[container])
            ),
        ),
    )
    apps.create_namespaced_deployment("default", deployment)
    for event in watch.Watch().stream(apps.list_namespaced_deployment, "default", timeout_seconds=60):
        if event["object"].status.ready_replicas == 2:
            break
    else:
        raise AssertionError("the Deployment did not become ready")
    scale = apps.read_namespaced_deployment_scale("web", "default")
    assert (scale.spec.replicas, scale.status.selector) == (2, "app=web")
    scale.spec.replicas = 1
    apps.replace_namespaced_deployment_scale("web", "default", scale)
    assert apps.read_namespaced_deployment_status("web", "default").spec.replicas == 1
    pods = core.list_namespaced_pod("default", label_selector="app=web", limit=1)
    assert len(pods.items) == 1 and pods.metadata._continue
    more = core.list_namespaced_pod("default", label_selector="app=web", limit=5, _continue=pods.metadata._continue)
    assert pods.items[0].metadata.name not in [pod.metadata.name for pod in more.items]
    apps.delete_namespaced_deployment("web", "default", propagation_policy="Foreground")


def watches():
    start = core.list_namespaced_secret("default").metadata.resource_version
    seen = []
    watching = watch.Watch()

    def read():
        stream = watching.stream(
            core.list_namespaced_secret, "default", resource_version=start, label_selector="seen=yes", timeout_seconds=60
        )
        for event in stream:
            seen.append((event["type"], event["object"].metadata.name))
            if event["type"] == "DELETED":
                watching.stop()

    reader = threading.Thread(target=read)
    reader.start()
    metadata = client.V1ObjectMeta(name="watched", labels={"seen": "yes"})
    core.create_namespaced_secret("default", client.V1Secret(metadata=metadata, string_data={"k": "v"}))
    core.patch_namespaced_secret("watched", "default", {"stringData": {"k": "w"}})
    core.delete_namespaced_secret("watched", "default")
    reader.join(60)
    assert seen == [(kind, "watched") for kind in ("ADDED", "MODIFIED", "DELETED")], seen


def the_dynamic_client():
    found = dynamic.DynamicClient(client.ApiClient())
    maps = found.resources.get(api_version="v1", kind="ConfigMap")
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"a": "1"}}
    first = maps.server_side_apply(body=manifest, namespace="default", field_manager="one")
    assert first.data.to_dict() == {"a": "1"}
    manifest["data"] = {"a": "2"}
    clash = lambda: maps.server_side_apply(body=manifest, namespace="default", field_manager="two")
    try:
        clash()
        raise AssertionError("the other manager owns the field")
    except dynamic.exceptions.ConflictError as error:
        assert 'conflict with \\"one\\": .data.a' in str(error.body), error.body
    forced = maps.server_side_apply(body=manifest, namespace="default", field_manager="two", force_conflicts=True)
    assert forced.data.a == "2"
    assert [entry.manager for entry in forced.metadata.managedFields] == ["two"]
    assert [item.metadata.name for item in maps.get(namespace="default", field_selector="metadata.name=applied").items]
    maps.delete(name="applied", namespace="default")

    crds = found.resources.get(api_version="apiextensions.k8s.io/v1", kind="CustomResourceDefinition")
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "boats", "kind": "Boat"}
    crds.create(
        body={
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "boats.example.com"},
            "spec": {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [version]},
        }
    )
    for event in crds.watch(name="boats.example.com", timeout=30):
        conditions = event["object"].status.conditions or []
        if any(condition.type == "Established" and condition.status == "True" for condition in conditions):
            break
    found.resources.invalidate_cache()
    boats = found.resources.get(api_version="example.com/v1", kind="Boat")
    boat = {"apiVersion": "example.com/v1", "kind": "Boat", "metadata": {"name": "kayak"}, "spec": {"size": 1}}
    assert boats.create(body=boat, namespace="default").spec.size == 1
    merge = "application/merge-patch+json"
    patched = boats.patch(name="kayak", namespace="default", body={"spec": {"size": 2}}, content_type=merge)
    assert patched.spec.size == 2
    crds.delete(name="boats.example.com")


typed_objects()
watches()
the_dynamic_client()
