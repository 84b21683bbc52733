//! Commands as one types them, and what they said.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// What a command said, and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// The exit code; -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Asserts success and returns standard output.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self}");
        self.stdout
    }

    /// Asserts failure and that standard error contains `message`; returns standard error.
    #[track_caller]
    pub fn fails(self, message: &str) -> String {
        assert_ne!(self.code, 0, "should fail: {self}");
        assert!(self.stderr.contains(message), "expected {message:?} in the errors of {self}");
        self.stderr
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "$ {}", self.command)?;
        write!(f, "{}{}(exit code {})", self.stdout, self.stderr, self.code)
    }
}

/// Splits a command line at blanks; single quotes hold together what stands between them.
pub fn words(line: &str) -> Vec<String> {
    let mut words = vec![];
    let (mut word, mut quoted) = (None::<String>, false);
    for c in line.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' | '\n' if !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Runs a command to its end with this standard input.
///
/// # Panics
/// If the program cannot be run.
pub fn run(mut command: Command, input: &str) -> Output {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_owned();
    let line: Vec<_> = std::iter::once(program.as_os_str()).chain(command.get_args()).collect();
    let line = line.join(std::ffi::OsStr::new(" ")).to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{line}: {error}"));
    // A command that does not read its input may be gone before it is written.
    let _ = child.stdin.take().expect("was piped").write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap_or_else(|error| panic!("{line}: {error}"));
    Output {
        command: line,
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn a_line_is_split_as_a_shell_would() {
        assert_eq!(words("get pods  -l 'a in (b, c)' ''"), ["get", "pods", "-l", "a in (b, c)", ""]);
        assert_eq!(words("-o jsonpath='{.a b}'"), ["-o", "jsonpath={.a b}"]);
    }
}
