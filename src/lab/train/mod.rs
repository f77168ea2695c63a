//! Training the one network on synthesized and marked samples: producer thread → batches → loss → AdamW, with checkpoints that resume to the step and
//! looks at a validation set as it goes.

pub mod checkpoint;
pub mod growth;
pub mod loss;
pub mod mixture;
pub mod optimizer;
pub mod targets;
pub mod validation;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use crossbeam_channel::{Receiver, bounded};
use rand::SeedableRng;
use rand::rngs::StdRng;

use self::checkpoint::Progress;
use self::mixture::Mixture;
use self::optimizer::Optimizer;
use self::validation::Validation;
use super::dataset::marked::Trouble;
use super::synthesize::{CROP, Sample};
use crate::detect::candle_engine::CandleEngine;
use crate::detect::network::NetworkSpec;
use crate::detect::train_net::TrainNet;
use crate::detect::weights::FoldedWeights;
use crate::error::{Class, Failure};

/// Steps over which the rate rises from zero.
const WARM_UP: usize = 300;
/// The same where training goes on from trained weights: short runs would end before a longer one.
const WARM_UP_TRAINED: usize = 60;
/// Learning rate after the warm-up of a new network; one that starts from trained weights takes a lower one.
pub const RATE: f64 = 2e-3;
/// Learning rate at the end of the cosine.
const LAST_RATE: f64 = 2e-5;
/// Samples a batch, unless said otherwise.
pub const BATCH: usize = 12;
/// The same where a sample is a full context and not one slot, per sample of those: 12 and 5 take as long.
const CONTEXT_SHARE: f64 = 5.0 / 12.0;
/// Batches the producer may be ahead.
const QUEUE: usize = 4;
/// A checkpoint is written this often.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(120);
/// Progress is printed this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(20);
/// Losses in a row that are not finite after which training stops.
const MOST_BAD_STEPS: usize = 20;

/// When a schedule ends.
#[derive(Debug, Clone, Copy)]
pub enum Length {
    /// After so much wall-clock time, this run and those it resumes.
    Minutes(f64),
    /// After so many samples, however fast the machine.
    Samples(usize),
}

impl Length {
    /// Share of the schedule that is over.
    fn done(self, progress: Progress) -> f64 {
        match self {
            Self::Minutes(all) => progress.minutes / all,
            Self::Samples(all) => progress.samples as f64 / all as f64,
        }
    }

    /// How far it is, for the progress line.
    fn so_far(self, progress: Progress) -> String {
        match self {
            Self::Minutes(all) => format!("{:5.1}/{all:.0} min", progress.minutes),
            Self::Samples(all) => format!("{:5.1} min, {:6}/{all} samples", progress.minutes, progress.samples),
        }
    }
}

/// What to train.
pub struct Options {
    /// Which network.
    pub spec: NetworkSpec,
    /// The whole schedule.
    pub length: Length,
    /// Batches of several slots by turns with those of one; otherwise all are of one.
    pub in_context: bool,
    /// Seed of weights and samples.
    pub seed: u64,
    /// Weights to start from, unless a checkpoint is resumed.
    pub init: Option<FoldedWeights>,
    /// Learning rate after the warm-up.
    pub rate: f64,
    /// Samples a batch where a sample is one slot; where it is a full context there are fewer.
    pub batch: usize,
    /// Where it is computed.
    pub device: Device,
    /// Folder of checkpoints; an existing one is resumed.
    pub out: PathBuf,
    /// What to validate on, and after how many minutes each time.
    pub validation: Option<(Validation, f64)>,
}

fn failed(e: impl std::fmt::Display) -> Failure {
    Failure::new(Class::Internal, format!("training: {e}"))
}

/// Trains until the schedule ends; the last checkpoint is in `options.out`. Validation takes its time out of the schedule.
///
/// # Errors
/// Full disk, a loss that stays not finite, a checkpoint of another network, marked slices none of which can be read.
pub fn run(source: Mixture, options: &Options) -> Result<(), Failure> {
    let device = &options.device;
    let net = TrainNet::new(&options.spec, device, options.seed).map_err(failed)?;
    let mut optimizer = Optimizer::new(net.vars()).map_err(failed)?;
    let mut progress = checkpoint::resume(&options.out, &net, &mut optimizer)?;
    if progress.steps > 0 {
        println!("resumed at step {} after {:.1} min, {} samples", progress.steps, progress.minutes, progress.samples);
    }
    let trouble = source.trouble();
    let context = if options.in_context { options.spec.context } else { 1 };
    let mut batches = Batches::produce(source, [options.batch, context], options.seed, progress.steps, producers(device));
    if let Some(weights) = options.init.as_ref().filter(|_| progress.steps == 0) {
        let batch = batches.next()?;
        net.start_from(weights, &input(&batch, device).map_err(failed)?).map_err(failed)?;
        optimizer = Optimizer::new(net.vars()).map_err(failed)?;
    }
    let (start, minutes_before) = (Instant::now(), progress.minutes);
    let mut saved = Instant::now();
    let mut shown = Shown::new(progress);
    let mut bad = 0;
    let mut validated = progress.minutes;
    let warm_up = if options.init.is_some() { WARM_UP_TRAINED } else { WARM_UP };
    while options.length.done(progress) < 1.0 {
        let batch = batches.next()?;
        let rate = rate(options.rate, warm_up, progress.steps, options.length.done(progress));
        let (parts, norm) = step(&net, &mut optimizer, &batch, rate, device).map_err(failed)?;
        if norm.is_finite() {
            bad = 0;
            shown.add(parts, norm, rate);
        } else {
            bad += 1;
            println!("step {}: loss or gradient is not finite; the step is left out ({bad} in a row)", progress.steps);
            if bad > MOST_BAD_STEPS {
                return Err(diverged(bad, &options.out));
            }
        }
        progress.steps += 1;
        progress.samples += batch.len();
        progress.minutes = minutes_before + start.elapsed().as_secs_f64() / 60.0;
        let over = options.length.done(progress) >= 1.0;
        if shown.since.elapsed() > PROGRESS_EVERY {
            println!("{}", shown.line(progress, options.length, trouble.as_deref()));
            shown = Shown::new(progress);
        }
        // Not while steps fail: the checkpoint stays one from before.
        if bad == 0 && (saved.elapsed() > CHECKPOINT_EVERY || over) {
            checkpoint::save(&options.out, &options.spec, &net, &optimizer, progress)?;
            saved = Instant::now();
        }
        if let Some((validation, every)) = &options.validation
            && (progress.minutes - validated >= *every || over)
        {
            let weights = checkpoint::averaged(&options.spec, &net, &optimizer).map_err(failed)?;
            let mut engine = CandleEngine::new(&options.spec, &weights).map_err(failed)?;
            let scores = validation.look(&mut engine)?;
            println!("{}", scores.line(progress));
            scores.append(&options.out, progress)?;
            progress.minutes = minutes_before + start.elapsed().as_secs_f64() / 60.0;
            validated = progress.minutes;
        }
    }
    println!("done: {} steps, {} samples, {:.1} min{}", progress.steps, progress.samples, progress.minutes, unread(trouble.as_deref()));
    Ok(())
}

/// The schedule cannot go on; what is left of it.
fn diverged(bad: usize, out: &Path) -> Failure {
    let left = match checkpoint::progress(out) {
        Ok(Some(last)) => format!("the checkpoint of step {} is from before them: resume with a lower --rate", last.steps),
        Ok(None) => "no checkpoint was written yet: start with a lower --rate".to_owned(),
        Err(e) => e.message,
    };
    failed(format!("{bad} steps in a row were not finite; {left}"))
}

/// What the progress line is made of.
struct Shown {
    parts: [f32; 5],
    steps: usize,
    norm: f64,
    rate: f64,
    samples_before: usize,
    since: Instant,
}

impl Shown {
    fn new(progress: Progress) -> Self {
        Self { parts: [0.0; 5], steps: 0, norm: 0.0, rate: 0.0, samples_before: progress.samples, since: Instant::now() }
    }

    fn add(&mut self, parts: [f32; 5], norm: f64, rate: f64) {
        for (sum, value) in self.parts.iter_mut().zip(parts) {
            *sum += value;
        }
        (self.norm, self.rate) = (norm, rate);
        self.steps += 1;
    }

    /// Means since the last line, speed, time to go.
    fn line(&self, progress: Progress, length: Length, trouble: Option<&Trouble>) -> String {
        let speed = (progress.samples - self.samples_before) as f64 / self.since.elapsed().as_secs_f64();
        let [o, b, q, t, a] = self.parts.map(|p| p / self.steps.max(1) as f32);
        format!(
            "step {:6}  {}  loss {:.3} (objectness {o:.3} box {b:.3} quality {q:.3} type {t:.3} axes {a:.3})  |g| {:.2}  rate {:.1e}  {speed:.1} samples/s  ETA {:.1} min{}",
            progress.steps,
            length.so_far(progress),
            o + b + q + t + a,
            self.norm,
            self.rate,
            progress.minutes * (1.0 / length.done(progress).clamp(1e-6, 1.0) - 1.0),
            unread(trouble)
        )
    }
}

/// What could not be read of marked slices, if anything.
fn unread(trouble: Option<&Trouble>) -> String {
    match trouble.map(|t| (t.files(), t.counts())) {
        Some((files, [key_slices, neighbours])) if key_slices + neighbours > 0 => {
            format!("  unreadable: {files} images ({key_slices} key slices passed over, {neighbours} neighbours replaced)")
        }
        _ => String::new(),
    }
}

/// Warm-up to `most`, then half a cosine over the schedule.
fn rate(most: f64, warm_up: usize, step: usize, done: f64) -> f64 {
    let cosine = LAST_RATE + (most - LAST_RATE) * 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos());
    cosine * ((step + 1) as f64 / warm_up as f64).min(1.0)
}

/// One step on one batch; the parts of the loss and the gradient's norm.
///
/// # Errors
/// candle's.
pub fn step(
    net: &TrainNet,
    optimizer: &mut Optimizer,
    batch: &[Sample],
    rate: f64,
    device: &Device,
) -> candle_core::Result<([f32; 5], f64)> {
    let slots = batch.first().map_or(1, |s| s.slots);
    let outputs = net.forward(&input(batch, device)?, slots, true)?;
    let targets = targets::assign(batch);
    let loss = loss::loss(&outputs, &targets, device)?;
    let grads = loss.total.backward()?;
    let norm = optimizer.step(&grads, rate)?;
    Ok((loss.parts, norm))
}

/// `[samples · slots, CROP, CROP, 3]`
fn input(batch: &[Sample], device: &Device) -> candle_core::Result<Tensor> {
    let planes: usize = batch.iter().map(|s| s.slots).sum();
    let data: Vec<f32> = batch.iter().flat_map(|s| s.data.iter().copied()).collect();
    Tensor::from_vec(data, (planes, CROP, CROP, 3), device)
}

/// Threads that draw samples: on the CPU one keeps ahead of a step on all cores; a GPU takes all that the processor can draw.
fn producers(device: &Device) -> usize {
    if device.is_cpu() { 1 } else { std::thread::available_parallelism().map_or(1, |n| n.get().saturating_sub(1).max(1)) }
}

/// Batches of one slot and of a full context by turns, drawn ahead. The same seed gives the same batches in the same order, by however many threads.
struct Batches {
    /// One a thread: of `n` threads the first makes every n-th batch, the second the ones behind those.
    queues: Vec<Receiver<Result<Vec<Sample>, Failure>>>,
    turn: usize,
}

impl Batches {
    /// Starts the threads: `batch` samples of one slot, fewer of `context`; `first` is the number of the first batch. A thread's failure is the last that comes from it.
    fn produce(source: Mixture, [batch, context]: [usize; 2], seed: u64, first: usize, threads: usize) -> Self {
        let source = Arc::new(source);
        let in_context = ((batch as f64 * CONTEXT_SHARE).round() as usize).max(1);
        let queue = |thread: usize| {
            let (sender, receiver) = bounded(QUEUE.div_ceil(threads));
            let source = Arc::clone(&source);
            std::thread::spawn(move || {
                for n in (first + thread..).step_by(threads) {
                    let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9).wrapping_add(n as u64));
                    let (slots, count) = if context == 1 || n % 2 == 0 { (1, batch) } else { (context, in_context) };
                    let drawn: Result<Vec<Sample>, Failure> = (0..count).map(|_| source.sample(&mut rng, slots)).collect();
                    let last = drawn.is_err();
                    if sender.send(drawn).is_err() || last {
                        return;
                    }
                }
            });
            receiver
        };
        Self { queues: (0..threads).map(queue).collect(), turn: 0 }
    }

    fn next(&mut self) -> Result<Vec<Sample>, Failure> {
        let queue = &self.queues[self.turn];
        self.turn = (self.turn + 1) % self.queues.len();
        queue.recv().map_err(|_| failed("the sample producer stopped"))?
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::detect::heads::decode;
    use crate::detect::nms::{finds, iou};
    use crate::detect::{Engine, Map, SlotInput, candle_engine::CandleEngine};
    use crate::lab::synthesize::Truth;

    /// A bright square on a dark ground: if targets, loss, folding and decoding agree, a tiny net finds it.
    #[test]
    fn a_tiny_net_learns_a_square_and_the_engine_finds_it() {
        let square = |x0: usize, y0: usize, side: usize| {
            let mut data = vec![0.1; CROP * CROP * 3];
            for y in y0..y0 + side {
                for x in x0..x0 + side {
                    data[(y * CROP + x) * 3..][..3].fill(0.9);
                }
            }
            let box_px = [x0, y0, x0 + side - 1, y0 + side - 1].map(|v| v as f32);
            let truth = Truth { box_px, lesion_type: 4, axes_px: Some([side as f32; 2]), angle_rad: 0.0 };
            Sample { slots: 1, data, truths: vec![truth], ignore: Vec::new() }
        };
        let batch = [square(40, 60, 28), square(150, 30, 20), square(90, 170, 44), square(200, 200, 30)];
        let spec = NetworkSpec::tiny();
        let net = TrainNet::new(&spec, &Device::Cpu, 3).unwrap();
        let mut optimizer = Optimizer::new(net.vars()).unwrap();
        for _ in 0..500 {
            let (_, norm) = step(&net, &mut optimizer, &batch, 1e-2, &Device::Cpu).unwrap();
            assert!(norm.is_finite());
        }
        let mut engine = CandleEngine::new(&spec, &net.fold().unwrap()).unwrap();
        for sample in &batch {
            let slot = SlotInput { height: CROP, width: CROP, data: sample.data.clone() };
            let features = engine.encode(&slot).unwrap();
            let maps: Vec<Map> = engine.heads(&vec![&features; spec.context]).unwrap();
            let found = finds(decode(&maps));
            let best = found.first().unwrap();
            assert!(iou(best.box_px, sample.truths[0].box_px) > 0.6, "{:?} for {:?}", best.box_px, sample.truths[0].box_px);
        }
    }

    /// A batch with a value that is not finite costs itself: weights and their average stay what they were, and what is folded of them stays finite.
    #[test]
    fn a_batch_that_is_not_finite_is_left_out() {
        let net = TrainNet::new(&NetworkSpec::tiny(), &Device::Cpu, 3).unwrap();
        let mut optimizer = Optimizer::new(net.vars()).unwrap();
        let truth = Truth { box_px: [40.0, 40.0, 80.0, 80.0], lesion_type: 1, axes_px: None, angle_rad: 0.0 };
        let sound = Sample { slots: 1, data: vec![0.4; CROP * CROP * 3], truths: vec![truth], ignore: Vec::new() };
        step(&net, &mut optimizer, std::slice::from_ref(&sound), 1e-3, &Device::Cpu).unwrap();
        let values = |optimizer: &Optimizer| -> std::collections::BTreeMap<String, Vec<f32>> {
            let vars = net.vars().into_iter().map(|(n, v)| (n, v.as_tensor().clone()));
            vars.chain(optimizer.state()).map(|(n, t)| (n, t.flatten_all().unwrap().to_vec1().unwrap())).collect()
        };
        let before = values(&optimizer);
        let mut spoilt = sound.clone();
        spoilt.data[CROP * 3] = f32::NAN;
        let (_, norm) = step(&net, &mut optimizer, &[spoilt], 1e-3, &Device::Cpu).unwrap();
        assert!(!norm.is_finite());
        assert!(before == values(&optimizer));
        checkpoint::averaged(net.spec(), &net, &optimizer).unwrap().check(net.spec()).unwrap();
        let (parts, norm) = step(&net, &mut optimizer, &[sound], 1e-3, &Device::Cpu).unwrap();
        assert!(norm.is_finite() && parts.iter().all(|p| p.is_finite()));
    }

    #[test]
    fn batches_are_the_same_by_however_many_threads_and_from_wherever_they_are_resumed() {
        let source = || {
            let scans = crate::lab::synthesize::phantom::scans(1, 1);
            Mixture::synthetic(crate::lab::synthesize::Sampler::new(scans, Vec::new(), 0.0).unwrap())
        };
        let drawn = |first: usize, threads: usize| {
            let mut batches = Batches::produce(source(), [BATCH, 3], 7, first, threads);
            (first..4).map(|_| batches.next().unwrap()).collect::<Vec<_>>()
        };
        let alone = drawn(0, 1);
        assert_eq!(alone.iter().map(|b| (b[0].slots, b.len())).collect::<Vec<_>>(), [(1, 12), (3, 5), (1, 12), (3, 5)]);
        assert!(alone == drawn(0, 3));
        assert!(alone[1..] == drawn(1, 2));
    }

    #[test]
    fn the_rate_warms_up_and_falls() {
        assert!(rate(RATE, WARM_UP, 0, 0.0) < RATE / 100.0);
        assert!((rate(RATE, WARM_UP, WARM_UP, 0.0) - RATE).abs() < 1e-9);
        assert!((rate(RATE, WARM_UP, 9999, 1.0) - LAST_RATE).abs() < 1e-9);
    }
}
