//! Custom resources through real kubectl, the newest and the oldest that is promised.

use std::collections::BTreeSet;

use coracle_tests::{Parts, Section, eventually, sections};

pub const SECTIONS: &[Section<Parts>] = sections![
    a_kind_is_there_as_soon_as_it_is_defined,
    objects_are_created_shown_changed_and_described,
    what_the_schema_forbids_is_refused,
    every_way_of_changing_an_object_works,
    a_watch_shows_columns,
    a_namespace_takes_its_custom_resources_along,
    what_nobody_owns_any_more_is_collected,
    roles_know_custom_resources,
    a_definition_takes_its_objects_along,
];

const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.harbour.example.com}
spec:
  group: harbour.example.com
  scope: Namespaced
  names: {plural: boats, singular: boat, kind: Boat, shortNames: [bt], categories: [fleet]}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns:
    - {name: Crew, type: integer, jsonPath: .spec.crew}
    - {name: Port, type: string, jsonPath: .spec.port, priority: 1}
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.crew, statusReplicasPath: .status.crew}
    schema:
      openAPIV3Schema:
        type: object
        description: Boat is what floats.
        properties:
          spec:
            type: object
            description: What the boat should be.
            required: [crew]
            properties:
              crew: {type: integer, minimum: 1, description: How many sail her.}
              port: {type: string, default: Home}
              sails:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items:
                  type: object
                  required: [name]
                  properties: {name: {type: string}, area: {type: integer}}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
"#;

const BOAT: &str = "
apiVersion: harbour.example.com/v1
kind: Boat
metadata: {name: argo}
spec: {crew: 50, sails: [{name: main, area: 40}]}
";

fn a_kind_is_there_as_soon_as_it_is_defined(parts: &Parts) {
    let kubectl = parts.kubectl("admin");
    kubectl.apply(DEFINITION);
    kubectl.ok("wait --for=condition=Established crd/boats.harbour.example.com --timeout=10s");
    for kubectl in parts.every_kubectl("admin") {
        let resources = kubectl.ok("api-resources --api-group=harbour.example.com");
        assert!(resources.contains("boats") && resources.contains("bt"), "{resources}");
        let explained = kubectl.ok("explain boat.spec");
        assert!(explained.contains("How many sail her.") && explained.contains("crew"), "{explained}");
        assert!(kubectl.ok("explain boats").contains("Boat is what floats."));
    }
    assert!(kubectl.ok("get crd").contains("boats.harbour.example.com"));
}

fn objects_are_created_shown_changed_and_described(parts: &Parts) {
    let kubectl = parts.kubectl("admin");
    assert_eq!(kubectl.apply(BOAT).trim(), "boat.harbour.example.com/argo created");
    assert_eq!(kubectl.apply(BOAT).trim(), "boat.harbour.example.com/argo unchanged");
    for kubectl in parts.every_kubectl("admin") {
        let table = kubectl.ok("get bt");
        assert_eq!(table.split_whitespace().collect::<Vec<_>>(), ["NAME", "CREW", "argo", "50"], "{table}");
        assert!(kubectl.ok("get boats -o wide").contains("Home"), "the default, in a column of -o wide");
        assert!(kubectl.ok("get fleet").contains("argo"), "by category");
        assert!(kubectl.ok("describe boat argo").contains("Crew:  50"));
        assert!(kubectl.ok("get boat.v1.harbour.example.com argo -o yaml").contains("generation: 1"));
    }
}

fn what_the_schema_forbids_is_refused(parts: &Parts) {
    for kubectl in parts.every_kubectl("admin") {
        let wrong =
            |from: &str, to: &str| kubectl.run_with("apply -f -", &BOAT.replace("argo", "ghost").replace(from, to));
        wrong("crew: 50", "crew: 0")
            .fails("spec.crew: Invalid value: 0: spec.crew in body should be greater than or equal to 1");
        wrong("crew: 50, ", "").fails("spec.crew: Required value");
        wrong("crew: 50", "crew: 50, captain: Jason").fails("unknown field \"spec.captain\"");
    }
}

fn every_way_of_changing_an_object_works(parts: &Parts) {
    for (i, kubectl) in parts.every_kubectl("admin").into_iter().enumerate() {
        let crew = || kubectl.field("boat argo", "{.spec.crew}");
        let n = 60 + i;
        kubectl.ok(&format!("patch boat argo --type=merge -p '{{\"spec\":{{\"crew\":{n}}}}}'"));
        assert_eq!(crew(), n.to_string());
        kubectl.ok("patch boat argo --type=json -p '[{\"op\":\"replace\",\"path\":\"/spec/crew\",\"value\":51}]'");
        assert_eq!(crew(), "51");
        kubectl
            .run("patch boat argo -p '{\"spec\":{\"crew\":1}}'")
            .fails("is not supported by harbour.example.com/v1, Kind=Boat");
        kubectl.ok(&format!("scale boat argo --replicas={n}"));
        assert_eq!(crew(), n.to_string());
        kubectl.ok("label boat argo sea=black --overwrite");
        // The first applier takes over what `kubectl apply` owned; the next one adds to a list that is a map.
        let applied = |manager: &str| {
            let sail = format!("{manager}-{i}");
            let boat = BOAT.replace("crew: 50, ", "").replace("main, area: 40", &format!("{sail}, area: 1"));
            kubectl.run_with(&format!("apply --server-side --field-manager={manager} -f -"), &boat).ok();
            sail
        };
        let sails = BTreeSet::from(["rigger", "sailmaker"].map(applied));
        let found = kubectl.field("boat argo", "{.spec.sails[*].name}");
        assert_eq!(found.split(' ').map(str::to_owned).collect::<BTreeSet<_>>(), sails);
        kubectl.apply(&BOAT.replace("crew: 50", "crew: 70"));
        assert_eq!(crew(), "70");
        kubectl.ok("patch boat argo --subresource=status --type=merge -p '{\"status\":{\"crew\":7}}'");
        assert_eq!(kubectl.field("boat argo", "{.status.crew}"), "7");
    }
}

fn a_watch_shows_columns(parts: &Parts) {
    let kubectl = parts.kubectl("admin");
    let watch = kubectl.start("get boats -w");
    watch.expect("argo");
    kubectl.ok("scale boat argo --replicas=99");
    watch.expect("99");
}

fn a_namespace_takes_its_custom_resources_along(parts: &Parts) {
    let kubectl = parts.kubectl("admin");
    kubectl.ok("create namespace bay");
    kubectl.run_with("apply -n bay -f -", BOAT).ok();
    kubectl.ok("delete namespace bay --timeout=30s");
    assert!(kubectl.names("boats -A").len() == 1, "only the one in default is left");
}

fn what_nobody_owns_any_more_is_collected(parts: &Parts) {
    let kubectl = parts.kubectl("admin");
    kubectl.apply(&BOAT.replace("argo", "mother"));
    let uid = kubectl.field("boat mother", "{.metadata.uid}");
    let owner =
        format!("ownerReferences: [{{apiVersion: harbour.example.com/v1, kind: Boat, name: mother, uid: {uid}}}]");
    kubectl.apply(&BOAT.replace("{name: argo}", &format!("{{name: tender, {owner}}}")));
    kubectl.ok("delete boat mother");
    eventually("the tender goes with its owner", 30, || kubectl.names("boats") == ["argo"]);
}

fn roles_know_custom_resources(parts: &Parts) {
    let (kubectl, visitor) = (parts.kubectl("admin"), parts.kubectl("visitor"));
    visitor.run("get boats").fails("cannot list resource \"boats\" in API group \"harbour.example.com\"");
    kubectl.ok("create role sailor --verb=get,list --resource=boats.harbour.example.com");
    kubectl.ok("create rolebinding sailor --role=sailor --user=vera");
    assert!(visitor.ok("get boats").contains("argo"));
}

fn a_definition_takes_its_objects_along(parts: &Parts) {
    let kubectl = parts.kubectl("admin");
    kubectl.ok("delete crd boats.harbour.example.com --timeout=30s");
    kubectl.run("get boats").fails("the server could not find the requested resource");
}
