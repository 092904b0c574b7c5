//! A packet's bytes as the verifier wants them: a start and an end pointer, compared before every access.
//!
//! The crate's only `unsafe` besides the Pod impls of [`crate::table`] and [`crate::family`].

use bytemuck::Pod;

/// The linear bytes of a packet. Copying it copies two pointers.
#[derive(Clone, Copy)]
pub struct Packet<'a> {
    start: usize,
    end: usize,
    _bytes: core::marker::PhantomData<&'a core::cell::Cell<u8>>,
}

impl<'a> Packet<'a> {
    /// # Safety
    /// `start` is even; `start .. end` is readable and writable for `'a`, and nobody else holds a reference into it.
    #[inline(always)]
    pub const unsafe fn new(start: usize, end: usize) -> Self {
        Self {
            start,
            end,
            _bytes: core::marker::PhantomData,
        }
    }

    /// A packet in ordinary memory, for tests and tools.
    pub fn of(bytes: &'a mut [u8]) -> Self {
        let range = bytes.as_mut_ptr_range();
        assert!(
            (range.start as usize).is_multiple_of(2),
            "a packet starts at an even address"
        );
        // SAFETY: the exclusive borrow lasts for 'a.
        unsafe { Self::new(range.start as usize, range.end as usize) }
    }

    /// Bytes from the start to the end.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.end == self.start
    }

    /// A copy of the `T` at the even offset `off` (any offset for bytes), or None past the end.
    #[inline(always)]
    pub fn get<T: Pod>(&self, off: usize) -> Option<T> {
        let at = self.at::<T>(off)?;
        // SAFETY: `at` has checked the bounds and the alignment; Pod has no invalid values.
        Some(unsafe { read(at) })
    }

    /// Overwrites the `T` at `off`; None past the end.
    #[inline(always)]
    pub fn set<T: Pod>(&self, off: usize, value: T) -> Option<()> {
        let at = self.at::<T>(off)?;
        // SAFETY: as in `get`; the bytes are writable by the contract of `new`.
        unsafe { write(at, value) };
        Some(())
    }

    #[inline(always)]
    fn at<T: Pod>(&self, off: usize) -> Option<*mut T> {
        // Headers lie at even offsets, and that is all.
        const {
            assert!(
                align_of::<T>() <= 4 && size_of::<T>() <= 64,
                "copied by value"
            )
        };
        // The verifier knows a pointer to be in bounds when the very register, plus a constant, was compared with the end:
        // "invalid access to packet, off=10 size=2, R3(id=42,off=10,r=10)" when LLVM adds up the two sides on its own.
        let at = add(self.start, off);
        if at + size_of::<T>() > self.end {
            None
        } else {
            Some(at as *mut T)
        }
    }
}

/// # Safety
/// Valid for reads; aligned to two bytes if `T` has any alignment.
#[inline(always)]
unsafe fn read<T: Pod>(at: *mut T) -> T {
    if align_of::<T>() <= 2 {
        // SAFETY: by the contract.
        return unsafe { at.read() };
    }
    let mut value = T::zeroed();
    let mut i = 0;
    while i < size_of::<T>() / 4 {
        // SAFETY: by the contract; `value` is as long, and aligned to four bytes.
        unsafe {
            (&raw mut value)
                .cast::<u32>()
                .add(i)
                .write(load(at.cast::<u8>().add(4 * i)));
        }
        i += 1;
    }
    value
}

/// # Safety
/// Valid for writes; aligned to two bytes if `T` has any alignment.
#[inline(always)]
unsafe fn write<T: Pod>(at: *mut T, value: T) {
    if align_of::<T>() <= 2 {
        // SAFETY: by the contract.
        return unsafe { at.write(value) };
    }
    let mut i = 0;
    while i < size_of::<T>() / 4 {
        // SAFETY: as in `read`.
        unsafe {
            let word = (&raw const value).cast::<u32>().add(i).read();
            store(at.cast::<u8>().add(4 * i), word);
        }
        i += 1;
    }
}

/// Four bytes from anywhere, which is one instruction: the BPF backend would split them, but the kernel allows it where
/// the processor does.
///
/// # Safety
/// Valid for reads.
#[cfg(target_arch = "bpf")]
#[inline(always)]
unsafe fn load(at: *const u8) -> u32 {
    let word: u64;
    // SAFETY: by the contract.
    unsafe {
        core::arch::asm!("{0} = *(u32 *)({1} + 0)", out(reg) word, in(reg) at, options(readonly, nostack));
    }
    word as u32
}

#[cfg(not(target_arch = "bpf"))]
unsafe fn load(at: *const u8) -> u32 {
    // SAFETY: by the contract.
    unsafe { at.cast::<u32>().read_unaligned() }
}

/// # Safety
/// Valid for writes.
#[cfg(target_arch = "bpf")]
#[inline(always)]
unsafe fn store(at: *mut u8, word: u32) {
    // SAFETY: by the contract.
    unsafe {
        core::arch::asm!("*(u32 *)({0} + 0) = {1}", in(reg) at, in(reg) word as u64, options(nostack));
    }
}

#[cfg(not(target_arch = "bpf"))]
unsafe fn store(at: *mut u8, word: u32) {
    // SAFETY: by the contract.
    unsafe { at.cast::<u32>().write_unaligned(word) }
}

/// `start + off`, as one instruction whose result the optimiser cannot take apart.
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn add(mut start: usize, off: usize) -> usize {
    // SAFETY: an addition.
    unsafe {
        core::arch::asm!("{0} += {1}", inout(reg) start, in(reg) off, options(pure, nomem, nostack));
    }
    start
}

#[cfg(not(target_arch = "bpf"))]
fn add(start: usize, off: usize) -> usize {
    start + off
}
