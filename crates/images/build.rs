//! Compiles the programs in `programs/` for Linux on this CPU.
//!
//! They become `$OUT_DIR/pause` and `$OUT_DIR/echo`, which `src/embedded.rs` embeds. On Linux the compiler
//! and linker at hand do; elsewhere (Docker Desktop) Rust's own linker and a Linux target are needed.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=programs");
    for program in ["pause", "echo"] {
        compile(program);
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}

fn compile(program: &str) {
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["--edition", "2024", "--crate-name", program, "--crate-type", "bin"]);
    rustc.args(["-C", "opt-level=s", "-C", "panic=abort", "-C", "strip=symbols"]);
    rustc.args(["-C", "relocation-model=static", "-C", "target-feature=+crt-static"]);
    let target = variable("TARGET");
    let linker_arguments: &[&str] = if variable("CARGO_CFG_TARGET_OS") == "linux" {
        rustc.args(["--target", &target]);
        // Neither padding between segments nor notes: they would make nine kilobytes of one.
        &["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none,-n,-z,noseparate-code,-z,norelro"]
    } else {
        let linux = format!("{}-unknown-linux-musl", variable("CARGO_CFG_TARGET_ARCH"));
        println!("cargo:warning={program} is compiled for {linux}: if that fails, type: rustup target add {linux}");
        rustc.args(["--target", &linux, "-C", "linker=rust-lld", "-C", "linker-flavor=ld.lld"]);
        rustc.args(["-C", "link-self-contained=no"]);
        &["--build-id=none", "-n", "-z", "noseparate-code", "-z", "norelro"]
    };
    for argument in linker_arguments {
        rustc.arg("-C").arg(format!("link-arg={argument}"));
    }
    let (source, out) = (format!("programs/{program}.rs"), PathBuf::from(variable("OUT_DIR")).join(program));
    let status = rustc.arg("-o").arg(out).arg(&source).status();
    assert!(status.is_ok_and(|status| status.success()), "{source} does not compile; see the messages above");
}
