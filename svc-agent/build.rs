//! Builds svc-ebpf and leaves the object at `$OUT_DIR/svc-ebpf`, from where the agent includes it.

use std::path::{Path, PathBuf};
use std::{env, fs};

#[path = "../xtask/src/ebpf.rs"]
mod ebpf;

fn main() {
    for input in [
        "build.rs",
        "../svc-ebpf/src",
        "../svc-ebpf/Cargo.toml",
        "../svc-common/src",
        "../svc-common/Cargo.toml",
        "../Cargo.toml",
        "../xtask/src/ebpf.rs",
    ] {
        println!("cargo::rerun-if-changed={input}");
    }
    // Cargo runs build scripts in the package's folder.
    let workspace = Path::new("..");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    if let Err(error) = build(workspace, &out) {
        println!("cargo::error={error}");
    }
}

fn build(workspace: &Path, out: &Path) -> Result<(), String> {
    let compiler = ebpf::Compiler::find().ok_or(ebpf::MISSING)?;
    let linker = ebpf::find_linker().ok_or(ebpf::MISSING_LINKER)?;
    let target_dir = out.join("ebpf");
    let status = compiler
        .build("svc-ebpf", &linker, &target_dir)
        .current_dir(workspace)
        .status()
        .map_err(|error| format!("cannot start cargo for svc-ebpf: {error}"))?;
    if !status.success() {
        return Err("svc-ebpf does not build; its errors are above".into());
    }
    let object = ebpf::Compiler::object("svc-ebpf", &target_dir);
    fs::copy(&object, out.join("svc-ebpf"))
        .map(drop)
        .map_err(|error| format!("cannot copy {}: {error}", object.display()))
}
