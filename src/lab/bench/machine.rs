//! What a benchmark ran on, in words: a number without its machine is none.

use std::path::Path;

use serde::Serialize;

/// The machine as `/proc` describes it; empty or 0 where it does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Model name of the first processor.
    pub processor: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Memory in all.
    pub memory_mib: u64,
    /// Operating system's name and its kernel.
    pub system: String,
    /// Type and device of the file system of the work folder.
    pub disk: String,
    /// Load average of the last minute when the benchmark began: what else the machine did.
    pub load: String,
}

impl Machine {
    /// This machine, with the file system that holds `work`.
    #[must_use]
    pub fn here(work: &Path) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, key: &str, separator: char| {
            let line = text.lines().find(|l| l.starts_with(key)).and_then(|l| l.split_once(separator));
            line.map(|(_, v)| v.trim().trim_matches('"').to_owned()).unwrap_or_default()
        };
        let memory = value(&read("/proc/meminfo"), "MemTotal", ':');
        let kib: u64 = memory.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let system =
            format!("{}, Linux {}", value(&read("/etc/os-release"), "PRETTY_NAME", '='), read("/proc/sys/kernel/osrelease").trim());
        Self {
            processor: value(&read("/proc/cpuinfo"), "model name", ':'),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: kib >> 10,
            system,
            disk: disk(&read("/proc/mounts"), work),
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
        }
    }

    /// One line.
    #[must_use]
    pub fn text(&self) -> String {
        format!(
            "{}, {} cores, {} MiB, {}, {}, load {} at the start",
            self.processor, self.cores, self.memory_mib, self.system, self.disk, self.load
        )
    }
}

/// The mount that is nearest above `work`.
fn disk(mounts: &str, work: &Path) -> String {
    let work = std::path::absolute(work).unwrap_or_else(|_| work.to_owned());
    let fields = mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>());
    let above = fields.filter(|f| f.len() > 2 && work.starts_with(f[1]));
    above.max_by_key(|f| f[1].len()).map_or_else(String::new, |f| format!("{} on {}", f[2], f[0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_is_named() {
        let mounts = "/dev/sda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/sdb /tmp/work xfs rw 0 0\n";
        assert_eq!(disk(mounts, Path::new("/tmp/work/a")), "xfs on /dev/sdb");
        assert_eq!(disk(mounts, Path::new("/tmp/workshop")), "tmpfs on tmpfs");
        assert_eq!(disk(mounts, Path::new("/home")), "ext4 on /dev/sda");
    }
}
