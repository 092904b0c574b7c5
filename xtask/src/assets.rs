//! What the api layer runs against: Kubernetes' own programs, etcd, CoreDNS and Helm. `KUBEBUILDER_ASSETS` names a folder that
//! some of them may lie in (the convention of envtest); the others are built from the Go modules in tests/assets, once,
//! into target/assets.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result};
use xtask::ebpf::find_program;

use crate::setup::{apt_install, run, step};

/// A Go module below tests/ and what is built from it: programs and their packages.
pub struct Module {
    pub folder: &'static str,
    /// Build tags, comma-separated.
    pub tags: &'static str,
    pub programs: &'static [(&'static str, &'static str)],
}

/// Kubernetes, and the etcd that it was released with.
pub const KUBERNETES: &str = "assets";

const MODULES: [Module; 3] = [
    Module {
        folder: KUBERNETES,
        tags: "",
        programs: &[
            ("etcd", "go.etcd.io/etcd/server/v3"),
            ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            (
                "kube-controller-manager",
                "k8s.io/kubernetes/cmd/kube-controller-manager",
            ),
            ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
        ],
    },
    Module {
        folder: "assets/coredns",
        tags: "",
        programs: &[("coredns", ".")],
    },
    Module {
        folder: "assets/helm",
        tags: "",
        programs: &[("helm", "helm.sh/helm/v4/cmd/helm")],
    },
];

/// Makes what is not there yet in target/assets. The first time takes some minutes.
pub fn assets(target: &Path) -> Result<()> {
    let dir = target.join("assets");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for module in &MODULES {
        module.build(&dir, given)?;
    }
    Ok(())
}

/// One of the programs of [`assets`], made if it is not there yet.
pub fn program(target: &Path, name: &str) -> Result<PathBuf> {
    if let (true, Some(dir)) = (given(name), env::var_os("KUBEBUILDER_ASSETS")) {
        return Ok(Path::new(&dir).join(name));
    }
    let dir = target.join("assets");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for module in &MODULES {
        module.build(&dir, |program| program != name)?;
    }
    Ok(dir.join(name))
}

/// All of [`assets`], given or not, and what `more` modules have.
pub fn all(target: &Path, more: &[Module]) -> Result<PathBuf> {
    these(target, MODULES.iter().chain(more))
}

/// What these modules have.
pub fn these<'a>(target: &Path, modules: impl IntoIterator<Item = &'a Module>) -> Result<PathBuf> {
    let dir = target.join("assets");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for module in modules {
        module.build(&dir, |_| false)?;
    }
    Ok(dir)
}

/// What lies below tests/: the folder of a Go module, a file of the e2e cluster.
pub fn sources(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .with_file_name("tests")
        .join(path)
}

impl Module {
    fn build(&self, dir: &Path, given: impl Fn(&str) -> bool) -> Result<()> {
        let folder = sources(self.folder);
        let manifest = folder.join("go.mod");
        let text = fs::read_to_string(&manifest)
            .with_context(|| format!("cannot read {}", manifest.display()))?;
        let version = requirement(&text, "k8s.io/kubernetes");
        let flags = flags(version.as_deref());
        let wanted = format!("{flags}\n{text}");
        for (program, package) in self.programs {
            let stamp = dir.join(format!("{program}.built-from"));
            if given(program)
                || (dir.join(program).is_file()
                    && fs::read_to_string(&stamp).is_ok_and(|text| text == wanted))
            {
                continue;
            }
            step(&format!(
                "building {program} from tests/{} (once)",
                self.folder
            ));
            let verb: &[&str] = if program.ends_with(".test") {
                &["test", "-c", "-vet=off"]
            } else {
                &["build"]
            };
            // Niced: it runs beside cargo's build and the faster layers.
            run(Command::new("nice")
                .arg("-n10")
                .arg(go()?)
                .args(verb)
                .args(["-trimpath", "-tags", self.tags, "-ldflags", &flags, "-o"])
                .arg(dir.join(program))
                .arg(package)
                .current_dir(&folder)
                .env("CGO_ENABLED", "0"))?;
            fs::write(&stamp, &wanted)
                .with_context(|| format!("cannot write {}", stamp.display()))?;
        }
        Ok(())
    }
}

/// Kubernetes' programs say their version; without one the e2e suite would skip what is newer than v0.
fn flags(version: Option<&str>) -> String {
    let mut flags = "-s -w".to_owned();
    let Some(version) = version else {
        return flags;
    };
    let mut numbers = version.trim_start_matches('v').split('.');
    let mut number = || numbers.next().unwrap_or_default();
    let (major, minor) = (number(), number());
    for package in [
        "k8s.io/component-base/version",
        "k8s.io/client-go/pkg/version",
    ] {
        for (name, value) in [
            ("gitVersion", version),
            ("gitMajor", major),
            ("gitMinor", minor),
            ("gitTreeState", "clean"),
            ("buildDate", "2026-01-01T00:00:00Z"),
        ] {
            flags.push_str(&format!(" -X {package}.{name}={value}"));
        }
    }
    flags
}

fn given(program: &str) -> bool {
    env::var_os("KUBEBUILDER_ASSETS").is_some_and(|dir| Path::new(&dir).join(program).is_file())
}

fn requirement(manifest: &str, module: &str) -> Option<String> {
    manifest.lines().find_map(|line| {
        let mut words = line
            .trim()
            .trim_start_matches("require ")
            .split_whitespace();
        (words.next()? == module).then(|| words.next().map(str::to_owned))?
    })
}

/// A go that reads this go.mod. From 1.21 on, go fetches the version it needs by itself; for an older one (Debian
/// bookworm's) the same module is fetched by hand.
pub fn go() -> Result<PathBuf> {
    if find_program("go").is_none() {
        apt_install(&["golang-go", "ca-certificates"])?;
    }
    let go = find_program("go").context("golang-go is installed, but there is no go")?;
    let output = |args: &[&str]| -> Result<String> {
        let output = Command::new(&go)
            .args(args)
            .current_dir("/")
            .output()
            .context("cannot run go")?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let version = output(&["env", "GOVERSION"])?;
    let minor = version
        .strip_prefix("go1.")
        .and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    if minor.is_none_or(|minor| minor >= 21) {
        return Ok(go);
    }
    let platform = format!(
        "{}-{}",
        output(&["env", "GOOS"])?,
        output(&["env", "GOARCH"])?
    );
    let module = format!("golang.org/toolchain@v0.0.1-go1.26.0.{platform}");
    step(&format!("{version} is too old: fetching go 1.26"));
    run(Command::new(&go)
        .args(["mod", "download", &module])
        .current_dir("/"))?;
    let toolchain = Path::new(&output(&["env", "GOMODCACHE"])?).join(module);
    // Modules come without executable bits.
    run(Command::new("chmod")
        .arg("-R")
        .arg("u+x")
        .arg(toolchain.join("bin"))
        .arg(toolchain.join("pkg/tool")))?;
    Ok(toolchain.join("bin/go"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_modules_own_not_a_tools() {
        let manifest =
            "tool k8s.io/kubernetes/cmd/kube-apiserver\nrequire k8s.io/kubernetes v1.2.3\n";
        assert_eq!(
            requirement(manifest, "k8s.io/kubernetes").as_deref(),
            Some("v1.2.3")
        );
    }
}
