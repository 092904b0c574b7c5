//! Builds the wrapper object of svc-ebpf and leaves it at `$OUT_DIR/svc-ebpf-bench`.

use std::path::{Path, PathBuf};
use std::{env, fs};

#[path = "../xtask/src/ebpf.rs"]
mod ebpf;

const OBJECT: &str = "svc-ebpf-bench";

fn main() {
    for input in [
        "build.rs",
        "../svc-ebpf/src/bench.rs",
        "../svc-ebpf/src/bench",
        "../svc-ebpf/Cargo.toml",
        "../svc-common/src/packet.rs",
        "../Cargo.toml",
        "../xtask/src/ebpf.rs",
    ] {
        println!("cargo::rerun-if-changed={input}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    if let Err(error) = build(&out) {
        println!("cargo::error={error}");
    }
}

fn build(out: &Path) -> Result<(), String> {
    let compiler = ebpf::Compiler::find().ok_or(ebpf::MISSING)?;
    let linker = ebpf::find_linker().ok_or(ebpf::MISSING_LINKER)?;
    let target_dir = out.join("ebpf");
    let status = compiler
        .build(OBJECT, &linker, &target_dir)
        .current_dir("..")
        .status()
        .map_err(|error| format!("cannot start cargo for {OBJECT}: {error}"))?;
    if !status.success() {
        return Err(format!("{OBJECT} does not build; its errors are above"));
    }
    let object = ebpf::Compiler::object(OBJECT, &target_dir);
    fs::copy(&object, out.join(OBJECT))
        .map(drop)
        .map_err(|error| format!("cannot copy {}: {error}", object.display()))
}
