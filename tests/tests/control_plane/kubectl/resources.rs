//! What is made by commands of its own: configuration, services, roles, nodes, volumes, quotas.

use coracle_tests::{Parts, Section, eventually, sections};

use super::{POD, each, has};

pub const SECTIONS: &[Section<Parts>] = sections![
    secrets_and_config_maps_are_made_of_literals_and_files,
    services_are_made_exposed_and_selected,
    roles_and_bindings_are_made_asked_and_reconciled,
    nodes_are_cordoned_and_tainted,
    volumes_claims_and_classes_are_kept,
    quotas_and_priorities_are_made,
    custom_resources_are_as_good_as_built_in_ones,
];

fn secrets_and_config_maps_are_made_of_literals_and_files(parts: &Parts) {
    let file = parts.path("words.txt");
    std::fs::write(&file, "a\nb\n").expect("a file");
    let file = file.to_str().expect("text").to_owned();
    each(parts, "data", |kubectl, _| {
        kubectl.ok(&format!("create configmap map --from-literal=k=v --from-file={file}"));
        assert_eq!(kubectl.field("configmap map", r"{.data.k}{.data.words\.txt}"), "va\nb\n");
        kubectl.ok("create secret generic plain --from-literal=key-1=value1 --type=test-type");
        assert_eq!(kubectl.field("secret plain", "{.type} {.data.key-1}"), "test-type dmFsdWUx");
        kubectl.ok(
            "create secret docker-registry pull --docker-username=u --docker-password=p --docker-email=e@example.com",
        );
        assert_eq!(kubectl.field("secret pull", "{.type}"), "kubernetes.io/dockerconfigjson");
        has(&kubectl.ok("describe secret plain"), &["key-1:", "6 bytes"]);
        let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: text}\nstringData: {k: value1}";
        kubectl.apply(text);
        assert_eq!(kubectl.field("secret text", "{.data.k}{.stringData}"), "dmFsdWUx");
        kubectl.ok("create token default --duration=10m");
        kubectl.ok("create serviceaccount robot");
        has(&kubectl.ok("describe serviceaccount robot"), &["Name:", "robot"]);
    });
}

fn services_are_made_exposed_and_selected(parts: &Parts) {
    each(parts, "services", |kubectl, _| {
        kubectl.ok("create service clusterip plain --tcp=80:8080");
        kubectl.ok("create service nodeport np --tcp=80");
        kubectl.ok("create service externalname far --external-name=example.com");
        kubectl.ok("create service clusterip none --clusterip=None");
        assert_eq!(kubectl.field("service none", "{.spec.clusterIP}"), "None");
        let port: u32 = kubectl.field("service np", "{.spec.ports[0].nodePort}").parse().expect("a number");
        assert!((30000..32768).contains(&port));
        kubectl.ok("set selector service plain role=backend");
        assert_eq!(kubectl.field("service plain", "{.spec.selector}"), r#"{"role":"backend"}"#);
        kubectl.ok("create deployment web --image=serve:1 --replicas=2 --port=8080");
        kubectl.ok("expose deployment web --port=80 --target-port=8080 --name=front");
        assert_eq!(kubectl.field("service front", "{.spec.selector.app} {.spec.ports[0].targetPort}"), "web 8080");
        eventually("its endpoints are there", 30, || {
            kubectl.field("endpoints front", "{.subsets[*].addresses[*].ip}").split_whitespace().count() == 2
        });
        has(&kubectl.ok("describe service front"), &["Selector:", "app=web", "Endpoints:", ":8080"]);
        kubectl.ok("create ingress way --rule='example.com/a*=front:80,tls=cert' --class=default");
        has(&kubectl.ok("get ingress way"), &["example.com", "80, 443"]);
        let taken = kubectl.field("service front", "{.spec.clusterIP}");
        let twice = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: twice}}\nspec: {{clusterIP: {taken}, ports: [{{port: 1}}]}}"
        );
        kubectl.run_with("create -f -", &twice).fails("provided IP is already allocated");
    });
}

fn roles_and_bindings_are_made_asked_and_reconciled(parts: &Parts) {
    each(parts, "rbac", |kubectl, namespace| {
        kubectl.ok("create role pod-admin --verb=* --resource=pods");
        assert_eq!(kubectl.field("role pod-admin", "{.rules[0].verbs} {.rules[0].resources}"), r#"["*"] ["pods"]"#);
        kubectl
            .run("create role bad --verb=get --resource=strange")
            .fails("the server doesn't have a resource type \"strange\"");
        kubectl.ok("create role scaler --verb=get,patch --resource=deployments.apps,deployments.apps/scale");
        kubectl.ok(&format!("create clusterrole {namespace} --verb=get --non-resource-url=/logs/*"));
        kubectl.ok(&format!("create clusterrolebinding {namespace} --clusterrole={namespace} --user=ann"));
        kubectl.ok("create rolebinding ann --role=pod-admin --user=ann");
        let can = |what: &str| kubectl.run(&format!("auth can-i {what} --as=ann")).stdout.trim().to_owned();
        assert_eq!([can("get pods"), can("get secrets"), can("get /logs/x")], ["yes", "no", "yes"]);
        assert_eq!(kubectl.ok("auth can-i '*' '*'"), "yes\n");
        has(&kubectl.ok("auth can-i --list --as=ann"), &["pods", "[*]"]);
        kubectl.run("get secrets --as=ann").fails(&format!("secrets is forbidden: User \"ann\" cannot list resource \"secrets\" in API group \"\" in the namespace \"{namespace}\""));
        let more = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: pod-admin, namespace: NS}\nrules: [{apiGroups: [''], resources: [services], verbs: [get]}]";
        has(&kubectl.run_with("auth reconcile -f -", &more.replace("NS", namespace)).ok(), &["reconciled"]);
        assert_eq!(kubectl.field("role pod-admin", "{.rules[*].resources[0]}"), "pods services");
        has(&kubectl.ok("describe role pod-admin"), &["PolicyRule:", "pods", "services"]);
        kubectl.ok(&format!("delete clusterrole,clusterrolebinding {namespace}"));
    });
}

fn nodes_are_cordoned_and_tainted(parts: &Parts) {
    each(parts, "nodes", |kubectl, namespace| {
        let node = "apiVersion: v1\nkind: Node\nmetadata: {name: NAME}\nstatus: {capacity: {memory: 1Gi}}"
            .replace("NAME", namespace);
        kubectl.run_with("create -f -", &node).ok();
        let taints = || kubectl.field(&format!("node {namespace}"), "{.spec.taints[*].key}");
        assert_eq!(
            kubectl.ok(&format!("taint node {namespace} dedicated=foo:PreferNoSchedule")),
            format!("node/{namespace} tainted\n")
        );
        has(&taints(), &["dedicated"]);
        kubectl.ok(&format!("taint node {namespace} dedicated-"));
        assert!(!taints().contains("dedicated"));
        kubectl.ok(&format!("cordon {namespace} --dry-run=server"));
        assert_eq!(kubectl.field(&format!("node {namespace}"), "{.spec.unschedulable}"), "");
        kubectl.ok(&format!("cordon {namespace}"));
        has(&kubectl.run(&format!("cordon {namespace}")).stdout, &["already cordoned"]);
        has(&kubectl.ok(&format!("get node {namespace}")), &["SchedulingDisabled"]);
        has(&kubectl.ok(&format!("drain {namespace}")), &["drained"]);
        kubectl.ok(&format!("uncordon {namespace}"));
        kubectl.ok(&format!("label node {namespace} zone=east"));
        assert_eq!(kubectl.names("nodes -l zone=east"), [namespace]);
        kubectl.ok(&format!("delete node {namespace}"));
    });
}

fn volumes_claims_and_classes_are_kept(parts: &Parts) {
    each(parts, "storage", |kubectl, namespace| {
        let pv = format!(
            "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: {namespace}}}\nspec: {{capacity: {{storage: 10Gi}}, accessModes: [ReadWriteOnce], storageClassName: slow, hostPath: {{path: /tmp/data01}}}}"
        );
        kubectl.apply(&pv);
        has(&kubectl.ok(&format!("get pv {namespace}")), &["10Gi", "RWO", "Retain", "slow"]);
        let pvc = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: myclaim-1}\nspec: {storageClassName: slow, accessModes: [ReadWriteOnce], resources: {requests: {storage: 3Gi}}}";
        kubectl.apply(pvc);
        kubectl.ok("wait --for=jsonpath='{.status.phase}'=Bound pvc/myclaim-1 --timeout=30s");
        has(&kubectl.ok("describe pvc myclaim-1"), &["Status:", "Bound", "Capacity:", "10Gi"]);
        kubectl.ok("delete pvc myclaim-1");
        kubectl.ok(&format!("delete pv {namespace}"));
        let class = format!(
            "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {{name: {namespace}}}\nprovisioner: kubernetes.io/fake-provisioner-type\nparameters: {{zone: us-east-1b}}"
        );
        kubectl.apply(&class);
        has(
            &kubectl.ok(&format!("get sc {namespace}")),
            &["kubernetes.io/fake-provisioner-type", "Delete", "Immediate"],
        );
        kubectl.ok(&format!("delete sc {namespace}"));
    });
}

fn quotas_and_priorities_are_made(parts: &Parts) {
    each(parts, "quotas", |kubectl, namespace| {
        kubectl.ok("create quota test-quota --hard=cpu=1,pods=1 --scopes=NotTerminating");
        assert_eq!(kubectl.field("quota test-quota", "{.spec.hard.pods} {.spec.scopes[0]}"), "1 NotTerminating");
        kubectl.run_with("create -f -", POD).ok();
        let second = POD.replace("valid-pod", "second");
        kubectl.run_with("create -f -", &second).fails("exceeded quota: test-quota");
        eventually("the status counts it", 20, || kubectl.field("quota test-quota", "{.status.used.pods}") == "1");
        has(&kubectl.ok("describe quota test-quota"), &["Resource", "Used", "Hard"]);
        kubectl.ok(&format!("create priorityclass {namespace} --value=10 --description=test"));
        has(&kubectl.ok(&format!("get priorityclass {namespace}")), &["10", "false"]);
        kubectl.ok(&format!("delete priorityclass {namespace}"));
        for (name, flag, path) in
            [("b1", "--min-available=2", "minAvailable"), ("b2", "--max-unavailable=50%", "maxUnavailable")]
        {
            kubectl.ok(&format!("create pdb {name} --selector=app=rails {flag}"));
            assert_eq!(
                kubectl.field(&format!("pdb {name}"), &format!("{{.spec.{path}}}")),
                flag.split_once('=').expect("a value").1
            );
        }
        let limits = "apiVersion: v1\nkind: LimitRange\nmetadata: {name: limits}\nspec: {limits: [{type: Pod, max: {cpu: '2'}}]}";
        kubectl.apply(limits);
        has(&kubectl.ok("describe limits limits"), &["Pod", "cpu", "2"]);
    });
}

fn custom_resources_are_as_good_as_built_in_ones(parts: &Parts) {
    each(parts, "crd", |kubectl, namespace| {
        let group = format!("{namespace}.example.com");
        kubectl.apply(&format!(
            "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {{name: foos.{group}}}
spec:
  group: {group}
  scope: Namespaced
  names: {{plural: foos, kind: Foo, shortNames: [f]}}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns: [{{name: Field, type: string, jsonPath: .someField}}]
    schema: {{openAPIV3Schema: {{type: object, properties: {{someField: {{type: string}}}}}}}}
"
        ));
        kubectl.ok(&format!("wait --for=condition=Established crd/foos.{group} --timeout=30s"));
        let custom =
            |value: &str| format!("apiVersion: {group}/v1\nkind: Foo\nmetadata: {{name: test}}\nsomeField: {value}");
        eventually("it is served", 20, || kubectl.run(&format!("get foos.{group}")).code == 0);
        kubectl.apply(&custom("field1"));
        has(&kubectl.ok(&format!("get foos.{group}")), &["FIELD", "field1"]);
        kubectl.ok(&format!(r#"patch foos.{group}/test --type=merge -p '{{"someField":"field2"}}'"#));
        assert_eq!(kubectl.field(&format!("foos.{group} test"), "{.someField}"), "field2");
        kubectl.run(&format!(r#"patch foos.{group}/test -p '{{"someField":"x"}}'"#)).fails("strategic");
        kubectl.ok(&format!("label foos.{group}/test a=b"));
        assert_eq!(kubectl.names(&format!("foos.{group} -l a=b")), ["test"]);
        kubectl
            .run_with("create -f - --validate=strict", &custom("3").replace("name: test", "name: other"))
            .fails("someField");
        kubectl.ok(&format!("delete foos.{group} --all"));
        kubectl.ok(&format!("delete crd foos.{group}"));
    });
}
