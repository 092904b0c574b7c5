//! Where the workspace's own binaries are.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// A binary of the workspace: `$SVCPLANE_BIN/name` when set (`cargo xtask test` sets it), else the one beside or one
/// folder above this executable (tests lie in `target/debug/deps`).
pub fn workspace_binary(name: &str) -> Result<PathBuf> {
    if let Some(dir) = env::var_os("SVCPLANE_BIN") {
        return Ok(PathBuf::from(dir).join(name));
    }
    let exe = env::current_exe().context("cannot find this executable")?;
    for dir in exe.ancestors().skip(1).take(2) {
        let path = dir.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!("{name} is not built: run `cargo xtask build`, or the tests through `cargo xtask test`")
}

/// The folder with kube-apiserver and etcd: `$KUBEBUILDER_ASSETS`, else where `cargo xtask test` builds them.
pub fn assets() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("KUBEBUILDER_ASSETS") {
        return Ok(PathBuf::from(dir));
    }
    let exe = env::current_exe().context("cannot find this executable")?;
    let dir = exe
        .ancestors()
        .nth(3)
        .map(|target| target.join("assets"))
        .filter(|dir| dir.is_dir());
    dir.context("there is no API server yet: run `cargo xtask test --layer api` once, or set KUBEBUILDER_ASSETS")
}
