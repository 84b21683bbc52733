//! The command line as it is typed: help that teaches, errors that say what to do, completions.

use std::process::{Command, Output};

fn coracle(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_coracle"))
        .args(arguments)
        .env_remove("CORACLE_DATA_DIR")
        .output()
        .expect("it runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn help_names_every_command_and_where_to_begin() {
    let output = coracle(&["--help"]);
    let help = said(&output);
    assert!(output.status.success());
    let commands = [
        "demo",
        "up",
        "down",
        "status",
        "nodes",
        "kubeconfig",
        "simulate",
        "images",
        "logs",
        "setup",
        "completions",
        "bench",
        "apiserver",
        "controller-manager",
        "scheduler",
        "kubelet",
        "proxy",
    ];
    for command in commands {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command} is missing in\n{help}");
        assert!(coracle(&[command, "--help"]).status.success(), "{command}");
    }
    assert!(help.contains("Begin with `coracle demo`"), "{help}");
}

#[test]
fn components_have_upstreams_flags() {
    let flags: &[(&str, &[&str])] = &[
        (
            "apiserver",
            &[
                "--secure-port",
                "--client-ca-file",
                "--token-auth-file",
                "--authorization-mode",
                "--service-cluster-ip-range",
                "--enable-admission-plugins",
                "--disable-admission-plugins",
            ],
        ),
        ("controller-manager", &["--kubeconfig", "--controllers", "--cluster-signing-cert-file", "--leader-elect"]),
        ("scheduler", &["--kubeconfig", "--leader-elect"]),
        ("kubelet", &["--kubeconfig", "--node-ip", "--hostname-override", "--pod-cidr", "--max-pods"]),
        ("proxy", &["--kubeconfig", "--cluster-cidr", "--proxy-mode"]),
    ];
    for (component, flags) in flags {
        let help = said(&coracle(&[component, "--help"]));
        for flag in *flags {
            assert!(help.contains(flag), "{component} has no {flag}");
        }
    }
}

#[test]
fn mistakes_are_answered_with_what_helps() {
    let output = coracle(&["dmo"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("demo"), "{}", said(&output));
    let output = coracle(&["up", "--nodes", "99"]);
    assert!(said(&output).contains("99 is not in 0..=32"), "{}", said(&output));
    let output = coracle(&["scheduler"]);
    assert!(said(&output).contains("--kubeconfig <FILE>"), "{}", said(&output));
    let output = coracle(&["scheduler", "--kubeconfig", "/none"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("/none"), "{}", said(&output));
}

#[test]
fn without_a_cluster_commands_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("none");
    let dir = dir.to_str().unwrap();
    assert!(said(&coracle(&["--data-dir", dir, "down"])).contains("There is no cluster in"));
    assert!(said(&coracle(&["--data-dir", dir, "logs"])).contains("there is no log in"));
    for command in ["status", "kubeconfig"] {
        let output = coracle(&["--data-dir", dir, command]);
        assert!(!output.status.success() && said(&output).contains("coracle up"), "{command}: {}", said(&output));
    }
    assert!(!folder.path().join("none").exists(), "looking makes nothing");
}

#[test]
fn shells_get_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = coracle(&["completions", shell]);
        assert!(output.status.success());
        let script = said(&output);
        assert!(script.contains("controller-manager") && script.contains("kubeconfig"), "{shell}");
    }
}
