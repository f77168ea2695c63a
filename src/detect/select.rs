//! Which engine runs: those that can start are tested and timed on this machine; the fastest that passes is taken.

use std::time::{Duration, Instant};

use super::bundle::{Bundle, F32_TOLERANCE};
use super::candle_engine::CandleEngine;
use super::tract_engine::TractEngine;
use super::{Engine, EngineError, SlotInput};
use crate::volume::frame::{HEIGHTS, WIDTH};

/// Slots timed an engine, after one that is not counted; the fastest stands, since whatever else the machine does only adds.
const TIMED_SLOTS: u32 = 3;

/// What became of one engine.
#[derive(Debug)]
pub struct Trial {
    /// Its name.
    pub engine: &'static str,
    /// Time of one slot (encoder and heads, one thread of its kind), or why it does not run.
    pub outcome: Result<Duration, String>,
}

/// The engine taken and the trials that led to it.
pub struct Choice {
    /// The engine.
    pub engine: Box<dyn Engine>,
    /// All trials.
    pub trials: Vec<Trial>,
}

/// Starts, tests and times the engines that `prefer` (`auto` or a name) allows.
///
/// # Errors
/// [`EngineError::Unavailable`] with the reason of each engine that was tried.
pub fn choose(bundle: &Bundle, prefer: &str) -> Result<Choice, EngineError> {
    let names: &[&'static str] = match prefer {
        "tract" => &["tract"],
        "candle-cpu" => &["candle-cpu"],
        "candle-cuda" => &["candle-cuda"],
        _ => &["candle-cpu", "tract"],
    };
    let mut best: Option<(Duration, Box<dyn Engine>)> = None;
    let mut trials = Vec::new();
    for name in names {
        let outcome = start(bundle, name).and_then(|engine| time(bundle, engine));
        match outcome {
            Ok((took, engine)) => {
                trials.push(Trial { engine: name, outcome: Ok(took) });
                if best.as_ref().is_none_or(|(least, _)| took < *least) {
                    best = Some((took, engine));
                }
            }
            Err(reason) => trials.push(Trial { engine: name, outcome: Err(reason) }),
        }
    }
    match best {
        Some((_, engine)) => Ok(Choice { engine, trials }),
        None => {
            let reasons: Vec<String> =
                trials.iter().filter_map(|t| t.outcome.as_ref().err().map(|e| format!("{}: {e}", t.engine))).collect();
            Err(EngineError::Unavailable { engine: "auto", reason: reasons.join("; ") })
        }
    }
}

fn start(bundle: &Bundle, name: &str) -> Result<Box<dyn Engine>, String> {
    let spec = &bundle.description.network;
    let engine: Result<Box<dyn Engine>, EngineError> = match name {
        "tract" => TractEngine::new(spec, &bundle.encoder_onnx, &bundle.heads_onnx).map(|e| Box::new(e) as Box<dyn Engine>),
        "candle-cpu" => CandleEngine::new(spec, &bundle.weights).map(|e| Box::new(e) as Box<dyn Engine>),
        _ => return Err("not in this build: it has no CUDA support; set engine.prefer to \"auto\"".into()),
    };
    engine.map_err(|e| e.to_string())
}

fn time(bundle: &Bundle, mut engine: Box<dyn Engine>) -> Result<(Duration, Box<dyn Engine>), String> {
    bundle.self_test(engine.as_mut(), F32_TOLERANCE).map_err(|e| e.to_string())?;
    let slot = SlotInput { height: HEIGHTS[0], width: WIDTH, data: vec![0.4; HEIGHTS[0] * WIDTH * 3] };
    let context = engine.context();
    let mut once = || {
        let features = engine.encode(&slot)?;
        engine.heads(&vec![&features; context])
    };
    once().map_err(|e| e.to_string())?;
    let mut least = Duration::MAX;
    for _ in 0..TIMED_SLOTS {
        let begin = Instant::now();
        once().map_err(|e| e.to_string())?;
        least = least.min(begin.elapsed());
    }
    Ok((least, engine))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::detect::{bundle, tiny};
    use std::fs;

    fn tiny_bundle() -> (tempfile::TempDir, Bundle) {
        let folder = tempfile::tempdir().unwrap();
        tiny::write(folder.path()).unwrap();
        let bundle = Bundle::open(folder.path()).unwrap();
        (folder, bundle)
    }

    #[test]
    fn both_engines_pass_the_self_test_and_agree() {
        let (_folder, bundle) = tiny_bundle();
        for name in ["tract", "candle-cpu"] {
            let choice = choose(&bundle, name).unwrap();
            assert_eq!(choice.engine.name(), name);
        }
        assert_eq!(choose(&bundle, "auto").unwrap().trials.len(), 2);
    }

    #[test]
    fn cuda_is_refused_with_the_reason() {
        let (_folder, bundle) = tiny_bundle();
        let Err(error) = choose(&bundle, "candle-cuda") else { panic!("there is no CUDA here") };
        assert!(error.to_string().contains("not in this build"), "{error}");
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
        fs::write(path(bundle::DESCRIPTION), text.replace("neck = [8", "neck = [16")).unwrap();
        assert!(reason().contains("layer"), "{}", reason());
        fs::write(path(bundle::DESCRIPTION), &text).unwrap();
        Bundle::open(folder.path()).unwrap();
    }
}
