//! Promise: training takes the threads that it is given and no more. candle adds and multiplies large maps on a pool of its own that waits by spinning: two
//! trainings beside each other on two cores had a third of the speed.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn no_pool_spins_beside_training() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_lesionlab"))
        .args(["train", "--phantoms", "1", "--samples", "48", "--threads", "1", "--out"])
        .arg(folder.path().join("run"))
        .env_remove("CANDLE_NUM_THREADS")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The same process all the way: it starts itself anew in its place.
    let (mut looks, mut names) = (0, std::collections::BTreeSet::new());
    while child.try_wait().unwrap().is_none() {
        names.extend(common::thread_names(child.id()));
        looks += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    let done = child.wait_with_output().unwrap();
    let text = [done.stdout, done.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(done.status.success() && text.contains("done: "), "{text}");
    assert!(looks > 10 && names.iter().any(|n| n == "lesionlab"), "{looks} looks: {names:?}");
    assert!(!names.iter().any(|n| n.starts_with(common::SPINNING_POOL)), "{names:?}");
}
