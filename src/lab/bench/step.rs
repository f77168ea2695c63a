//! `bench train`: one training step of the shipped network (forward, backward, clipping, AdamW) on a batch of single slots, with our convolution, with
//! candle's own, and in PyTorch. The loss is the mean square of the maps in all three: the product's own loss is a few percent of a step.

use std::fmt::Write as _;
use std::time::Instant;

use candle_core::{Device, Tensor};
use serde::Serialize;
use serde_json::{Value, json};

use super::machine::Machine;
use super::median::{median, ratio};
use super::torch::Torch;
use crate::detect::network::{Graph, NetworkSpec, Op};
use crate::detect::train_net::{Operations, TrainNet};
use crate::error::{Class, Failure};
use crate::lab::synthesize::CROP;
use crate::lab::train::optimizer::Optimizer;

/// Samples of a step, as in training.
const BATCH: usize = 12;

/// A failure of candle.
pub(super) fn failed(e: candle_core::Error) -> Failure {
    Failure::new(Class::Internal, e.to_string())
}

/// The benchmark's result; medians over the rounds.
#[derive(Debug, Serialize)]
pub struct Table {
    machine: Machine,
    threads: usize,
    rounds: usize,
    batch: usize,
    torch: Option<String>,
    ours_ms: f64,
    candle_ms: f64,
    torch_ms: Option<f64>,
    /// candle's time by ours: above 1 ours is the faster.
    candle_by_ours: f64,
    /// Ours by PyTorch's: below 1 ours is the faster.
    ours_by_torch: Option<f64>,
}

/// Times the step.
///
/// # Errors
/// candle's; the peer's end.
pub fn measure(rounds: usize, threads: usize, mut torch: Option<Torch>) -> Result<Table, Failure> {
    let spec = NetworkSpec::cpu();
    let mut paths = [Path::new(&spec, Operations::OURS).map_err(failed)?, Path::new(&spec, Operations::CONV2D).map_err(failed)?];
    if let Some(torch) = &mut torch {
        let request =
            json!({ "what": "network", "encoder": graph(&spec.encoder()), "heads": graph(&spec.heads()), "context": spec.context });
        torch.ask(&request)?;
    }
    let (mut ours, mut candle, mut peer) = (Vec::new(), Vec::new(), Vec::new());
    // The first round warms caches and threads up.
    for round in 0..=rounds {
        let times = [paths[0].once().map_err(failed)?, paths[1].once().map_err(failed)?];
        let theirs = torch.as_mut().map(|t| t.milliseconds(&json!({ "what": "step", "batch": BATCH, "side": CROP }))).transpose()?;
        if round > 0 {
            ours.push(times[0]);
            candle.push(times[1]);
            peer.extend(theirs);
        }
    }
    let with_torch = torch.is_some();
    Ok(Table {
        machine: Machine::here(),
        threads,
        rounds,
        batch: BATCH,
        torch: torch.map(|t| t.version.clone()),
        ours_ms: median(&ours),
        candle_ms: median(&candle),
        torch_ms: with_torch.then(|| median(&peer)),
        candle_by_ours: ratio(&candle, &ours),
        ours_by_torch: with_torch.then(|| ratio(&ours, &peer)),
    })
}

/// One way of training.
struct Path {
    net: TrainNet,
    optimizer: Optimizer,
}

impl Path {
    fn new(spec: &NetworkSpec, operations: Operations) -> candle_core::Result<Self> {
        let net = TrainNet::new(spec, &Device::Cpu, 1)?.with_operations(operations);
        let optimizer = Optimizer::new(net.vars())?;
        Ok(Self { net, optimizer })
    }

    /// Milliseconds of a step on fresh data.
    fn once(&mut self) -> candle_core::Result<f64> {
        let x = Tensor::rand(0f32, 1f32, (BATCH, CROP, CROP, 3), &Device::Cpu)?;
        let start = Instant::now();
        let mut loss = Tensor::new(0f32, &Device::Cpu)?;
        for map in self.net.forward(&x, 1, true)? {
            loss = (loss + map.sqr()?.mean_all()?)?;
        }
        self.optimizer.step(&loss.backward()?, 1e-4)?;
        Ok(start.elapsed().as_secs_f64() * 1000.0)
    }
}

/// A graph as the peer reads it.
fn graph(graph: &Graph) -> Value {
    let node = |op: &Op| match op {
        Op::Input => json!({ "op": "input", "of": [] }),
        Op::Conv(c, x) => json!({
            "op": "conv", "of": [x], "name": c.name, "kernel": c.kernel, "stride": c.stride, "inputs": c.inputs, "outputs": c.outputs, "norm_relu": c.norm_relu
        }),
        Op::Add(a, b) => json!({ "op": "add", "of": [a, b] }),
        Op::Concat(a, b) => json!({ "op": "concat", "of": [a, b] }),
        Op::Upsample(x) => json!({ "op": "upsample", "of": [x] }),
    };
    json!({ "nodes": graph.nodes.iter().map(|n| node(&n.op)).collect::<Vec<_>>(), "outputs": graph.outputs })
}

impl Table {
    /// For the terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = format!(
            "{}; threads {}, median of {} rounds, batch {} of {CROP} x {CROP}, one slot a sample\n\n",
            self.machine.text(),
            self.threads,
            self.rounds,
            self.batch
        );
        let mut row = |name: &str, ms: f64, ratio: String| {
            let _ = writeln!(out, "{name:<28} {ms:>8.1} ms a step  {:>6.1} samples/s  {ratio}", self.batch as f64 * 1000.0 / ms);
        };
        row("our convolution", self.ours_ms, String::new());
        row("candle's own conv2d", self.candle_ms, format!("{:.2} times as long as ours", self.candle_by_ours));
        match (&self.torch, self.torch_ms, self.ours_by_torch) {
            (Some(version), Some(ms), Some(by)) => row(&format!("PyTorch {version}"), ms, format!("ours takes {by:.2} times as long")),
            _ => out.push_str("PyTorch not asked for (--torch PYTHON)\n"),
        }
        out
    }
}
