//! Promise: every engine that can start here says the same of the same slots: f32 engines what onnxruntime computes from the same graphs, quantized ones
//! the same boxes at the operating point. The slots are those of the sample series, the bundle is the one built in, its int8 ranges among it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::path::Path;
use std::time::Duration;

use candle_core::Device;
use lesionwatch::detect::batch::Batched;
use lesionwatch::detect::bundle::{Bundle, tolerance};
use lesionwatch::detect::device_net::{DeviceNet, Format};
use lesionwatch::detect::{Engine, Features, Map, SlotInput, select};
use lesionwatch::lab::quantize::accuracy::{agreement, of_series, raw_operating_point};
use lesionwatch::lab::slots::SeriesSlots;

/// Raw outputs of f32 engines differ from onnxruntime's by this share of the largest magnitude at most: the order of sums.
const F32: f32 = 1e-3;
/// The int8 engine's from onnxruntime's on the very same int8 graphs: a step of a map here and there, where a tie is rounded the other way.
const INT8: f32 = 0.05;
/// Share of the boxes that f32 reports which a quantized engine has at IoU ≥ 0.9, and which it reports too.
const LEAST_SAME: f64 = 0.9;
/// Of f16, at IoU ≥ 0.9.
const LEAST_SAME_F16: f64 = 0.99;

fn sample() -> SeriesSlots {
    SeriesSlots::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("sample/LIDC-IDRI-0314")).unwrap()
}

fn bundle() -> Bundle {
    lesionwatch::shipped::open(None).unwrap()
}

fn window(series: &SeriesSlots, i: usize, context: usize) -> Vec<SlotInput> {
    series.window(i, context).into_iter().map(|i| series.slot(i).unwrap()).collect()
}

fn outputs(engine: &mut dyn Engine, window: &[SlotInput]) -> Vec<Map> {
    let features: Vec<Features> = window.iter().map(|s| engine.encode(s).unwrap()).collect();
    engine.heads(&features.iter().collect::<Vec<_>>()).unwrap()
}

/// What onnxruntime makes of a window with these graphs.
fn onnxruntime(window: &[SlotInput], [encoder, heads]: [&[u8]; 2]) -> Vec<Vec<f32>> {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    std::fs::write(path("slots.f32"), window.iter().flat_map(|s| bytes(&s.data)).collect::<Vec<u8>>()).unwrap();
    std::fs::write(path("encoder.onnx"), encoder).unwrap();
    std::fs::write(path("heads.onnx"), heads).unwrap();
    let numbers = [window.len(), window[0].height, window[0].width].map(|n| n.to_string());
    let mut command = common::peer_script("onnx.py");
    let (good, said) = common::run(command.arg(folder.path()).arg(path("encoder.onnx")).arg(path("heads.onnx")).args(numbers));
    assert!(good, "{said}");
    let read = |level: usize| std::fs::read(path(&format!("out{level}.f32"))).unwrap();
    (0..3).map(|level| read(level).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()).collect()
}

/// Largest difference as a share of the largest magnitude, level by level.
fn differences(ours: &[Map], theirs: &[Vec<f32>]) -> Vec<f32> {
    let of = |(ours, theirs): (&Map, &Vec<f32>)| {
        assert_eq!(ours.data.len(), theirs.len());
        let most = theirs.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        ours.data.iter().zip(theirs).fold(0.0f32, |m, (a, b)| m.max((a - b).abs())) / most
    };
    ours.iter().zip(theirs).map(of).collect()
}

#[test]
fn f32_engines_compute_what_onnxruntime_computes() {
    let (series, bundle) = (sample(), bundle());
    for i in [5, 30, 55] {
        let window = window(&series, i, bundle.description.network.context);
        let theirs = onnxruntime(&window, [&bundle.encoder_onnx, &bundle.heads_onnx]);
        for name in ["tract", "candle-cpu"] {
            let mut engine = select::started(&bundle, name).unwrap();
            let found = differences(&outputs(engine.as_mut(), &window), &theirs);
            println!("{name} slot {i}: {found:?}");
            assert!(found.iter().all(|d| *d <= F32), "{name} slot {i}: {found:?}");
        }
    }
}

#[test]
fn int8_graphs_mean_to_tract_what_they_mean_to_onnxruntime() {
    let (series, bundle) = (sample(), bundle());
    let (encoder, heads) = bundle.int8_graphs().unwrap();
    let mut engine = select::started(&bundle, "tract-int8").unwrap();
    for i in [5, 30, 55] {
        let window = window(&series, i, bundle.description.network.context);
        let theirs = onnxruntime(&window, [&encoder, &heads]);
        let found = differences(&outputs(engine.as_mut(), &window), &theirs);
        println!("slot {i}: {found:?}");
        assert!(found.iter().all(|d| *d <= INT8), "slot {i}: {found:?}");
    }
}

#[test]
fn quantized_engines_report_the_boxes_that_f32_reports() {
    let (series, bundle) = (sample(), bundle());
    let score = raw_operating_point(&bundle);
    let boxes = |name: &str| of_series(select::started(&bundle, name).unwrap().as_mut(), &series).unwrap();
    let reference = boxes("candle-cpu");
    for name in ["tract", "candle-cpu-q8_0", "tract-int8"] {
        let [all, same, flagged] = agreement(&reference, &boxes(name), score);
        println!("{name}: of {all} boxes {same} are the same, {flagged} flagged too");
        assert!(all > 10, "{all} boxes: too few to compare");
        let least = if name == "tract" { 1.0 } else { LEAST_SAME };
        assert!(flagged as f64 >= all as f64 * least, "{name}: {same} of {all}, {flagged} reported");
    }
}

/// No GPU is needed for this: on the processor the same code runs, but for the opening of the device. The two Q8_0 engines round the same blocks, so that
/// they differ by the order of sums, too.
#[test]
fn what_a_gpu_runs_says_on_the_processor_what_the_cpu_engines_say() {
    let (series, bundle) = (sample(), bundle());
    for (format, engine, most) in
        [(Format::F32, "candle-cpu", F32), (Format::F16, "candle-cpu", tolerance("f16")), (Format::Q8_0, "candle-cpu-q8_0", F32)]
    {
        let (spec, weights) = (bundle.description.network.clone(), bundle.q8_0_weights().clone());
        let open = move || DeviceNet::new(&spec, &weights, format, Device::Cpu, Box::new(|| Some(1 << 33)));
        let mut ours = Batched::start("device-net", Duration::from_secs(60), open).unwrap();
        println!("{format:?} self-test: {:?}", bundle.differences(&mut ours).unwrap());
        bundle.self_test(&mut ours, tolerance(format.name())).unwrap();
        let mut theirs = select::started(&bundle, engine).unwrap();
        if format == Format::F16 {
            let score = raw_operating_point(&bundle);
            let reference = of_series(theirs.as_mut(), &series).unwrap();
            let [all, same, flagged] = agreement(&reference, &of_series(&mut ours, &series).unwrap(), score);
            println!("{format:?}: of {all} boxes {same} are the same, {flagged} flagged too");
            assert!(all > 10 && same as f64 >= all as f64 * LEAST_SAME_F16, "{same} of {all}, {flagged} reported");
        }
        for i in [5, 30, 55] {
            let window = window(&series, i, bundle.description.network.context);
            let expected: Vec<Vec<f32>> = outputs(theirs.as_mut(), &window).into_iter().map(|m| m.data).collect();
            let found = differences(&outputs(&mut ours, &window), &expected);
            println!("{format:?} slot {i}: {found:?}");
            assert!(found.iter().all(|d| *d <= most), "{format:?} slot {i}: {found:?}");
        }
    }
}
