//! Container images without docker: a root folder becomes a docker-archive of one layer, the same for the same files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use crate::setup::run;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The root folder of an image.
pub struct Root(PathBuf);

impl Root {
    pub fn new(path: PathBuf) -> Result<Self> {
        for folder in ["etc", "tmp", "proc", "sys", "dev", "run", "root"] {
            fs::create_dir_all(path.join(folder)).context("cannot make an image's folder")?;
        }
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Every file, by its path in the image and where it lies now.
    pub fn files(&self) -> Result<Vec<(String, PathBuf)>> {
        let (mut files, mut folders) = (Vec::new(), vec![self.0.clone()]);
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(&folder).context("cannot read an image's folder")?;
            for entry in entries {
                let path = entry.context("cannot read an image's folder")?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Ok(inside) = path.strip_prefix(&self.0) {
                    files.push((inside.display().to_string(), path));
                }
            }
        }
        files.sort();
        Ok(files)
    }

    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        fs::write(self.0.join(path), text)
            .with_context(|| format!("cannot write an image's {path}"))
    }

    pub fn add(&self, file: &Path, path: &str) -> Result<()> {
        let to = self.0.join(path);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).context("cannot make an image's folder")?;
        }
        fs::copy(file, &to).with_context(|| format!("cannot copy {}", file.display()))?;
        Ok(())
    }
}

/// Writes a docker-archive (moby's image specification v1.2) of one layer.
pub fn save(
    file: &Path,
    names: &[String],
    root: &Root,
    architecture: &str,
    mut config: serde_json::Value,
) -> Result<()> {
    let work = file.with_extension("parts");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work).context("cannot make a folder")?;
    let layer = work.join("layer.tar");
    run(Command::new("tar")
        .args([
            "--sort=name",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "--mtime=@0",
            "-C",
        ])
        .arg(root.path())
        .arg("-cf")
        .arg(&layer)
        .arg("."))?;
    let sum = Command::new("sha256sum")
        .arg(&layer)
        .output()
        .context("cannot run sha256sum")?;
    let digest = String::from_utf8_lossy(&sum.stdout);
    let digest = digest
        .split_whitespace()
        .next()
        .context("sha256sum prints a digest")?;
    config["Env"] = json!([PATH]);
    config["WorkingDir"] = json!("/");
    let image = json!({
        "architecture": architecture, "os": "linux", "created": "1970-01-01T00:00:00Z", "config": config,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": names, "Layers": ["layer.tar"]}]);
    fs::write(work.join("config.json"), image.to_string()).context("cannot write an image")?;
    fs::write(work.join("manifest.json"), manifest.to_string()).context("cannot write an image")?;
    run(Command::new("tar")
        .arg("-C")
        .arg(&work)
        .arg("-cf")
        .arg(file)
        .args(["config.json", "manifest.json", "layer.tar"]))?;
    fs::remove_dir_all(&work).context("cannot remove a folder")
}
