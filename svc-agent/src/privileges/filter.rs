//! The system calls that a running agent has no use for, and the classic BPF program that answers them with EPERM. Of what
//! is not named here nothing changes: a list of what is allowed would break with the next C library.

use libc::{c_long, sock_filter};

/// What an agent may still want, by its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Kubeconfigs can name programs that fetch credentials.
    pub(super) programs: bool,
    /// Sockets of pods are aborted in their network namespaces.
    pub(super) namespaces: bool,
}

/// On every architecture.
const NEVER: &[c_long] = &[
    // Others' memory and descriptors.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Another kernel, more of this one, its end.
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_syslog,
    // File systems and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_acct,
    libc::SYS_unshare,
    libc::SYS_mknodat,
    libc::SYS_fchownat,
    // Files by handle, which go past the folders that they lie in.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    // The node's clock and name.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // Other users.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_personality,
    // What bugs of kernels were reached through.
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

#[cfg(target_arch = "x86_64")]
const NEVER_HERE: &[c_long] = &[
    libc::SYS_kexec_file_load,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_mknod,
    libc::SYS_chown,
    libc::SYS_lchown,
];
#[cfg(not(target_arch = "x86_64"))]
const NEVER_HERE: &[c_long] = &[libc::SYS_kexec_file_load];

const PROGRAMS: &[c_long] = &[libc::SYS_execve, libc::SYS_execveat];
const NAMESPACES: &[c_long] = &[libc::SYS_setns];

/// Of bpf(2), by its first argument: BPF_PROG_LOAD, BPF_RAW_TRACEPOINT_OPEN, BPF_BTF_LOAD. The programs are loaded.
const NEVER_OF_BPF: [u32; 3] = [5, 17, 18];

/// As the kernel names this architecture to filters (include/uapi/linux/audit.h).
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Where `struct seccomp_data` has the call's number, the architecture and the lower half of the first argument.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const FIRST: u32 = 16;

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
const ALLOW: u32 = 0x7fff_0000;
const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
/// Numbers of x32's calls, which would go past the list.
const X32: u32 = 0x4000_0000;

/// The calls that are refused.
pub(super) fn refused(wanted: Wanted) -> Vec<c_long> {
    let mut calls = [NEVER, NEVER_HERE].concat();
    if !wanted.programs {
        calls.extend(PROGRAMS);
    }
    if !wanted.namespaces {
        calls.extend(NAMESPACES);
    }
    calls
}

/// The program that refuses them.
pub(super) fn program(wanted: Wanted) -> Vec<sock_filter> {
    let calls = refused(wanted);
    // What follows the calls: the two verdicts, and bpf's commands between.
    let refuse = 4 + calls.len() + 2 + NEVER_OF_BPF.len() + 1;
    let mut program = Vec::with_capacity(refuse + 1);
    // To `refuse` from the instruction that is pushed next, and to where that is not so.
    let to_refuse = |program: &Vec<sock_filter>| offset(program.len(), refuse);
    program.push(instruction(LOAD, ARCH, 0, 0));
    let jump = to_refuse(&program);
    program.push(instruction(IF_EQUAL, ARCHITECTURE, 0, jump));
    program.push(instruction(LOAD, NUMBER, 0, 0));
    let jump = to_refuse(&program);
    program.push(instruction(IF_LEAST, X32, jump, 0));
    for call in calls {
        let jump = to_refuse(&program);
        program.push(instruction(IF_EQUAL, number(call), jump, 0));
    }
    let jump = offset(program.len(), refuse - 1);
    program.push(instruction(IF_EQUAL, number(libc::SYS_bpf), 0, jump));
    program.push(instruction(LOAD, FIRST, 0, 0));
    for command in NEVER_OF_BPF {
        let jump = to_refuse(&program);
        program.push(instruction(IF_EQUAL, command, jump, 0));
    }
    program.push(instruction(RETURN, ALLOW, 0, 0));
    program.push(instruction(RETURN, REFUSE, 0, 0));
    program
}

fn number(call: c_long) -> u32 {
    u32::try_from(call).expect("numbers of system calls are small")
}

/// Jumps count from the instruction after.
fn offset(from: usize, to: usize) -> u8 {
    u8::try_from(to - from - 1).expect("the program is shorter than a jump")
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    let code = u16::try_from(code).expect("codes have sixteen bits");
    sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Wanted = Wanted {
        programs: false,
        namespaces: false,
    };

    /// What the kernel would do.
    fn verdict(program: &[sock_filter], arch: u32, call: u32, first: u32) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let holds = match u32::from(code) {
                LOAD => {
                    accumulator = match k {
                        NUMBER => call,
                        ARCH => arch,
                        FIRST => first,
                        other => panic!("loads {other}"),
                    };
                    continue;
                }
                IF_EQUAL => accumulator == k,
                IF_LEAST => accumulator >= k,
                RETURN => return k,
                other => panic!("code {other}"),
            };
            at += usize::from(if holds { jt } else { jf });
        }
    }

    fn of(wanted: Wanted, call: c_long, first: u32) -> u32 {
        verdict(&program(wanted), ARCHITECTURE, number(call), first)
    }

    #[test]
    fn what_is_refused_is_exactly_what_is_listed() {
        let refused = refused(NOTHING);
        for call in 0..600 {
            let expected = if refused.contains(&call) {
                REFUSE
            } else {
                ALLOW
            };
            assert_eq!(of(NOTHING, call, 0), expected, "call {call}");
        }
    }

    #[test]
    fn maps_and_links_are_had_and_no_program_is_loaded() {
        for command in 0..40 {
            let expected = if NEVER_OF_BPF.contains(&command) {
                REFUSE
            } else {
                ALLOW
            };
            assert_eq!(of(NOTHING, libc::SYS_bpf, command), expected, "{command}");
        }
    }

    #[test]
    fn what_the_settings_ask_for_is_allowed() {
        let programs = Wanted {
            programs: true,
            ..NOTHING
        };
        assert_eq!(of(programs, libc::SYS_execve, 0), ALLOW);
        assert_eq!(of(programs, libc::SYS_setns, 0), REFUSE);
        let namespaces = Wanted {
            namespaces: true,
            ..NOTHING
        };
        assert_eq!(of(namespaces, libc::SYS_execve, 0), REFUSE);
        assert_eq!(of(namespaces, libc::SYS_setns, 0), ALLOW);
    }

    #[test]
    fn calls_of_another_architecture_are_no_way_past_the_list() {
        let program = program(NOTHING);
        let read = number(libc::SYS_read);
        assert_eq!(verdict(&program, ARCHITECTURE, read, 0), ALLOW);
        assert_eq!(verdict(&program, 0x4000_0003, read, 0), REFUSE);
        assert_eq!(verdict(&program, ARCHITECTURE, read | X32, 0), REFUSE);
    }
}
