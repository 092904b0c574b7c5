//! The demo's own copy of the examples, with a file per Pod, so that each can change.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

#[derive(Debug)]
pub struct Manifests {
    folder: PathBuf,
}

impl Manifests {
    pub fn copy_to(folder: &Path) -> Result<Self> {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("examples");
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let manifests = Self {
            folder: folder.to_owned(),
        };
        let entries = fs::read_dir(&examples)
            .with_context(|| format!("cannot read {}", examples.display()))?;
        for entry in entries {
            let path = entry?.path();
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let name = path
                .file_stem()
                .context("an example has a name")?
                .to_string_lossy()
                .into_owned();
            for (number, document) in text.split("\n---\n").enumerate() {
                let own = pod_name(document).unwrap_or_else(|| format!("{name}-{number}"));
                manifests.write(&own, document)?;
            }
        }
        Ok(manifests)
    }

    pub fn folder(&self) -> String {
        self.folder.display().to_string()
    }

    /// Replaces the first occurrence in a Pod's file, as an editor would: by renaming a new file over the old.
    pub fn edit(&self, name: &str, from: &str, to: &str) -> Result<()> {
        let path = self.path(name);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(
            text.contains(from),
            "{} has no {from:?} to change",
            path.display()
        );
        self.write(name, &text.replacen(from, to, 1))
    }

    pub fn delete(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        fs::remove_file(&path).with_context(|| format!("cannot delete {}", path.display()))
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let new = self.folder.with_file_name(format!(".{name}.new"));
        let path = self.path(name);
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name).with_extension("yaml")
    }
}

fn pod_name(document: &str) -> Option<String> {
    document.lines().find(|line| *line == "kind: Pod")?;
    document
        .lines()
        .find_map(|line| line.strip_prefix("  name: "))
        .map(str::to_owned)
}
