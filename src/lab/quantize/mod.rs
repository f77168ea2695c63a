//! `lesionlab quantize`: ranges of maps measured on calibration slots, the layers that stay f32, what it costs; into a bundle's description.
//!
//! Weights need no measurement: q8_0 and int8 engines quantize the master when the bundle is opened, so ranges (a few kilobytes) are all that ships.
//! [`observe`] computes with every map in view, [`ranges`] says where a range ends, [`table`] what each layer loses, [`shift`] what that does to scores,
//! [`accuracy`] what the whole loses.

pub mod accuracy;
pub mod observe;
pub mod ranges;
pub mod shift;
pub mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use self::accuracy::{Cost, LEAST_FLAGGED_PERCENT, MOST_LOSS};
use self::observe::{Arithmetic, beside, maps, slot_map};
use self::ranges::{Histogram, Histograms, Method};
use self::shift::Shift;
use self::table::{AtLesions, Errors, Row};
use super::slots::SeriesSlots;
use super::synthesize::Sampler;
use crate::detect::bundle::{Bundle, tolerance};
use crate::detect::network::Graph;
use crate::detect::quantization::{Quantization, SLOT, map_name};
use crate::detect::{Map, SlotInput, select};
use crate::error::{Class, Failure};

/// A layer whose own error is larger stays f32: relative RMS of its output when nothing else is quantized, %.
const MOST_ALONE_PERCENT: f64 = 4.0;
/// Layers moved to f32 one by one, the worst first, until the cost is bearable ([`Cost::is_bearable`]).
const MOST_MOVED: usize = 6;
/// Windows on which each layer's error is measured: every map of three nets is held for each.
const TABLE_WINDOWS: usize = 4;

/// What is asked for.
pub struct Request {
    /// Bundle folder.
    pub bundle: PathBuf,
    /// Folders of CT, one series each, to measure ranges on.
    pub ct: Vec<PathBuf>,
    /// Windows of neighbouring slots taken of each series, evenly.
    pub windows: usize,
    /// Where ranges end.
    pub method: Method,
    /// Crops of each kind to measure the cost on; none without a sampler.
    pub crops: usize,
    /// Whether the quantized weights and graphs are written too.
    pub files: bool,
    /// Whether the bundle is written at all.
    pub write: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where ranges end.
    pub method: String,
    /// The slots they were measured on.
    pub calibrated_on: String,
    /// Layer by layer.
    pub layers: Vec<Row>,
    /// What the whole int8 network does to the raw scores which f32 reports; `None` where there was nothing to measure on.
    pub score_shift: Option<Shift>,
    /// What the bundle's self-test finds of each quantized engine.
    pub self_test: Vec<SelfTest>,
    /// Engine by engine; empty where there was nothing to measure on.
    pub cost: Vec<Cost>,
    /// Why nothing was written: int8 costs too much, whatever stays f32.
    pub refused: Option<String>,
}

/// One engine's self-test.
#[derive(Debug, Serialize)]
pub struct SelfTest {
    /// Engine and format.
    pub engine: String,
    /// Largest difference from f32 as a share of the largest magnitude, by level.
    pub differences: Vec<f32>,
    /// What an engine of this format is allowed.
    pub allowed: f32,
}

fn self_test(bundle: &Bundle, q: &Quantization) -> Result<Vec<SelfTest>, Failure> {
    let mut with = bundle.clone();
    with.description.quantization = Some(q.clone());
    with.int8_onnx = None;
    let of = |name: &str| {
        let mut engine = select::unchecked(&with, name).map_err(internal)?;
        let differences = with.differences(engine.as_mut()).map_err(internal)?;
        let allowed = tolerance(engine.quantization());
        Ok(SelfTest { engine: format!("{} {}", engine.name(), engine.quantization()), differences, allowed })
    };
    ["candle-cpu-q8_0", "tract-int8"].into_iter().map(of).collect()
}

pub(crate) fn internal(e: impl std::fmt::Display) -> Failure {
    Failure::new(Class::Internal, e.to_string())
}

/// Measures, writes, reports. `validation` paints lesions into the series kept for validation; `series` is that series as it is.
///
/// # Errors
/// A bundle or a series that cannot be used; I/O; an engine's failure. A cost that stays unbearable is in the report, so that its table can be read.
pub fn run(request: &Request, validation: Option<(&Sampler, &SeriesSlots)>) -> Result<Report, Failure> {
    let bundle = Bundle::open(&request.bundle).map_err(|e| Failure::new(Class::Data, e.to_string()))?;
    let context = bundle.description.network.context;
    let mut windows: Vec<Vec<SlotInput>> = Vec::new();
    let mut names = Vec::new();
    for folder in &request.ct {
        let series = SeriesSlots::open(folder)?;
        let taken = request.windows.min(series.count());
        for n in 0..taken {
            let middle = (2 * n + 1) * series.count() / (2 * taken);
            windows.push(series.window(middle, context).into_iter().map(|i| series.slot(i)).collect::<Result<_, _>>()?);
        }
        names.push(format!("{} ({taken})", folder.file_name().map(|n| n.to_string_lossy()).unwrap_or_default()));
    }
    if windows.is_empty() {
        return Err(Failure::new(Class::Usage, "there is nothing to calibrate on: name folders of CT"));
    }
    let mut calibration = Calibration::of(&bundle, windows)?;
    let calibrated_on = format!("{} windows of {context} slots: {}", calibration.windows.len(), names.join(", "));
    let mut q = calibration.quantization(request.method, calibrated_on);
    let everything = q.clone();
    // Once with every layer in int8, to see which loses most by itself.
    calibration.measure(&bundle, &everything, &q)?;
    let mut measured = BTreeMap::new();
    let mut worst = calibration.alone();
    for (name, percent) in worst.iter().filter(|(_, percent)| *percent > MOST_ALONE_PERCENT) {
        measured.insert(name.clone(), format!("f32: alone {percent:.1} %, {MOST_ALONE_PERCENT} % allowed"));
    }
    worst.retain(|(name, _)| !measured.contains_key(name));
    q.keep_f32 = measured.keys().cloned().collect();
    let (mut cost, mut refused) = (Vec::new(), None);
    let (mut crops, mut at_lesions) = (Vec::new(), AtLesions::default());
    if let Some((sampler, series)) = validation {
        let score = accuracy::raw_operating_point(&bundle);
        crops = shift::draw(&bundle, sampler, score).map_err(internal)?;
        let shifts = shift::alone(&bundle, &everything, &crops).map_err(internal)?;
        // Where scores are what is lost, the layers that move them most come first.
        let moved = |name: &String| shifts.get(name).map_or(0.0, |s| s.rms);
        worst.sort_by(|a, b| moved(&b.0).total_cmp(&moved(&a.0)));
        at_lesions = AtLesions { most: shift::largest(&bundle, &crops), shifts };
        let said = |bundle: &Bundle, name: &str| {
            let mut engine = select::unchecked(bundle, name).map_err(internal)?;
            accuracy::listen(engine.as_mut(), sampler, request.crops, Some(series))
        };
        let reference = said(&bundle, "candle-cpu")?;
        cost.push(accuracy::cost("candle-cpu f32".into(), request.crops, &reference, &reference, score));
        cost.push(accuracy::cost("candle-cpu q8_0".into(), request.crops, &reference, &said(&bundle, "candle-cpu-q8_0")?, score));
        let mut worst = worst.into_iter();
        for moved in 0..=MOST_MOVED {
            let mut with = bundle.clone();
            with.description.quantization = Some(q.clone());
            with.int8_onnx = None;
            let int8 = accuracy::cost("tract int8".into(), request.crops, &reference, &said(&with, "tract-int8")?, score);
            cost.truncate(2);
            cost.push(int8);
            let int8 = &cost[2];
            if int8.is_bearable() {
                break;
            }
            let found = format!(
                "int8 loses {:.1} points ({MOST_LOSS} allowed) and reports {:.0} % of the boxes that f32 reports ({LEAST_FLAGGED_PERCENT:.0} % needed)",
                int8.lost(),
                int8.flagged_too_percent
            );
            let Some(next) = worst.next().filter(|_| moved < MOST_MOVED) else {
                refused = Some(format!("{found} with {} layers in f32; nothing was written", q.keep_f32.len()));
                break;
            };
            eprintln!("{found}: {} stays f32", next.0);
            measured.insert(next.0.clone(), format!("f32: before, {found}"));
            q.keep_f32.push(next.0);
        }
    }
    q.keep_f32.sort();
    calibration.measure(&bundle, &everything, &q)?;
    let layers = calibration.rows(&q, &at_lesions, &measured);
    let score_shift = if crops.is_empty() { None } else { Some(shift::together(&bundle, &q, &crops).map_err(internal)?) };
    if request.write && refused.is_none() {
        Bundle::quantize(&request.bundle, &q, request.files).map_err(|e| Failure::new(Class::Io, e.to_string()))?;
    }
    Ok(Report { layers, score_shift, self_test: self_test(&bundle, &q)?, cost, refused, method: q.method, calibrated_on: q.calibrated_on })
}

impl Report {
    /// Both tables for a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = format!("ranges by {} on {}\n\n{}", self.method, self.calibrated_on, table::text(&self.layers));
        if let Some(shift) = self.score_shift {
            out += &format!("\nraw scores that f32 reports, all int8 layers together: {}\n", shift.text());
        }
        out += "\nself-test, largest difference from f32 by level\n\n";
        for t in &self.self_test {
            let by_level = t.differences.iter().map(|d| format!("{d:.4}")).collect::<Vec<_>>().join(" ");
            let passes = if t.differences.iter().all(|d| *d <= t.allowed) { "passes" } else { "FAILS" };
            out += &format!("{:<18} {by_level}  {} allowed: {passes}\n", t.engine, t.allowed);
        }
        if !self.cost.is_empty() {
            let (crops, lesions) = (self.cost[0].crops, self.cost[0].lesions);
            out += &format!(
                "\nsensitivity (%) at 5 false positives a crop, {crops} crops of one slot and {crops} with context, {lesions} lesions; boxes of f32 at the operating point\n\n"
            );
            out += &accuracy::text(&self.cost);
        }
        out
    }
}

/// Calibration slots and what was seen on them.
struct Calibration {
    graphs: [Graph; 2],
    windows: Vec<Vec<SlotInput>>,
    seen: Histograms,
    errors: [Errors; 2],
}

impl Calibration {
    /// Largest values first, then how values are spread.
    fn of(bundle: &Bundle, windows: Vec<Vec<SlotInput>>) -> Result<Self, Failure> {
        let graphs = [bundle.description.network.encoder(), bundle.description.network.heads()];
        let mut all = Self { graphs, windows, seen: Histograms::new(), errors: Default::default() };
        let mut most: BTreeMap<String, f32> = BTreeMap::new();
        all.look(bundle, |name, values| {
            let m = most.entry(name).or_default();
            *m = values.iter().copied().fold(*m, f32::max);
        })?;
        let mut seen: Histograms = most.into_iter().map(|(name, m)| (name, Histogram::up_to(m))).collect();
        all.look(bundle, |name, values| {
            if let Some(h) = seen.get_mut(&name) {
                h.add(values);
            }
        })?;
        all.seen = seen;
        Ok(all)
    }

    /// Shows every named map of every window; the slots' own maps of each slot.
    fn look(&self, bundle: &Bundle, mut show: impl FnMut(String, &[f32])) -> Result<(), Failure> {
        let [encoder, heads] = &self.graphs;
        for window in &self.windows {
            let encoded = window
                .iter()
                .map(|slot| maps(encoder, &bundle.weights, &Arithmetic::F32, vec![slot_map(slot)]))
                .collect::<Result<Vec<_>, _>>()
                .map_err(internal)?;
            let fused = maps(heads, &bundle.weights, &Arithmetic::F32, joined(encoder, &encoded)).map_err(internal)?;
            for (graph, maps) in encoded.iter().map(|m| (encoder, m)).chain([(heads, &fused)]) {
                for (i, map) in maps.iter().enumerate() {
                    if let Some(name) = map_name(graph, i) {
                        show(name, &map.data);
                    }
                }
            }
        }
        Ok(())
    }

    /// Ranges of all maps; nothing is kept in f32. Where maps are laid side by side they get one range, so that this costs an int8 engine nothing, and
    /// so do the encoder's outputs and the heads' inputs, which are the same maps.
    fn quantization(&self, method: Method, calibrated_on: String) -> Quantization {
        let mut ranges: BTreeMap<String, f32> = self.seen.iter().map(|(name, h)| (name.clone(), h.range(method))).collect();
        // Windows end at 1 by definition, whatever the calibration slots hold.
        ranges.insert(SLOT.into(), 1.0);
        let mut one = |names: [Option<String>; 2]| {
            if let [Some(a), Some(b)] = names {
                let most = [&a, &b].iter().filter_map(|n| ranges.get(*n).copied()).fold(0.0, f32::max);
                ranges.insert(a, most);
                ranges.insert(b, most);
            }
        };
        let [encoder, heads] = &self.graphs;
        for graph in &self.graphs {
            for node in &graph.nodes {
                if let crate::detect::network::Op::Concat(a, b) = node.op {
                    one([map_name(graph, a), map_name(graph, b)]);
                }
            }
        }
        let inputs = (0..heads.nodes.len()).filter(|i| matches!(heads.nodes[*i].op, crate::detect::network::Op::Input));
        for (output, input) in encoder.outputs.iter().zip(inputs) {
            one([map_name(encoder, *output), map_name(heads, input)]);
        }
        Quantization { method: method.name().into(), calibrated_on, keep_f32: Vec::new(), ranges }
    }

    /// Errors of every layer: alone with `everything` in int8, and in the nets that `q` and Q8_0 make.
    fn measure(&mut self, bundle: &Bundle, everything: &Quantization, q: &Quantization) -> Result<(), Failure> {
        self.errors = Default::default();
        let [encoder, heads] = &self.graphs;
        let step = self.windows.len().div_ceil(TABLE_WINDOWS);
        for window in self.windows.iter().step_by(step) {
            let ways = [Arithmetic::F32, Arithmetic::Int8(q), Arithmetic::Q8_0].map(|way| {
                let encoded =
                    window.iter().map(|slot| maps(encoder, &bundle.weights, &way, vec![slot_map(slot)])).collect::<Result<Vec<_>, _>>()?;
                let fused = maps(heads, &bundle.weights, &way, joined(encoder, &encoded))?;
                Ok::<_, String>((encoded, fused))
            });
            let [exact, int8, q8_0] = ways.map(|w| w.map_err(internal));
            let (exact, int8, q8_0) = (exact?, int8?, q8_0?);
            for ((exact, int8), q8_0) in exact.0.iter().zip(&int8.0).zip(&q8_0.0) {
                self.errors[0].add(encoder, &bundle.weights, everything, exact, (int8, q8_0)).map_err(internal)?;
            }
            self.errors[1].add(heads, &bundle.weights, everything, &exact.1, (&int8.1, &q8_0.1)).map_err(internal)?;
        }
        Ok(())
    }

    /// Every layer that can be int8 with its own error (%), the worst first.
    fn alone(&self) -> Vec<(String, f64)> {
        let of = |(graph, errors): (&Graph, &Errors)| -> Vec<(String, f64)> {
            observe::convs(graph).filter(|(_, c, _)| c.norm_relu).map(|(i, c, _)| (c.name.clone(), errors.of(i)[0])).collect()
        };
        let mut all: Vec<(String, f64)> = self.graphs.iter().zip(&self.errors).flat_map(of).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all
    }

    fn rows(&self, q: &Quantization, at_lesions: &AtLesions, measured: &BTreeMap<String, String>) -> Vec<Row> {
        let both = self.graphs.iter().zip(&self.errors);
        both.flat_map(|(graph, errors)| table::rows(graph, q, &self.seen, errors, at_lesions, measured)).collect()
    }
}

/// The heads' inputs out of the maps of a window's slots.
fn joined(encoder: &Graph, encoded: &[Vec<Map>]) -> Vec<Map> {
    beside(&encoded.iter().map(|maps| encoder.outputs.iter().map(|o| &maps[*o]).collect()).collect::<Vec<_>>())
}
