//! What a benchmark ran on.

/// Processor and number of cores that this process may use.
#[must_use]
pub fn describe() -> String {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':')).map_or("unknown processor", |(_, m)| m.trim());
    format!("{model}, {cores} {}, {}", if cores == 1 { "core" } else { "cores" }, std::env::consts::ARCH)
}
