//! Promise: the CPU engine works with its own threads alone. candle's add of large maps starts a pool beside them and waits for it by spinning, which took a
//! quarter of all processor time. A process of its own: whatever else starts that pool is not in it.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::path::Path;

use lesionwatch::detect::{Features, select};
use lesionwatch::lab::slots::SeriesSlots;

#[test]
fn no_pool_spins_beside_the_engines_own_threads() {
    let bundle = lesionwatch::shipped::open(None).unwrap();
    let series = SeriesSlots::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("sample/LIDC-IDRI-0314")).unwrap();
    let mut engine = select::started(&bundle, "candle-cpu").unwrap();
    let features: Features = engine.encode(&series.slot(30).unwrap()).unwrap();
    assert!(!engine.heads(&[&features, &features, &features]).unwrap().is_empty());
    let running = common::thread_names(std::process::id());
    println!("{running:?}");
    assert!(running.iter().any(|t| t.starts_with("candle-cpu")), "the engine's own threads have names: {running:?}");
    assert!(!running.iter().any(|t| t.starts_with(common::SPINNING_POOL)), "{running:?}");
}
