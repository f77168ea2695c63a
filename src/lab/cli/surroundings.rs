//! What training wants of its process and can only be told before it starts, in its environment.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Each with what it is for. Measured in `models/BENCHMARKS.md`.
const WANTED: [(&str, &str); 4] = [
    // candle adds and multiplies large maps on a pool of its own that waits by spinning: beside our threads, or another training, it takes their cores.
    ("CANDLE_NUM_THREADS", "1"),
    // A step frees and takes hundreds of megabytes of maps: glibc keeps them instead of giving them back to the system and having them cleared anew.
    ("MALLOC_MMAP_MAX_", "0"),
    ("MALLOC_TRIM_THRESHOLD_", "17179869184"),
    ("MALLOC_TOP_PAD_", "268435456"),
];

/// Starts this program anew, in the same process, with what is wanted and not set. Where that cannot be done it goes on as it is, only slower.
pub fn settle() {
    let missing: Vec<_> = WANTED.into_iter().filter(|(name, _)| std::env::var_os(name).is_none()).collect();
    if missing.is_empty() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    // Comes back only where it failed.
    let _ = Command::new(program).args(std::env::args_os().skip(1)).envs(missing).exec();
}
