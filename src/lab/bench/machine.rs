//! Where a benchmark ran.

use std::fs;

use serde::Serialize;

/// The machine as far as speed hangs on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Processor by name, or by its part numbers.
    pub processor: String,
    /// Cores this process may use.
    pub cores: usize,
    /// Architecture.
    pub architecture: &'static str,
    /// Load average over one minute when the run began: what else the machine did.
    pub load: String,
    /// Version of this program.
    pub version: &'static str,
}

impl Machine {
    /// This one.
    #[must_use]
    pub fn here() -> Self {
        let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let of =
            |key: &str| text.lines().filter_map(|l| l.split_once(':')).find(|(k, _)| k.trim() == key).map(|(_, v)| v.trim().to_owned());
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            processor: of("model name").or_else(|| of("CPU part")).unwrap_or_else(|| "unknown".into()),
            cores: cores(),
            architecture: std::env::consts::ARCH,
            load: load.split(' ').next().unwrap_or("unknown").to_owned(),
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// One line.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{} ({}), {} cores, load {}, lesionwatch {}", self.processor, self.architecture, self.cores, self.load, self.version)
    }
}

/// Cores this process may use.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Processor time that this process has used so far, seconds over all its threads; `None` where the system does not say.
#[must_use]
pub fn cpu_seconds() -> Option<f64> {
    /// proc(5) counts in hundredths of a second on every architecture that Linux runs on here.
    const TICKS_A_SECOND: f64 = 100.0;
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name, in brackets, may hold anything; utime and stime are the 12th and 13th field after it.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some((fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?) / TICKS_A_SECOND)
}

/// Peak of this process's resident memory, MiB; `None` where the system does not say.
#[must_use]
pub fn peak_mib() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<f64>().ok()? / 1024.0)
}
