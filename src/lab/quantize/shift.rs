//! What each layer in int8 does to the scores of what f32 reports. Errors of whole maps say little about that: most of a map is healthy, and a range that
//! loses least on it may cut off what a lesion lights up.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Serialize;

use super::observe::{self, Arithmetic, beside, maps, slot_map};
use crate::detect::bundle::Bundle;
use crate::detect::network::{Graph, HEAD_CHANNELS, Op};
use crate::detect::quantization::Quantization;
use crate::detect::{Map, SlotInput, heads};
use crate::lab::synthesize::{CROP, Sampler};

/// Crops with something reported that are looked at.
const CROPS: usize = 12;
/// Crops drawn at most to find them: f32 reports something in one of four.
const MOST_DRAWN: usize = 240;
/// Other crops than those that the cost is measured on.
const SEED: u64 = 13;

/// How raw scores change in the cells that f32 reports.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Shift {
    /// Mean; below zero where scores fall.
    pub mean: f64,
    /// Root mean square.
    pub rms: f64,
}

impl Shift {
    /// Mean and root mean square for a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{:+.4} ~{:.4}", self.mean, self.rms)
    }
}

/// One crop in which f32 reports something, with every f32 map of it.
pub struct Reported {
    encoder: Vec<Map>,
    heads: Vec<Map>,
    /// Level, cell, raw score.
    cells: Vec<(usize, usize, f32)>,
}

/// Draws crops of one slot until enough have a cell that f32 scores at or above `score`.
///
/// # Errors
/// A sentence naming the layer that does not fit.
pub fn draw(bundle: &Bundle, sampler: &Sampler, score: f64) -> Result<Vec<Reported>, String> {
    let mut rng = StdRng::seed_from_u64(SEED);
    let mut found = Vec::new();
    for _ in 0..MOST_DRAWN {
        if found.len() == CROPS {
            break;
        }
        let slot = SlotInput { height: CROP, width: CROP, data: sampler.sample(&mut rng, 1).data };
        found.extend(reported(bundle, &slot, score)?);
    }
    Ok(found)
}

/// `None` where f32 scores every cell of `slot` below `score`.
fn reported(bundle: &Bundle, slot: &SlotInput, score: f64) -> Result<Option<Reported>, String> {
    let spec = &bundle.description.network;
    let graphs = [spec.encoder(), spec.heads()];
    let encoder = maps(&graphs[0], &bundle.weights, &Arithmetic::F32, vec![slot_map(slot)])?;
    let inputs = repeated(&graphs[0], spec.context, |o| &encoder[o]);
    let heads = maps(&graphs[1], &bundle.weights, &Arithmetic::F32, inputs)?;
    let mut cells = Vec::new();
    for (level, output) in graphs[1].outputs.iter().enumerate() {
        let scores = heads[*output].data.chunks_exact(HEAD_CHANNELS).map(heads::score).enumerate();
        cells.extend(scores.filter(|(_, s)| f64::from(*s) >= score).map(|(cell, s)| (level, cell, s)));
    }
    Ok((!cells.is_empty()).then_some(Reported { encoder, heads, cells }))
}

/// The heads' inputs where a slot is its own neighbour.
fn repeated<'a>(encoder: &Graph, context: usize, map: impl Fn(usize) -> &'a Map) -> Vec<Map> {
    beside(&vec![encoder.outputs.iter().map(|o| map(*o)).collect::<Vec<_>>(); context])
}

/// What each layer that can be int8 does by itself, everything before and after it in f32.
///
/// # Errors
/// A sentence naming the layer or map that does not fit.
pub fn alone(bundle: &Bundle, everything: &Quantization, crops: &[Reported]) -> Result<BTreeMap<String, Shift>, String> {
    let spec = &bundle.description.network;
    let graphs = [spec.encoder(), spec.heads()];
    let inputs: Vec<usize> = (0..graphs[1].nodes.len()).filter(|i| matches!(graphs[1].nodes[*i].op, Op::Input)).collect();
    let mut shifts = BTreeMap::new();
    for (which, graph) in graphs.iter().enumerate() {
        for (i, conv, x) in observe::convs(graph).filter(|(_, c, _)| everything.is_int8(c)) {
            let mut sums = Sums::default();
            for crop in crops {
                let exact = [&crop.encoder, &crop.heads];
                let int8 = observe::convolve(graph, i, &bundle.weights, &Arithmetic::Int8(everything), &exact[which][x])?;
                let mut replaced = observe::changed(graph, &bundle.weights, exact[which], [(i, int8)].into())?;
                if which == 0 {
                    let necks = repeated(graph, spec.context, |o| replaced.get(&o).unwrap_or(&exact[0][o]));
                    replaced = observe::changed(&graphs[1], &bundle.weights, exact[1], inputs.iter().copied().zip(necks).collect())?;
                }
                sums.add(crop, |level| replaced.get(&graphs[1].outputs[level]).unwrap_or(&exact[1][graphs[1].outputs[level]]));
            }
            shifts.insert(conv.name.clone(), sums.shift());
        }
    }
    Ok(shifts)
}

/// What the whole int8 network does.
///
/// # Errors
/// As [`alone`].
pub fn together(bundle: &Bundle, q: &Quantization, crops: &[Reported]) -> Result<Shift, String> {
    let spec = &bundle.description.network;
    let graphs = [spec.encoder(), spec.heads()];
    let mut sums = Sums::default();
    for crop in crops {
        let slot = crop.encoder.first().ok_or("the encoder has no input")?.clone();
        let encoder = maps(&graphs[0], &bundle.weights, &Arithmetic::Int8(q), vec![slot])?;
        let inputs = repeated(&graphs[0], spec.context, |o| &encoder[o]);
        let heads = maps(&graphs[1], &bundle.weights, &Arithmetic::Int8(q), inputs)?;
        sums.add(crop, |level| &heads[graphs[1].outputs[level]]);
    }
    Ok(sums.shift())
}

/// Largest value of each convolution's map in these crops.
#[must_use]
pub fn largest(bundle: &Bundle, crops: &[Reported]) -> BTreeMap<String, f32> {
    let spec = &bundle.description.network;
    let mut most = BTreeMap::new();
    for (which, graph) in [spec.encoder(), spec.heads()].iter().enumerate() {
        for (i, conv, _) in observe::convs(graph) {
            let of = |crop: &Reported| [&crop.encoder, &crop.heads][which][i].data.iter().copied().fold(0.0, f32::max);
            most.insert(conv.name.clone(), crops.iter().map(of).fold(0.0, f32::max));
        }
    }
    most
}

#[derive(Default)]
struct Sums {
    count: usize,
    sum: f64,
    squares: f64,
}

impl Sums {
    fn add<'a>(&mut self, crop: &Reported, output: impl Fn(usize) -> &'a Map) {
        for (level, cell, before) in &crop.cells {
            let after = heads::score(&output(*level).data[cell * HEAD_CHANNELS..][..HEAD_CHANNELS]);
            let moved = f64::from(after) - f64::from(*before);
            self.count += 1;
            self.sum += moved;
            self.squares += moved * moved;
        }
    }

    fn shift(&self) -> Shift {
        let n = self.count.max(1) as f64;
        Shift { mean: self.sum / n, rms: (self.squares / n).sqrt() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::detect::network::NetworkSpec;
    use crate::detect::tiny;

    /// A slot in which the third window, which the tiny network goes by, is dense in a square.
    fn dense_square() -> SlotInput {
        let dense = |i: usize| (24..72).contains(&(i / 96)) && (24..72).contains(&(i % 96));
        let data = (0..96 * 96).flat_map(|i| [0.3, 0.3, if dense(i) { 0.6 } else { 0.3 }]).collect();
        SlotInput { height: 96, width: 96, data }
    }

    #[test]
    fn a_range_that_cuts_off_what_is_reported_is_told_by_its_layer() {
        let folder = tempfile::tempdir().unwrap();
        tiny::write(folder.path()).unwrap();
        let bundle = Bundle::open(folder.path()).unwrap();
        let crops: Vec<Reported> = reported(&bundle, &dense_square(), 0.5).unwrap().into_iter().collect();
        assert_eq!(crops.len(), 1);
        assert!((0.55..=0.65).contains(&largest(&bundle, &crops)["stem"]));
        let wide = tiny::ranges(&NetworkSpec::tiny());
        let shifts = alone(&bundle, &wide, &crops).unwrap();
        assert!(shifts.len() > 8 && shifts.values().all(|s| s.mean.abs() < 0.05), "{shifts:?}");
        // Dense tissue is reported from 0.36 on.
        let mut narrow = wide.clone();
        narrow.ranges.insert("down8".into(), 0.35);
        let shifts = alone(&bundle, &narrow, &crops).unwrap();
        // What writes the map and what reads it lose it, the layer before does not.
        assert!(shifts["down8"].mean < -0.2 && shifts["down16"].mean < -0.2 && shifts["down4"].mean.abs() < 0.05, "{shifts:?}");
        assert!(together(&bundle, &narrow, &crops).unwrap().mean < -0.2);
        assert!(together(&bundle, &wide, &crops).unwrap().rms < 0.1);
    }

    #[test]
    fn where_nothing_is_reported_there_is_no_crop() {
        let folder = tempfile::tempdir().unwrap();
        tiny::write(folder.path()).unwrap();
        let bundle = Bundle::open(folder.path()).unwrap();
        let flat = SlotInput { height: 96, width: 96, data: vec![0.2; 96 * 96 * 3] };
        assert!(reported(&bundle, &flat, 0.5).unwrap().is_none());
    }
}
