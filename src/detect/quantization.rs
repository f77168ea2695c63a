//! What an int8 engine has to know besides the weights: the range of every map that a quantized convolution reads or writes, and the layers that stay f32.
//!
//! A *range* is the upper end of a map; the lower end is 0, since every such map is an input window (0..1), a ReLU or a sum of two of them. It is mapped
//! on the 256 steps of int8 with the zero point at -128, so that ReLU is the clamp at the lower end and costs nothing. Ranges are measured on calibration
//! slots (`lesionlab quantize`) and stand in `bundle.toml`; weights are quantized when they are loaded, one scale an output channel, symmetric
//! (Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference").

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::network::{Conv, Graph, NetworkSpec, Op};
use super::weights::Layer;

/// Zero point of every map.
pub const ZERO_POINT: i8 = i8::MIN;
/// The map of a slot's windows, 0..1 by definition.
pub const SLOT: &str = "slot";
/// Steps from the lower end of a map to its upper end.
pub const STEPS: f32 = 255.0;
/// A map that reaches further is a damaged number, not a measurement.
const MOST_RANGE: f32 = 1e6;
/// Steps that a bias may take at most: far from the ends of i32, and finer than any f32 bias needs.
const MOST_BIAS_STEPS: f32 = (1 << 24) as f32;

/// Ranges and exceptions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantization {
    /// How ranges were chosen: `headroom`, `mse`, `percentile` or `max`.
    pub method: String,
    /// The slots they were measured on.
    pub calibrated_on: String,
    /// Convolutions that an int8 engine computes in f32.
    pub keep_f32: Vec<String>,
    /// Upper end of each map, by [`map_name`].
    pub ranges: BTreeMap<String, f32>,
}

/// What the map of node `i` is called: the convolution that makes it, `slot`, `neck4` … for the inputs, `NAME.sum` for the sum that convolution NAME ends in.
/// `None` for maps that have the range of what they are made of (concatenation, upsampling) and for logits, which are never quantized.
#[must_use]
pub fn map_name(graph: &Graph, i: usize) -> Option<String> {
    let node = &graph.nodes[i];
    match &node.op {
        Op::Input if node.stride == 1 => Some(SLOT.into()),
        Op::Input => Some(format!("neck{}", node.stride)),
        Op::Conv(c, _) => c.norm_relu.then(|| c.name.clone()),
        Op::Add(a, b) => [b, a].into_iter().find_map(|x| match &graph.nodes[*x].op {
            Op::Conv(c, _) => Some(format!("{}.sum", c.name)),
            _ => None,
        }),
        Op::Concat(..) | Op::Upsample(_) => None,
    }
}

/// Scale of a map with this range.
#[must_use]
pub fn scale(range: f32) -> f32 {
    range / STEPS
}

impl Quantization {
    /// Range of the map of node `i`, `None` for logits.
    #[must_use]
    pub fn range(&self, graph: &Graph, i: usize) -> Option<f32> {
        match &graph.nodes[i].op {
            Op::Upsample(x) => self.range(graph, *x),
            Op::Concat(a, b) => Some(self.range(graph, *a)?.max(self.range(graph, *b)?)),
            _ => map_name(graph, i).and_then(|name| self.ranges.get(&name).copied()),
        }
    }

    /// Whether an int8 engine computes this convolution in int8. Logits are what boxes are decoded from: the layers that end in them stay f32.
    #[must_use]
    pub fn is_int8(&self, conv: &Conv) -> bool {
        conv.norm_relu && !self.keep_f32.contains(&conv.name)
    }

    /// Whether ranges and exceptions are those of `spec`.
    ///
    /// # Errors
    /// A sentence naming the map or layer and its value.
    pub fn check(&self, spec: &NetworkSpec) -> Result<(), String> {
        let graphs = [spec.encoder(), spec.heads()];
        let names: BTreeSet<String> = graphs.iter().flat_map(|g| (0..g.nodes.len()).filter_map(|i| map_name(g, i))).collect();
        for name in &names {
            match self.ranges.get(name) {
                None => return Err(format!("[quantization.ranges] has no range of map {name}")),
                Some(r) if !(r.is_finite() && *r > 0.0 && *r <= MOST_RANGE) => {
                    return Err(format!("[quantization.ranges] {name} is {r}: a number over 0 and up to {MOST_RANGE} is needed"));
                }
                Some(_) => {}
            }
        }
        if let Some(name) = self.ranges.keys().find(|name| !names.contains(*name)) {
            return Err(format!("[quantization.ranges] names {name}, which is no map of the network"));
        }
        let convs: BTreeSet<&str> = graphs.iter().flat_map(Graph::convs).map(|c| c.name.as_str()).collect();
        match self.keep_f32.iter().find(|name| !convs.contains(name.as_str())) {
            Some(name) => Err(format!("[quantization] keep_f32 names {name}, which is no layer of the network")),
            None => Ok(()),
        }
    }
}

/// Weights of one convolution in int8.
#[derive(Debug, Clone, PartialEq)]
pub struct Int8Layer {
    /// As [`Layer::weights`].
    pub weights: Vec<i8>,
    /// One an output channel.
    pub scales: Vec<f32>,
    /// In steps of input scale × weight scale.
    pub bias: Vec<i32>,
}

impl Int8Layer {
    /// Quantizes a layer whose input has `input_scale`.
    #[must_use]
    pub fn new(layer: &Layer, input_scale: f32) -> Self {
        let outputs = layer.bias.len();
        let mut most = vec![0.0f32; outputs];
        for row in layer.weights.chunks_exact(outputs) {
            for (m, w) in most.iter_mut().zip(row) {
                *m = m.max(w.abs());
            }
        }
        // A channel without weights still has its bias, which then decides about the scale.
        let scales: Vec<f32> = most
            .iter()
            .zip(&layer.bias)
            .map(|(m, b)| (m / 127.0).max(b.abs() / (input_scale * MOST_BIAS_STEPS)).max(f32::MIN_POSITIVE))
            .collect();
        let weights =
            layer.weights.chunks_exact(outputs).flat_map(|row| row.iter().zip(&scales).map(|(w, s)| (w / s).round() as i8)).collect();
        let bias = layer.bias.iter().zip(&scales).map(|(b, s)| (b / (input_scale * s)).round() as i32).collect();
        Self { weights, scales, bias }
    }

    /// The weights that the int8 ones stand for.
    #[must_use]
    pub fn weights_f32(&self) -> Vec<f32> {
        self.weights.chunks_exact(self.scales.len()).flat_map(|row| row.iter().zip(&self.scales).map(|(w, s)| f32::from(*w) * s)).collect()
    }
}

/// `x` as an int8 map of this range would hold it.
pub fn through_int8(x: &mut [f32], range: f32) {
    let step = scale(range);
    for v in x {
        *v = (*v / step).round_ties_even().clamp(0.0, STEPS) * step;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Every map of `spec` reaches to `range`.
    fn even(spec: &NetworkSpec, range: f32) -> Quantization {
        let graphs = [spec.encoder(), spec.heads()];
        let names = graphs.iter().flat_map(|g| (0..g.nodes.len()).filter_map(|i| map_name(g, i)).collect::<Vec<_>>());
        Quantization {
            method: "max".into(),
            calibrated_on: "nothing".into(),
            keep_f32: Vec::new(),
            ranges: names.map(|name| (name, range)).collect(),
        }
    }

    #[test]
    fn every_map_that_a_quantized_layer_touches_has_a_name_of_its_own() {
        let spec = NetworkSpec::cpu();
        let even = even(&spec, 1.0);
        for graph in [spec.encoder(), spec.heads()] {
            let names: Vec<_> = (0..graph.nodes.len()).filter_map(|i| map_name(&graph, i)).collect();
            assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
            for node in &graph.nodes {
                if let Op::Conv(c, x) = &node.op {
                    assert_eq!(even.range(&graph, *x), Some(1.0), "what {} reads", c.name);
                }
            }
        }
        even.check(&spec).unwrap();
    }

    #[test]
    fn wrong_ranges_are_refused_by_name_and_value() {
        let spec = NetworkSpec::cpu();
        let reason = |change: fn(&mut Quantization)| {
            let mut q = even(&spec, 1.0);
            change(&mut q);
            q.check(&spec).unwrap_err()
        };
        let cases: [(fn(&mut Quantization), &str); 6] = [
            (|q| _ = q.ranges.insert("stem".into(), f32::NAN), "stem is NaN"),
            (|q| _ = q.ranges.insert("stem".into(), 0.0), "stem is 0"),
            (|q| _ = q.ranges.insert("stem".into(), 1e9), "stem is 1000000000"),
            (|q| _ = q.ranges.remove("down4"), "no range of map down4"),
            (|q| _ = q.ranges.insert("stem2".into(), 1.0), "names stem2"),
            (|q| q.keep_f32.push("stem2".into()), "keep_f32 names stem2"),
        ];
        for (change, expected) in cases {
            let text = reason(change);
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn weights_keep_half_a_step_and_a_bare_bias_keeps_its_value() {
        let layer = Layer { weights: vec![0.5, -2.0, 0.0, 0.1, 1.0, 0.0], bias: vec![0.25, -3.0, 0.7] };
        let int8 = Int8Layer::new(&layer, 0.01);
        for ((w, q), i) in layer.weights.iter().zip(int8.weights_f32()).zip(0..) {
            assert!((w - q).abs() <= int8.scales[i % 3] / 2.0 + 1e-7, "{w} {q}");
        }
        for ((b, q), s) in layer.bias.iter().zip(&int8.bias).zip(&int8.scales) {
            assert!((b - *q as f32 * s * 0.01).abs() <= s * 0.01, "{b}");
        }
        assert_eq!(int8.weights[2], 0);
    }

    #[test]
    fn a_map_keeps_half_a_step_within_its_range_and_is_clamped_outside() {
        let mut x = [0.0, 0.1, 0.999, 1.0, 7.0, -0.3];
        let before = x;
        through_int8(&mut x, 1.0);
        for (a, b) in before.iter().zip(x) {
            assert!((a.clamp(0.0, 1.0) - b).abs() <= 0.5 / STEPS + 1e-6, "{a} {b}");
        }
    }
}
