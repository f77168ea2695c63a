//! What a benchmark ran on, in words: a number without its machine is none.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// The machine as `/proc` describes it; empty or 0 where it does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Processor by name, or by its part number.
    pub processor: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Architecture.
    pub architecture: &'static str,
    /// Memory in all.
    pub memory_mib: u64,
    /// Operating system's name and its kernel.
    pub system: String,
    /// Type and device of the file system of the work folder, where one matters.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub disk: String,
    /// Load average of the last minute when the benchmark began: what else the machine did.
    pub load: String,
    /// Version of this program.
    pub version: &'static str,
}

impl Machine {
    /// This machine.
    #[must_use]
    pub fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, key: &str, separator: char| {
            let line = text.lines().find(|l| l.starts_with(key)).and_then(|l| l.split_once(separator));
            line.map(|(_, v)| v.trim().trim_matches('"').to_owned()).unwrap_or_default()
        };
        let memory = value(&read("/proc/meminfo"), "MemTotal", ':');
        let kib: u64 = memory.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let info = read("/proc/cpuinfo");
        let processor = ["model name", "CPU part"].map(|key| value(&info, key, ':')).into_iter().find(|name| !name.is_empty());
        Self {
            processor: processor.unwrap_or_default(),
            cores: cores(),
            architecture: std::env::consts::ARCH,
            memory_mib: kib >> 10,
            system: format!("{}, Linux {}", value(&read("/etc/os-release"), "PRETTY_NAME", '='), read("/proc/sys/kernel/osrelease").trim()),
            disk: String::new(),
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// This machine, with the file system that holds `work`.
    #[must_use]
    pub fn with_disk(work: &Path) -> Self {
        Self { disk: disk(&fs::read_to_string("/proc/mounts").unwrap_or_default(), work), ..Self::here() }
    }

    /// One line.
    #[must_use]
    pub fn text(&self) -> String {
        let disk = if self.disk.is_empty() { String::new() } else { format!(", {}", self.disk) };
        let cores = if self.cores == 1 { "core" } else { "cores" };
        format!(
            "{} ({}), {} {cores}, {} MiB, {}{disk}, load {} at the start, lesionwatch {}",
            self.processor, self.architecture, self.cores, self.memory_mib, self.system, self.load, self.version
        )
    }
}

/// Cores this process may use.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
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
        let mounts = "/dev/sda / ext4 rw 0 0\ntmpfs /srv tmpfs rw 0 0\n/dev/sdb /srv/ct xfs rw 0 0\n";
        assert_eq!(disk(mounts, Path::new("/srv/ct/a")), "xfs on /dev/sdb");
        assert_eq!(disk(mounts, Path::new("/srv/ctx")), "tmpfs on tmpfs");
        assert_eq!(disk(mounts, Path::new("/home")), "ext4 on /dev/sda");
    }
}
