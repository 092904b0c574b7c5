//! capset(2), prctl(2) and seccomp(2), as far as letting go takes them. All but [`filter`] concern the calling thread.

use std::io;

use libc::c_ulong;

/// `_LINUX_CAPABILITY_VERSION_3`: sets of 64 bits, in halves.
const VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Halves {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// What this thread may have.
pub(super) fn permitted() -> io::Result<u64> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut data = [Halves::default(); 2];
    // SAFETY: the kernel reads the header and writes two halves, which there are.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    done(result)?;
    Ok(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32)
}

/// Makes these capabilities the permitted and effective ones of this thread; none are inheritable.
pub(super) fn set_permitted(capabilities: u64) -> io::Result<()> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let data = [capabilities, capabilities >> 32].map(|bits| {
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
        let half = bits as u32;
        Halves {
            effective: half,
            permitted: half,
            inheritable: 0,
        }
    });
    // SAFETY: the kernel reads the header and two halves, which there are.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    done(result)
}

/// Whether what this thread executes might have the capability.
pub(super) fn is_bounded(capability: u32) -> bool {
    prctl(libc::PR_CAPBSET_READ, c_ulong::from(capability)).is_ok_and(|set| set == 1)
}

/// Takes a capability from whatever this thread executes. Asks for SETPCAP.
pub(super) fn unbound(capability: u32) -> io::Result<()> {
    prctl(libc::PR_CAPBSET_DROP, c_ulong::from(capability)).map(drop)
}

pub(super) fn clear_ambient() -> io::Result<()> {
    const CLEAR_ALL: c_ulong = 4;
    prctl(libc::PR_CAP_AMBIENT, CLEAR_ALL).map(drop)
}

/// No program that is executed gives more rights than there are.
pub(super) fn set_no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map(drop)
}

/// No core dump, and no look into this process's memory for whoever is no root with SYS_PTRACE.
pub(super) fn set_undumpable() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0).map(drop)
}

/// Lays a filter, and no-new-privileges, on every thread of this process. Takes no-new-privileges of this one.
pub(super) fn filter(program: &mut [libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the kernel reads `len` instructions, which there are, and checks them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            &raw const program,
        )
    };
    // More than 0: a thread that has another filter, which nobody here lays.
    match result {
        1.. => Err(io::Error::other(format!(
            "thread {result} has a filter of its own"
        ))),
        result => done(result),
    }
}

fn done(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn prctl(option: i32, argument: c_ulong) -> io::Result<i32> {
    let none: c_ulong = 0;
    // SAFETY: none of the options here takes a pointer.
    let result = unsafe { libc::prctl(option, argument, none, none, none) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
