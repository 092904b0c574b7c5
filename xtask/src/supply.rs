//! What svcplane is made of: every crate by `cargo metadata` and Cargo.lock, held against deny.toml, and as a bill of
//! materials (CycloneDX) of what is shipped.

mod bill;
#[cfg(test)]
mod policy;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::image::Arch;
use crate::setup::cargo;
pub use bill::bill;

/// The packages that end up in the shipped program: the agent, and the eBPF object inside it.
const SHIPPED: [&str; 2] = ["svc-agent", "svc-ebpf"];

#[derive(clap::Args)]
pub struct SbomArgs {
    /// For which machine [default: those like this one].
    #[arg(long)]
    arch: Option<Arch>,
    /// Where it is written [default: standard output].
    #[arg(long)]
    output: Option<PathBuf>,
}

/// `cargo xtask sbom`.
pub fn sbom(args: &SbomArgs) -> Result<()> {
    let arch = args.arch.unwrap_or(Arch::HOST);
    let text = bill(arch, &[])?;
    match &args.output {
        Some(file) => {
            fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        None => print!("{text}"),
    }
    Ok(())
}

/// One crate of one version.
#[derive(Clone, Debug, Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    description: Option<String>,
    /// None: of this workspace.
    source: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Debug, Deserialize)]
struct Kind {
    /// `dev` and `build`; what is linked has none.
    kind: Option<String>,
}

/// Packages and what each of them is linked with, by their ids.
struct Crates {
    packages: BTreeMap<String, Package>,
    linked: BTreeMap<String, BTreeSet<String>>,
}

impl Crates {
    /// Of the locked workspace, for these machines.
    fn of(arches: &[Arch]) -> Result<Self> {
        let mut command = cargo();
        command.args(["metadata", "--locked", "--format-version", "1"]);
        for arch in arches {
            command.args(["--filter-platform", &arch.triple()]);
        }
        let output = command
            .current_dir(workspace()?)
            .output()
            .context("cannot run cargo")?;
        ensure!(
            output.status.success(),
            "cargo metadata --locked: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let metadata: Metadata =
            serde_json::from_slice(&output.stdout).context("cargo metadata is not understood")?;
        let linked = metadata.resolve.nodes.into_iter().map(|node| {
            let deps = node.deps.into_iter().filter(|dep| {
                let mut kinds = dep.dep_kinds.iter();
                kinds.any(|kind| kind.kind.is_none())
            });
            (node.id, deps.map(|dep| dep.pkg).collect())
        });
        Ok(Self {
            linked: linked.collect(),
            packages: metadata
                .packages
                .into_iter()
                .map(|package| (package.id.clone(), package))
                .collect(),
        })
    }

    /// What is linked into the shipped program, itself included.
    fn shipped(&self) -> BTreeSet<&str> {
        let mut todo: Vec<&str> = self
            .packages
            .values()
            .filter(|package| package.source.is_none() && SHIPPED.contains(&package.name.as_str()))
            .map(|package| package.id.as_str())
            .collect();
        let mut found = BTreeSet::new();
        while let Some(id) = todo.pop() {
            if found.insert(id) {
                let deps = self.linked.get(id).into_iter().flatten();
                todo.extend(deps.map(String::as_str));
            }
        }
        found
    }
}

fn workspace() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask lies in the workspace")
}

/// SHA-256 of each crate's archive as Cargo.lock has it, by name and version.
fn checksums() -> Result<BTreeMap<(String, String), String>> {
    let path = workspace()?.join("Cargo.lock");
    let text = fs::read_to_string(&path).context("cannot read Cargo.lock")?;
    let mut sums = BTreeMap::new();
    for part in text.split("[[package]]").skip(1) {
        let field = |name: &str| {
            part.lines().find_map(|line| {
                let value = line.strip_prefix(name)?.strip_prefix(" = \"")?;
                Some(value.strip_suffix('"')?.to_owned())
            })
        };
        let (Some(name), Some(version)) = (field("name"), field("version")) else {
            bail!("Cargo.lock has a package without name or version");
        };
        if let Some(sum) = field("checksum") {
            sums.insert((name, version), sum);
        }
    }
    Ok(sums)
}
