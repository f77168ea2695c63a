//! The verdict about the fastest engine, kept in the state folder: what a busy machine measures differs from start to start, and results should not change
//! engine with it. It holds for one machine, bundle and program; the self-test of the engine that it names is never skipped.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::bundle::Bundle;
use super::select::{Choice, Trial, allowed, at_once, choose, choose_or_stand_in, on_gpu, started};
use super::{EngineError, cuda};

/// The verdict's file in the state folder; removing it has the engines measured again.
pub const VERDICT: &str = "engine.toml";
/// A longer verdict is damaged.
const MOST_VERDICT_BYTES: u64 = 64 * 1024;

/// What was measured, and where: it holds for this machine, bundle and program only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Verdict {
    /// Name of the engine taken.
    chosen: String,
    /// SHA-256 of the bundle's description: other ranges can make another engine the fastest.
    bundle_sha256: String,
    /// Processor and cores.
    machine: String,
    /// Version of this program.
    version: String,
    /// Every engine tried.
    engine: Vec<Measured>,
}

/// One engine of a [`Verdict`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Measured {
    /// Its name.
    name: String,
    /// Time of one slot; absent where it was refused.
    slot_us: Option<u64>,
    /// Why it was refused.
    refused: Option<String>,
}

/// As [`choose`], measured once per machine, bundle and version: the verdict is kept in `state_dir`, and the engine it names only has to pass the
/// self-test again. A named engine leaves nothing to decide and is not looked up.
///
/// # Errors
/// As [`choose_or_stand_in`]; a verdict that cannot be read or written is logged, not an error.
pub fn choose_remembered(bundle: &Bundle, prefer: &str, state_dir: &Path) -> Result<Choice, EngineError> {
    let names = allowed(prefer);
    if names.len() == 1 {
        return choose_or_stand_in(bundle, prefer);
    }
    let path = state_dir.join(VERDICT);
    if let Some(choice) = recall(bundle, names, &path) {
        return Ok(choice);
    }
    let choice = choose(bundle, prefer)?;
    if let Err(e) = keep(&verdict(bundle, &choice), &path) {
        log::warn!("engine verdict not kept file={} error={e}: engines are measured again at the next start", path.display());
    }
    Ok(choice)
}

/// The engine that a verdict of this very bundle and machine names, where it still passes the self-test.
fn recall(bundle: &Bundle, names: &[&'static str], path: &Path) -> Option<Choice> {
    let kept = match read(path) {
        Ok(kept) => kept?,
        Err(reason) => {
            log::warn!("engine verdict not usable file={} reason={reason:?}: engines are measured again", path.display());
            return None;
        }
    };
    if (kept.bundle_sha256.as_str(), kept.machine.as_str(), kept.version.as_str())
        != (&bundle.description_sha256, machine().as_str(), env!("CARGO_PKG_VERSION"))
    {
        log::info!("engine verdict of another bundle, machine or version: engines are measured again");
        return None;
    }
    let tried = |name: &str| kept.engine.iter().find(|m| m.name == name);
    // One that could not be tried then may run now (another build): all that are allowed must be in it.
    let trials = names.iter().map(|name| {
        let m = tried(name)?;
        let outcome = m.slot_us.map(Duration::from_micros).ok_or_else(|| m.refused.clone().unwrap_or_default());
        Some(Trial { engine: name, outcome })
    });
    let trials: Vec<Trial> = trials.collect::<Option<_>>()?;
    if idle_gpu(&trials, &kept.machine) {
        log::info!("engine verdict of a GPU that could not start: engines are measured again");
        return None;
    }
    let chosen = trials.iter().find(|t| t.engine == kept.chosen && t.outcome.is_ok())?.engine;
    match started(bundle, chosen) {
        Ok(engine) => {
            log::info!("engine verdict remembered name={chosen} file={}", path.display());
            Some(Choice { engine, name: chosen, trials, at_once: at_once(names), missed: None })
        }
        Err(reason) => {
            log::warn!("engine {chosen} was chosen before and fails now reason={reason:?}: engines are measured again");
            None
        }
    }
}

/// Whether the machine has a GPU on which no engine ran: a driver is mended sooner than a machine is changed.
fn idle_gpu(trials: &[Trial], machine: &str) -> bool {
    let mut on_gpu = trials.iter().filter(|t| on_gpu(t.engine).is_some()).peekable();
    on_gpu.peek().is_some() && on_gpu.all(|t| t.outcome.is_err()) && !machine.ends_with(cuda::NO_GPU)
}

/// The verdict at `path`, `None` where there is none yet.
fn read(path: &Path) -> Result<Option<Verdict>, String> {
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
        Ok(m) if !m.is_file() || m.len() > MOST_VERDICT_BYTES => return Err("not a verdict".into()),
        Ok(_) => {}
    }
    let text = fs::read_to_string(path).map_err(|e| e.to_string())?;
    toml::from_str(&text).map(Some).map_err(|e| e.message().to_owned())
}

/// Whole or not at all: written beside, then renamed.
fn keep(verdict: &Verdict, path: &Path) -> io::Result<()> {
    let text = toml::to_string(verdict).map_err(io::Error::other)?;
    let beside = path.with_extension("toml.new");
    fs::write(&beside, format!("# Which engine runs, measured once. Remove this file to have it measured again.\n{text}"))?;
    fs::rename(&beside, path)
}

fn verdict(bundle: &Bundle, choice: &Choice) -> Verdict {
    let measured = |t: &Trial| Measured {
        name: t.engine.to_owned(),
        slot_us: t.outcome.as_ref().ok().map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
        refused: t.outcome.as_ref().err().cloned(),
    };
    Verdict {
        chosen: choice.name.to_owned(),
        bundle_sha256: bundle.description_sha256.clone(),
        machine: machine(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        engine: choice.trials.iter().map(measured).collect(),
    }
}

/// What the speed of an engine hangs on: the processor by its name (x86) or its part numbers (ARM), the cores this process may use, the GPU.
fn machine() -> String {
    const NAMES: [&str; 4] = ["model name", "CPU implementer", "CPU part", "Hardware"];
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let parts: BTreeSet<&str> =
        text.lines().filter_map(|l| l.split_once(':')).filter(|(key, _)| NAMES.contains(&key.trim())).map(|(_, v)| v.trim()).collect();
    let parts: Vec<&str> = parts.into_iter().collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let gpu = if cuda::IN_THIS_BUILD { format!(", {}", cuda::named()) } else { String::new() };
    format!("{} {}, {cores} cores{gpu}", std::env::consts::ARCH, parts.join(" "))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::detect::select::tests::tiny_bundle;

    #[test]
    fn a_gpu_that_could_not_start_is_tried_again_at_the_next_start() {
        let trial =
            |engine, works: bool| Trial { engine, outcome: if works { Ok(Duration::from_millis(9)) } else { Err("out of memory".into()) } };
        let (cpu, refused) = (trial("tract", true), [trial("candle-cuda", false), trial("candle-cuda-f16", false)]);
        let [a, b] = refused;
        let all = [cpu, a, b];
        assert!(idle_gpu(&all, "aarch64 0xd42, 8 cores, Orin"));
        assert!(!idle_gpu(&all, "aarch64 0xd42, 8 cores, no GPU"));
        assert!(!idle_gpu(&all[..1], "x86_64 EPYC, 2 cores"));
        assert!(!idle_gpu(&[trial("candle-cuda", true), trial("candle-cuda-f16", false)], "aarch64 0xd42, 8 cores, Orin"));
    }

    /// A kept verdict is told from a measurement by naming the engine that no measurement would take.
    #[test]
    fn the_verdict_is_kept_until_bundle_machine_or_version_change() {
        let (_folder, bundle) = tiny_bundle();
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join(VERDICT);
        let remembered = || choose_remembered(&bundle, "auto", state.path()).unwrap();
        let first = remembered();
        let written = read(&path).unwrap().unwrap();
        assert_eq!((written.chosen.as_str(), written.engine.len()), (first.name, 4));
        // An engine that was beaten by far is taken all the same, with the times that were written, as long as it is the same machine.
        let other = if written.chosen == "tract" { "candle-cpu-q8_0" } else { "tract" };
        let slow = 3_600_000_000;
        let mut forged = written.clone();
        forged.chosen = other.into();
        for m in &mut forged.engine {
            m.slot_us = Some(if m.name == other { slow } else { 1 });
        }
        keep(&forged, &path).unwrap();
        let again = remembered();
        assert_eq!(again.name, other);
        assert!(again.trials.iter().any(|t| t.outcome == Ok(Duration::from_micros(slow))));
        assert_eq!(read(&path).unwrap().unwrap(), forged);

        let measured = |what: &str| {
            let choice = remembered();
            assert!(choice.trials.iter().all(|t| t.outcome.as_ref().unwrap() < &Duration::from_secs(600)), "{what}: not measured");
            let now = read(&path).unwrap().unwrap();
            assert!(now.chosen == choice.name && now.bundle_sha256 == written.bundle_sha256, "{what}: not written");
        };
        let changes: [(&str, fn(&mut Verdict)); 5] = [
            ("bundle", |v| v.bundle_sha256 = "0".repeat(64)),
            ("machine", |v| v.machine.push_str(" and one more")),
            ("version", |v| v.version = "0.0.0".into()),
            ("engine unknown", |v| v.chosen = "tpu".into()),
            ("engine not tried", |v| v.engine.truncate(1)),
        ];
        for (what, change) in changes {
            let mut changed = forged.clone();
            change(&mut changed);
            keep(&changed, &path).unwrap();
            measured(what);
        }
        for (what, bytes) in [("damaged", &b"chosen = \"tract\"\nbundle_"[..]), ("empty", b""), ("not text", b"\xff\xfe\0")] {
            fs::write(&path, bytes).unwrap();
            measured(what);
        }
    }

    #[test]
    fn other_ranges_are_another_bundle() {
        let (folder, bundle) = tiny_bundle();
        let state = tempfile::tempdir().unwrap();
        choose_remembered(&bundle, "auto", state.path()).unwrap();
        let before = read(&state.path().join(VERDICT)).unwrap().unwrap();
        let mut ranges = bundle.description.quantization.clone().unwrap();
        ranges.ranges.values_mut().for_each(|r| *r *= 1.5);
        Bundle::quantize(folder.path(), &ranges, false).unwrap();
        let bundle = Bundle::open(folder.path()).unwrap();
        choose_remembered(&bundle, "auto", state.path()).unwrap();
        assert_ne!(read(&state.path().join(VERDICT)).unwrap().unwrap().bundle_sha256, before.bundle_sha256);
    }

    #[test]
    fn a_remembered_engine_passes_the_self_test_again() {
        let (_folder, mut bundle) = tiny_bundle();
        let state = tempfile::tempdir().unwrap();
        let before = choose_remembered(&bundle, "auto", state.path()).unwrap();
        // The same weights by name, others by value: only the self-test can tell.
        for layer in bundle.weights.0.values_mut() {
            layer.bias.iter_mut().for_each(|b| *b += 1.0);
        }
        bundle.encoder_onnx = Vec::new();
        assert!(read(&state.path().join(VERDICT)).unwrap().is_some_and(|v| v.chosen == before.name));
        assert!(choose_remembered(&bundle, "auto", state.path()).is_err());
    }

    #[test]
    fn a_named_engine_is_not_looked_up_and_a_lost_folder_is_no_error() {
        let (_folder, bundle) = tiny_bundle();
        let state = tempfile::tempdir().unwrap();
        assert_eq!(choose_remembered(&bundle, "tract", state.path()).unwrap().engine.name(), "tract");
        assert!(!state.path().join(VERDICT).exists());
        choose_remembered(&bundle, "auto", &state.path().join("not/there")).unwrap();
    }
}
