//! Which compiler builds svc-ebpf, and the command that does it. Shared by `cargo xtask setup` and svc-agent's build
//! script (by `#[path]`), so that both agree. Only std; looks at files, starts nothing.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

pub const TARGET: &str = "bpfel-unknown-none";
pub const MISSING: &str = "no compiler for eBPF found: run `cargo xtask setup`";
pub const MISSING_LINKER: &str = "bpf-linker not found: run `cargo xtask setup`";

/// A way to compile for eBPF: `core` from its sources, or prebuilt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compiler {
    /// A rustup toolchain with rust-src: builds `core` itself.
    Rustup { toolchain: PathBuf },
    /// A rustc whose sysroot has `core` for eBPF, as Debian packages it.
    Prebuilt { rustc: PathBuf },
}

impl Compiler {
    pub fn find() -> Option<Self> {
        Self::with_sources().or_else(Self::prebuilt)
    }

    fn with_sources() -> Option<Self> {
        let mut toolchains: Vec<_> = rustup_home()?
            .join("toolchains")
            .read_dir()
            .ok()?
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("nightly"))
            .map(|entry| entry.path())
            .filter(|path| {
                path.join("lib/rustlib/src/rust/library/core").is_dir()
                    && path.join("bin/cargo").is_file()
            })
            .collect();
        // `nightly-x86_64-…` sorts after every `nightly-2026-…`.
        toolchains.sort();
        toolchains.pop().map(|toolchain| Self::Rustup { toolchain })
    }

    fn prebuilt() -> Option<Self> {
        let sysroots = ["/usr", "/usr/local"];
        sysroots
            .into_iter()
            .map(PathBuf::from)
            .find(|sysroot| {
                sysroot.join("bin/rustc").is_file()
                    && sysroot
                        .join("lib/rustlib")
                        .join(TARGET)
                        .join("lib")
                        .is_dir()
            })
            .map(|sysroot| Self::Prebuilt {
                rustc: sysroot.join("bin/rustc"),
            })
    }

    /// `cargo build` of an object of svc-ebpf into `target_dir`, rid of what an outer cargo (or its clippy) leaves in the environment.
    pub fn build(&self, object: &str, linker: &Path, target_dir: &Path) -> Command {
        let mut cargo = match self {
            Self::Rustup { toolchain } => {
                let mut cargo = Command::new(toolchain.join("bin/cargo"));
                cargo.env("RUSTC", toolchain.join("bin/rustc"));
                cargo
            }
            Self::Prebuilt { rustc } => {
                let mut cargo =
                    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
                // aya-ebpf wants asm_experimental_arch.
                cargo.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
                cargo
            }
        };
        for leaked in [
            "CARGO_BUILD_RUSTC",
            "CARGO_BUILD_RUSTC_WRAPPER",
            "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER",
            "CARGO_BUILD_RUSTFLAGS",
            "CARGO_BUILD_TARGET",
            "CARGO_MANIFEST_DIR",
            "CARGO_TARGET_DIR",
            "CLIPPY_ARGS",
            "CLIPPY_CONF_DIR",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTC_WRAPPER",
            "RUSTDOC",
            "RUSTDOCFLAGS",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
        ] {
            cargo.env_remove(leaked);
        }
        let linker_flag = format!("-Clinker={}", linker.display());
        // The same object from whichever folder it is built in: it says where its source is, for the verifier's messages.
        let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
        let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
        let sources = remap(sources.parent().unwrap_or(sources), "svcplane");
        let home = remap(&cargo_home(), "cargo");
        let flags = [
            &arch_cfg(),
            &sources,
            &home,
            "-Cdebuginfo=2",
            "-Clink-arg=--btf",
            // 32-bit instructions (Linux 5.1): fewer of them, and less stack.
            "-Ctarget-cpu=v3",
            &linker_flag,
        ];
        // 0x1f is cargo's separator; unlike RUSTFLAGS it allows blanks in paths.
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        cargo.args([
            "build",
            "--locked",
            "--quiet",
            "--package",
            "svc-ebpf",
            "--bin",
            object,
            "--profile",
            "bpf",
            "--target",
            TARGET,
        ]);
        if matches!(self, Self::Rustup { .. }) {
            cargo.args(["-Z", "build-std=core"]);
        }
        cargo.arg("--target-dir").arg(target_dir);
        cargo
    }

    /// Where `build` leaves the object.
    pub fn object(object: &str, target_dir: &Path) -> PathBuf {
        target_dir.join(TARGET).join("bpf").join(object)
    }
}

/// bpf-linker, in `PATH` or where `cargo install` puts it.
pub fn find_linker() -> Option<PathBuf> {
    find_program("bpf-linker")
}

pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([
            cargo_home().join("bin"),
            PathBuf::from("/usr/sbin"),
            PathBuf::from("/usr/local/go/bin"),
        ])
        .map(|dir| dir.join(name))
        .find(|program| program.is_file())
}

/// The layout of `pt_regs` and the like follows the machine the programs run on.
fn arch_cfg() -> String {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_else(|_| env::consts::ARCH.to_owned());
    format!("--cfg=bpf_target_arch=\"{arch}\"")
}

fn rustup_home() -> Option<PathBuf> {
    let home = env::var_os("RUSTUP_HOME").map_or_else(|| home().join(".rustup"), PathBuf::from);
    home.is_dir().then_some(home)
}

fn cargo_home() -> PathBuf {
    env::var_os("CARGO_HOME").map_or_else(|| home().join(".cargo"), PathBuf::from)
}

fn home() -> PathBuf {
    PathBuf::from(env::var_os("HOME").unwrap_or_else(|| OsString::from("/")))
}
