//! What quantization does to each layer: the table that says which layers stay f32, for the terminal and as JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use super::observe::{self, Arithmetic};
use super::ranges::Histograms;
use super::shift::Shift;
use crate::detect::Map;
use crate::detect::network::Graph;
use crate::detect::q8_0;
use crate::detect::quantization::{Quantization, map_name};
use crate::detect::weights::FoldedWeights;

/// One convolution.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Its name.
    pub layer: String,
    /// Kernel, stride, input and output channels.
    pub shape: [usize; 4],
    /// End of the range of what it reads.
    pub range_in: f32,
    /// End of the range of what it writes; `None` for logits.
    pub range_out: Option<f32>,
    /// Largest value it wrote on the calibration slots.
    pub most_out: Option<f32>,
    /// Largest value it wrote in crops with a lesion that f32 reports; `None` where there were none to look at.
    pub most_reported: Option<f32>,
    /// How the ranges were chosen.
    pub method: String,
    /// Relative RMS error of its output (%) when it alone is int8 (weights, input, output), everything before it f32.
    pub alone_percent: Option<f64>,
    /// What that does to the raw scores which f32 reports.
    pub score_shift: Option<Shift>,
    /// The relative RMS error where every layer up to it that is int8 is.
    pub int8_percent: f64,
    /// The same with the Q8_0 engine's arithmetic.
    pub q8_0_percent: f64,
    /// Whether it is int8 (`int8`) or why it stays f32.
    pub int8: String,
    /// Whether it is Q8_0 (`q8_0`) or stays f32.
    pub q8_0: String,
}

/// Sums of squares by node: of the f32 map, and of what three ways to compute it differ by.
#[derive(Debug, Clone, Default)]
pub struct Errors(BTreeMap<usize, [f64; 4]>);

impl Errors {
    /// Adds one input. `maps` are the graph's f32 maps on it; `int8` and `q8_0` what the graph makes of the inputs that the quantized encoders left.
    ///
    /// # Errors
    /// A sentence naming the layer that does not fit.
    pub fn add(
        &mut self,
        graph: &Graph,
        weights: &FoldedWeights,
        all_int8: &Quantization,
        maps: &[Map],
        (int8, q8_0): (&[Map], &[Map]),
    ) -> Result<(), String> {
        for (i, _, x) in observe::convs(graph) {
            let alone = observe::convolve(graph, i, weights, &Arithmetic::Int8(all_int8), &maps[x])?;
            let sums = self.0.entry(i).or_default();
            sums[0] += maps[i].data.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
            for (sum, other) in sums[1..].iter_mut().zip([&alone, &int8[i], &q8_0[i]]) {
                *sum += maps[i].data.iter().zip(&other.data).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            }
        }
        Ok(())
    }

    /// Relative RMS error in % of node `i`: alone, in the int8 net, in the Q8_0 net.
    #[must_use]
    pub fn of(&self, i: usize) -> [f64; 3] {
        let [all, lost @ ..] = self.0.get(&i).copied().unwrap_or_default();
        lost.map(|l| (l / all.max(f64::MIN_POSITIVE)).sqrt() * 100.0)
    }
}

/// What was measured layer by layer in crops with a lesion that f32 reports; empty where there were none.
#[derive(Debug, Clone, Default)]
pub struct AtLesions {
    /// What each layer alone in int8 does to scores.
    pub shifts: BTreeMap<String, Shift>,
    /// Largest value of each layer's map.
    pub most: BTreeMap<String, f32>,
}

/// The rows of one graph. `measured` says of layers that stay f32 by measurement why they do.
#[must_use]
pub fn rows(
    graph: &Graph,
    q: &Quantization,
    seen: &Histograms,
    errors: &Errors,
    at_lesions: &AtLesions,
    measured: &BTreeMap<String, String>,
) -> Vec<Row> {
    observe::convs(graph)
        .map(|(i, c, x)| {
            let [alone, int8, q8_0] = errors.of(i);
            let stays = if c.norm_relu { measured.get(&c.name).map(String::as_str).unwrap_or("f32") } else { "f32: logits" };
            Row {
                layer: c.name.clone(),
                shape: [c.kernel, c.stride, c.inputs, c.outputs],
                range_in: q.range(graph, x).unwrap_or(0.0),
                range_out: q.range(graph, i),
                most_out: map_name(graph, i).and_then(|name| seen.get(&name).map(super::ranges::Histogram::most)),
                most_reported: c.norm_relu.then(|| at_lesions.most.get(&c.name).copied()).flatten(),
                method: q.method.clone(),
                alone_percent: c.norm_relu.then_some(alone),
                score_shift: at_lesions.shifts.get(&c.name).copied(),
                int8_percent: int8,
                q8_0_percent: q8_0,
                int8: if q.is_int8(c) { "int8".into() } else { stays.into() },
                q8_0: if q8_0::suits(c) { "q8_0" } else { "f32" }.into(),
            }
        })
        .collect()
}

/// The table for a terminal.
#[must_use]
pub fn text(rows: &[Row]) -> String {
    let mut out = format!(
        "{:<18} {:>14} {:>9} {:>9} {:>9} {:>9} {:>8} {:>16} {:>8} {:>8}  {}\n",
        "layer", "k s in out", "range in", "range out", "largest", "at lesion", "alone %", "score alone", "int8 %", "q8_0 %", "int8"
    );
    let or_dash = |v: Option<f32>| v.map_or("-".to_owned(), |v| format!("{v:.3}"));
    for r in rows {
        let [k, s, i, o] = r.shape;
        out += &format!(
            "{:<18} {:>14} {:>9.3} {:>9} {:>9} {:>9} {:>8} {:>16} {:>8.2} {:>8.2}  {}\n",
            r.layer,
            format!("{k} {s} {i} {o}"),
            r.range_in,
            or_dash(r.range_out),
            or_dash(r.most_out),
            or_dash(r.most_reported),
            r.alone_percent.map_or("-".to_owned(), |v| format!("{v:.2}")),
            r.score_shift.map_or("-".to_owned(), |s| s.text()),
            r.int8_percent,
            r.q8_0_percent,
            r.int8
        );
    }
    out
}
