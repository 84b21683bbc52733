//! Compiles `pause/pause.rs`, the program in every pod's sandbox, for Linux on this CPU.
//!
//! It becomes `$OUT_DIR/pause`, which `src/pause.rs` embeds. On Linux the compiler and linker at hand
//! do; elsewhere (Docker Desktop) Rust's own linker and a Linux target are needed.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=pause/pause.rs");
    println!("cargo:rerun-if-changed=recipes");
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let out = PathBuf::from(variable("OUT_DIR")).join("pause");

    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args(["--edition", "2024", "--crate-name", "pause", "--crate-type", "bin"]);
    rustc.args(["-C", "opt-level=s", "-C", "panic=abort", "-C", "strip=symbols"]);
    rustc.args(["-C", "relocation-model=static", "-C", "target-feature=+crt-static"]);
    let target = variable("TARGET");
    let linker_arguments: &[&str] = if variable("CARGO_CFG_TARGET_OS") == "linux" {
        rustc.args(["--target", &target]);
        // Pages of 16 bytes and no notes: otherwise padding makes the kilobyte nine.
        &["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none,-n,-z,noseparate-code,-z,norelro"]
    } else {
        let linux = format!("{}-unknown-linux-musl", variable("CARGO_CFG_TARGET_ARCH"));
        println!("cargo:warning=pause is compiled for {linux}: if that fails, type: rustup target add {linux}");
        rustc.args(["--target", &linux, "-C", "linker=rust-lld", "-C", "linker-flavor=ld.lld"]);
        rustc.args(["-C", "link-self-contained=no"]);
        &["--build-id=none", "-n", "-z", "noseparate-code", "-z", "norelro"]
    };
    for argument in linker_arguments {
        rustc.arg("-C").arg(format!("link-arg={argument}"));
    }
    let status = rustc.arg("-o").arg(&out).arg("pause/pause.rs").status();
    assert!(status.is_ok_and(|s| s.success()), "pause/pause.rs does not compile; see the messages above");
}
