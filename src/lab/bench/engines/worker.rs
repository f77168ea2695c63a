//! One engine in a process of its own: says `ready`, then answers each line of stdin with a number.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use clap::Args;

use super::super::{machine, process};
use crate::detect::{Engine, EngineError, Features, SlotInput, heads, nms, select};
use crate::error::{Class, Failure};

/// The slots' file in the folder.
pub const SLOTS: &str = "slots.f32";
/// Slots an engine takes before neighbours are looked at again, as in the appliance.
const SLOTS_A_TURN: usize = 4;

/// What the worker is told.
#[derive(Debug, Args)]
pub struct Request {
    /// Engine
    #[arg(long)]
    engine: String,
    /// Bundle
    #[arg(long)]
    model: Option<PathBuf>,
    /// Where the slots lie
    #[arg(long)]
    folder: PathBuf,
    /// Rows of a slot
    #[arg(long)]
    height: usize,
    /// Columns of a slot
    #[arg(long)]
    width: usize,
}

/// Answers until stdin ends.
///
/// # Errors
/// Slots or bundle that cannot be read; an engine that fails.
pub fn run(request: &Request) -> Result<(), Failure> {
    let bundle = crate::shipped::open(request.model.as_deref())?;
    let path = request.folder.join(SLOTS);
    let bytes = std::fs::read(&path).map_err(|e| Failure::new(Class::Io, format!("{}: {e}", path.display())))?;
    let values: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let (height, width) = (request.height, request.width);
    let slots: Vec<SlotInput> = values.chunks_exact(height * width * 3).map(|d| SlotInput { height, width, data: d.to_vec() }).collect();
    let mut stdout = std::io::stdout();
    let mut say =
        |text: String| writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(|e| Failure::new(Class::Io, e.to_string()));
    let engine = match select::started(&bundle, &request.engine) {
        Ok(engine) => engine,
        Err(reason) => return say(reason),
    };
    let (name, cores) = (format!("{} {}", engine.name(), engine.quantization()), machine::cores());
    let mut crew: Vec<Mutex<Box<dyn Engine>>> = (1..cores).map(|_| Mutex::new(engine.fork())).collect();
    crew.push(Mutex::new(engine));
    let crew = Crew { engines: crew, slots };
    let failed = |e: EngineError| Failure::new(Class::Unavailable, e.to_string());
    crew.batch(1).map_err(failed)?;
    say(format!("ready {name}"))?;
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|e| Failure::new(Class::Io, e.to_string()))?;
        let (what, n) = line.split_once(' ').unwrap_or((&line, "0"));
        let n: usize = n.parse().map_err(|_| Failure::new(Class::Usage, format!("{line}: no number")))?;
        let begin = Instant::now();
        match what {
            "batch" => crew.batch(n).map_err(failed)?,
            "series" => crew.series(n).map_err(failed)?,
            "cpu" => {
                say(process::of(std::process::id()).map_or_else(|| "unknown".into(), |p| p.cpu_seconds().to_string()))?;
                continue;
            }
            _ => {
                say(process::peak_mib().map_or_else(|| "unknown".into(), |mib| mib.to_string()))?;
                continue;
            }
        }
        say(begin.elapsed().as_secs_f64().to_string())?;
    }
    Ok(())
}

struct Crew {
    engines: Vec<Mutex<Box<dyn Engine>>>,
    slots: Vec<SlotInput>,
}

impl Crew {
    /// `n` slots at once, as if they were neighbours.
    fn batch(&self, n: usize) -> Result<(), EngineError> {
        let features = self.each(0..n, |engine, i| engine.encode(&self.slots[i % self.slots.len()]))?;
        self.each(0..n, |engine, i| boxes(engine, &features, i)).map(drop)
    }

    /// A series of `n` slots in turns; kept are the maps that the next turn asks for.
    fn series(&self, n: usize) -> Result<(), EngineError> {
        let mut features: Vec<Features> = Vec::new();
        let (mut first, mut encoded, mut done) = (0, 0, 0);
        while done < n {
            let until = (encoded + SLOTS_A_TURN * self.engines.len()).min(n);
            features.extend(self.each(encoded..until, |engine, i| engine.encode(&self.slots[i % self.slots.len()]))?);
            encoded = until;
            let ready = if encoded == n { n } else { encoded - 1 };
            self.each(done..ready, |engine, i| boxes(engine, &features, i - first))?;
            done = ready;
            let keep = done.saturating_sub(1).max(first);
            features.drain(..keep - first);
            first = keep;
        }
        Ok(())
    }

    /// `job` for every index, one engine a thread; results in order.
    fn each<T: Send>(
        &self,
        indices: std::ops::Range<usize>,
        job: impl Fn(&mut dyn Engine, usize) -> Result<T, EngineError> + Sync,
    ) -> Result<Vec<T>, EngineError> {
        let next = AtomicUsize::new(indices.start);
        let done: Mutex<Vec<(usize, Result<T, EngineError>)>> = Mutex::new(Vec::new());
        let work = |engine: &Mutex<Box<dyn Engine>>| {
            let mut engine = engine.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= indices.end {
                    break;
                }
                let result = job(engine.as_mut(), i);
                done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((i, result));
            }
        };
        if indices.len() == 1 {
            work(&self.engines[0]);
        } else {
            std::thread::scope(|scope| self.engines.iter().take(indices.len()).for_each(|engine| drop(scope.spawn(|| work(engine)))));
        }
        let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        done.sort_by_key(|(i, _)| *i);
        done.into_iter().map(|(_, r)| r).collect()
    }
}

/// Heads, decoding and suppression of one slot between its neighbours.
fn boxes(engine: &mut dyn Engine, features: &[Features], i: usize) -> Result<usize, EngineError> {
    let half = engine.context() / 2;
    let window: Vec<&Features> = (0..engine.context()).map(|n| &features[(i + n).saturating_sub(half).min(features.len() - 1)]).collect();
    Ok(nms::suppress(heads::decode(&engine.heads(&window)?)).len())
}
