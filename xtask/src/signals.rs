//! What a signal must not leave behind: namespaces, mounts and processes outlive the one that made them.

use std::os::fd::{AsRawFd, IntoRawFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use anyhow::{Context, Result};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

type Remove = Box<dyn Fn() + Send>;

static LIVE: Mutex<Vec<(String, Remove)>> = Mutex::new(Vec::new());
static WAKE: AtomicI32 = AtomicI32::new(-1);

/// From now on, and until [`forget`], SIGINT, SIGTERM and SIGHUP call `remove` before the process ends.
pub fn before_the_end(name: &str, remove: impl Fn() + Send + 'static) -> Result<()> {
    static ONCE: Once = Once::new();
    live().push((name.to_owned(), Box::new(remove)));
    let mut outcome = Ok(());
    ONCE.call_once(|| outcome = install());
    outcome
}

/// What has this name is gone, or is to stay.
pub fn forget(name: &str) {
    live().retain(|(live, _)| live != name);
}

fn live() -> MutexGuard<'static, Vec<(String, Remove)>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn install() -> Result<()> {
    let (read, write) = nix::unistd::pipe().context("cannot make a pipe")?;
    for fd in [read.as_raw_fd(), write.as_raw_fd()] {
        nix::ioctl_none_bad!(close_on_exec, nix::libc::FIOCLEX);
        // SAFETY: FIOCLEX takes no argument and the descriptor is open.
        unsafe { close_on_exec(fd) }.context("cannot mark a pipe close-on-exec")?;
    }
    WAKE.store(write.into_raw_fd(), Ordering::SeqCst);
    std::thread::spawn(move || {
        let mut signal = [0; 1];
        while nix::unistd::read(&read, &mut signal) != Ok(1) {}
        // Held until the end: a thread whose children were just killed must not report that as a failure.
        let live = live();
        for (_, remove) in live.iter() {
            remove();
        }
        std::process::exit(128 + i32::from(signal[0]));
    });
    let action = SigAction::new(
        SigHandler::Handler(wake),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only writes one byte to a descriptor that stays open: async-signal-safe.
        unsafe { sigaction(signal, &action) }.context("cannot handle signals")?;
    }
    Ok(())
}

extern "C" fn wake(signal: i32) {
    let byte = u8::try_from(signal).unwrap_or(1);
    // SAFETY: the descriptor is the pipe's writing end, never closed; the buffer is one byte of this frame.
    unsafe { nix::libc::write(WAKE.load(Ordering::SeqCst), (&raw const byte).cast(), 1) };
}
