//! The container images of the suite, and svc-agent's own, made from files of this machine under the names that upstream
//! asks for. A docker-archive of one layer each; no registry, no daemon.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use xtask::ebpf::find_program;

use super::Lab;
use super::binaries::source_of;
use crate::archive::{Root, save};
use crate::image::{self, Arch};
use crate::setup::{run, step};

pub(super) const COREDNS: &str = "svcplane.test/coredns:e2e";

/// Makes the suite's images. Those that are there are taken for good: remove `images` to have them made again.
pub(super) fn build(lab: &Lab) -> Result<()> {
    let folder = lab.dir.join("images");
    let names = folder.join("names");
    if names.exists() {
        return Ok(());
    }
    step("making the images of the suite");
    fs::create_dir_all(&folder).context("cannot make the folder of images")?;
    let list = Command::new(lab.bin("e2e.test"))
        .arg("--list-images")
        .output()
        .context("cannot ask e2e.test for its images")?;
    ensure!(list.status.success(), "e2e.test --list-images failed");
    let list = String::from_utf8(list.stdout).context("image names are UTF-8")?;
    let named = |part: &str| -> Result<String> {
        let name = list.lines().find(|line| line.contains(part));
        Ok(name
            .with_context(|| format!("the suite has no image {part}"))?
            .to_owned())
    };
    let work = folder.join("work");
    // What an interrupted run left.
    let _ = fs::remove_dir_all(&work);
    let save = |file: &str, names: &[String], root: &Root, config: serde_json::Value| {
        save(
            &folder.join(format!("{file}.tar")),
            names,
            root,
            Arch::HOST.name(),
            config,
        )
    };

    let agnhost = Root::tools(work.join("agnhost"))?;
    agnhost.add(&lab.bin("agnhost"), "agnhost")?;
    agnhost.add(&lab.bin("coredns"), "coredns")?;
    symlink("agnhost", agnhost.path().join("agnhost-2")).context("cannot link agnhost-2")?;
    let sources = PathBuf::from(source_of("k8s.io/kubernetes/test/images/agnhost")?);
    for file in ["localhost.crt", "localhost.key"] {
        agnhost.add(&sources.join("porter").join(file), file)?;
    }
    let mut tools: Vec<String> = list
        .lines()
        .filter(|line| line.contains("/agnhost:"))
        .map(str::to_owned)
        .collect();
    tools.extend([
        named("/glibc-dns-testing:")?,
        named("/distroless-iptables:")?,
    ]);
    save(
        "agnhost",
        &tools,
        &agnhost,
        json!({"Entrypoint": ["/agnhost"], "Cmd": ["pause"]}),
    )?;

    let busybox = Root::busybox(work.join("busybox"))?;
    save(
        "nginx",
        &[named("/nginx:1.15")?],
        &busybox,
        json!({"Cmd": ["httpd", "-f", "-p", "80"]}),
    )?;
    save(
        "busybox",
        &[named("/busybox:1.37")?],
        &busybox,
        json!({"Cmd": ["sh"]}),
    )?;

    let pause = Root::new(work.join("pause"))?;
    pause.add(&lab.bin("pause"), "pause")?;
    save(
        "pause",
        &[named("/pause:")?],
        &pause,
        json!({"Entrypoint": ["/pause"], "User": "65535:65535"}),
    )?;

    let coredns = Root::new(work.join("coredns"))?;
    coredns.add(&lab.bin("coredns"), "coredns")?;
    save(
        "coredns",
        &[COREDNS.to_owned()],
        &coredns,
        json!({"Entrypoint": ["/coredns"]}),
    )?;

    let regression = Root::new(work.join("regression"))?;
    regression.add(&lab.bin("regression-issue-74839"), "regression-issue-74839")?;
    let entry = json!({"Entrypoint": ["/regression-issue-74839"]});
    save(
        "regression",
        &[named("/regression-issue-74839:")?],
        &regression,
        entry,
    )?;

    fs::remove_dir_all(&work).context("cannot remove the images' files")?;
    fs::write(names, list).context("cannot note the names of images")
}

/// svc-agent with the libraries it is linked against.
pub(super) fn agent(lab: &Lab, agent: &Path, name: &str) -> Result<PathBuf> {
    let root = image::stage(agent, lab.state("image"), Arch::HOST)?;
    let file = lab.state("svc-agent.tar");
    image::pack(&file, name, &root, Arch::HOST)?;
    Ok(file)
}

impl Root {
    /// A small userland.
    fn busybox(path: PathBuf) -> Result<Self> {
        let root = Self::new(path)?;
        let busybox = find_program("busybox").context("busybox-static is not installed")?;
        root.add(&busybox, "bin/busybox")?;
        let applets = Command::new(&busybox)
            .arg("--list")
            .output()
            .context("cannot run busybox")?;
        for applet in String::from_utf8_lossy(&applets.stdout).lines() {
            if applet != "busybox" {
                symlink("/bin/busybox", root.path().join("bin").join(applet))
                    .context("cannot link an applet")?;
            }
        }
        for folder in ["uploads", "var/tmp", "usr/bin", "usr/sbin"] {
            fs::create_dir_all(root.path().join(folder))
                .context("cannot make an image's folder")?;
        }
        root.write(
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nuser-defined-in-image:x:1000:1000::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
        )?;
        root.write(
            "etc/group",
            "root:x:0:\nuser-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\nnogroup:x:65534:\n",
        )?;
        root.write("etc/nsswitch.conf", "hosts: files dns\n")?;
        Ok(root)
    }

    /// Real tools over busybox's applets, as the agnhost image has them.
    fn tools(path: PathBuf) -> Result<Self> {
        let root = Self::busybox(path)?;
        for library in ["libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2"] {
            let multiarch = format!("/lib/{}-linux-gnu/{library}", std::env::consts::ARCH);
            root.program(Path::new(&multiarch))?;
        }
        for (applet, program) in [
            ("wget", "wget"),
            ("getent", "getent"),
            ("ping", "ping"),
            ("bash", "bash"),
            ("curl", "curl"),
            ("nc", "nc.openbsd"),
            ("dig", "dig"),
            ("nslookup", "nslookup"),
            ("ip", "ip"),
            ("ss", "ss"),
            ("conntrack", "conntrack"),
            ("nft", "nft"),
            ("tcpdump", "tcpdump"),
            ("timeout", "timeout"),
            // busybox's shell would prefer its own applets.
            ("sh", "dash"),
            ("iptables", "xtables-nft-multi"),
        ] {
            let real =
                find_program(program).with_context(|| format!("{program} is not installed"))?;
            let real = fs::canonicalize(real).context("cannot follow a program's link")?;
            root.program(&real)?;
            let link = root.path().join("bin").join(applet);
            let _ = fs::remove_file(&link);
            if !link.exists() {
                symlink(&real, &link).context("cannot link a program")?;
            }
        }
        let multi = fs::canonicalize(
            find_program("xtables-nft-multi").context("iptables is not installed")?,
        )
        .context("cannot follow a program's link")?;
        for name in [
            "ip6tables",
            "iptables-save",
            "ip6tables-save",
            "iptables-restore",
            "ip6tables-restore",
        ] {
            symlink(&multi, root.path().join("usr/sbin").join(name))
                .context("cannot link iptables")?;
        }
        let extensions = format!("usr/lib/{}-linux-gnu/xtables", std::env::consts::ARCH);
        let parent = root.path().join(&extensions);
        fs::create_dir_all(parent.parent().context("has a parent")?)
            .context("cannot make a folder")?;
        run(Command::new("cp")
            .arg("-r")
            .arg(format!("/{extensions}"))
            .arg(&parent))?;
        Ok(root)
    }

    /// A program where the machine has it, and its libraries.
    fn program(&self, file: &Path) -> Result<()> {
        let real =
            fs::canonicalize(file).with_context(|| format!("there is no {}", file.display()))?;
        let path = |file: &Path| file.to_string_lossy().trim_start_matches('/').to_owned();
        self.add(&real, &path(file))?;
        if real != file {
            self.add(&real, &path(&real))?;
        }
        self.libraries(&real)
    }

    fn libraries(&self, program: &Path) -> Result<()> {
        let ldd = Command::new("ldd")
            .arg(program)
            .output()
            .context("cannot run ldd")?;
        for word in String::from_utf8_lossy(&ldd.stdout).split_whitespace() {
            if word.starts_with('/') && !self.path().join(&word[1..]).exists() {
                self.add(Path::new(word), &word[1..])?;
            }
        }
        Ok(())
    }
}
