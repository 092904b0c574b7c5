//! A guest's files, as the kernel unpacks them: a cpio archive (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::setup::run;

const FOLDER: u32 = 0o040_755;
const LINK: u32 = 0o120_777;
const FILE: u32 = 0o100_000;

pub(super) struct Files {
    out: BufWriter<File>,
    there: BTreeSet<String>,
}

impl Files {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self {
            out: BufWriter::new(file),
            there: BTreeSet::new(),
        })
    }

    pub(super) fn folder(&mut self, path: &str) -> Result<()> {
        self.add(path, FOLDER, &[])
    }

    pub(super) fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.add(path, LINK, target.as_bytes())
    }

    pub(super) fn bytes(&mut self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        self.add(path, FILE | mode, content)
    }

    /// A program, and the libraries that it is linked with where they are here.
    pub(super) fn program(&mut self, from: &Path, path: &str) -> Result<()> {
        self.copy(from, path)?;
        for library in libraries(from)? {
            self.copy(&library, library.to_string_lossy().trim_start_matches('/'))?;
        }
        Ok(())
    }

    fn copy(&mut self, from: &Path, path: &str) -> Result<()> {
        if self.there.contains(path) {
            return Ok(());
        }
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.bytes(path, &content, 0o755)
    }

    pub(super) fn finish(mut self) -> Result<()> {
        self.write("TRAILER!!!", 0, &[])?;
        self.out.flush().context("cannot write the guest's files")
    }

    /// With the folders above it.
    fn add(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        if !self.there.insert(path.to_owned()) {
            return Ok(());
        }
        if let Some((above, _)) = path.rsplit_once('/') {
            self.add(above, FOLDER, &[])?;
        }
        self.write(path, mode, content)
            .context("cannot write the guest's files")
    }

    fn write(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let inode = u32::try_from(self.there.len())?;
        let size = u32::try_from(content.len()).context("a file of 4 GiB")?;
        let name = u32::try_from(path.len() + 1)?;
        let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name, 0];
        let mut head = String::from("070701");
        for field in fields {
            head += &format!("{field:08x}");
        }
        head += path;
        self.out.write_all(head.as_bytes())?;
        // The name ends with a zero; it and the content are padded to four bytes.
        self.out.write_all(&[0; 4][..4 - head.len() % 4])?;
        self.out.write_all(content)?;
        self.out
            .write_all(&[0; 3][..content.len().wrapping_neg() % 4])?;
        Ok(())
    }
}

/// Without what only debuggers read, which is most of it.
pub(super) fn strip(program: &Path, to: &Path) -> Result<()> {
    run(Command::new("strip").arg("-o").arg(to).arg(program))
}

fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output();
    let output = output.context("cannot run ldd")?;
    // It fails at a program that is linked with none.
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = text.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(words.map(PathBuf::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_what_was_put_in_with_the_folders_above() {
        let path = std::env::temp_dir().join(format!("xtask-cpio-{}", std::process::id()));
        let mut files = Files::create(&path).unwrap();
        files.bytes("a/b/file", b"hello", 0o644).unwrap();
        files.link("a/link", "b/file").unwrap();
        files.finish().unwrap();
        let archive = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(archive.len() % 4, 0);
        let mut names = Vec::new();
        let mut at = 0;
        while at < archive.len() {
            assert_eq!(&archive[at..at + 6], b"070701");
            let field = |number: usize| {
                let from = at + 6 + number * 8;
                let text = std::str::from_utf8(&archive[from..from + 8]).unwrap();
                usize::from_str_radix(text, 16).unwrap()
            };
            let (size, name) = (field(6), field(11));
            let text = &archive[at + 110..at + 110 + name - 1];
            names.push(String::from_utf8_lossy(text).into_owned());
            let content = (at + 110 + name).next_multiple_of(4);
            if names.last().is_some_and(|name| name == "a/b/file") {
                assert_eq!(&archive[content..content + size], b"hello");
            }
            at = (content + size).next_multiple_of(4);
        }
        assert_eq!(names, ["a", "a/b", "a/b/file", "a/link", "TRAILER!!!"]);
    }
}
