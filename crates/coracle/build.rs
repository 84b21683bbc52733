//! How the binary is linked: an idle cluster's memory is mostly its pages.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = |what: &str| std::env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    if target("OS") != "linux" || target("ENV") != "gnu" {
        return;
    }
    // At a fixed address, so that no page has to be written at start only to hold addresses.
    println!("cargo:rustc-link-arg-bins=-no-pie");
    // Functions of equal code become one. Needs lld, which rustc brings for this architecture.
    if target("ARCH") == "x86_64" {
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
    }
}
