//! Programs on kernels without tcx (before 6.6): filters of the clsact qdisc, which stay when the agent goes.

use std::fs;
use std::io;

use aya::Ebpf;
use aya::programs::tc::{NlOptions, TcAttachOptions, TcHandle};
use aya::programs::{SchedClassifier, TcAttachType, tc};
use aya::util::KernelVersion;

use super::Hook;
use crate::dataplane::Error;

/// Priority and handle of our filters on kernels without tcx: fixed, so that a new agent replaces its predecessor's.
const CLSACT_PRIORITY: u16 = 1;
const CLSACT_HANDLE: TcHandle = TcHandle::new(0, 0x5c);

/// Whether this kernel has tcx, so that nothing here is needed.
pub(super) fn is_obsolete() -> bool {
    KernelVersion::current().map_or(true, |version| version >= KernelVersion::new(6, 6, 0))
}

/// Removes a filter; that of a device that is gone went with it.
pub(super) fn detach(device: &str, direction: TcAttachType, program: &str) {
    let _ = tc::qdisc_detach_program(device, direction, program);
}

/// Attaches through the clsact qdisc. The filter stays when the agent goes.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    name: &'static str,
    device: &str,
    direction: TcAttachType,
) -> Result<(), Error> {
    let failed = |error: String| Error::Attach {
        name,
        target: device.to_owned(),
        cause: io::Error::other(error),
    };
    // It is there already on all but the first start.
    let _ = tc::qdisc_add_clsact(device);
    let program: &mut SchedClassifier = ebpf
        .program_mut(name)
        .ok_or(Error::Missing(name))?
        .try_into()
        .map_err(|cause| Error::Program { name, cause })?;
    let options = || {
        TcAttachOptions::Netlink(NlOptions {
            priority: CLSACT_PRIORITY,
            handle: CLSACT_HANDLE,
            ..NlOptions::default()
        })
    };
    let old =
        tc::SchedClassifierLink::attached(device, direction, CLSACT_PRIORITY, CLSACT_HANDLE, None);
    let id = match old
        .map_err(|e| failed(e.to_string()))
        .map(|old| program.attach_to_link(old))
    {
        Ok(Ok(id)) => id,
        _ => program
            .attach_with_options(device, direction, options())
            .map_err(|e| failed(e.to_string()))?,
    };
    // Dropping the link would detach it.
    let link = program.take_link(id).map_err(|e| failed(e.to_string()))?;
    std::mem::forget(link);
    Ok(())
}

/// Removes our filters from every device of this network namespace, on kernels without tcx.
pub(crate) fn detach_all() {
    if is_obsolete() {
        return;
    }
    let devices = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let names = devices
        .lines()
        .filter_map(|line| Some(line.split_once(':')?.0.trim()));
    for device in names {
        for hook in Hook::ALL {
            if let Some(direction) = hook.direction() {
                detach(device, direction, hook.program());
            }
        }
    }
}
