//! Whether this kernel runs packets' programs in turns. The programs keep the packet at hand in per-CPU maps, which is safe
//! where softirqs of one CPU exclude each other. With PREEMPT_RT they do only under a lock that newer kernels leave out
//! (CONFIG_PREEMPT_RT_NEEDS_BH_LOCK).

use std::fs;

const LOCK: &str = "CONFIG_PREEMPT_RT_NEEDS_BH_LOCK";

/// What is to be said of this kernel, if anything.
pub fn warning() -> Option<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let realtime = read("/sys/kernel/realtime").trim() == "1"
        || read("/proc/sys/kernel/version").contains("PREEMPT_RT");
    let release = read("/proc/sys/kernel/osrelease");
    let config = fs::read_to_string(format!("/boot/config-{}", release.trim())).ok();
    (realtime && !takes_turns(config.as_deref())).then(|| {
        format!(
            "the kernel is PREEMPT_RT: unless it is built with {LOCK}=y, or knows no such option, packets of one CPU can \
             get into each other's way, be lost or misdirected; use a kernel without PREEMPT_RT or with that option"
        )
    })
}

/// By the configuration that a real-time kernel was built with. Before there was the option, there always was the lock.
fn takes_turns(config: Option<&str>) -> bool {
    config.is_some_and(|config| {
        !config.contains(LOCK) || config.lines().any(|line| line == format!("{LOCK}=y"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_realtime_kernel_takes_turns_with_the_lock_only() {
        let with = |line: &str| {
            takes_turns(Some(&format!(
                "CONFIG_PREEMPT_RT=y\n{line}\nCONFIG_NET=y\n"
            )))
        };
        assert!(with("CONFIG_PREEMPT_RT_NEEDS_BH_LOCK=y"));
        assert!(with("CONFIG_PREEMPT_COUNT=y"));
        assert!(!with("# CONFIG_PREEMPT_RT_NEEDS_BH_LOCK is not set"));
        assert!(!takes_turns(None), "nobody knows");
    }
}
