//! A bundle of the usual format round a network of a few thousand parameters that marks what is dense and large: for tests of everything round the
//! network. It detects nothing of medical meaning, and its name and card say so.

use std::path::Path;

use candle_core::Device;

use super::bundle::{Bundle, BundleError, Description, Input, OperatingPoint};
use super::candle_engine::CandleEngine;
use super::heads::channel;
use super::network::{HEAD_CHANNELS, NetworkSpec};
use super::quantization::{Quantization, map_name};
use super::train_net::TrainNet;
use super::weights::FoldedWeights;
use crate::volume::{frame, slots, window};

/// Writes the bundle into `folder`.
///
/// # Errors
/// I/O.
pub fn write(folder: &Path) -> Result<(), BundleError> {
    let spec = NetworkSpec::tiny();
    let internal = |e: &dyn std::fmt::Display| BundleError::Content { file: "tiny".into(), reason: e.to_string() };
    let mut weights = TrainNet::new(&spec, &Device::Cpu, 5).and_then(|net| net.fold()).map_err(|e| internal(&e))?;
    mark_dense(&mut weights);
    let mut engine = CandleEngine::new(&spec, &weights).map_err(|e| internal(&e))?;
    let description = Description {
        name: "tiny-not-a-detector".into(),
        version: "0.0.0".into(),
        training_data: "none: weights set by hand, for tests only".into(),
        licence: "Apache-2.0 OR MIT".into(),
        default_operating_point: "default".into(),
        network: spec,
        input: Input { spacing_mm: frame::SPACING_MM, step_mm: slots::STEP_MM, windows_hu: window::WINDOWS_HU },
        classes: super::TYPE_NAMES.map(str::to_owned).to_vec(),
        operating_points: vec![OperatingPoint {
            name: "default".into(),
            score: 0.5,
            fp_per_image: 0.0,
            sensitivity: 0.0,
            measured_on: "nothing".into(),
        }],
        calibration: vec![[0.0, 0.0], [1.0, 1.0]],
        quantization: None,
        files: Default::default(),
    };
    Bundle::write(folder, description, &weights, "# tiny\n\nFor tests. Detects nothing of medical meaning.\n", &mut engine)
}

/// Ranges for int8 engines: every map of this network is a mean of windows and ends at 1. [`write`] leaves them out, so that tests of the whole appliance
/// run in f32 wherever they run.
#[must_use]
pub fn ranges(spec: &NetworkSpec) -> Quantization {
    let graphs = [spec.encoder(), spec.heads()];
    let names = graphs.iter().flat_map(|g| (0..g.nodes.len()).filter_map(|i| map_name(g, i)).collect::<Vec<_>>());
    Quantization {
        method: "max".into(),
        calibrated_on: "nothing: set by hand".into(),
        keep_f32: Vec::new(),
        ranges: names.map(|name| (name, 1.0)).collect(),
    }
}

/// Sets the path input → stride 16 by hand: channel 0 carries the mean of the third window (dense tissue and bone), everything else is cut; the
/// coarsest head turns it into objectness and boxes of 48 pixels, the finer heads stay silent.
fn mark_dense(weights: &mut FoldedWeights) {
    for (name, layer) in &mut weights.0 {
        let outputs = layer.bias.len();
        layer.weights.fill(0.0);
        layer.bias.fill(0.0);
        let head = outputs == HEAD_CHANNELS;
        if head {
            layer.bias[channel::OBJECTNESS] = -20.0;
            layer.bias[channel::QUALITY] = 4.0;
        }
        match name.as_str() {
            // [3, 3, 3, n]: mean of the third window
            "stem" => (0..9).for_each(|tap| layer.weights[(tap * 3 + 2) * outputs] = 1.0 / 9.0),
            "down4" | "down8" | "down16" => {
                let inputs = layer.weights.len() / 9 / outputs;
                (0..9).for_each(|tap| layer.weights[tap * inputs * outputs] = 1.0 / 9.0);
            }
            "neck16.lateral" => layer.weights[0] = 1.0,
            "neck16.smooth" => {
                let inputs = layer.weights.len() / 9 / outputs;
                layer.weights[4 * inputs * outputs] = 1.0; // the middle tap
            }
            // Three slots one after the other: a third of each, so that the neighbours matter.
            "fuse16" => {
                let inputs = layer.weights.len() / outputs;
                (0..3).for_each(|slot| layer.weights[slot * inputs / 3 * outputs] = 1.0 / 3.0);
            }
            "out16" => {
                // Soft tissue lies near 0.3, spine and contrast above: a threshold of 0.36.
                layer.weights[channel::OBJECTNESS] = 100.0;
                layer.bias[channel::OBJECTNESS] = -36.0;
                layer.bias[channel::BOX..channel::BOX + 4].fill(1.5f32.ln());
                layer.bias[channel::AXES..channel::AXES + 2].fill(2.0f32.ln());
                layer.bias[channel::TYPES] = 2.0;
            }
            _ => {}
        }
    }
}
