//! What processes have used so far, as `/proc` counts it.

/// Clock ticks a second in `/proc` (USER_HZ: the same on every Linux that Rust runs on).
const TICKS_A_SECOND: f64 = 100.0;
const PAGE_KIB: u64 = 4;

/// One process of `/proc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// User and system time, its own and that of children it has waited for.
    ticks: u64,
    /// Resident memory.
    pub resident_kib: u64,
}

impl Process {
    /// Processor seconds, its own and those of children it has waited for.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        self.ticks as f64 / TICKS_A_SECOND
    }
}

/// The process `pid`; `None` where it is gone, or the system does not say.
#[must_use]
pub fn of(pid: u32) -> Option<Process> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Peak of this process's resident memory, MiB; `None` where the system does not say.
#[must_use]
pub fn peak_mib() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<f64>().ok()? / 1024.0)
}

/// `root` and everything below it, as far as the kernel lists children.
#[must_use]
pub fn tree(root: u32) -> Vec<Process> {
    let (mut found, mut left) = (Vec::new(), vec![root]);
    while let Some(pid) = left.pop() {
        // Ended meanwhile: it is no longer there to be counted.
        let Some(process) = of(pid) else { continue };
        found.push(process);
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            left.extend(children.split_ascii_whitespace().filter_map(|c| c.parse::<u32>().ok()));
        }
    }
    found
}

/// proc(5): `pid (name) state ppid … utime(14) stime(15) cutime(16) cstime(17) … rss(24)`; the name may hold anything.
fn parse(stat: &str) -> Option<Process> {
    let (head, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |n: usize| fields.get(n - 3)?.parse::<i64>().ok().and_then(|v| u64::try_from(v).ok());
    Some(Process {
        pid: head.split_once(' ')?.0.parse().ok()?,
        ticks: number(14)? + number(15)? + number(16)? + number(17)?,
        resident_kib: number(24)? * PAGE_KIB,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_line_of_proc_is_taken_apart_whatever_the_name() {
        let line = "42 (a b) c) S 7 1 1 0 -1 4194560 0 0 0 0 11 5 3 2 20 0 1 0 9 1000 25 18446744073709551615 1";
        assert_eq!(parse(line), Some(Process { pid: 42, ticks: 21, resident_kib: 100 }));
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    fn children_are_counted() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let all = tree(std::process::id());
        let _ = child.kill();
        let _ = child.wait();
        for pid in [std::process::id(), child.id()] {
            assert!(all.iter().any(|p| p.pid == pid), "{pid} {all:?}");
        }
        assert!(all[0].resident_kib > 0, "{all:?}");
    }
}
