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
        Some(unsafe { at.read() })
    }

    /// Overwrites the `T` at `off`; None past the end.
    #[inline(always)]
    pub fn set<T: Pod>(&self, off: usize, value: T) -> Option<()> {
        let at = self.at::<T>(off)?;
        // SAFETY: as in `get`; the bytes are writable by the contract of `new`.
        unsafe { at.write(value) };
        Some(())
    }

    #[inline(always)]
    fn at<T: Pod>(&self, off: usize) -> Option<*mut T> {
        // Headers lie at even offsets, and that is all: the BPF backend would split anything wider into bytes.
        const {
            assert!(
                align_of::<T>() <= 2 && size_of::<T>() <= 64,
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
