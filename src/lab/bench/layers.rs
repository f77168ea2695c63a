//! `bench conv`: convolution layers as training runs them, forward and both gradients, ours beside candle's own and PyTorch's.

use std::fmt::Write as _;
use std::time::Instant;

use candle_core::{Device, Tensor, Var};
use serde::Serialize;
use serde_json::json;

use super::machine::Machine;
use super::median::{median, ratio};
use super::step::failed;
use super::torch::Torch;
use crate::detect::train_net::Convolution;
use crate::detect::{composed, ops};
use crate::error::Failure;

/// Of the shipped network on crops of 256 pixels, largest map first, and DESIGN's 32 to 128 channels beside them.
const LAYERS: [Layer; 7] = [
    Layer { batch: 12, height: 256, width: 256, inputs: 3, outputs: 16, kernel: 3, stride: 2 },
    Layer { batch: 12, height: 128, width: 128, inputs: 16, outputs: 32, kernel: 3, stride: 2 },
    Layer { batch: 12, height: 64, width: 64, inputs: 32, outputs: 32, kernel: 3, stride: 1 },
    Layer { batch: 12, height: 64, width: 64, inputs: 96, outputs: 32, kernel: 1, stride: 1 },
    Layer { batch: 12, height: 32, width: 32, inputs: 64, outputs: 64, kernel: 3, stride: 1 },
    Layer { batch: 12, height: 16, width: 16, inputs: 128, outputs: 128, kernel: 3, stride: 1 },
    Layer { batch: 4, height: 256, width: 256, inputs: 32, outputs: 32, kernel: 3, stride: 1 },
];

/// One layer's shape; "same" padding.
#[derive(Debug, Clone, Copy, Serialize)]
struct Layer {
    batch: usize,
    height: usize,
    width: usize,
    inputs: usize,
    outputs: usize,
    kernel: usize,
    stride: usize,
}

/// One layer's times, medians over the rounds.
#[derive(Debug, Serialize)]
struct Row {
    layer: Layer,
    ours_ms: f64,
    candle_ms: f64,
    torch_ms: Option<f64>,
    /// candle's time by ours: above 1 ours is the faster.
    candle_by_ours: f64,
    /// Ours by PyTorch's: below 1 ours is the faster.
    ours_by_torch: Option<f64>,
}

/// The benchmark's result.
#[derive(Debug, Serialize)]
pub struct Table {
    machine: Machine,
    threads: usize,
    rounds: usize,
    torch: Option<String>,
    rows: Vec<Row>,
}

/// Times every layer.
///
/// # Errors
/// candle's; the peer's end.
pub fn measure(rounds: usize, threads: usize, mut torch: Option<Torch>) -> Result<Table, Failure> {
    let mut rows = Vec::new();
    for layer in LAYERS {
        let (mut ours, mut candle, mut peer) = (Vec::new(), Vec::new(), Vec::new());
        // The first round warms caches and threads up.
        for round in 0..=rounds {
            let times = [once(layer, ops::conv).map_err(failed)?, once(layer, composed::conv2d).map_err(failed)?];
            let theirs = torch.as_mut().map(|t| t.milliseconds(&json!({ "what": "conv", "shape": layer }))).transpose()?;
            if round > 0 {
                ours.push(times[0]);
                candle.push(times[1]);
                peer.extend(theirs);
            }
        }
        let with_torch = torch.is_some();
        rows.push(Row {
            layer,
            ours_ms: median(&ours),
            candle_ms: median(&candle),
            torch_ms: with_torch.then(|| median(&peer)),
            candle_by_ours: ratio(&candle, &ours),
            ours_by_torch: with_torch.then(|| ratio(&ours, &peer)),
        });
    }
    Ok(Table { machine: Machine::here(), threads, rounds, torch: torch.map(|t| t.version.clone()), rows })
}

/// Milliseconds of one forward and backward pass on fresh data.
fn once(layer: Layer, conv: Convolution) -> candle_core::Result<f64> {
    let Layer { batch, height, width, inputs, outputs, kernel, stride } = layer;
    let x = Var::randn(0f32, 1f32, (batch, height, width, inputs), &Device::Cpu)?;
    let weights = Var::randn(0f32, 1f32, (kernel, kernel, inputs, outputs), &Device::Cpu)?;
    let start = Instant::now();
    let y: Tensor = conv(&x, &weights, stride)?;
    y.sum_all()?.backward()?;
    Ok(start.elapsed().as_secs_f64() * 1000.0)
}

impl Table {
    /// For the terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let peer = self.torch.as_ref().map_or_else(|| "PyTorch not asked for (--torch PYTHON)".to_owned(), |v| format!("PyTorch {v}"));
        let mut out = format!(
            "{}; threads {}, median of {} rounds, forward and both gradients; {peer}\n\n",
            self.machine.text(),
            self.threads,
            self.rounds
        );
        out.push_str("layer                               ours ms  candle ms  PyTorch ms  candle/ours  ours/PyTorch\n");
        let cell = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.2}"));
        for r in &self.rows {
            let l = r.layer;
            let name = format!(
                "{}x{} s{} {:>3} -> {:<3} {}x{} batch {}",
                l.kernel, l.kernel, l.stride, l.inputs, l.outputs, l.height, l.width, l.batch
            );
            let _ = writeln!(
                out,
                "{name:<35} {:>7.2}  {:>9.2}  {:>10}  {:>11.2}  {:>12}",
                r.ours_ms,
                r.candle_ms,
                cell(r.torch_ms),
                r.candle_by_ours,
                cell(r.ours_by_torch)
            );
        }
        let all = |f: fn(&Row) -> Option<f64>| self.rows.iter().filter_map(f).collect::<Vec<f64>>();
        let sum = |f: fn(&Row) -> Option<f64>| all(f).iter().sum::<f64>();
        let (ours, candle, peer) = (sum(|r| Some(r.ours_ms)), sum(|r| Some(r.candle_ms)), sum(|r| r.torch_ms));
        let with_torch = self.torch.is_some();
        let _ = writeln!(
            out,
            "{:<35} {ours:>7.2}  {candle:>9.2}  {:>10}  {:>11.2}  {:>12}",
            "all",
            cell(with_torch.then_some(peer)),
            candle / ours,
            cell(with_torch.then_some(ours / peer))
        );
        out
    }
}
