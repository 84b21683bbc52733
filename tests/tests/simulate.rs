//! kubectl against a simulation: while it stands still, and while time passes slowly. No Docker is needed.

use std::process::{Child, Command, Stdio};

use coracle_tests::binary::coracle;
use coracle_tests::parts::missing;
use coracle_tests::{Kubectl, eventually, kubectl, sections, specification, wait_until};
use tempfile::TempDir;

const SCENARIO: &str = r#"
apiVersion: simulation.coracle.dev/v1
kind: Scenario
metadata: {name: shop}
spec:
  duration: 20m
  cluster: {nodeGroups: [{name: web, instanceType: m5.large, count: 2}]}
  manifests:
  - objects:
    - apiVersion: apps/v1
      kind: Deployment
      metadata: {name: web}
      spec:
        replicas: 3
        selector: {matchLabels: {app: web}}
        template: {metadata: {labels: {app: web}}, spec: {containers: [{name: main, image: "web:1"}]}}
  policies: [{spec: {rules: [{logLines: [ready to serve]}]}}]
  expect:
  - at 5m pods app=web ready == 3
  - pods app=web ready == WANTED
"#;

fn main() {
    let sections = sections![kubectl_changes_a_simulation_that_stands_still, kubectl_watches_a_simulation_that_is_slow];
    specification(sections, missing, || (), |()| String::new());
}

/// A simulation that runs.
struct Simulation {
    folder: TempDir,
    child: Child,
}

impl Simulation {
    fn start(scenario: &str, flags: &[&str]) -> Simulation {
        let folder = tempfile::Builder::new().prefix("coracle-test-").tempdir().expect("a temporary folder");
        let file = folder.path().join("scenario.yaml");
        std::fs::write(&file, scenario).expect("a file");
        let mut command = Command::new(coracle());
        command.arg("--data-dir").arg(folder.path().join("data")).arg("simulate").arg(file).args(flags);
        let child = command.args(["--port", "0"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let child = child.spawn().expect("it runs");
        Simulation { folder, child }
    }

    fn kubectl(&self) -> Kubectl {
        let program = kubectl::programs().pop().expect("`missing` looked for it");
        let kubeconfig = self.folder.path().join("data/simulation/kubeconfig");
        wait_until("the kubeconfig is there", 20, || kubeconfig.exists().then_some(()));
        Kubectl { program, kubeconfig, home: self.folder.path().to_owned() }
    }

    /// Lets it go on, if it stands, and waits for its end; what it said.
    fn end(mut self) -> String {
        // Without anybody who could press Enter it would stand for ever.
        std::io::Write::write_all(&mut self.child.stdin.take().expect("was piped"), b"\n").expect("it listens");
        let output = self.child.wait_with_output().expect("it is ours");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}");
        said
    }
}

/// Ten minutes have passed; what is changed now shows at the end.
fn kubectl_changes_a_simulation_that_stands_still((): &()) {
    let simulation = Simulation::start(&SCENARIO.replace("WANTED", "5"), &["--pause-at", "10m"]);
    let kubectl = simulation.kubectl();
    eventually("the pods are ready", 60, || kubectl.field("deployment web", "{.status.readyReplicas}") == "3");
    let now = wait_until("it stands", 60, || {
        let time = |node: &str| kubectl.field(&format!("lease {node} -n kube-node-lease"), "{.spec.renewTime}");
        let [before, after] = [time("web-1"), time("web-1")];
        (before == after && before.as_str() > "2026-01-01T00:10:00").then_some(after)
    });
    assert!(now.as_str() < "2026-01-01T00:13:00", "heartbeats are those of the time it is: {now}");
    let heartbeat = "{.status.conditions[?(@.type==\"Ready\")].lastHeartbeatTime}";
    let heartbeat = kubectl.field("node web-1", heartbeat);
    assert!(heartbeat.as_str() > "2026-01-01T00:05:00", "{heartbeat}");
    assert_eq!(kubectl.names("nodes"), ["web-1", "web-2"]);
    assert_eq!(kubectl.ok("logs deployment/web"), "ready to serve\n");
    assert!(kubectl.ok("scale deployment web --replicas 5").contains("scaled"));
    let said = simulation.end();
    assert!(said.contains("shop: 20m in ") && said.contains("history"), "{said}");
}

/// A second is ten milliseconds: what happens is seen to happen.
fn kubectl_watches_a_simulation_that_is_slow((): &()) {
    let crash = "  events:\n  - {at: 10m, nodeCrash: {node: web-1}}\n  expect:";
    let scenario = SCENARIO.replace("WANTED", "3").replace("  expect:", crash);
    let simulation = Simulation::start(&scenario, &["--speed", "100x"]);
    let kubectl = simulation.kubectl();
    eventually("the nodes are there", 20, || kubectl.run("get nodes").stdout.contains("web-2"));
    let ready = "{.status.conditions[?(@.type==\"Ready\")].status}";
    let watch = format!("get node web-1 --watch -o jsonpath='{ready}{{\"\\n\"}}'");
    let watching = kubectl.start(&watch);
    watching.expect("True");
    watching.expect("Unknown");
    drop(watching);
    simulation.end();
}
