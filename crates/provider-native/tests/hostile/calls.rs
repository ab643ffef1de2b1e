//! System calls that nobody in a sandbox needs.

use crate::arena::{Probe, python};

/// A probe that is a list of attempts in Python.
macro_rules! attempts {
    ($($name:ident: $code:expr;)*) => {
        vec![$(Probe {
            name: stringify!($name),
            needs: |can| can.isolation,
            run: Box::new(|arena| Box::pin(async move { python(&arena, $code).await })),
        },)*]
    };
}

pub(crate) fn probes() -> Vec<Probe> {
    attempts! {
        memory_of_the_agent_is_opened: r#"
            lambda: os.open("/proc/1/mem", os.O_RDONLY),
            lambda: os.open("/proc/1/mem", os.O_RDWR),
            lambda: os.open("/proc/1/task/1/mem", os.O_RDONLY),
            lambda: read("/proc/1/maps"), lambda: read("/proc/1/smaps"),
            lambda: read("/proc/1/pagemap"), lambda: read("/proc/1/auxv"),
            lambda: read("/proc/1/syscall"), lambda: read("/proc/1/stack"),
        "#;
        environment_and_descriptors_of_the_agent_are_read: r#"
            lambda: read("/proc/1/environ"),
            lambda: os.listdir("/proc/1/fd") or read("/nothing"),
            lambda: os.listdir("/proc/1/fdinfo") or read("/nothing"),
            lambda: os.listdir("/proc/1/map_files") or read("/nothing"),
            lambda: os.readlink("/proc/1/exe"), lambda: os.readlink("/proc/1/cwd"),
            lambda: os.readlink("/proc/1/root"), lambda: os.listdir("/proc/1/root/"),
            lambda: os.listdir("/proc/1/cwd/"),
        "#;
        the_agent_is_traced: r#"
            lambda: call(101, 16, 1, 0, 0), lambda: call(101, 0x4206, 1, 0, 0),
            lambda: call(310, 1, buffer(ctypes.addressof(PAGE), 8), 1, buffer(0x400000, 8), 1, 0),
            lambda: call(311, 1, buffer(ctypes.addressof(PAGE), 8), 1, buffer(0x400000, 8), 1, 0),
            lambda: call(312, 1, os.getpid(), 0, 0, 0),
            lambda: call(440, call(434, 1, 0), buffer(0x400000, 4096), 1, 20, 0),
        "#;
        limits_and_priority_of_the_agent_are_changed: r#"
            lambda: call(302, 1, 7, ctypes.create_string_buffer(struct.pack("QQ", 3, 3)), 0),
            lambda: call(302, 1, 0, ctypes.create_string_buffer(struct.pack("QQ", 0, 0)), 0),
            lambda: call(144, 1, 5, ctypes.create_string_buffer(struct.pack("i", 0))),
            lambda: call(142, 1, ctypes.create_string_buffer(struct.pack("i", 0))),
            lambda: call(203, 1, 8, ctypes.create_string_buffer(struct.pack("Q", 1))),
            lambda: call(314, 1, ctypes.create_string_buffer(struct.pack("IIQiIQQQ", 48, 5, 0, 0, 0, 0, 0, 0)), 0),
            lambda: call(141, 0, 1, 19), lambda: call(141, 1, 1, 19), lambda: call(141, 2, 0, 19),
            lambda: call(251, 1, 1, 3 << 13), lambda: call(251, 2, 1, 3 << 13),
            lambda: call(251, 3, 0, 3 << 13),
        "#;
        descriptors_of_the_agent_are_taken: r#"
            lambda: call(438, call(434, 1, 0), 0, 0), lambda: call(438, call(434, 1, 0), 3, 0),
            lambda: call(438, call(434, 1, 0), 4, 0), lambda: call(438, call(434, 1, 0), 5, 0),
        "#;
        kernel_settings_are_written: r#"
            lambda: write("/proc/sys/kernel/core_pattern", b"|/workspace/x"),
            lambda: write("/proc/sys/kernel/modprobe", b"/workspace/x"),
            lambda: write("/proc/sys/kernel/hotplug", b"/workspace/x"),
            lambda: write("/proc/sys/kernel/randomize_va_space", b"0"),
            lambda: write("/proc/sys/kernel/yama/ptrace_scope", b"0"),
            lambda: write("/proc/sys/vm/overcommit_memory", b"1"),
            lambda: write("/proc/sys/vm/drop_caches", b"1"),
            lambda: write("/proc/sys/fs/protected_symlinks", b"0"),
            lambda: write("/proc/sys/fs/binfmt_misc/register", b":x:M::x::/workspace/x:F"),
            lambda: write("/proc/sys/fs/suid_dumpable", b"2"),
            lambda: write("/proc/sysrq-trigger", b"h"),
            lambda: write("/proc/irq/default_smp_affinity", b"1"),
        "#;
        sysfs_and_control_groups_are_written: r#"
            lambda: write("/sys/kernel/uevent_helper", b"/workspace/x"),
            lambda: write("/sys/power/state", b"mem"),
            lambda: none_of(glob.glob("/sys/fs/cgroup/**/release_agent", recursive=True),
                lambda path: write(path, b"/workspace/x")),
            lambda: none_of(glob.glob("/sys/fs/cgroup/**/memory.limit_in_bytes", recursive=True)
                + glob.glob("/sys/fs/cgroup/**/memory.max", recursive=True),
                lambda path: write(path, b"9999999999")),
            lambda: none_of(glob.glob("/sys/fs/cgroup/**/cgroup.procs", recursive=True),
                lambda path: write(path, b"0")),
            lambda: call(165, b"cgroup", b"/tmp", b"cgroup", 0, b"memory"),
            lambda: call(165, b"cgroup2", b"/tmp", b"cgroup2", 0, 0),
        "#;
        kernel_memory_and_secrets_are_read: r#"
            lambda: read("/proc/kcore"), lambda: read("/proc/kmsg"), lambda: read("/proc/keys"),
            lambda: read("/proc/timer_list"), lambda: read("/proc/sched_debug"),
            lambda: read("/sys/kernel/debug/sched/features"), lambda: read("/dev/mem"),
            lambda: read("/dev/kmsg"), lambda: read("/sys/firmware/acpi/tables/DSDT"),
        "#;
        device_nodes_are_made: r#"
            lambda: os.mknod("/workspace/m", 0o666 | stat.S_IFCHR, os.makedev(1, 1)),
            lambda: os.mknod("/workspace/k", 0o666 | stat.S_IFCHR, os.makedev(1, 11)),
            lambda: os.mknod("/workspace/b", 0o666 | stat.S_IFBLK, os.makedev(8, 0)),
            lambda: os.mknod("/workspace/v", 0o666 | stat.S_IFBLK, os.makedev(254, 0)),
            lambda: os.mknod("/dev/l", 0o666 | stat.S_IFBLK, os.makedev(7, 0)),
            lambda: call(133, b"/tmp/z", 0o666 | stat.S_IFCHR, os.makedev(1, 1)),
        "#;
        devices_of_the_host_are_opened: r#"
            lambda: none_of([p for k in ("sd", "vd", "nvme", "loop", "dm-", "sr", "xvd", "ram")
                for p in glob.glob("/dev/" + k + "*")], lambda p: os.open(p, os.O_RDONLY)),
            lambda: none_of(["/dev/mem", "/dev/port", "/dev/kmsg", "/dev/kvm", "/dev/fuse",
                "/dev/net/tun", "/dev/loop-control", "/dev/vhost-net", "/dev/uinput", "/dev/hwrng",
                "/dev/snapshot", "/dev/rtc0", "/dev/tty0", "/dev/tty1", "/dev/console",
                "/dev/mapper/control", "/dev/btrfs-control", "/dev/vsock", "/dev/autofs"],
                lambda p: os.open(p, os.O_RDWR)),
        "#;
        file_systems_are_mounted: r#"
            lambda: call(165, b"none", b"/tmp", b"tmpfs", 0, 0),
            lambda: call(165, b"proc", b"/tmp", b"proc", 0, 0),
            lambda: call(165, b"/", b"/tmp", 0, 4096, 0),
            lambda: call(165, 0, b"/usr", 0, 32 | 4096, 0),
            lambda: call(165, 0, b"/", 0, 1 << 20, 0),
            lambda: call(165, 0, b"/proc", 0, 32, 0),
        "#;
        file_systems_are_unmounted: r#"
            lambda: call(166, b"/proc", 2), lambda: call(166, b"/usr", 2),
            lambda: call(166, b"/dev", 2), lambda: call(166, b"/", 2),
            lambda: call(166, b"/dev/null", 2), lambda: call(166, b"/proc/kcore", 2),
            lambda: call(155, b"/tmp", b"/tmp"),
        "#;
        the_new_mount_calls_are_used: r#"
            lambda: call(430, b"tmpfs", 0), lambda: call(430, b"proc", 0),
            lambda: call(428, -100, b"/", 1), lambda: call(428, -100, b"/usr", 1 | 0x8000),
            lambda: call(433, -100, b"/", 0), lambda: call(429, -100, b"/usr", -100, b"/tmp", 0),
            lambda: call(442, -100, b"/usr", 0, buffer(0, 1, 0, 0), 32),
            lambda: call(431, 0, 6, 0, 0, 0), lambda: call(432, 0, 0, 0),
        "#;
        namespaces_are_unshared: r#"
            lambda: call(272, 0x10000000), lambda: call(272, 0x10000000 | 0x00020000),
            lambda: call(272, 0x00020000), lambda: call(272, 0x40000000),
            lambda: call(272, 0x20000000), lambda: call(272, 0x08000000),
            lambda: call(272, 0x04000000), lambda: call(272, 0x02000000), lambda: call(272, 0x80),
        "#;
        processes_are_cloned_into_new_namespaces: r#"
            lambda: call(56, 0x10000000 | 17, 0, 0, 0, 0) or os._exit(0),
            lambda: call(56, 0x00020000 | 17, 0, 0, 0, 0) or os._exit(0),
            lambda: call(56, 0x20000000 | 17, 0, 0, 0, 0) or os._exit(0),
            lambda: call(56, 0x40000000 | 17, 0, 0, 0, 0) or os._exit(0),
            lambda: call(435, buffer(0x10000000, 0, 0, 0, 17, 0, 0, 0), 64) or os._exit(0),
            lambda: call(435, buffer(0x20000000, 0, 0, 0, 17, 0, 0, 0), 64) or os._exit(0),
        "#;
        namespaces_are_entered: r#"
            lambda: call(308, os.open("/proc/1/ns/mnt", 0), 0),
            lambda: call(308, os.open("/proc/1/ns/user", 0), 0),
            lambda: call(308, os.open("/proc/self/ns/mnt", 0), 0),
            lambda: call(308, os.open("/proc/self/ns/net", 0), 0),
            lambda: call(308, os.open("/proc/self/ns/pid", 0), 0),
            lambda: call(308, call(434, 1, 0), 0x20000000 | 0x40000000),
            lambda: fcntl.ioctl(os.open("/proc/self/ns/user", 0), 0xb702),
            lambda: fcntl.ioctl(os.open("/proc/self/ns/pid", 0), 0xb702),
        "#;
        user_maps_are_written: r#"
            lambda: write("/proc/self/uid_map", b"0 0 1\n"),
            lambda: write("/proc/self/gid_map", b"0 0 1\n"),
            lambda: write("/proc/1/uid_map", b"0 0 1\n"),
        "#;
        keyrings_are_used: r#"
            lambda: call(250, 0, -3, 1), lambda: call(250, 1, b"x"), lambda: call(250, 11, 1, 0, 0),
            lambda: call(248, b"user", b"d", b"p", 1, -3), lambda: call(249, b"user", b"d", 0, -3),
        "#;
        bpf_is_used: r#"
            lambda: call(321, 0, buffer(0x400000002, 0x100000004, 0, 0, 0, 0), 48),
            lambda: call(321, 5, buffer(1, 0, 0, 0, 0, 0, 0, 0, 0), 72),
            lambda: call(321, 18, buffer(0, 0, 0, 0), 32),
        "#;
        performance_counters_are_opened: r#"
            lambda: call(298, buffer(0x7000000001, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), 0, -1, -1, 0),
            lambda: call(298, buffer(0x7000000001, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), -1, 0, -1, 0),
        "#;
        userfaultfd_is_opened: "lambda: call(323, 0), lambda: call(323, 1), lambda: os.open('/dev/userfaultfd', 2),";
        io_uring_is_set_up: r#"
            lambda: call(425, 8, PAGE), lambda: call(426, 3, 1, 0, 0, 0, 0), lambda: call(427, 3, 0, 0, 0),
        "#;
        another_kernel_is_loaded: r#"
            lambda: call(246, 0, 0, 0, 0), lambda: call(320, 0, -1, 1, b"", 4),
            lambda: call(169, 0xfee1dead, 672274793, 0, 0),
            lambda: call(169, 0xfee1dead, 672274793, 0x01234567, 0),
        "#;
        modules_are_loaded: r#"
            lambda: call(175, PAGE, 4096, b""), lambda: call(313, os.open("/usr/bin/env", 0), b"", 0),
            lambda: call(176, b"overlay", 2048),
        "#;
        files_are_opened_by_handle: r#"
            lambda: call(304, os.open("/workspace", 0), buffer(0x100000008, 2), 0),
            lambda: call(304, os.open("/usr", 0), buffer(0x100000008, 2), 0),
            lambda: call(304, os.open("/", 0), buffer(0x8100000008, 0, 0), 0),
        "#;
        ports_of_the_machine_are_used: r#"
            lambda: call(172, 3), lambda: call(173, 0x80, 1, 1), lambda: read("/dev/port"),
            lambda: call(154, 1, PAGE, 16) and read("/nothing"),
        "#;
        the_personality_is_changed: r#"
            lambda: call(135, 0x0400000), lambda: call(135, 0x0100000),
        "#;
        swap_is_changed: r#"lambda: call(167, b"/workspace/probe.py", 0), lambda: call(168, b"/dev/sda"),"#;
        the_clock_is_set: r#"
            lambda: call(164, buffer(1000000000, 0), 0), lambda: call(227, 0, buffer(1000000000, 0)),
            lambda: call(227, 1, buffer(1, 0)),
            lambda: call(159, ctypes.create_string_buffer(struct.pack("26Q", 2, *[1] * 25))),
            lambda: call(305, 0, ctypes.create_string_buffer(struct.pack("26Q", 2, *[1] * 25))),
        "#;
        quotas_and_accounts_are_changed: r#"
            lambda: call(179, 0x80000200, b"/dev/sda1", 2, b"/x"), lambda: call(443, 0, 0x80000200, 0, 0),
            lambda: call(163, b"/workspace/probe.py"), lambda: call(163, 0), lambda: call(153),
        "#;
        the_kernel_log_is_read: r#"
            lambda: call(103, 3, PAGE, 4096), lambda: call(103, 2, PAGE, 4096),
            lambda: call(103, 5, 0, 0), lambda: call(103, 8, 0, 1),
        "#;
        the_host_name_is_set: "lambda: call(170, b'owned', 5), lambda: call(171, b'owned', 5),";
        file_events_of_the_host_are_watched: "lambda: call(300, 0, 0), lambda: call(300, 4, 0), lambda: call(212, 0, PAGE, 64),";
        raw_and_odd_sockets_are_opened: r#"
            lambda: socket.socket(17, socket.SOCK_RAW, 0x300),
            lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
            lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58),
            lambda: socket.socket(40, socket.SOCK_STREAM), lambda: socket.socket(38, 5),
            lambda: socket.socket(15, socket.SOCK_RAW, 2), lambda: socket.socket(44, socket.SOCK_RAW),
            lambda: socket.socket(29, socket.SOCK_RAW, 1), lambda: socket.socket(31, socket.SOCK_RAW, 1),
            lambda: socket.socket(21, 5), lambda: socket.socket(30, 5), lambda: socket.socket(39, 5),
        "#;
        the_calls_of_other_machines_are_used: r#"
            lambda: call(0x40000000 | 39),
            lambda: old_call(20),
        "#;
        orphans_are_handed_on: "lambda: call(157, 36, 0, 0, 0, 0),";
        rights_are_taken_back: r#"
            lambda: call(157, 38, 0, 0, 0, 0), lambda: call(157, 47, 2, 21, 0, 0),
            lambda: call(157, 39, 0, 0, 0, 0) == 1 and read("/nothing"),
            lambda: call(157, 23, 21, 0, 0, 0) == 0 and read("/nothing"),
            lambda: call(126, buffer(0x20080522), buffer(~0 & (1 << 64) - 1, ~0 & (1 << 64) - 1, 0)),
        "#;
        priorities_are_raised: r#"
            lambda: os.setpriority(os.PRIO_PROCESS, 0, -20),
            lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50)),
            lambda: write("/proc/self/oom_score_adj", b"-1000"),
        "#;
    }
}
