//! Programs → hooks. A link is pinned under the name of what it is attached to; a name that is found is taken over.

pub(super) mod clsact;
mod hook;

pub use hook::{BIND_HOOKS, Hook, SOCKET_HOOKS, XdpMode};

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::{Program, ProgramError, ProgramFd};

use super::{Error, sys};
use hook::cgroup_hooks;

/// Loads every program of the object.
pub(super) fn load_programs(ebpf: &mut Ebpf) -> Result<(), Error> {
    let devices = [
        "pod_ingress",
        "pod_egress",
        "node_ingress",
        "node_egress",
        "node_ingress_l3",
        "node_egress_l3",
        "node_xdp",
    ];
    for name in devices
        .into_iter()
        .chain(cgroup_hooks().map(|(name, _)| name))
    {
        let loaded = load_program(ebpf.program_mut(name).ok_or(Error::Missing(name))?);
        loaded.map_err(|cause| Error::Program { name, cause })?;
    }
    Ok(())
}

/// Loads one program of a kind that the object has. The verifier gives up with EAGAIN when a signal comes in.
pub fn load_program(program: &mut Program) -> Result<(), ProgramError> {
    const TRIES: usize = 10;
    let mut load = || match program {
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    let interrupted = |result: &Result<(), ProgramError>| match result {
        Err(ProgramError::LoadError { io_error, .. }) => {
            io_error.kind() == io::ErrorKind::WouldBlock
        }
        _ => false,
    };
    (1..TRIES)
        .map(|_| load())
        .find(|result| !interrupted(result))
        .unwrap_or_else(&mut load)
}

fn program_fd<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a ProgramFd, Error> {
    let fd = match ebpf.program(name).ok_or(Error::Missing(name))? {
        Program::SchedClassifier(program) => program.fd(),
        Program::Xdp(program) => program.fd(),
        Program::CgroupSockAddr(program) => program.fd(),
        _ => return Err(Error::Missing(name)),
    };
    fd.map_err(|cause| Error::Program { name, cause })
}

pub(super) struct Links {
    folder: PathBuf,
    /// Kernels before 6.6 have no tcx.
    tcx: bool,
    attached: BTreeMap<(u32, Hook), String>,
}

impl Links {
    pub(super) fn open(folder: PathBuf) -> Result<Self, Error> {
        Ok(Self {
            folder,
            tcx: clsact::is_obsolete(),
            attached: BTreeMap::new(),
        })
    }

    pub(super) fn attached(&self) -> &BTreeMap<(u32, Hook), String> {
        &self.attached
    }

    pub(super) fn devices_with_xdp(&self) -> BTreeSet<u32> {
        self.attached
            .iter()
            .filter(|((_, hook), _)| matches!(hook, Hook::Xdp(_)))
            .map(|((ifindex, _), _)| *ifindex)
            .collect()
    }

    pub(super) fn attach_devices(
        &mut self,
        ebpf: &mut Ebpf,
        wanted: &BTreeMap<(u32, Hook), String>,
    ) -> Vec<Error> {
        let mut refused = self.detach_others(wanted);
        for (&(ifindex, hook), device) in wanted {
            if let Some(known) = self.attached.get_mut(&(ifindex, hook)) {
                // It may have been renamed.
                known.clone_from(device);
                continue;
            }
            match self.attach(ebpf, ifindex, hook, device) {
                Ok(()) => {
                    tracing::debug!("{} on {device}", hook.pin_name());
                    self.attached.insert((ifindex, hook), device.clone());
                }
                Err(error) => refused.push(error),
            }
        }
        refused
    }

    fn attach(&self, ebpf: &mut Ebpf, ifindex: u32, hook: Hook, device: &str) -> Result<(), Error> {
        if let (Some(direction), false) = (hook.direction(), self.tcx) {
            return clsact::attach(ebpf, hook.program(), device, direction);
        }
        let (attach_type, flags) = hook.attach();
        let program = program_fd(ebpf, hook.program())?.as_fd();
        let path = self.folder.join(hook.pin(ifindex));
        self.place(
            hook.program(),
            program,
            ifindex,
            attach_type,
            flags,
            &path,
            device,
        )
    }

    /// Swaps the program of the pinned link, or makes and pins a new one.
    #[expect(clippy::too_many_arguments, reason = "the operands of one system call")]
    fn place(
        &self,
        name: &'static str,
        program: BorrowedFd<'_>,
        target: u32,
        attach_type: u32,
        flags: u32,
        path: &Path,
        on: &str,
    ) -> Result<(), Error> {
        if let Ok(link) = sys::get_pinned(path) {
            match sys::link_update(link.as_fd(), program) {
                Ok(()) => return Ok(()),
                // The device or cgroup that it was attached to is gone, and this is another of the same name.
                Err(error) => tracing::debug!("replacing the link {}: {error}", path.display()),
            }
            drop(link);
            remove(path)?;
        }
        let link: OwnedFd =
            sys::link_create(program, target, attach_type, flags).map_err(|cause| {
                Error::Attach {
                    name,
                    target: on.to_owned(),
                    cause,
                }
            })?;
        sys::pin(link.as_fd(), path).map_err(|cause| Error::Pin {
            what: "pin",
            path: path.into(),
            cause,
        })
    }

    /// Removes the links that nobody wants, those of devices that are gone among them.
    fn detach_others(&mut self, wanted: &BTreeMap<(u32, Hook), String>) -> Vec<Error> {
        let keep: BTreeSet<String> = wanted
            .keys()
            .map(|(ifindex, hook)| hook.pin(*ifindex))
            .collect();
        let mut refused = Vec::new();
        let names = Hook::ALL.map(Hook::pin_name);
        let pins = match entries(&self.folder) {
            Ok(pins) => pins,
            Err(error) => return vec![error],
        };
        for path in pins {
            let name = path
                .file_name()
                .map(|n| n.to_string_lossy().into_owned())
                .unwrap_or_default();
            let ours = name
                .split_once('@')
                .is_some_and(|(hook, _)| names.contains(&hook));
            if ours && !keep.contains(&name) {
                refused.extend(remove(&path).err());
            }
        }
        for ((_, hook), device) in self
            .attached
            .extract_if(.., |at, _| !wanted.contains_key(at))
        {
            if let (Some(direction), false) = (hook.direction(), self.tcx) {
                clsact::detach(&device, direction, hook.program());
            }
        }
        refused
    }

    /// The pin of a socket hook carries the cgroup's inode: a link cannot move to another cgroup.
    pub(super) fn attach_sockets(
        &mut self,
        ebpf: &mut Ebpf,
        cgroup: Option<(&Path, &[(&'static str, u32)])>,
    ) -> Result<(), Error> {
        let mut keep = BTreeSet::new();
        if let Some((cgroup, hooks)) = cgroup {
            let failed = |cause| Error::Pin {
                what: "open cgroup",
                path: cgroup.into(),
                cause,
            };
            let folder = fs::File::open(cgroup).map_err(failed)?;
            let inode = folder.metadata().map_err(failed)?.ino();
            let target = folder.as_raw_fd().cast_unsigned();
            for &(name, attach_type) in hooks {
                let program = program_fd(ebpf, name)?.as_fd();
                let path = self.folder.join(format!("{name}@{inode}"));
                // Links attach to cgroups as BPF_F_ALLOW_MULTI does: programs of others keep running.
                self.place(
                    name,
                    program,
                    target,
                    attach_type,
                    0,
                    &path,
                    &cgroup.display().to_string(),
                )?;
                keep.insert(path);
            }
        }
        let of_sockets = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            cgroup_hooks().any(|(hook, _)| name.split('@').next() == Some(hook))
        };
        let pins = entries(&self.folder)?;
        pins.iter()
            .filter(|path| of_sockets(path) && !keep.contains(*path))
            .try_for_each(|path| remove(path))
    }
}

/// Whether a program at a device is called as one of ours is. The kernel keeps the first 15 characters.
pub(super) fn is_ours(name: &str) -> bool {
    let mut hooks = Hook::ALL.iter();
    !name.is_empty() && hooks.any(|hook| hook.program().starts_with(name))
}

/// The pins in a folder.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |cause| Error::Pin {
        what: "read",
        path: folder.into(),
        cause,
    };
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
        Ok(entries) => entries
            .map(|entry| Ok(entry.map_err(failed)?.path()))
            .collect(),
    }
}

/// Detaches a pinned link, and removes its pin. Without its pin alone a program would go on for a moment: the kernel
/// frees links in the background.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    if let Ok(link) = sys::get_pinned(path) {
        // Refused where the device or cgroup is gone already, and with it the program.
        let _ = sys::link_detach(link.as_fd());
    }
    match fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(Error::Pin {
            what: "remove",
            path: path.into(),
            cause,
        }),
        _ => Ok(()),
    }
}
