//! Tells the crate whether it is compiled without optimization, as dependencies of a debug build are by default: kernels
//! then take a hundred times as long.

#![allow(clippy::print_stdout)] // how a build script talks to Cargo

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(unoptimized)");
    if std::env::var("OPT_LEVEL").as_deref() == Ok("0") {
        println!("cargo::rustc-cfg=unoptimized");
        println!(
            "cargo::warning=compiled without optimization, which makes pictures a hundred times slower: add \
             `[profile.dev.package.\"*\"]` with `opt-level = 2` to the Cargo.toml of your workspace"
        );
    }
}
