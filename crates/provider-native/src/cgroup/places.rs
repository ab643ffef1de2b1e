//! Where this process stands in each hierarchy, and which controllers it may use there.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use super::{CgroupFs, Controller, Hierarchy, Version};

const CONTROLLERS: [(&str, Controller); 4] = [
    ("memory", Controller::Memory),
    ("pids", Controller::Pids),
    ("cpu", Controller::Cpu),
    ("cpuacct", Controller::CpuAccounting),
];

/// Where a hierarchy's group of this process is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    version: Version,
    own: PathBuf,
    controllers: Vec<Controller>,
}

/// The hierarchies that limits can be kept in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Places(Vec<Place>);

impl Places {
    /// Reads this process's places.
    pub(crate) fn of_this_process(kernel: &dyn CgroupFs) -> io::Result<Self> {
        let groups = kernel.read(Path::new("/proc/self/cgroup"))?;
        let mounts = kernel.read(Path::new("/proc/self/mountinfo"))?;
        Ok(Self::parse(kernel, &groups, &mounts))
    }

    fn parse(kernel: &dyn CgroupFs, groups: &str, mounts: &str) -> Self {
        let mut v1: BTreeMap<PathBuf, Vec<Controller>> = BTreeMap::new();
        let mut unified = None;
        for line in groups.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(number), Some(names), Some(path)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            if number == "0" {
                unified = directory(mounts, "cgroup2", None, path);
                continue;
            }
            for (name, controller) in CONTROLLERS {
                if names.split(',').any(|n| n == name)
                    && let Some(own) = directory(mounts, "cgroup", Some(name), path)
                {
                    v1.entry(own).or_default().push(controller);
                }
            }
        }
        let taken: Vec<Controller> = v1.values().flatten().copied().collect();
        let mut places: Vec<Place> = v1
            .into_iter()
            .map(|(own, controllers)| Place { version: Version::V1, own, controllers })
            .collect();
        if let Some(own) = unified {
            let offered = kernel.read(&own.join("cgroup.controllers")).unwrap_or_default();
            let offered = |name: &str| offered.split_ascii_whitespace().any(|o| o == name);
            let controllers: Vec<_> = CONTROLLERS
                .into_iter()
                .filter(|(name, controller)| offered(name) && !taken.contains(controller))
                .map(|(_, controller)| controller)
                .collect();
            if !controllers.is_empty() {
                places.push(Place { version: Version::V2, own, controllers });
            }
        }
        Self(places)
    }

    /// This process's directory in each hierarchy, the version, and what is limited through it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Path, Version, &[Controller])> {
        self.0.iter().map(|place| (place.own.as_path(), place.version, &*place.controllers))
    }

    /// Makes our directory in each hierarchy and switches its controllers on. Hierarchies that do
    /// not let us are left out, with the reason.
    pub(crate) fn settle(
        self,
        kernel: &dyn CgroupFs,
        instance: &str,
    ) -> (Vec<Hierarchy>, Vec<String>) {
        let (mut hierarchies, mut reasons) = (Vec::new(), Vec::new());
        for place in self.0 {
            let base = place.own.join("stacyvm").join(instance);
            match place.prepare(kernel, &base) {
                Ok(()) => hierarchies.push(Hierarchy {
                    version: place.version,
                    base,
                    controllers: place.controllers,
                }),
                Err(error) => reasons.push(format!("{}: {error}", place.own.display())),
            }
        }
        (hierarchies, reasons)
    }
}

impl Place {
    fn prepare(&self, kernel: &dyn CgroupFs, base: &Path) -> io::Result<()> {
        let ours = self.own.join("stacyvm");
        if self.version == Version::V1 {
            kernel.make(&ours)?;
            return kernel.make(base);
        }
        let on = self.switch_on();
        let switch = |group: &Path| kernel.write(&group.join("cgroup.subtree_control"), &on);
        if let Err(error) = switch(&self.own) {
            // A group that has processes cannot pass controllers on, so ours moves into a child.
            if rustix::io::Errno::from_io_error(&error) != Some(rustix::io::Errno::BUSY) {
                return Err(error);
            }
            let server = self.own.join("stacyvm-server");
            kernel.make(&server)?;
            kernel.write(&server.join("cgroup.procs"), "0")?;
            switch(&self.own)?;
        }
        kernel.make(&ours)?;
        switch(&ours)?;
        kernel.make(base)?;
        switch(base)
    }

    fn switch_on(&self) -> String {
        let names = CONTROLLERS.into_iter().filter(|(_, c)| self.controllers.contains(c));
        names.map(|(name, _)| format!("+{name}")).collect::<Vec<_>>().join(" ")
    }
}

/// The directory of group `path` in a hierarchy that is mounted somewhere.
fn directory(mounts: &str, kind: &str, controller: Option<&str>, path: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let (found, options) = (after.next()?, after.nth(1)?);
        let wanted = controller.is_none_or(|name| options.split(',').any(|o| o == name));
        if found != kind || !wanted {
            return None;
        }
        let mut before = before.split(' ').skip(3);
        let (root, point) = (before.next()?, before.next()?);
        let below = path.strip_prefix(root.trim_end_matches('/'))?;
        Some(Path::new(point).join(below.trim_start_matches('/')))
    })
}

#[cfg(test)]
mod tests {
    use super::{super::fs::Recorder, *};

    const MOUNTS: &str = "\
30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw
31 30 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn a_mixed_host_is_understood_per_controller() {
        let kernel =
            Recorder::with_files(&[("/sys/fs/cgroup/unified/a/cgroup.controllers", "pids memory")]);
        let groups = "2:memory:/own/m\n1:cpu:/\n0::/a\n";
        let places = Places::parse(&kernel, groups, MOUNTS);
        let (hierarchies, reasons) = places.settle(&kernel, "abc");
        assert!(reasons.is_empty());
        let bases: Vec<_> =
            hierarchies.iter().map(|h| (h.base.to_str().unwrap(), h.controllers.clone())).collect();
        assert_eq!(
            bases,
            [
                ("/sys/fs/cgroup/cpu/stacyvm/abc", vec![Controller::Cpu]),
                ("/sys/fs/cgroup/memory/own/m/stacyvm/abc", vec![Controller::Memory]),
                ("/sys/fs/cgroup/unified/a/stacyvm/abc", vec![Controller::Pids]),
            ]
        );
    }

    #[test]
    fn version_2_switches_controllers_on_from_the_top_down() {
        let kernel = Recorder::with_files(&[("/cg/s/cgroup.controllers", "cpu memory pids")]);
        let places = Places::parse(&kernel, "0::/s\n", "1 0 0:1 / /cg rw - cgroup2 none rw\n");
        places.settle(&kernel, "abc");
        assert_eq!(
            kernel.lines(),
            [
                "/cg/s/cgroup.subtree_control = +memory +pids +cpu",
                "mkdir /cg/s/stacyvm",
                "/cg/s/stacyvm/cgroup.subtree_control = +memory +pids +cpu",
                "mkdir /cg/s/stacyvm/abc",
                "/cg/s/stacyvm/abc/cgroup.subtree_control = +memory +pids +cpu",
            ]
        );
    }

    #[test]
    fn a_mount_of_a_part_of_the_tree_is_understood() {
        let mounts = "1 0 0:1 /docker/x /cg rw - cgroup2 none rw\n";
        assert_eq!(directory(mounts, "cgroup2", None, "/docker/x/y"), Some(PathBuf::from("/cg/y")));
        assert_eq!(directory(mounts, "cgroup2", None, "/other"), None);
    }
}
