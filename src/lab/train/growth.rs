//! A trained network in a wider one: it computes what it did, and has more channels to learn with (Chen et al. 2016, "Net2Net", arXiv:1511.05641, with
//! fresh channels instead of copied ones).
//!
//! Old channel `i` of a map of `n` channels is channel `⌊i · m / n⌋` of the wider one's `m`: spread evenly, so that both halves of a map, and the parts of
//! a concatenation, stay where they belong. New channels have random weights, and nothing old reads them yet: those weights begin at zero.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::detect::network::{Conv, Graph, NetworkSpec, Op};
use crate::detect::weights::{FoldedWeights, Layer};

/// Of the new channels' weights.
const SEED: u64 = 1;

/// `weights` of a net `from`, grown to `to`; a map of the wider net has the old values at the old channels' places. The same net every time: runs of
/// different seeds begin from one point, and their mean is one that works.
///
/// # Errors
/// A sentence: a net that is narrower somewhere or differs in more than channels, channels that do not spread evenly, weights of another net.
pub fn grown(weights: &FoldedWeights, from: &NetworkSpec, to: &NetworkSpec) -> Result<FoldedWeights, String> {
    let same = |spec: &NetworkSpec| (spec.windows, spec.context, spec.blocks, spec.head);
    if same(from) != same(to) {
        return Err(
            "the network differs from the initial weights' in more than channels (windows, context, blocks and head must be the same)"
                .into(),
        );
    }
    let mut rng = StdRng::seed_from_u64(SEED);
    let mut all = FoldedWeights::default();
    for (old, new) in [(from.encoder(), to.encoder()), (from.heads(), to.heads())] {
        if old.nodes.len() != new.nodes.len() {
            return Err(
                "a neck of the network equals its neighbour's width where the initial weights' does not: it has other layers".into()
            );
        }
        check_concatenations(&old, &new)?;
        for (narrow, wide) in old.convs().zip(new.convs()) {
            let layer = layer(weights.layer(narrow)?, narrow, wide, &mut rng)?;
            all.0.insert(wide.name.clone(), layer);
        }
    }
    Ok(all)
}

/// Whether the first part of every concatenation grows as the whole does.
fn check_concatenations(old: &Graph, new: &Graph) -> Result<(), String> {
    for (a, b) in old.nodes.iter().zip(&new.nodes) {
        if let (Op::Concat(x, _), Op::Concat(y, _)) = (&a.op, &b.op)
            && old.nodes[*x].channels * b.channels != new.nodes[*y].channels * a.channels
        {
            return Err(format!("{} channels do not spread evenly over {}", a.channels, b.channels));
        }
    }
    Ok(())
}

/// One convolution, grown.
fn layer(layer: &Layer, narrow: &Conv, wide: &Conv, rng: &mut StdRng) -> Result<Layer, String> {
    if wide.inputs < narrow.inputs || wide.outputs < narrow.outputs {
        return Err(format!(
            "layer {} would shrink from {} to {} channels and {} to {}",
            narrow.name, narrow.inputs, narrow.outputs, wide.inputs, wide.outputs
        ));
    }
    let (old_input, old_output) = (spread(narrow.inputs, wide.inputs), spread(narrow.outputs, wide.outputs));
    let cells = narrow.kernel * narrow.kernel;
    let deviation = (2.0 / (cells * wide.inputs) as f32).sqrt();
    // Uniform, of that deviation.
    let most = deviation * 3f32.sqrt();
    let mut weights = Vec::with_capacity(cells * wide.inputs * wide.outputs);
    for cell in 0..cells {
        for input in &old_input {
            for output in &old_output {
                weights.push(match (input, output) {
                    (Some(i), Some(o)) => layer.weights[(cell * narrow.inputs + i) * narrow.outputs + o],
                    (None, Some(_)) => 0.0,
                    (_, None) => rng.random_range(-most..most),
                });
            }
        }
    }
    let bias = old_output.iter().map(|o| o.map_or(0.0, |o| layer.bias[o])).collect();
    Ok(Layer { weights, bias })
}

/// Of each of `wide` channels the old one that stands there, if any.
fn spread(narrow: usize, wide: usize) -> Vec<Option<usize>> {
    let mut old = vec![None; wide];
    (0..narrow).for_each(|i| old[i * wide / narrow] = Some(i));
    old
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::detect::Engine;
    use crate::detect::candle_engine::CandleEngine;
    use crate::detect::train_net::TrainNet;
    use crate::volume::SlotInput;

    fn narrow() -> NetworkSpec {
        NetworkSpec { blocks: [1, 1, 1, 1], head: [0, 1, 1], ..NetworkSpec::tiny() }
    }

    #[test]
    fn a_grown_net_answers_as_before() {
        let from = narrow();
        let net = TrainNet::new(&from, &Device::Cpu, 3).unwrap();
        let weights = net.fold().unwrap();
        let side = 64;
        let input = SlotInput { data: (0..side * side * 3).map(|i| (i % 97) as f32 / 97.0).collect(), height: side, width: side };
        let answer = |spec: &NetworkSpec, weights: &FoldedWeights| {
            let mut engine = CandleEngine::new(spec, weights).unwrap();
            let maps = engine.encode(&input).unwrap();
            engine.heads(&[&maps, &maps, &maps]).unwrap()
        };
        let before = answer(&from, &weights);
        for to in [
            NetworkSpec { widths: [6, 12, 12, 12, 12], neck: [12, 12, 12], ..from.clone() },
            NetworkSpec { widths: [4, 8, 16, 24, 8], neck: [16, 16, 16], ..from.clone() },
        ] {
            let wide = grown(&weights, &from, &to).unwrap();
            wide.check(&to).unwrap();
            let after = answer(&to, &wide);
            for (a, b) in before.iter().zip(&after) {
                assert_eq!((a.height, a.width), (b.height, b.width));
                let worst = a.data.iter().zip(&b.data).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
                assert!(worst < 1e-4, "{to:?}: {worst}");
            }
        }
    }

    #[test]
    fn what_does_not_grow_is_refused() {
        let from = narrow();
        let weights = TrainNet::new(&from, &Device::Cpu, 3).unwrap().fold().unwrap();
        let refused = |to: NetworkSpec| grown(&weights, &from, &to).unwrap_err();
        assert!(refused(NetworkSpec { widths: [2, 8, 8, 8, 8], ..from.clone() }).contains("layer stem would shrink"));
        assert!(refused(NetworkSpec { blocks: [1, 2, 1, 1], ..from.clone() }).contains("more than channels"));
        assert!(refused(NetworkSpec { neck: [8, 8, 16], ..from.clone() }).contains("other layers"));
    }
}
