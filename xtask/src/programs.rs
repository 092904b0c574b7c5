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

/// A program that tests run against, such as kube-apiserver: in `$KUBEBUILDER_ASSETS`, else where `cargo xtask test`
/// builds it.
pub fn asset(name: &str) -> Result<PathBuf> {
    let given = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let exe = env::current_exe().context("cannot find this executable")?;
    let built = exe.ancestors().nth(3).map(|target| target.join("assets"));
    let path = [given, built]
        .into_iter()
        .flatten()
        .map(|dir| dir.join(name))
        .find(|path| path.is_file());
    path.with_context(|| format!("there is no {name} yet: run `cargo xtask test --layer api` once"))
}
