//! Custom resources through real kubectl, the newest and the oldest there is, against an API server and controllers
//! that run alone. No Docker is needed.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use coracle_tests::binary::coracle;
use coracle_tests::cluster::free_port;
use coracle_tests::kubectl::programs;
use coracle_tests::{Kubectl, eventually, sections, specification};
use tempfile::TempDir;

fn main() {
    let sections = sections![
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
    let missing = || programs().is_empty().then(|| "there is no kubectl".to_owned());
    specification(sections, missing, Parts::start, Parts::report);
}

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

/// An API server and controllers.
struct Parts {
    folder: TempDir,
    port: u16,
    children: Vec<Child>,
}

impl Parts {
    fn start() -> Parts {
        let folder = tempfile::Builder::new().prefix("coracle-test-").tempdir().expect("a temporary folder");
        let mut parts = Parts { folder, port: free_port(), children: Vec::new() };
        let tokens = "admin,ada,1,\"system:masters\"\ncontrollers,system:kube-controller-manager,2\nvisitor,vera,3\n";
        std::fs::write(parts.path("tokens.csv"), tokens).expect("a file");
        let (port, tokens, pki) = (parts.port.to_string(), parts.path("tokens.csv"), parts.path("pki"));
        parts.spawn(
            "apiserver",
            &[
                "--secure-port",
                &port,
                "--store",
                "memory",
                "--token-auth-file",
                text(&tokens),
                "--cert-dir",
                text(&pki),
            ],
        );
        ["admin", "controllers", "visitor"].iter().for_each(|token| parts.kubeconfig(token));
        let kubectl = parts.kubectl("admin");
        eventually("the API server is ready", 20, || kubectl.run("get --raw /readyz").stdout == "ok");
        let (kubeconfig, volumes) = (parts.path("controllers.conf"), parts.path("volumes"));
        parts.spawn("controller-manager", &["--kubeconfig", text(&kubeconfig), "--volume-dir", text(&volumes)]);
        parts
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn spawn(&mut self, component: &str, arguments: &[&str]) {
        let log = File::create(self.path(&format!("{component}.log"))).expect("a log");
        let mut command = Command::new(coracle());
        command.arg("--data-dir").arg(self.path("data")).arg(component).args(arguments);
        self.children.push(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("it runs"));
    }

    fn kubeconfig(&self, token: &str) {
        let (ca, port) = (self.path("pki/ca.crt"), self.port);
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{port}', certificate-authority: {}}}}}]\n\
             users: [{{name: u, user: {{token: {token}}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n",
            ca.display()
        );
        std::fs::write(self.path(&format!("{token}.conf")), kubeconfig).expect("a file");
    }

    /// The newest kubectl.
    fn kubectl(&self, token: &str) -> Kubectl {
        self.every_kubectl(token).pop().expect("`missing` looked for it")
    }

    fn every_kubectl(&self, token: &str) -> Vec<Kubectl> {
        let kubectl = |program| Kubectl {
            program,
            kubeconfig: self.path(&format!("{token}.conf")),
            home: self.folder.path().to_owned(),
        };
        programs().into_iter().map(kubectl).collect()
    }

    fn report(&self) -> String {
        std::fs::read_to_string(self.path("apiserver.log")).unwrap_or_default()
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().expect("a temporary folder's name is text")
}

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
