//! `cargo xtask setup`: checks what the other verbs need and installs what is missing, saying each step. Decides by
//! trying: Debian's rustc with a prebuilt core for eBPF where apt has it, else rustup's nightly with rust-src.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use xtask::ebpf::{Compiler, find_linker, find_program};

/// Debian's name of a core prebuilt for eBPF, and of the rustc it belongs to.
const PREBUILT: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];
const LINKER_VERSION: &str = "0.13.0";
/// What this version of bpf-linker can be built against, newest first.
const LLVMS: [u32; 3] = [23, 22, 21];

pub fn setup() -> Result<()> {
    ensure!(cfg!(target_os = "linux"), "svcplane runs on Linux only");
    for (program, package) in [
        ("ip", "iproute2"),
        ("ethtool", "ethtool"),
        ("cc", "gcc"),
        // The tests put kube-proxy's rules there to see them found.
        ("nft", "nftables"),
        ("iptables-nft", "iptables"),
    ] {
        if find_program(program).is_none() {
            apt_install(&[package])?;
        }
    }
    let compiler = match Compiler::find() {
        Some(compiler) => compiler,
        None => install_compiler()?,
    };
    if !linker_fits(&compiler)? {
        install_linker(&compiler)?;
        ensure!(
            linker_fits(&compiler)?,
            "bpf-linker is installed but does not run: see `bpf-linker --version`"
        );
    }
    Ok(())
}

/// Sets up and says so: what the verb `setup` itself does.
pub fn report() -> Result<()> {
    setup()?;
    let compiler = match Compiler::find().context("the compiler is gone again")? {
        Compiler::Rustup { toolchain } => format!("{} with rust-src", toolchain.display()),
        Compiler::Prebuilt { rustc } => format!("{} with its prebuilt core", rustc.display()),
    };
    let linker = find_linker().context("bpf-linker is gone again")?;
    println!(
        "setup: nothing is missing; eBPF is compiled by {compiler} and linked by {}",
        linker.display()
    );
    Ok(())
}

fn install_compiler() -> Result<Compiler> {
    if apt_has(PREBUILT[1]) {
        apt_install(&PREBUILT)?;
    } else {
        let rustup = find_program("rustup").context(
            "no compiler for eBPF: apt does not know libstd-rust-web-dev-bpf, and rustup is not installed",
        )?;
        step("installing rustup's nightly toolchain with rust-src");
        run(Command::new(rustup).args([
            "toolchain",
            "install",
            "nightly",
            "--profile",
            "minimal",
            "--component",
            "rust-src",
        ]))?;
    }
    Compiler::find().context("the compiler for eBPF was installed but is not found")
}

/// Whether there is a bpf-linker that starts and whose LLVM is not older than the compiler's.
fn linker_fits(compiler: &Compiler) -> Result<bool> {
    let Some(linker) = find_linker() else {
        return Ok(false);
    };
    let output = Command::new(&linker).arg("--version").output();
    let runs = output.is_ok_and(|output| output.status.success());
    if !runs {
        return Ok(false);
    }
    let Some(linked) = linked_llvm(&linker) else {
        return Ok(true);
    };
    Ok(linked >= llvm_of(compiler)?)
}

/// The LLVM a dynamically linked bpf-linker names in its needed libraries: `libLLVM.so.22.1`.
fn linked_llvm(linker: &Path) -> Option<u32> {
    let program = std::fs::read(linker).ok()?;
    let name = b"libLLVM.so.";
    let at = program
        .windows(name.len())
        .position(|window| window == name)?
        + name.len();
    let digits = program[at..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    digits
        .map(|byte| char::from(*byte))
        .collect::<String>()
        .parse()
        .ok()
}

fn install_linker(compiler: &Compiler) -> Result<()> {
    let wanted = llvm_of(compiler)?;
    let llvm = LLVMS
        .into_iter()
        .filter(|llvm| *llvm >= wanted)
        .rev()
        .find(|llvm| {
            llvm_prefix(*llvm).join("lib/libLLVM.so").exists()
                || apt_has(&format!("llvm-{llvm}-dev"))
        });
    let Some(llvm) = llvm else {
        return fetch_linker(wanted);
    };
    if !llvm_prefix(llvm).join("lib/libLLVM.so").exists() {
        let packages = [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")];
        apt_install(&[&packages[0], &packages[1], "libzstd-dev", "zlib1g-dev"])?;
    }
    step("building bpf-linker (a minute or two)");
    run(cargo_install("bpf-linker")
        .args([
            "--version",
            LINKER_VERSION,
            "--force",
            "--no-default-features",
            "--features",
            &format!("llvm-{llvm}"),
        ])
        .env("LLVM_PREFIX", llvm_prefix(llvm)))
}

/// Where no package of LLVM is new enough: bpf-linker's own releases, which contain theirs.
fn fetch_linker(wanted: u32) -> Result<()> {
    step(&format!(
        "apt has no LLVM {wanted} or later: fetching a released bpf-linker with cargo-binstall"
    ));
    if find_program("cargo-binstall").is_none() {
        run(&mut cargo_install("cargo-binstall"))?;
    }
    run(cargo().args(["binstall", "--no-confirm", "--force", "bpf-linker"])).context(
        "install bpf-linker by hand, as its README says, and run `cargo xtask setup` again",
    )
}

fn cargo_install(name: &str) -> Command {
    let mut command = cargo();
    command
        .args(["install", name, "--locked", "--quiet"])
        .env_remove("CARGO_TARGET_DIR");
    command
}

fn llvm_prefix(llvm: u32) -> std::path::PathBuf {
    Path::new("/usr/lib").join(format!("llvm-{llvm}"))
}

fn llvm_of(compiler: &Compiler) -> Result<u32> {
    let rustc = match compiler {
        Compiler::Rustup { toolchain } => toolchain.join("bin/rustc"),
        Compiler::Prebuilt { rustc } => rustc.clone(),
    };
    let output = Command::new(&rustc)
        .arg("-vV")
        .output()
        .with_context(|| format!("cannot run {}", rustc.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "));
    let major = version.and_then(|version| version.split('.').next()?.parse().ok());
    major.with_context(|| format!("{} -vV names no LLVM version", rustc.display()))
}

/// Whether apt could install the package; refreshes its lists once when it knows nothing.
fn apt_has(package: &str) -> bool {
    let known = || {
        let output = Command::new("apt-cache").args(["policy", package]).output();
        output.is_ok_and(|output| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.contains("Candidate:") && !text.contains("Candidate: (none)")
        })
    };
    known() || (apt_update().is_ok() && known())
}

fn apt_update() -> Result<()> {
    static DONE: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    if DONE.swap(true, std::sync::atomic::Ordering::Relaxed) {
        return Ok(());
    }
    ensure!(find_program("apt-get").is_some(), "no apt-get here");
    need_root("apt-get update")?;
    step("refreshing apt's package lists");
    run(Command::new("apt-get").args(["update", "-qq"]))
}

pub fn apt_install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if find_program("apt-get").is_none() {
        bail!(
            "missing: {list}; there is no apt-get here, so install what these Debian packages contain by hand"
        );
    }
    need_root(&format!("apt-get install {list}"))?;
    // A bare machine's lists are empty or stale.
    apt_update()?;
    step(&format!("installing {list} (apt-get)"));
    run(Command::new("apt-get")
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive"))
}

fn need_root(what: &str) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "`{what}` needs root: run `cargo xtask setup` as root once"
    );
    Ok(())
}

pub fn step(what: &str) {
    println!("setup: {what}");
}

/// Runs a command whose output is of interest only when it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output();
    let output =
        output.with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if !output.status.success() {
        let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        eprint!("{}", String::from_utf8_lossy(&output.stdout));
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        bail!(
            "`{} {}` failed; its output is above",
            command.get_program().display(),
            words.join(" ")
        );
    }
    Ok(())
}

/// Cargo, without what the cargo that runs xtask says about xtask: some build scripts would run again for it.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_")
            || text.starts_with("CARGO_MANIFEST_")
            || text.starts_with("CARGO_BIN_")
        {
            cargo.env_remove(&name);
        }
    }
    cargo
}
