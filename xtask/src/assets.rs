//! What the api layer runs against: a kube-apiserver and an etcd. `KUBEBUILDER_ASSETS` names a folder of them (the
//! convention of envtest); otherwise they are built from the Go module in tests/assets, once, into target/assets.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use xtask::ebpf::find_program;

use crate::setup::{apt_install, run, step};

const PROGRAMS: [(&str, &str); 2] = [
    ("etcd", "go.etcd.io/etcd/server/v3"),
    ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
];

/// The folder with both programs; makes it when it is not there. The first time takes some minutes.
pub fn assets(target: &Path) -> Result<PathBuf> {
    if let Some(dir) = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from) {
        for (program, _) in PROGRAMS {
            ensure!(
                dir.join(program).is_file(),
                "KUBEBUILDER_ASSETS is {}, but there is no {program}",
                dir.display()
            );
        }
        return Ok(dir);
    }
    let module = Path::new(env!("CARGO_MANIFEST_DIR"))
        .with_file_name("tests")
        .join("assets");
    let manifest = module.join("go.mod");
    let text = fs::read_to_string(&manifest)
        .with_context(|| format!("cannot read {}", manifest.display()))?;
    let version = requirement(&text, "k8s.io/kubernetes")?;
    let flags = format!("-s -w -X k8s.io/component-base/version.gitVersion={version}");
    let wanted = format!("{flags}\n{text}");
    let dir = target.join("assets");
    let stamp = dir.join("built-from");
    let built = PROGRAMS
        .iter()
        .all(|(program, _)| dir.join(program).is_file());
    if built && fs::read_to_string(&stamp).is_ok_and(|text| text == wanted) {
        return Ok(dir);
    }
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let go = go()?;
    step("building etcd and kube-apiserver from tests/assets (three minutes or so, once)");
    for (program, package) in PROGRAMS {
        // Niced: it runs beside cargo's build and the faster layers.
        run(Command::new("nice")
            .arg("-n10")
            .arg(&go)
            .args(["build", "-trimpath", "-ldflags", &flags, "-o"])
            .arg(dir.join(program))
            .arg(package)
            .current_dir(&module)
            .env("CGO_ENABLED", "0"))?;
    }
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(dir)
}

fn requirement(manifest: &str, module: &str) -> Result<String> {
    let version = manifest.lines().find_map(|line| {
        let mut words = line
            .trim()
            .trim_start_matches("require ")
            .split_whitespace();
        (words.next()? == module).then(|| words.next().map(str::to_owned))?
    });
    version.with_context(|| format!("tests/assets/go.mod requires no {module}"))
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
            requirement(manifest, "k8s.io/kubernetes").unwrap(),
            "v1.2.3"
        );
    }
}
