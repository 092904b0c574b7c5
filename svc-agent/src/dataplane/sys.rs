//! The `bpf(2)` commands that aya 0.14 does not offer: links and pins of every kind (it cannot pin one of a cgroup), one
//! way for all, so that every link is pinned, found again and updated alike; and many entries of a map in one call.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

// enum bpf_cmd, include/uapi/linux/bpf.h
const OBJ_PIN: i32 = 6;
const OBJ_GET: i32 = 7;
const PROG_QUERY: i32 = 16;
const MAP_UPDATE_BATCH: i32 = 26;
const LINK_CREATE: i32 = 28;
const LINK_UPDATE: i32 = 29;
const LINK_DETACH: i32 = 34;

/// Room of `union bpf_attr` that the commands here use; the kernel takes the rest as zero.
type Attr = [u32; 16];

/// Attaches a program to a device (by index) or a cgroup (by descriptor). Linux 5.7; tcx 6.6.
pub(super) fn link_create(
    program: BorrowedFd<'_>,
    target: u32,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let mut attr: Attr = [0; 16];
    attr[..4].copy_from_slice(&[
        program.as_raw_fd().cast_unsigned(),
        target,
        attach_type,
        flags,
    ]);
    let fd = bpf(LINK_CREATE, &attr)?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Swaps the program of a link, atomically. ENOLINK: what it was attached to is gone.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr: Attr = [0; 16];
    attr[..2].copy_from_slice(&[
        link.as_raw_fd().cast_unsigned(),
        program.as_raw_fd().cast_unsigned(),
    ]);
    bpf(LINK_UPDATE, &attr).map(drop)
}

/// Takes a link's program off its hook before it returns, which closing the link's last reference does not. Linux 5.9.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr: Attr = [0; 16];
    attr[0] = link.as_raw_fd().cast_unsigned();
    bpf(LINK_DETACH, &attr).map(drop)
}

pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    bpf(
        OBJ_PIN,
        &path_attr(&path, object.as_raw_fd().cast_unsigned()),
    )
    .map(drop)
}

pub(super) fn get_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let fd = bpf(OBJ_GET, &path_attr(&path, 0))?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The ids of the programs at a device's tcx hook, in their order. Linux 6.6; asks for NET_ADMIN and no more.
pub(super) fn programs_at(device: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    /// `BPF_MPROG_MAX`: a hook has room for no more.
    const MOST: u32 = 64;
    let mut ids = [0u32; MOST as usize];
    let mut attr: Attr = [0; 16];
    attr[..2].copy_from_slice(&[device, attach_type]);
    attr[4..6].copy_from_slice(&halves(ids.as_mut_ptr() as u64));
    attr[6] = MOST;
    // SAFETY: the attribute and the ids outlive the call; the kernel writes at most as many ids as there is room for, and
    // the attribute, which is ours alone.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_QUERY,
            attr.as_mut_ptr(),
            size_of::<Attr>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let count = usize::try_from(attr[6]).unwrap_or(0).min(ids.len());
    Ok(ids[..count].to_vec())
}

/// Writes entries of a map in their order, there already or not. Linux 5.6.
///
/// The map's keys and values have the sizes of `K` and `V`.
pub(super) fn map_update_batch<K: aya::Pod, V: aya::Pod>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> io::Result<()> {
    let count = u32::try_from(keys.len().min(values.len()))
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut attr: Attr = [0; 16];
    attr[4..6].copy_from_slice(&halves(keys.as_ptr() as u64));
    attr[6..8].copy_from_slice(&halves(values.as_ptr() as u64));
    attr[8..10].copy_from_slice(&[count, map.as_raw_fd().cast_unsigned()]);
    // SAFETY: the attribute and both slices outlive the call; the kernel reads `count` keys and values, which there are,
    // and writes the attribute, which is ours alone.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            MAP_UPDATE_BATCH,
            attr.as_mut_ptr(),
            size_of::<Attr>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A 64-bit value as it lies in an attribute.
fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_ne_bytes();
    [[a, b, c, d], [e, f, g, h]].map(u32::from_ne_bytes)
}

fn path_attr(path: &CString, fd: u32) -> Attr {
    let mut attr: Attr = [0; 16];
    attr[..2].copy_from_slice(&halves(path.as_ptr() as u64));
    attr[2] = fd;
    attr
}

fn bpf(command: i32, attr: &Attr) -> io::Result<i32> {
    // SAFETY: the attribute outlives the call, its size is stated, and pointers in it are those of live CStrings.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of::<Attr>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(i32::try_from(result).unwrap_or(0))
    }
}

/// The cookie of this process's network namespace, by `SO_NETNS_COOKIE` (Linux 5.14).
pub(super) fn netns_cookie() -> io::Result<u64> {
    const SO_NETNS_COOKIE: i32 = 71;
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0))
        .or_else(|_| std::net::UdpSocket::bind("[::]:0"))?;
    let (mut cookie, mut len) = (0u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: the kernel writes at most `len` bytes to `cookie`, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(cookie)
    }
}

/// The values of an array map (`BPF_F_MMAPABLE`, Linux 5.5), in place. Programs and others write there meanwhile.
pub(super) struct Mapping {
    start: *mut libc::c_void,
    len: usize,
}

// SAFETY: a place in memory that belongs to no thread; whoever reads or writes there minds the others.
unsafe impl Send for Mapping {}

impl Mapping {
    pub(super) fn of(map: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        // SAFETY: asks for a place that nobody has.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start, len })
    }

    /// The `number`th value.
    pub(super) fn value<T>(&self, number: u32) -> Option<*mut T> {
        let number = usize::try_from(number).ok()?;
        let end = number.checked_add(1)?.checked_mul(size_of::<T>())?;
        // SAFETY: within the mapping, which begins at a page.
        (end <= self.len).then(|| unsafe { self.start.cast::<T>().add(number) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nobody has a reference to what is there.
        unsafe { libc::munmap(self.start, self.len) };
    }
}

/// Puts `new` where `old` is, atomically; false if something else is there.
///
/// # Safety
/// `at` is in a [`Mapping`], aligned, and written atomically by everybody.
pub(super) unsafe fn swap(at: *mut u32, old: u32, new: u32) -> bool {
    use std::sync::atomic::{AtomicU32, Ordering};
    // SAFETY: as the caller vouches.
    let at = unsafe { AtomicU32::from_ptr(at) };
    at.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
        .is_ok()
}
