//! `cargo xtask image`: svc-agent's container image, for this machine's architecture or the other one, without docker.
//! What it is made of lies in target/image/ARCH, from where deploy/Dockerfile takes it, too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use xtask::ebpf::find_program;

use crate::archive::{Root, save};
use crate::build::artifacts;
use crate::setup::{apt_install, cargo, run, setup, step};
use crate::supply::bill;

#[derive(clap::Args)]
pub struct ImageArgs {
    /// For which machines; may be repeated [default: those like this one].
    #[arg(long)]
    arch: Vec<Arch>,
    /// What the image is called.
    #[arg(long, default_value = concat!("svc-agent:", env!("CARGO_PKG_VERSION")))]
    name: String,
}

/// As images call them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    /// Of this machine.
    pub const HOST: Self = if cfg!(target_arch = "aarch64") {
        Self::Arm64
    } else {
        Self::Amd64
    };

    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// As Rust, Linux and QEMU call it.
    fn machine(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    pub fn triple(self) -> String {
        format!("{}-unknown-linux-gnu", self.machine())
    }

    /// A program of the GNU toolchain for it.
    fn tool(self, name: &str) -> String {
        if self == Self::HOST {
            name.to_owned()
        } else {
            format!("{}-linux-gnu-{name}", self.machine())
        }
    }

    /// Debian's package of the cross compiler.
    fn compiler(self) -> &'static str {
        match self {
            Self::Amd64 => "gcc-x86-64-linux-gnu",
            Self::Arm64 => "gcc-aarch64-linux-gnu",
        }
    }
}

pub fn image(args: &ImageArgs) -> Result<()> {
    setup()?;
    let arches = if args.arch.is_empty() {
        &[Arch::HOST][..]
    } else {
        &args.arch
    };
    for arch in arches {
        let (agent, target) = build(*arch)?;
        let folder = target.join("image");
        let root = folder.join(arch.name());
        // What an earlier run left.
        let _ = fs::remove_dir_all(&root);
        let root = stage(&agent, root, *arch)?;
        smoke(root.path(), *arch)?;
        let file = folder.join(format!("svc-agent-{}.tar", arch.name()));
        pack(&file, &args.name, &root, *arch)?;
        let bom = folder.join(format!("svc-agent-{}.cdx.json", arch.name()));
        let files = root.files()?;
        let libraries: Vec<_> = files
            .into_iter()
            .filter(|(path, _)| path.starts_with("lib"))
            .collect();
        fs::write(&bom, bill(*arch, &libraries)?)
            .with_context(|| format!("cannot write {}", bom.display()))?;
        println!("{}: {} for {}", file.display(), args.name, arch.name());
        println!("{}: what it is made of", bom.display());
    }
    Ok(())
}

/// An optimised svc-agent that names no folder of this machine, and the target folder that it lies in.
fn build(arch: Arch) -> Result<(PathBuf, PathBuf)> {
    let triple = arch.triple();
    let mut command = cargo();
    if arch != Arch::HOST {
        let compiler = arch.tool("gcc");
        if find_program(&compiler).is_none() {
            apt_install(&[arch.compiler()])?;
        }
        // Where there is no rustup, rustc has the target or says that it has not.
        if let Some(rustup) = find_program("rustup") {
            run(Command::new(rustup).args(["target", "add", &triple]))?;
        }
        let name = triple.replace('-', "_");
        command
            .env(
                format!("CARGO_TARGET_{}_LINKER", name.to_uppercase()),
                &compiler,
            )
            .env(format!("CC_{name}"), &compiler);
    }
    step(&format!("building svc-agent for {}", arch.name()));
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask lies in the workspace")?;
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cargo")));
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let flags: Vec<String> = std::iter::once(remap(sources, "svcplane"))
        .chain(home.map(|home| remap(&home, "cargo")))
        .collect();
    let built = artifacts(
        command
            .args([
                "build",
                "--locked",
                "--package",
                "svc-agent",
                "--bins",
                "--release",
                "--target",
                &triple,
            ])
            .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
            // 0x1f is cargo's separator.
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f")),
    )?;
    let agent = built
        .into_iter()
        .find(|artifact| artifact.target == "svc-agent");
    let agent = agent.context("cargo built no svc-agent")?.executable;
    // target/TRIPLE/release/svc-agent
    let target = agent
        .ancestors()
        .nth(3)
        .context("it lies in no target folder")?;
    let target = target.to_owned();
    Ok((agent, target))
}

/// The root folder of the image: svc-agent and the libraries that it is linked against.
pub fn stage(agent: &Path, root: PathBuf, arch: Arch) -> Result<Root> {
    let root = Root::new(root)?;
    root.add(agent, "svc-agent")?;
    root.write("etc/nsswitch.conf", "hosts: files dns\n")?;
    let multiarch = format!("lib/{}-linux-gnu", arch.machine());
    let loader = elf(agent, "-l", "Requesting program interpreter: ")?;
    let loader = loader.first().context("svc-agent names no loader")?;
    let name = loader.rsplit('/').next().unwrap_or(loader);
    root.add(&library(arch, name)?, loader.trim_start_matches('/'))?;
    let mut files = vec![agent.to_owned()];
    while let Some(file) = files.pop() {
        for needed in elf(&file, "-d", "Shared library: [")? {
            let path = format!("{multiarch}/{needed}");
            if needed != name && !root.path().join(&path).exists() {
                let file = library(arch, &needed)?;
                root.add(&file, &path)?;
                files.push(file);
            }
        }
    }
    Ok(root)
}

/// The image as a docker-archive.
pub fn pack(file: &Path, name: &str, root: &Root, arch: Arch) -> Result<()> {
    let config = json!({"Entrypoint": ["/svc-agent"]});
    save(file, &[name.to_owned()], root, arch.name(), config)
}

/// What readelf says behind these words.
fn elf(file: &Path, flag: &str, words: &str) -> Result<Vec<String>> {
    let output = Command::new("readelf")
        .args(["-W", flag])
        .arg(file)
        .output()
        .context("cannot run readelf")?;
    ensure!(
        output.status.success(),
        "readelf cannot read {}",
        file.display()
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let said = text.lines().filter_map(|line| line.split(words).nth(1));
    Ok(said
        .map(|rest| rest.trim_end().trim_end_matches(']').to_owned())
        .collect())
}

/// Where the compiler for this architecture has a library.
fn library(arch: Arch, name: &str) -> Result<PathBuf> {
    let compiler = arch.tool("gcc");
    let output = Command::new(&compiler)
        .arg(format!("-print-file-name={name}"))
        .output()
        .with_context(|| format!("cannot run {compiler}"))?;
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    ensure!(path.is_absolute(), "{compiler} knows no {name}");
    Ok(path)
}

/// Runs what was staged, by QEMU where this machine cannot: it starts, explains itself, and looks at the node.
fn smoke(root: &Path, arch: Arch) -> Result<()> {
    let loader = elf(
        &root.join("svc-agent"),
        "-l",
        "Requesting program interpreter: ",
    )?;
    let loader = loader.first().context("svc-agent names no loader")?;
    let run = |words: &[&str]| -> Result<(Option<i32>, String)> {
        let mut command = if arch == Arch::HOST {
            // By its own loader and libraries, not this machine's.
            let mut command = Command::new(root.join(loader.trim_start_matches('/')));
            let multiarch = format!("lib/{}-linux-gnu", arch.machine());
            command.arg("--library-path").arg(root.join(multiarch));
            command
        } else {
            let qemu = format!("qemu-{}-static", arch.machine());
            if find_program(&qemu).is_none() {
                apt_install(&["qemu-user-static"])?;
            }
            let mut command = Command::new(qemu);
            command.arg("-L").arg(root);
            command
        };
        let output = command.arg(root.join("svc-agent")).args(words).output();
        let output = output.context("cannot run the svc-agent that was built")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        Ok((output.status.code(), text))
    };
    for (words, codes, says) in [
        (
            &["--version"][..],
            &[0][..],
            concat!("svc-agent ", env!("CARGO_PKG_VERSION")),
        ),
        (&["run", "--help"], &[0], "--bpf-root"),
        // Whether this machine could run it is another question.
        (&["check"], &[0, 1], "Linux "),
        (&["run", "--xdp", "fast"], &[2], "possible values"),
    ] {
        let (code, text) = run(words)?;
        if !code.is_some_and(|code| codes.contains(&code)) || !text.contains(says) {
            bail!(
                "`svc-agent {}` of the image ended with {code:?} and said:\n{text}",
                words.join(" ")
            );
        }
    }
    step(&format!("svc-agent for {} starts and answers", arch.name()));
    Ok(())
}
