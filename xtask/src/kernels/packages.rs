//! Debian's packaged kernels, from the mirror that this machine's apt uses, by apt with lists of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::step;
use crate::setup::run;

/// A release of Debian, whose kernel is tried.
pub(super) struct Release {
    pub(super) name: &'static str,
    /// Its archives at a mirror, and their names there.
    suites: &'static [(&'static str, &'static str)],
    /// Whether README says that it works.
    pub(super) promised: bool,
}

pub(super) const RELEASES: [Release; 4] = [
    Release {
        name: "bullseye",
        suites: &[
            ("debian", "bullseye"),
            ("debian-security", "bullseye-security"),
        ],
        promised: false,
    },
    Release {
        name: "bookworm",
        suites: &[
            ("debian", "bookworm"),
            ("debian-security", "bookworm-security"),
        ],
        promised: true,
    },
    Release {
        name: "trixie",
        suites: &[("debian", "trixie"), ("debian-security", "trixie-security")],
        promised: true,
    },
    Release {
        name: "sid",
        suites: &[("debian", "sid")],
        promised: true,
    },
];

/// Depends on the release's current kernel. Made for virtual machines: it lacks drivers, nothing of the network's stack.
const NEWEST: &str = "linux-image-cloud-amd64";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An unpacked kernel.
pub(super) struct Kernel {
    pub(super) version: String,
    pub(super) image: PathBuf,
    pub(super) modules: PathBuf,
}

/// Downloads and unpacks it, unless that was done before.
pub(super) fn fetch(release: &Release, folder: &Path, update: bool) -> Result<Kernel> {
    ensure!(
        std::env::consts::ARCH == "x86_64",
        "only amd64 kernels are tried so far"
    );
    let root = folder.join("root");
    if let (Some(kernel), false) = (unpacked(&root), update) {
        return Ok(kernel);
    }
    let apt = Apt::new(release, folder)?;
    step(&format!("fetching the kernel of {}", release.name));
    run(apt.command("apt-get").args(["update", "-qq"]))?;
    let packages = apt.packages()?;
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    run(apt
        .command("apt-get")
        .args(["download", "-qq"])
        .args(packages)
        .current_dir(&root))?;
    let files: Vec<_> = fs::read_dir(&root)?.flatten().collect();
    for file in files.iter().map(fs::DirEntry::path) {
        run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&root))?;
        fs::remove_file(&file)?;
    }
    unpacked(&root).with_context(|| format!("the packages of {} have no kernel", release.name))
}

/// Of a folder with one kernel's packages in it. Newer ones have the image beside the modules.
fn unpacked(root: &Path) -> Option<Kernel> {
    let folders = ["lib/modules", "usr/lib/modules"].map(|folder| root.join(folder));
    let modules = folders.into_iter().find(|folder| folder.is_dir())?;
    let modules = fs::read_dir(modules).ok()?.flatten().next()?.path();
    let version = modules.file_name()?.to_str()?.to_owned();
    let images = [
        root.join("boot").join(format!("vmlinuz-{version}")),
        modules.join("vmlinuz"),
    ];
    Some(Kernel {
        image: images.into_iter().find(|image| image.is_file())?,
        version,
        modules,
    })
}

/// apt as if this release were the machine's.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn new(release: &Release, folder: &Path) -> Result<Self> {
        let (lists, cache) = (folder.join("lists"), folder.join("cache"));
        for folder in [&lists, &cache] {
            fs::create_dir_all(folder.join("partial"))
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let mut sources = String::new();
        let signed = if Path::new(KEYRING).exists() {
            format!(" signed-by={KEYRING}")
        } else {
            String::new()
        };
        for (archive, suite) in release.suites {
            let mirror = mirror(archive)?;
            sources += &format!("deb [arch=amd64{signed}] {mirror} {suite} main\n");
        }
        let list = folder.join("sources.list");
        fs::write(&list, sources).with_context(|| format!("cannot write {}", list.display()))?;
        let options = [
            format!("Dir::Etc::SourceList={}", list.display()),
            "Dir::Etc::SourceParts=/dev/null".into(),
            format!("Dir::State::Lists={}", lists.display()),
            format!("Dir::Cache={}", cache.display()),
            "Acquire::Languages=none".into(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
            // A release that is no longer kept has lists whose time is over.
            "Acquire::Check-Valid-Until=false".into(),
            "APT::Sandbox::User=root".into(),
        ];
        Ok(Self {
            options: options.into(),
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }

    /// The packages that the kernel consists of: one, or one each for the image and its modules.
    fn packages(&self) -> Result<Vec<String>> {
        let (mut asked, mut found) = (vec![NEWEST.to_owned()], Vec::new());
        while let Some(package) = asked.pop() {
            let output = self
                .command("apt-cache")
                .args(["depends", "--important", &package])
                .output()
                .context("cannot run apt-cache")?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let needed = text
                .lines()
                .filter_map(|line| line.trim().split_once("epends: "))
                .map(|(_, name)| name)
                .filter(|name| is_part(name));
            for name in needed.map(str::to_owned) {
                if !found.contains(&name) {
                    found.push(name.clone());
                    asked.push(name);
                }
            }
        }
        ensure!(!found.is_empty(), "{NEWEST} depends on no kernel");
        Ok(found)
    }
}

/// Whether a package has a part of a kernel: `linux-image-6.1.0-40-cloud-amd64`.
fn is_part(package: &str) -> bool {
    ["linux-image-", "linux-binary-", "linux-modules-"]
        .iter()
        .filter_map(|kind| package.strip_prefix(kind))
        .any(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

/// Where this machine's apt finds an archive of Debian's.
fn mirror(archive: &str) -> Result<String> {
    let parts = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten();
    let mut files: Vec<_> = parts.flatten().map(|entry| entry.path()).collect();
    files.push("/etc/apt/sources.list".into());
    files.sort();
    let texts: Vec<_> = files.iter().flat_map(fs::read_to_string).collect();
    let found = texts.iter().find_map(|text| uri(text, archive));
    found.map(str::to_owned).with_context(|| {
        format!(
            "apt's sources name no mirror of Debian's archive {archive:?}: kernels come from there"
        )
    })
}

/// Of a file of apt's, in either of its formats.
fn uri<'a>(sources: &'a str, archive: &str) -> Option<&'a str> {
    let lines = sources.lines().filter(|line| !line.starts_with('#'));
    let mut words = lines.flat_map(str::split_whitespace);
    words.find(|word| {
        let path = word.split_once("://").map(|(_, path)| path);
        path.is_some_and(|path| path.trim_end_matches('/').rsplit('/').next() == Some(archive))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_found_in_both_formats_of_sources() {
        let new = "Types: deb\n# http://old/debian/x\nURIs: http://mirror/debian\nSuites: bookworm\n\n\
                   URIs: http://mirror/debian-security/\n";
        let old = "deb [arch=amd64] https://mirror/pub/debian/ bookworm main\n";
        assert_eq!(uri(new, "debian"), Some("http://mirror/debian"));
        let security = uri(new, "debian-security");
        assert_eq!(security, Some("http://mirror/debian-security/"));
        assert_eq!(uri(old, "debian"), Some("https://mirror/pub/debian/"));
        assert_eq!(uri(old, "debian-security"), None);
    }

    #[test]
    fn packages_of_a_kernel_are_told_by_their_version() {
        for part in [
            "linux-image-6.1.0-40-cloud-amd64",
            "linux-modules-6.17.9+deb14-cloud-amd64",
        ] {
            assert!(is_part(part), "{part}");
        }
        for other in [
            "linux-image-cloud-amd64",
            "linux-base",
            "<linux-initramfs-tool>",
        ] {
            assert!(!is_part(other), "{other}");
        }
    }
}
