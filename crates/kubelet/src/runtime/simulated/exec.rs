//! What `kubectl exec` hears in a container in which nothing runs: simple commands answer, others say why they cannot.

use crate::runtime::{EnvVar, ExecOutput};

/// The exit code of a shell that does not find a command.
const NOT_FOUND: i32 = 127;

/// Runs a command: `echo`, `true`, `false`, `hostname`, `date`, `env`, `printenv NAME`, each also as `sh -c '…'`.
pub(super) fn run(command: &[String], hostname: &str, env: &[EnvVar]) -> ExecOutput {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let inner: Vec<&str>;
    let words = match words.as_slice() {
        ["sh" | "/bin/sh" | "bash" | "/bin/bash", "-c", script, ..] => {
            inner = script.split_whitespace().collect();
            &inner
        }
        words => words,
    };
    let value = |name: &&str| env.iter().find(|variable| variable.name == **name).map(|v| format!("{}\n", v.value));
    let said = |text: String| ExecOutput { stdout: text.into_bytes(), ..ExecOutput::default() };
    let failed = |code: i32| ExecOutput { exit_code: code, ..ExecOutput::default() };
    match words {
        ["true"] => failed(0),
        ["false"] => failed(1),
        ["echo", words @ ..] => said(words.join(" ") + "\n"),
        ["hostname"] => said(format!("{hostname}\n")),
        ["date"] => said(coracle_clock::now().strftime("%a %b %e %H:%M:%S UTC %Y\n").to_string()),
        ["env" | "printenv"] => said(env.iter().map(|v| format!("{}={}\n", v.name, v.value)).collect()),
        ["printenv", name] => value(name).map_or_else(|| failed(1), said),
        other => {
            let name = other.first().unwrap_or(&"sh");
            let why = "the container is simulated: echo, env, printenv, hostname, date, true and false answer in it";
            ExecOutput { stderr: format!("{name}: {why}\n").into_bytes(), exit_code: NOT_FOUND, ..Default::default() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simple_commands_answer_and_others_say_why_not() {
        let env = [EnvVar { name: "COLOUR".into(), value: "blue".into() }];
        for (command, stdout, code) in [
            (vec!["echo", "a", "b"], "a b\n", 0),
            (vec!["sh", "-c", "printenv COLOUR"], "blue\n", 0),
            (vec!["env"], "COLOUR=blue\n", 0),
            (vec!["printenv", "SIZE"], "", 1),
            (vec!["hostname"], "web-1\n", 0),
            (vec!["false"], "", 1),
            (vec!["mysqldump"], "", 127),
        ] {
            let words: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
            let output = run(&words, "web-1", &env);
            assert_eq!(
                (String::from_utf8_lossy(&output.stdout).as_ref(), output.exit_code),
                (stdout, code),
                "{command:?}"
            );
            assert_eq!(output.stderr.is_empty(), code != 127);
        }
    }
}
