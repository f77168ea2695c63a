//! One engine in a process of its own: says `ready`, then answers each line of stdin with a number.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use super::super::{machine, process};
use crate::detect::crew::Crew;
use crate::detect::{Engine, EngineError, Features, SlotInput, select};
use crate::error::{Class, Failure};

/// The slots' file in the folder.
pub const SLOTS: &str = "slots.f32";

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
    let context = engine.context();
    let crew = Slots { crew: Crew::of(engine, cores), context, slots };
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

/// A crew and what it is to look at.
struct Slots {
    crew: Crew,
    context: usize,
    slots: Vec<SlotInput>,
}

impl Slots {
    /// `n` slots at once, as if they were neighbours.
    fn batch(&self, n: usize) -> Result<(), EngineError> {
        self.turn(0..n, n, &mut BTreeMap::new())
    }

    /// A series of `n` slots in turns, as the appliance does it; kept are the maps that the next turn asks for.
    fn series(&self, n: usize) -> Result<(), EngineError> {
        let (mut known, mut done) = (BTreeMap::new(), 0);
        while done < n {
            let until = (done + self.crew.turn()).min(n);
            self.turn(done..until, n, &mut known)?;
            known.retain(|slot, _| slot + self.context / 2 >= until);
            done = until;
        }
        Ok(())
    }

    /// Heads, decoding and suppression of some slots among `n`, and encoding of what that takes and is not `known`.
    fn turn(&self, slots: Range<usize>, n: usize, known: &mut BTreeMap<usize, Features>) -> Result<(), EngineError> {
        let half = self.context / 2;
        let window = |slot: usize| (slot..slot + self.context).map(|at| at.saturating_sub(half).min(n - 1)).collect::<Vec<_>>();
        let windows: Vec<Vec<usize>> = slots.map(window).collect();
        let windows: Vec<&[usize]> = windows.iter().map(Vec::as_slice).collect();
        let encode = |engine: &mut dyn Engine, slot: usize| engine.encode(&self.slots[slot % self.slots.len()]);
        let (encoded, _) = self.crew.over_windows(&windows, |slot| known.get(&slot), encode)?;
        known.extend(encoded);
        Ok(())
    }
}
