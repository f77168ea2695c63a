//! Promise: an engine that fails, hangs, panics or computes something wrong in the middle of a series is replaced, and what is published is what the
//! CPU alone would have said. A fault-injecting engine stands for the GPU that cannot be here; everything behind the engine trait is the product's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use candle_core::Device;
use lesionwatch::analysis::{Analysis, Analyst, Cache};
use lesionwatch::detect::batch::{BatchNetwork, Batched};
use lesionwatch::detect::bundle::Bundle;
use lesionwatch::detect::device_net::{DeviceNet, Format};
use lesionwatch::detect::guard::Guarded;
use lesionwatch::detect::standby::{EngineWatch, Standby};
use lesionwatch::detect::{Engine, EngineError, Features, Map, SlotInput, select, tiny};
use lesionwatch::series::eligibility::{self, StackPlan};
use lesionwatch::series::header;

/// Time a call may take in these tests.
const LIMIT: Duration = Duration::from_millis(1500);
/// Where no call hangs: candle's own operations are slow on a busy processor.
const LONG: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    OutOfMemory,
    Hang,
    Panic,
    WrongEncoder,
    WrongHeads,
}

/// An engine under another name that goes wrong from its `after`th slot on.
#[derive(Clone)]
struct Faulty {
    inner: Arc<std::sync::Mutex<Box<dyn Engine>>>,
    fault: Fault,
    after: usize,
    calls: Arc<AtomicUsize>,
}

impl Faulty {
    fn due(&self) -> bool {
        self.calls.fetch_add(1, Ordering::Relaxed) >= self.after
    }

    fn strike(&self) -> Result<(), EngineError> {
        match self.fault {
            Fault::OutOfMemory => Err(EngineError::Failed { engine: "candle-cuda", reason: "CUDA_ERROR_OUT_OF_MEMORY".into() }),
            Fault::Hang => {
                std::thread::sleep(Duration::from_secs(3600));
                Ok(())
            }
            Fault::Panic => panic!("a driver's assertion"),
            Fault::WrongEncoder | Fault::WrongHeads => Ok(()),
        }
    }
}

impl Engine for Faulty {
    fn name(&self) -> &'static str {
        "candle-cuda"
    }

    fn quantization(&self) -> &'static str {
        "f16"
    }

    fn context(&self) -> usize {
        self.inner.lock().unwrap().context()
    }

    fn fork(&self) -> Box<dyn Engine> {
        Box::new(self.clone())
    }

    fn encode(&mut self, slot: &SlotInput) -> Result<Features, EngineError> {
        let due = self.due();
        if due {
            self.strike()?;
        }
        let mut features = self.inner.lock().unwrap().encode(slot)?;
        if due && self.fault == Fault::WrongEncoder {
            features.levels.iter_mut().flatten().for_each(|v| *v += 0.7);
        }
        Ok(features)
    }

    fn heads(&mut self, window: &[&Features]) -> Result<Vec<Map>, EngineError> {
        let mut maps = self.inner.lock().unwrap().heads(window)?;
        if self.fault == Fault::WrongHeads && self.calls.load(Ordering::Relaxed) > self.after {
            maps.iter_mut().flat_map(|m| &mut m.data).for_each(|v| *v = -*v);
        }
        Ok(maps)
    }
}

fn plan() -> StackPlan {
    plan_of(60..=180)
}

fn plan_of(instances: RangeInclusive<u32>) -> StackPlan {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/sample/LIDC-IDRI-0314"));
    let headers: Vec<_> = instances.step_by(4).map(|n| header::read(&folder.join(format!("{n:04}.dcm"))).unwrap()).collect();
    eligibility::plan(&headers).unwrap()
}

fn bundle() -> Arc<Bundle> {
    let folder = tempfile::tempdir().unwrap();
    tiny::write(folder.path()).unwrap();
    Arc::new(Bundle::open(folder.path()).unwrap())
}

/// The network that a GPU runs, on the processor, going wrong from its `after`th batch on.
struct FaultyNet {
    inner: DeviceNet,
    fault: Fault,
    after: usize,
    batches: AtomicUsize,
}

impl BatchNetwork for FaultyNet {
    fn context(&self) -> usize {
        self.inner.context()
    }

    fn quantization(&self) -> &'static str {
        self.inner.quantization()
    }

    fn most(&self, size: (usize, usize)) -> usize {
        self.inner.most(size)
    }

    fn encode(&self, slots: &[SlotInput]) -> Result<Vec<Features>, String> {
        let due = self.batches.fetch_add(1, Ordering::Relaxed) >= self.after;
        match self.fault {
            Fault::OutOfMemory if due => return Err("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")".into()),
            Fault::Hang if due => std::thread::sleep(Duration::from_secs(3600)),
            Fault::Panic if due => panic!("Missing symbol cuLaunchKernel"),
            _ => {}
        }
        let mut made = self.inner.encode(slots)?;
        if due && self.fault == Fault::WrongEncoder {
            made.iter_mut().flat_map(|f| f.levels.iter_mut().flatten()).for_each(|v| *v += 0.7);
        }
        Ok(made)
    }

    fn heads(&self, windows: &[Vec<Features>]) -> Result<Vec<Vec<Map>>, String> {
        let mut maps = self.inner.heads(windows)?;
        if self.fault == Fault::WrongHeads && self.batches.load(Ordering::Relaxed) > self.after {
            maps.iter_mut().flatten().flat_map(|m| &mut m.data).for_each(|v| *v = -*v);
        }
        Ok(maps)
    }
}

/// An analyst whose first choice goes wrong, with the CPU standing by.
fn faulty(bundle: &Arc<Bundle>, fault: Fault, after: usize) -> (Analyst, Arc<EngineWatch>) {
    let inner = select::started(bundle, "candle-cpu").unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let broken = Faulty { inner: Arc::new(std::sync::Mutex::new(inner)), fault, after, calls };
    watched(bundle, Box::new(broken), LIMIT)
}

/// The same of the engine that is made for a GPU: batches, its thread, the guard.
fn faulty_batches(bundle: &Arc<Bundle>, format: Format, fault: Fault, after: usize) -> (Analyst, Arc<EngineWatch>) {
    let (spec, weights) = (bundle.description.network.clone(), bundle.weights.clone());
    let open = move || {
        let inner = DeviceNet::new(&spec, &weights, format, Device::Cpu, Box::new(|| Some(1 << 30)))?;
        Ok(FaultyNet { inner, fault, after, batches: AtomicUsize::new(0) })
    };
    let limit = if fault == Fault::Hang { LIMIT } else { LONG };
    watched(bundle, Box::new(Batched::start("candle-cuda", LONG, open).unwrap()), limit)
}

fn watched(bundle: &Arc<Bundle>, engine: Box<dyn Engine>, limit: Duration) -> (Analyst, Arc<EngineWatch>) {
    let engine: Box<dyn Engine> = Box::new(Guarded::new(engine, limit));
    let starter = |bundle: &Bundle, name: &'static str| match name {
        "candle-cuda" => Err("no CUDA-capable device is detected".to_owned()),
        _ => select::started(bundle, name),
    };
    let standby = Standby::new(vec!["candle-cuda", "candle-cpu", "tract"], engine.as_ref(), Arc::new(starter));
    let watch = standby.watch();
    (Analyst::new(Arc::clone(bundle), engine, 2, Some(0.0)).with_standby(standby), watch)
}

fn on_the_cpu(bundle: &Arc<Bundle>) -> Analysis {
    on_the_cpu_of(bundle, &plan())
}

fn on_the_cpu_of(bundle: &Arc<Bundle>, plan: &StackPlan) -> Analysis {
    let engine = select::started(bundle, "candle-cpu").unwrap();
    Analyst::new(Arc::clone(bundle), engine, 2, Some(0.0)).finish(plan, &mut Cache::default(), |_, _| ()).unwrap()
}

#[test]
fn whatever_goes_wrong_the_result_is_that_of_the_cpu() {
    let bundle = bundle();
    let clean = on_the_cpu(&bundle);
    assert!(!clean.lesions.is_empty());
    for fault in [Fault::OutOfMemory, Fault::Hang, Fault::Panic, Fault::WrongEncoder, Fault::WrongHeads] {
        for after in [0, 7] {
            let (analyst, watch) = faulty(&bundle, fault, after);
            assert_eq!(analyst.engine(), ("candle-cuda", "f16"));
            let begin = Instant::now();
            let result = analyst.finish(&plan(), &mut Cache::default(), |_, _| ()).unwrap();
            assert_eq!(result, clean, "{fault:?} after {after}");
            assert_eq!(analyst.engine(), ("candle-cpu", "f32"));
            assert!(begin.elapsed() < LIMIT * 20, "{fault:?}: {:?}", begin.elapsed());
            assert_eq!(watch.demotions.load(Ordering::Relaxed), 1, "{fault:?}");
            let status = watch.status();
            let told = status.fallback.unwrap();
            let expected = match fault {
                Fault::OutOfMemory => "OUT_OF_MEMORY",
                Fault::Hang => "did not return",
                Fault::Panic => "panicked",
                Fault::WrongEncoder | Fault::WrongHeads => "self-test",
            };
            assert!(told.starts_with("candle-cpu f32 because") && told.contains(expected), "{told}");
        }
    }
}

#[test]
fn an_engine_made_for_a_gpu_is_replaced_in_the_middle_of_a_series() {
    let bundle = bundle();
    let plan = plan_of(100..=132);
    let clean = on_the_cpu_of(&bundle, &plan);
    assert!(!clean.lesions.is_empty());
    for (fault, expected) in [
        (Fault::OutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY"),
        (Fault::Hang, "did not return"),
        (Fault::Panic, "panicked"),
        (Fault::WrongEncoder, "self-test"),
        (Fault::WrongHeads, "self-test"),
    ] {
        for (format, after) in [(Format::F32, 0), (Format::Q8_0, 3)] {
            let (analyst, watch) = faulty_batches(&bundle, format, fault, after);
            assert_eq!(analyst.engine(), ("candle-cuda", format.name()));
            assert_eq!(analyst.finish(&plan, &mut Cache::default(), |_, _| ()).unwrap(), clean, "{fault:?} {format:?} after {after}");
            assert_eq!(analyst.engine(), ("candle-cpu", "f32"));
            let told = watch.status().fallback.unwrap();
            assert!(told.starts_with("candle-cpu f32 because") && told.contains(expected), "{fault:?}: {told}");
        }
    }
    // One that goes right is left alone, and says the same.
    let (analyst, watch) = faulty_batches(&bundle, Format::F32, Fault::WrongHeads, usize::MAX);
    let found = analyst.finish(&plan, &mut Cache::default(), |_, _| ()).unwrap();
    assert_eq!((found.lesions.len(), watch.demotions.load(Ordering::Relaxed)), (clean.lesions.len(), 0));
    assert_eq!((analyst.engine(), watch.status().fallback), (("candle-cuda", "f32"), None));
}

/// Work done ahead by the engine that fails is thrown away with it: no series is told by two engines.
#[test]
fn speculation_of_a_failed_engine_is_not_used() {
    let bundle = bundle();
    let (analyst, watch) = faulty(&bundle, Fault::WrongEncoder, 3);
    let mut cache = Cache::default();
    for _ in 0..3 {
        analyst.advance(&plan(), &mut cache, false).unwrap();
    }
    assert_eq!(watch.demotions.load(Ordering::Relaxed), 0);
    assert_eq!(analyst.finish(&plan(), &mut cache, |_, _| ()).unwrap(), on_the_cpu(&bundle));
    assert_eq!(watch.demotions.load(Ordering::Relaxed), 1);
}

/// Where nothing stands by, the series fails with the reason; it does not hang and tells nothing wrong.
#[test]
fn without_a_standby_the_failure_is_told() {
    let bundle = bundle();
    let inner = select::started(&bundle, "candle-cpu").unwrap();
    let broken =
        Faulty { inner: Arc::new(std::sync::Mutex::new(inner)), fault: Fault::OutOfMemory, after: 2, calls: Arc::new(AtomicUsize::new(0)) };
    let analyst = Analyst::new(Arc::clone(&bundle), Box::new(Guarded::new(Box::new(broken), LIMIT)), 2, None);
    let error = analyst.finish(&plan(), &mut Cache::default(), |_, _| ()).unwrap_err();
    assert_eq!(error.stage(), "detect");
    assert!(error.to_string().contains("OUT_OF_MEMORY"), "{error}");
}
