//! `cargo xtask kernels`: the programs, the packet tests and real sockets on the kernels of Debian's releases, in QEMU, and
//! on the one that runs here. Prints which kernel takes what.

mod guest;
mod initramfs;
mod modules;
mod packages;
mod report;
mod stages;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xtask::ebpf::find_program;

use crate::build::{Artifact, artifacts};
use crate::layers::Counts;
use crate::setup::{apt_install, cargo, setup};
use packages::{RELEASES, Release};
use report::Row;

/// The kernel that runs here, as `--only` calls it.
const HOST: &str = "host";

/// Seconds that a guest may take.
const TIMEOUT: u64 = 3_600;

#[derive(clap::Args)]
pub struct KernelsArgs {
    /// Only these: releases of Debian, or `host` for the kernel that runs here.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Looks for newer packages than those that were fetched before.
    #[arg(long)]
    update: bool,
    /// Every packet test, the random ones too, and more of the tests with sockets.
    #[arg(long)]
    long: bool,
    /// What one guest may take.
    #[arg(long, value_name = "SECONDS", default_value_t = TIMEOUT)]
    timeout: u64,
}

impl KernelsArgs {
    /// Of `cargo xtask test --layer kernels`.
    pub fn of_a_layer(long: bool) -> Self {
        Self {
            only: Vec::new(),
            update: false,
            long,
            timeout: TIMEOUT,
        }
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

pub fn kernels(args: &KernelsArgs) -> Result<ExitCode> {
    let rows = rows(args)?;
    print!("{}", report::table(&rows));
    Ok(if rows.iter().all(Row::is_as_promised) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The same as counts of tests, with a line for each promise that was not kept.
pub fn counts(args: &KernelsArgs, failures: &mut Vec<String>) -> Result<Counts> {
    let rows = rows(args)?;
    print!("{}", report::table(&rows));
    let (kept, broken): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.is_as_promised());
    failures.extend(
        broken
            .iter()
            .map(|row| format!("kernels: {}", row.complaint())),
    );
    Ok(Counts {
        passed: kept.len() as u64,
        failed: broken.len() as u64,
        skipped: 0,
    })
}

fn step(what: &str) {
    println!("kernels: {what}");
}

fn rows(args: &KernelsArgs) -> Result<Vec<Row>> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "`cargo xtask kernels` loads programs and makes namespaces here as well: run it as root"
    );
    let known = |only: &String| only == HOST || RELEASES.iter().any(|r| r.name == only);
    if let Some(unknown) = args.only.iter().find(|only| !known(only)) {
        let names: Vec<_> = RELEASES.iter().map(|release| release.name).collect();
        anyhow::bail!(
            "no kernel is called {unknown:?}: say {HOST}, {}",
            names.join(", ")
        );
    }
    let work = Work::new()?;
    let script = stages::script(args.long);
    let mut rows = Vec::new();
    if args.wants(HOST) {
        rows.push(work.on_host(&script)?);
    }
    let wanted: Vec<_> = RELEASES.iter().filter(|r| args.wants(r.name)).collect();
    if !wanted.is_empty() {
        for (program, package) in [
            ("qemu-system-x86_64", "qemu-system-x86"),
            ("busybox", "busybox"),
            ("xz", "xz-utils"),
        ] {
            if find_program(program).is_none() {
                apt_install(&[package])?;
            }
        }
    }
    for release in wanted {
        rows.push(work.in_guest(release, args, &script)?);
    }
    Ok(rows)
}

/// The folder that all of it happens in, and the programs that the stages start.
struct Work {
    folder: PathBuf,
    programs: PathBuf,
}

impl Work {
    fn new() -> Result<Self> {
        setup()?;
        let exe = std::env::current_exe().context("cannot find this executable")?;
        let target = exe.ancestors().nth(2);
        let folder = target
            .context("xtask lies in no target folder")?
            .join("kernels");
        let programs = folder.join("programs");
        let _ = fs::remove_dir_all(&programs);
        fs::create_dir_all(&programs)
            .with_context(|| format!("cannot make {}", programs.display()))?;
        let mut build = cargo();
        build.args(["build", "--quiet", "-p", "svc-agent", "-p", "xtask"]);
        build.args(["-p", "svc-tests", "--bins"]);
        for test in stages::TESTS {
            build.args(["--test", test]);
        }
        let built = artifacts(&mut build)?;
        for name in stages::TESTS.into_iter().chain(["svc-agent", "xtask"]) {
            let is_it = |a: &&Artifact| a.target == name && a.test == (a.kind == "test");
            let artifact = built.iter().find(is_it);
            let artifact = artifact.with_context(|| format!("cargo built no {name}"))?;
            symlink(&artifact.executable, programs.join(name)).context("cannot make a link")?;
        }
        Ok(Self { folder, programs })
    }

    fn on_host(&self, script: &str) -> Result<Row> {
        step("the kernel that runs here");
        let start = Instant::now();
        let log = self.folder.join("host.log");
        stages::run_here(script, &self.programs, &log)?;
        let text = fs::read_to_string(&log).context("cannot read the stages' output")?;
        Ok(Row::read(HOST, true, &text, start.elapsed()))
    }

    fn in_guest(&self, release: &Release, args: &KernelsArgs, script: &str) -> Result<Row> {
        let folder = self.folder.join(release.name);
        let kernel = packages::fetch(release, &folder, args.update)?;
        step(&format!("{} under QEMU ({})", kernel.version, release.name));
        let start = Instant::now();
        let image = folder.join("initramfs");
        self.pack(&kernel, script, &image)?;
        let limit = Duration::from_secs(args.timeout);
        let text = guest::run(&kernel.image, &image, &folder, limit)?;
        fs::remove_file(&image).context("cannot remove the guest's files")?;
        Ok(Row::read(
            release.name,
            release.promised,
            &text,
            start.elapsed(),
        ))
    }

    /// The guest's files: our programs, what they call, their libraries, the kernel's modules.
    fn pack(&self, kernel: &packages::Kernel, script: &str, image: &Path) -> Result<()> {
        let mut files = initramfs::Files::create(image)?;
        for name in fs::read_dir(&self.programs)?.flatten() {
            let name = name.file_name();
            let stripped = self.folder.join("stripped");
            initramfs::strip(&self.programs.join(&name), &stripped)?;
            files.program(&stripped, &format!("svcplane/{}", name.to_string_lossy()))?;
            fs::remove_file(&stripped)?;
        }
        for tool in ["ip", "tc", "ethtool"] {
            let path = find_program(tool).with_context(|| format!("{tool} is gone again"))?;
            files.program(&path, &format!("bin/{tool}"))?;
        }
        let busybox = find_program("busybox").context("busybox is gone again")?;
        files.program(&busybox, "bin/busybox")?;
        for applet in guest::APPLETS {
            files.link(&format!("bin/{applet}"), "busybox")?;
        }
        files.link("var/run", "/run")?;
        for folder in ["proc", "sys", "dev", "tmp", "run"] {
            files.folder(folder)?;
        }
        let mut order = String::new();
        for module in modules::in_order(&kernel.modules)? {
            files.bytes(
                &format!("modules/{}.ko", module.name),
                &module.content,
                0o644,
            )?;
            order += &format!("{}\n", module.name);
        }
        files.bytes("modules/order", order.as_bytes(), 0o644)?;
        files.bytes("stages", script.as_bytes(), 0o755)?;
        files.bytes("init", guest::INIT.as_bytes(), 0o755)?;
        files.finish()
    }
}
