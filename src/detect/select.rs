//! Which engine runs: those that can start are tested and timed on this machine; the fastest that passes is taken. An engine in two numeric formats is
//! two here: `candle-cpu`, `candle-cuda` and `tract` compute in f32, `candle-cpu-q8_0`, `candle-cuda-f16`, … are their kin. The appliance keeps the
//! verdict ([`super::verdict`]). The self-test of the engine that runs is never skipped. A GPU's engine that was asked for by name and cannot start is stood in for by the CPU's, and tried again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bundle::{Bundle, tolerance};
use super::candle_engine::CandleEngine;
use super::device_net::Format;
use super::standby::{Standby, Starter};
use super::tract_engine::TractEngine;
use super::{Engine, EngineError, SlotInput, cuda};
use crate::volume::frame::{HEIGHTS, WIDTH};

/// Slots timed an engine, after one that is not counted; the fastest stands, since whatever else the machine does only adds.
const TIMED_SLOTS: u32 = 3;
/// An engine whose first slot takes this many times the best so far is timed no further: it would only delay the start.
const HOPELESS: u32 = 3;
/// What `engine.prefer` and `--engine` may name.
pub const NAMES: [&str; 8] =
    ["auto", "tract", "tract-int8", "candle-cpu", "candle-cpu-q8_0", "candle-cuda", "candle-cuda-f16", "candle-cuda-q8_0"];
/// Those that compute on a GPU.
const ON_GPU: [(&str, Format); 3] = [("candle-cuda-q8_0", Format::Q8_0), ("candle-cuda-f16", Format::F16), ("candle-cuda", Format::F32)];
/// Those that compute on the processor.
const ON_CPU: [&str; 4] = ["candle-cpu", "tract", "tract-int8", "candle-cpu-q8_0"];

/// The format of an engine that computes on a GPU; `None` for the others.
pub(super) fn on_gpu(name: &str) -> Option<Format> {
    ON_GPU.iter().find(|(n, _)| *n == name).map(|(_, format)| *format)
}

/// What became of one engine.
#[derive(Debug)]
pub struct Trial {
    /// Its name, one of [`NAMES`].
    pub engine: &'static str,
    /// Time of one slot (encoder and heads; a share of [`Choice::at_once`] slots), or why it does not run.
    pub outcome: Result<Duration, String>,
}

/// The engine taken and the trials that led to it.
pub struct Choice {
    /// The engine.
    pub engine: Box<dyn Engine>,
    /// Its name, one of [`NAMES`].
    pub name: &'static str,
    /// All trials.
    pub trials: Vec<Trial>,
    /// Slots that were in work together while it was timed.
    pub at_once: usize,
    /// The GPU's engine that was asked for and could not start.
    pub missed: Option<(&'static str, String)>,
}

impl Choice {
    /// The engine that was asked for, the one taken, then those that stand by for it: the others that passed, the faster first, then those of this build
    /// that were not tried. All that stand by compute on the processor: what stops a GPU in one format stops it in the others.
    #[must_use]
    pub fn order(&self) -> Vec<&'static str> {
        let mut passed: Vec<(Duration, &'static str)> =
            self.trials.iter().filter_map(|t| Some((*t.outcome.as_ref().ok()?, t.engine))).collect();
        passed.sort_unstable();
        let untried = ON_CPU.iter().filter(|name| self.trials.iter().all(|t| t.engine != **name));
        let mut order: Vec<&'static str> = self.missed.iter().map(|(name, _)| *name).chain([self.name]).collect();
        for name in passed.into_iter().map(|(_, name)| name).chain(untried.copied()) {
            if !order.contains(&name) && on_gpu(name).is_none() {
                order.push(name);
            }
        }
        order
    }

    /// The engines of [`Choice::order`], started by `starter` when they are needed.
    #[must_use]
    pub fn standby(&self, starter: Arc<Starter>) -> Standby {
        let standby = Standby::new(self.order(), self.engine.as_ref(), starter);
        match &self.missed {
            Some((_, reason)) => standby.behind(self.engine.as_ref(), reason, Instant::now()),
            None => standby,
        }
    }
}

/// The engines that `prefer` (`auto` or a name) allows.
pub(super) fn allowed(prefer: &str) -> &'static [&'static str] {
    match prefer {
        "tract" => &["tract"],
        "tract-int8" => &["tract-int8"],
        "candle-cpu" => &["candle-cpu"],
        "candle-cpu-q8_0" => &["candle-cpu-q8_0"],
        "candle-cuda" => &["candle-cuda"],
        "candle-cuda-f16" => &["candle-cuda-f16"],
        "candle-cuda-q8_0" => &["candle-cuda-q8_0"],
        _ if cuda::IN_THIS_BUILD => {
            &["candle-cuda-q8_0", "candle-cuda-f16", "candle-cuda", "candle-cpu", "tract", "tract-int8", "candle-cpu-q8_0"]
        }
        _ => &ON_CPU,
    }
}

/// Slots in work together while an engine is timed. A GPU is worth what it does with the slots of all cores, so beside one the others are asked the same.
pub(super) fn at_once(names: &[&str]) -> usize {
    if names.iter().any(|name| on_gpu(name).is_some()) { std::thread::available_parallelism().map_or(1, usize::from) } else { 1 }
}

/// As [`choose`]; but where this build has the GPU's engine that was asked for, and it cannot start, the CPU's stand in for it and the choice says so.
///
/// # Errors
/// As [`choose`].
pub fn choose_or_stand_in(bundle: &Bundle, prefer: &str) -> Result<Choice, EngineError> {
    let reason = match choose(bundle, prefer) {
        Err(EngineError::Unavailable { engine, reason }) if cuda::IN_THIS_BUILD && on_gpu(engine).is_some() => (engine, reason),
        other => return other,
    };
    log::warn!("engine asked for does not start name={} reason={:?}", reason.0, reason.1);
    let mut choice = among(bundle, &ON_CPU)?;
    choice.trials.insert(0, Trial { engine: reason.0, outcome: Err(reason.1.clone()) });
    choice.missed = Some(reason);
    Ok(choice)
}

/// Starts, tests and times the engines that `prefer` (`auto` or a name) allows.
///
/// # Errors
/// [`EngineError::Unavailable`] with the reason of each engine that was tried.
pub fn choose(bundle: &Bundle, prefer: &str) -> Result<Choice, EngineError> {
    among(bundle, allowed(prefer))
}

fn among(bundle: &Bundle, names: &[&'static str]) -> Result<Choice, EngineError> {
    let at_once = at_once(names);
    let mut best: Option<(Duration, &'static str, Box<dyn Engine>)> = None;
    let mut trials = Vec::new();
    for name in names {
        let least = best.as_ref().map(|(least, ..)| *least);
        let outcome = start(bundle, name).and_then(|engine| time(bundle, engine, least, at_once));
        match outcome {
            Ok((took, engine)) => {
                trials.push(Trial { engine: name, outcome: Ok(took) });
                if best.as_ref().is_none_or(|(least, ..)| took < *least) {
                    best = Some((took, name, engine));
                }
            }
            Err(reason) => trials.push(Trial { engine: name, outcome: Err(reason) }),
        }
    }
    if let Some((_, name, engine)) = best {
        return Ok(Choice { engine, name, trials, at_once, missed: None });
    }
    let reasons = trials.iter().filter_map(|t| t.outcome.as_ref().err().map(|e| (t.engine, e)));
    Err(match names {
        [only] => EngineError::Unavailable { engine: only, reason: reasons.map(|(_, e)| e.as_str()).collect() },
        _ => EngineError::Unavailable { engine: "auto", reason: reasons.map(|(n, e)| format!("{n}: {e}")).collect::<Vec<_>>().join("; ") },
    })
}

/// The engine of this name, started and self-tested.
///
/// # Errors
/// Why it cannot start, or by how much it computes something else.
pub fn started(bundle: &Bundle, name: &str) -> Result<Box<dyn Engine>, String> {
    start(bundle, name).and_then(|engine| tested(bundle, engine))
}

/// The engine of this name without a self-test: for measuring what the self-test would refuse.
///
/// # Errors
/// Why it cannot start.
pub fn unchecked(bundle: &Bundle, name: &str) -> Result<Box<dyn Engine>, String> {
    start(bundle, name)
}

fn start(bundle: &Bundle, name: &str) -> Result<Box<dyn Engine>, String> {
    let spec = &bundle.description.network;
    let engine: Result<Box<dyn Engine>, EngineError> = match name {
        "tract" => TractEngine::new(spec, &bundle.encoder_onnx, &bundle.heads_onnx).map(|e| Box::new(e) as Box<dyn Engine>),
        "tract-int8" => {
            let (encoder, heads) = bundle.int8_graphs()?;
            TractEngine::quantized(spec, &encoder, &heads).map(|e| Box::new(e) as Box<dyn Engine>)
        }
        "candle-cpu" => CandleEngine::new(spec, &bundle.weights).map(|e| Box::new(e) as Box<dyn Engine>),
        "candle-cpu-q8_0" => CandleEngine::quantized(spec, bundle.q8_0_weights()).map(|e| Box::new(e) as Box<dyn Engine>),
        _ => match on_gpu(name) {
            Some(format) => cuda::engine(bundle, format),
            None => return Err(format!("no engine of this name; there are {}", NAMES.join(", "))),
        },
    };
    engine.map_err(|e| match e {
        EngineError::Unavailable { reason, .. } | EngineError::Failed { reason, .. } => reason,
    })
}

fn tested(bundle: &Bundle, mut engine: Box<dyn Engine>) -> Result<Box<dyn Engine>, String> {
    let allowed = tolerance(engine.quantization());
    bundle.self_test(engine.as_mut(), allowed).map_err(|e| e.to_string())?;
    Ok(engine)
}

/// Time of one slot out of `at_once`, the fastest of a few rounds; the first is not counted, unless it is so far off `best` that there is nothing to count.
fn time(bundle: &Bundle, engine: Box<dyn Engine>, best: Option<Duration>, at_once: usize) -> Result<(Duration, Box<dyn Engine>), String> {
    let mut engine = tested(bundle, engine)?;
    let mut forks: Vec<Box<dyn Engine>> = (1..at_once).map(|_| engine.fork()).collect();
    let slot = SlotInput { height: HEIGHTS[0], width: WIDTH, data: vec![0.4; HEIGHTS[0] * WIDTH * 3] };
    let share = u32::try_from(at_once.max(1)).unwrap_or(u32::MAX);
    let first = round(engine.as_mut(), &mut forks, &slot).map_err(|e| e.to_string())? / share;
    if best.is_some_and(|best| first > best * HOPELESS) {
        return Ok((first, engine));
    }
    let mut least = Duration::MAX;
    for _ in 0..TIMED_SLOTS {
        least = least.min(round(engine.as_mut(), &mut forks, &slot).map_err(|e| e.to_string())? / share);
    }
    Ok((least, engine))
}

/// One slot through each engine, all at the same time.
fn round(engine: &mut dyn Engine, forks: &mut [Box<dyn Engine>], slot: &SlotInput) -> Result<Duration, EngineError> {
    let once = |engine: &mut dyn Engine| {
        let context = engine.context();
        let features = engine.encode(slot)?;
        engine.heads(&vec![&features; context]).map(drop)
    };
    let name = engine.name();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let others: Vec<_> = forks.iter_mut().map(|fork| scope.spawn(|| once(fork.as_mut()))).collect();
        let own = once(engine);
        let panicked = || EngineError::Failed { engine: name, reason: "it panicked".into() };
        others.into_iter().map(|other| other.join().unwrap_or_else(|_| Err(panicked()))).fold(own, Result::and)
    })?;
    Ok(begin.elapsed())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub(super) mod tests {
    use super::*;
    use std::fs;

    use crate::detect::network::NetworkSpec;
    use crate::detect::{bundle, tiny};

    pub fn tiny_bundle() -> (tempfile::TempDir, Bundle) {
        let folder = tempfile::tempdir().unwrap();
        tiny::write(folder.path()).unwrap();
        Bundle::quantize(folder.path(), &tiny::ranges(&NetworkSpec::tiny()), false).unwrap();
        let bundle = Bundle::open(folder.path()).unwrap();
        (folder, bundle)
    }

    #[test]
    fn every_engine_passes_the_self_test() {
        let (_folder, bundle) = tiny_bundle();
        for (name, engine, quantization) in [
            ("tract", "tract", "f32"),
            ("tract-int8", "tract", "int8"),
            ("candle-cpu", "candle-cpu", "f32"),
            ("candle-cpu-q8_0", "candle-cpu", "q8_0"),
        ] {
            let choice = choose(&bundle, name).unwrap();
            assert_eq!((choice.name, choice.engine.name(), choice.engine.quantization()), (name, engine, quantization));
        }
        let choice = choose(&bundle, "auto").unwrap();
        assert!(choice.trials.len() == 4 && choice.trials.iter().all(|t| t.outcome.is_ok()), "{:?}", choice.trials);
        assert_eq!((choice.order().len(), choice.at_once), (4, 1));
    }

    #[test]
    fn without_ranges_there_is_no_int8_and_the_others_run() {
        let (_folder, mut bundle) = tiny_bundle();
        bundle.description.quantization = None;
        let choice = choose(&bundle, "auto").unwrap();
        let int8 = choice.trials.iter().find(|t| t.engine == "tract-int8").unwrap();
        assert!(int8.outcome.as_ref().unwrap_err().contains("no [quantization]"), "{int8:?}");
        assert_ne!(choice.name, "tract-int8");
    }

    /// Timed as beside a GPU: all cores' slots together, the same answer.
    #[test]
    fn an_engine_is_timed_with_several_slots_at_once() {
        let (_folder, bundle) = tiny_bundle();
        let (took, engine) = time(&bundle, start(&bundle, "tract").unwrap(), None, 3).unwrap();
        assert!(took < Duration::from_secs(600) && engine.name() == "tract");
        assert_eq!((at_once(&["tract", "candle-cuda"]), at_once(&ON_CPU)), (std::thread::available_parallelism().unwrap().get(), 1));
    }

    /// What the appliance does where a GPU was asked for and is not there, told by a choice made by hand: this build may have no such engine.
    #[test]
    fn the_processor_stands_in_for_a_gpu_that_cannot_start_and_for_one_that_fails() {
        let (_folder, bundle) = tiny_bundle();
        let mut choice = choose(&bundle, "tract").unwrap();
        choice.missed = Some(("candle-cuda-f16", "no NVIDIA driver".into()));
        let order = choice.order();
        assert_eq!(order[..2], ["candle-cuda-f16", "tract"]);
        assert!(order.len() == 5 && order[1..].iter().all(|name| ON_CPU.contains(name)), "{order:?}");
        let told = choice.standby(Arc::new(started)).watch().status();
        assert_eq!(told.running, "tract f32");
        let fallback = told.fallback.unwrap();
        assert_eq!(fallback, "tract f32 because candle-cuda-f16 does not start: no NVIDIA driver; it is tried again in 60 s");
        // Where it runs, the other formats of the same GPU do not stand by.
        choice.missed = None;
        choice.name = "candle-cuda";
        choice.trials.push(Trial { engine: "candle-cuda-q8_0", outcome: Ok(Duration::from_millis(1)) });
        let order = choice.order();
        assert!(order[0] == "candle-cuda" && order.len() == 5 && order[1..].iter().all(|name| ON_CPU.contains(name)), "{order:?}");
        assert_eq!(choice.standby(Arc::new(started)).watch().status().fallback, None);
    }

    #[test]
    fn cuda_is_refused_with_the_reason() {
        let (_folder, bundle) = tiny_bundle();
        let Err(error) = choose_or_stand_in(&bundle, "candle-cuda") else { panic!("there is no CUDA here") };
        let text = error.to_string();
        assert!(text.starts_with("engine candle-cuda cannot start: not in this build") && !text.contains("engine auto"), "{text}");
    }

    #[test]
    fn bad_bundles_are_refused_with_file_and_reason() {
        let (folder, _) = tiny_bundle();
        let path = |name: &str| folder.path().join(name);
        let reason = || Bundle::open(folder.path()).unwrap_err().to_string();
        let weights = fs::read(path(bundle::WEIGHTS)).unwrap();
        let mut wrong = weights.clone();
        *wrong.last_mut().unwrap() ^= 1;
        fs::write(path(bundle::WEIGHTS), &wrong).unwrap();
        assert!(reason().contains("weights.safetensors: SHA-256"), "{}", reason());
        fs::remove_file(path(bundle::WEIGHTS)).unwrap();
        assert!(reason().contains("weights.safetensors: missing"), "{}", reason());
        fs::write(path(bundle::WEIGHTS), &weights).unwrap();
        let text = fs::read_to_string(path(bundle::DESCRIPTION)).unwrap();
        fs::write(path(bundle::DESCRIPTION), text.replace("context = 3", "context = 4")).unwrap();
        assert!(reason().contains("context is 4"), "{}", reason());
        fs::write(path(bundle::DESCRIPTION), text.replace("widths = [4", "widths = [8")).unwrap();
        assert!(reason().contains("layer"), "{}", reason());
        let ranges = text.replace("stem = ", "stem = -");
        assert_ne!(ranges, text);
        fs::write(path(bundle::DESCRIPTION), ranges).unwrap();
        assert!(reason().contains("bundle.toml: [quantization.ranges] stem is -"), "{}", reason());
        fs::write(path(bundle::DESCRIPTION), &text).unwrap();
        Bundle::open(folder.path()).unwrap();
    }

    #[test]
    fn quantized_files_are_used_where_they_are_listed_and_refused_where_they_are_wrong() {
        let (folder, bundle) = tiny_bundle();
        let path = |name: &str| folder.path().join(name);
        Bundle::quantize(folder.path(), bundle.description.quantization.as_ref().unwrap(), true).unwrap();
        let with_files = Bundle::open(folder.path()).unwrap();
        assert!(with_files.gguf_weights.is_some() && with_files.int8_onnx.is_some());
        assert_eq!(with_files.int8_graphs().unwrap(), bundle.int8_graphs().unwrap());
        assert_eq!(choose(&with_files, "auto").unwrap().trials.iter().filter(|t| t.outcome.is_ok()).count(), 4);
        // Listed and hashed, but not what their names say.
        let text = fs::read_to_string(path(bundle::DESCRIPTION)).unwrap();
        let exchange = |name: &str, bytes: &[u8]| {
            let good = fs::read(path(name)).unwrap();
            fs::write(path(name), bytes).unwrap();
            fs::write(path(bundle::DESCRIPTION), text.replace(&bundle::sha256(&good), &bundle::sha256(bytes))).unwrap();
            let found = Bundle::open(folder.path());
            fs::write(path(name), good).unwrap();
            fs::write(path(bundle::DESCRIPTION), &text).unwrap();
            found
        };
        let mut other = bundle.weights.clone();
        other.0.values_mut().for_each(|l| l.weights.iter_mut().for_each(|w| *w *= 1.1));
        let other = crate::detect::gguf::write(&bundle.description.network, &other).unwrap();
        let reason = exchange(bundle::GGUF, &other).unwrap_err().to_string();
        assert!(reason.contains("detector.q8_0.gguf: layer") && reason.contains("differs from the master"), "{reason}");
        let reason = exchange(bundle::GGUF, b"GGUF or not").unwrap_err().to_string();
        assert!(reason.contains("detector.q8_0.gguf: no GGUF file"), "{reason}");
        // A graph that computes something else passes the hash and fails the self-test; the others run.
        let swapped = fs::read(path(bundle::ENCODER)).unwrap();
        let bundle = exchange(bundle::ENCODER_INT8, &swapped).unwrap();
        assert!(started(&bundle, "tract-int8").is_ok(), "the f32 graph is a valid stand-in");
        let broken = exchange_weights(&bundle);
        let refused = started(&broken, "tract-int8").err().unwrap();
        assert!(refused.contains("self-test"), "{refused}");
        fs::remove_file(path(bundle::GGUF)).unwrap();
        assert!(Bundle::open(folder.path()).unwrap_err().to_string().contains("detector.q8_0.gguf: missing"));
    }

    #[test]
    fn graphs_left_out_are_written_anew_and_must_be_the_listed_ones() {
        let (folder, whole) = tiny_bundle();
        let path = |name: &str| folder.path().join(name);
        fs::remove_file(path(bundle::ENCODER)).unwrap();
        fs::remove_file(path(bundle::HEADS)).unwrap();
        assert!(Bundle::open(folder.path()).unwrap() == whole, "the same bytes");
        let text = fs::read_to_string(path(bundle::DESCRIPTION)).unwrap();
        fs::write(path(bundle::DESCRIPTION), text.replace(&bundle::sha256(&whole.heads_onnx), &"0".repeat(64))).unwrap();
        let reason = Bundle::open(folder.path()).unwrap_err().to_string();
        assert!(reason.contains("heads.onnx"), "{reason}");
    }

    /// The shipped bundle is packed without its graphs.
    #[test]
    fn the_bundle_built_in_is_that_of_the_repository() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/lesionwatch");
        assert!(crate::shipped::open(None).unwrap() == Bundle::open(&folder).unwrap());
    }

    /// Int8 graphs of other weights than the master's.
    fn exchange_weights(bundle: &Bundle) -> Bundle {
        let mut other = bundle.clone();
        other.weights.0.values_mut().for_each(|l| l.bias.iter_mut().for_each(|b| *b += 1.0));
        other.int8_onnx = None;
        let mut broken = bundle.clone();
        broken.int8_onnx = Some(other.int8_graphs().unwrap());
        broken
    }
}
