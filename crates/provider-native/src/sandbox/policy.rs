//! Which system calls a sandbox may not make.
//!
//! A deny list over what namespaces and missing capabilities refuse already: what is here either
//! has a history of holes, reaches something that no namespace divides, or would undo the
//! sandbox's own arrangements. `ptrace` and `process_vm_*` stay allowed, because debuggers are
//! ordinary tools: the first process cannot be traced, for it is not dumpable and the capability
//! to pass over that is gone.

use std::collections::BTreeMap;

use stacyvm_hostkit::seccomp::{Program, Rule, Test, Verdict};

const EPERM: u16 = 1;
const ENOSYS: u16 = 38;
const EAFNOSUPPORT: u16 = 97;

/// The first number that nobody here has looked at yet.
const FIRST_UNKNOWN: u32 = 463;

/// Calls that the `libc` crate does not name.
mod nr {
    pub(super) const QUOTACTL_FD: u32 = 443;
    pub(super) const SET_MEMPOLICY_HOME_NODE: u32 = 450;
    #[cfg(target_arch = "x86_64")]
    pub(super) const CREATE_MODULE: libc::c_long = 174;
    #[cfg(target_arch = "x86_64")]
    pub(super) const GET_KERNEL_SYMS: libc::c_long = 177;
    #[cfg(target_arch = "x86_64")]
    pub(super) const QUERY_MODULE: libc::c_long = 178;
}

/// Every flag that asks `clone` for a namespace.
const CLONE_NAMESPACES: u32 = 0x7e02_0000;
/// The same for `unshare`, where the time namespace has a flag too.
const UNSHARE_NAMESPACES: u32 = CLONE_NAMESPACES | 0x80;

const DENIED: &[libc::c_long] = &[
    // Keys are per user, not per namespace.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Kernel machinery.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    libc::SYS_kexec_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_syslog,
    libc::SYS_kcmp,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
    // The machine.
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_vhangup,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // Mounts and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_setns,
    // Files by handle pass over directories that cannot be entered.
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
];

#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[libc::c_long] = &[
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS__sysctl,
    nr::CREATE_MODULE,
    nr::GET_KERNEL_SYMS,
    nr::QUERY_MODULE,
    libc::SYS_getpmsg,
    libc::SYS_putpmsg,
    libc::SYS_afs_syscall,
    libc::SYS_tuxcall,
    libc::SYS_security,
    libc::SYS_vserver,
];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[libc::c_long] = &[];

/// The agent's process, group and session number inside.
const AGENT: u32 = 1;
/// All processes of a user, the agent among them.
const PRIO_USER: u32 = 2;
const IOPRIO_USER: u32 = 3;

/// Calls that change the process of their first argument.
const ON_A_PROCESS: &[libc::c_long] = &[
    libc::SYS_prlimit64,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
];

fn number(call: libc::c_long) -> u32 {
    u32::try_from(call).expect("a system call number")
}

/// What is decided about each call that is not simply allowed.
pub(crate) fn rules() -> BTreeMap<u32, Rule> {
    let refuse = |code| Rule::Always(Verdict::Errno(code));
    let mut rules: BTreeMap<u32, Rule> =
        DENIED.iter().chain(DENIED_HERE).map(|call| (number(*call), refuse(EPERM))).collect();
    rules.insert(nr::QUOTACTL_FD, refuse(EPERM));
    rules.insert(nr::SET_MEMPOLICY_HOME_NODE, refuse(EPERM));
    // Its flags lie in memory, where a filter cannot look; without it a libc uses `clone`.
    rules.insert(number(libc::SYS_clone3), refuse(ENOSYS));
    let when = |argument, test, code| Rule::When { argument, test, then: Verdict::Errno(code) };
    rules.insert(number(libc::SYS_clone), when(0, Test::AnyBit(CLONE_NAMESPACES), EPERM));
    rules.insert(number(libc::SYS_unshare), when(0, Test::AnyBit(UNSHARE_NAMESPACES), EPERM));
    // Typing into a terminal that belongs to somebody else.
    const TIOCSTI: u32 = 0x5412;
    const TIOCLINUX: u32 = 0x541c;
    rules.insert(number(libc::SYS_ioctl), when(1, Test::OneOf(&[TIOCSTI, TIOCLINUX]), EPERM));
    // Linux, its 32-bit view, without address randomisation (debuggers), and the question.
    const PERSONALITIES: &[u32] = &[0, 0x8, 0x2_0000, 0x2_0008, 0x4_0000, 0xffff_ffff];
    rules.insert(number(libc::SYS_personality), when(0, Test::NoneOf(PERSONALITIES), EPERM));
    // Handing one's orphans on would hide them from the kill at a deadline. Taking them in is fine.
    const PR_SET_CHILD_SUBREAPER: u32 = 36;
    rules.insert(
        number(libc::SYS_prctl),
        Rule::Exactly {
            cases: &[&[(0, PR_SET_CHILD_SUBREAPER), (1, 0)]],
            then: Verdict::Errno(EPERM),
        },
    );
    // The agent is the sandbox's first process and has its root's ids, so the kernel would let
    // commands change its limits and its share of the processor, and with them its power over them.
    let of_agent = |cases| Rule::Exactly { cases, then: Verdict::Errno(EPERM) };
    for call in ON_A_PROCESS {
        rules.insert(number(*call), of_agent(&[&[(0, AGENT)]]));
    }
    rules.insert(number(libc::SYS_setpriority), of_agent(&[&[(1, AGENT)], &[(0, PRIO_USER)]]));
    rules.insert(number(libc::SYS_ioprio_set), of_agent(&[&[(1, AGENT)], &[(0, IOPRIO_USER)]]));
    // Unix, IPv4, IPv6 and netlink. The rest are rare, rich in holes, or, like vsock, reach the
    // hypervisor past every namespace.
    const FAMILIES: &[u32] = &[1, 2, 10, 16];
    let families = when(0, Test::NoneOf(FAMILIES), EAFNOSUPPORT);
    rules.insert(number(libc::SYS_socket), families);
    rules.insert(number(libc::SYS_socketpair), families);
    rules
}

/// The compiled filter.
pub(crate) fn program() -> Program {
    Program::deny(&rules(), FIRST_UNKNOWN)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule, TargetArch,
    };
    use stacyvm_hostkit::seccomp::{ARCH, Instruction};

    use super::*;

    const ALLOW: u32 = 0x7fff_0000;
    const KILL: u32 = 0x8000_0000;
    const OTHER_ARCH: u32 = 0x4000_0003;

    struct Call {
        number: u32,
        arch: u32,
        arguments: [u64; 6],
    }

    impl Call {
        fn word(&self, offset: u32) -> u32 {
            let mut image = Vec::new();
            image.extend(self.number.to_le_bytes());
            image.extend(self.arch.to_le_bytes());
            image.extend(0u64.to_le_bytes());
            image.extend(self.arguments.iter().flat_map(|a| a.to_le_bytes()));
            let at = offset as usize;
            u32::from_le_bytes(image[at..at + 4].try_into().unwrap())
        }
    }

    /// A classic BPF machine, as far as filters use it.
    fn run(program: &[Instruction], call: &Call) -> u32 {
        let (mut at, mut a) = (0, 0u32);
        loop {
            let i = program[at];
            at += 1;
            let mut branch = |taken: bool| at += usize::from(if taken { i.jt } else { i.jf });
            match i.code {
                0x20 => a = call.word(i.k),
                0x15 => branch(a == i.k),
                0x25 => branch(a > i.k),
                0x35 => branch(a >= i.k),
                0x45 => branch(a & i.k != 0),
                0x05 => at += i.k as usize,
                0x54 => a &= i.k,
                0x06 => return i.k,
                code => panic!("an instruction {code:#x} that filters do not use"),
            }
        }
    }

    fn oracle() -> Vec<Instruction> {
        let dword = SeccompCmpArgLen::Dword;
        let condition = |argument, op, value: u32| {
            SeccompCondition::new(argument, dword.clone(), op, value.into())
        };
        let mut all: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        for (number, rule) in rules() {
            let conditions = match rule {
                Rule::Always(_) => vec![],
                // Any of several bits: one rule for each bit.
                Rule::When { argument, test: Test::AnyBit(bits), .. } => (0..32)
                    .map(|bit| 1 << bit)
                    .filter(|bit| bits & bit != 0)
                    .map(|bit: u32| {
                        let op = SeccompCmpOp::MaskedEq(bit.into());
                        SeccompRule::new(vec![condition(argument, op, bit).unwrap()]).unwrap()
                    })
                    .collect(),
                Rule::When { argument, test: Test::OneOf(values), .. } => values
                    .iter()
                    .map(|v| {
                        SeccompRule::new(vec![condition(argument, SeccompCmpOp::Eq, *v).unwrap()])
                            .unwrap()
                    })
                    .collect(),
                Rule::Exactly { cases, .. } => cases
                    .iter()
                    .map(|arguments| {
                        let all =
                            arguments.iter().map(|(a, v)| condition(*a, SeccompCmpOp::Eq, *v));
                        SeccompRule::new(all.map(Result::unwrap).collect()).unwrap()
                    })
                    .collect(),
                Rule::When { argument, test: Test::NoneOf(values), .. } => {
                    let all = values.iter().map(|v| condition(argument, SeccompCmpOp::Ne, *v));
                    vec![SeccompRule::new(all.map(Result::unwrap).collect()).unwrap()]
                }
            };
            all.insert(number.into(), conditions);
        }
        all.extend((i64::from(FIRST_UNKNOWN)..=600).map(|number| (number, vec![])));
        let arch: TargetArch = std::env::consts::ARCH.try_into().unwrap();
        let filter =
            SeccompFilter::new(all, SeccompAction::Allow, SeccompAction::Errno(1), arch).unwrap();
        let program: BpfProgram = filter.try_into().unwrap();
        program
            .into_iter()
            .map(|i| Instruction { code: i.code, jt: i.jt, jf: i.jf, k: i.k })
            .collect()
    }

    /// Argument values on both sides of every test in the rules.
    const SAMPLES: [u32; 26] = [
        0,
        1,
        2,
        36,
        3,
        8,
        10,
        16,
        17,
        38,
        40,
        0x11,
        0x80,
        0x5412,
        0x5413,
        0x541c,
        0x2_0000,
        0x2_0008,
        0x4_0000,
        0x0200_0000,
        0x1000_0000,
        0x4000_0000,
        0x7e02_0000,
        0x0100_3d0f_u32,
        0x8000_0000,
        0xffff_ffff,
    ];

    #[test]
    fn our_filter_and_seccompilers_decide_equally() {
        let (ours, theirs) = (program(), oracle());
        for arch in [ARCH, OTHER_ARCH] {
            for number in 0..=600 {
                for sample in SAMPLES {
                    let call = Call { number, arch, arguments: [u64::from(sample); 6] };
                    let (a, b) = (run(ours.instructions(), &call), run(&theirs, &call));
                    assert_eq!(
                        a == ALLOW,
                        b == ALLOW,
                        "call {number} with {sample:#x}: {a:#x} {b:#x}"
                    );
                }
            }
        }
    }

    fn decide(number: u32, arguments: [u64; 6]) -> u32 {
        run(program().instructions(), &Call { number, arch: ARCH, arguments })
    }

    #[test]
    fn other_doors_into_the_kernel_are_deadly() {
        let here = |number| Call { number, arch: ARCH, arguments: [0; 6] };
        for number in [0x4000_0000, 0x4000_0027, 0xffff_ffff] {
            assert_eq!(run(program().instructions(), &here(number)), KILL, "{number:#x}");
        }
        for number in [0, 1, 59, 600] {
            let call = Call { number, arch: OTHER_ARCH, arguments: [0; 6] };
            assert_eq!(run(program().instructions(), &call), KILL, "{number}");
        }
    }

    #[test]
    fn a_libc_falls_back_from_what_it_cannot_have() {
        let enosys = 0x5_0000 | u32::from(ENOSYS);
        assert_eq!(decide(number(libc::SYS_clone3), [0; 6]), enosys);
        assert_eq!(decide(FIRST_UNKNOWN, [0; 6]), enosys);
        assert_eq!(decide(9999, [0; 6]), enosys);
    }

    #[test]
    fn threads_and_forks_pass_and_namespaces_do_not() {
        let (clone, thread, fork) = (number(libc::SYS_clone), 0x003d_0f00, 0x0120_0011);
        assert_eq!(decide(clone, [thread, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(decide(clone, [fork, 0, 0, 0, 0, 0]), ALLOW);
        for flag in [0x1000_0000u64, 0x2_0000, 0x2000_0000, 0x4000_0000, 0x0200_0000] {
            assert_ne!(decide(clone, [flag | 17, 0, 0, 0, 0, 0]), ALLOW, "{flag:#x}");
        }
    }

    #[test]
    fn orphans_may_be_taken_in_and_not_handed_on() {
        let prctl = number(libc::SYS_prctl);
        assert_ne!(decide(prctl, [36, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(decide(prctl, [36, 1, 0, 0, 0, 0]), ALLOW);
        assert_eq!(decide(prctl, [15, 0, 0, 0, 0, 0]), ALLOW);
    }

    #[test]
    fn the_agent_cannot_be_limited_or_slowed() {
        for call in ON_A_PROCESS {
            assert_ne!(decide(number(*call), [1, 0, 0, 0, 0, 0]), ALLOW, "{call}");
            assert_eq!(decide(number(*call), [0, 0, 0, 0, 0, 0]), ALLOW, "{call}");
            assert_eq!(decide(number(*call), [7, 1, 0, 0, 0, 0]), ALLOW, "{call}");
        }
        for (call, user) in [(libc::SYS_setpriority, 2), (libc::SYS_ioprio_set, 3)] {
            assert_ne!(decide(number(call), [0, 1, 0, 0, 0, 0]), ALLOW);
            assert_ne!(decide(number(call), [1, 1, 0, 0, 0, 0]), ALLOW);
            assert_ne!(decide(number(call), [user, 0, 0, 0, 0, 0]), ALLOW);
            assert_eq!(decide(number(call), [1, 0, 0, 0, 0, 0]), ALLOW);
        }
    }

    #[test]
    fn the_program_is_short() {
        assert!(program().instructions().len() < 300, "{}", program().instructions().len());
    }
}
