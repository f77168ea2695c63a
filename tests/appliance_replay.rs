//! Promise: however scanners and PACS send a series, what is said of it in the end is what a clean push of the same slices gives, and it is said within a
//! second of the release where the release is evidence.
//!
//! Vocabulary. A *clean push*: all slices in order over one association of storescu. *Evidence*: one association that brought a stack without a gap was
//! released. Where there is none (a slice is missing; every image has an association of its own), the quiet time of `[series]` comes on top: that of the
//! configuration for a gap, four times the sender's longest pause between images otherwise.
//!
//! Pauses of 1, 5, 20 and 55 s are not waited for: pauses and both quiet times are scaled down by the same factor, [`SCALE`]. `REPLAY_SCALE=1` runs them
//! at full length (about 80 s). Where the release is evidence and nothing pauses, the least quiet time is [`NOT_WAITED_FOR`]: a result that waited for
//! it is told from one that only had a busy machine under it. A second is what an idle machine takes; where a clean push itself takes longer, twice that is
//! allowed.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{Process, Rig, Subscriber, free_port, mosquitto, peer_script, run, series, store, tool, wait_for};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Pauses and quiet times are this many times shorter than in the hospital.
const SCALE: f64 = 10.0;
/// Every fourth slice of the sample.
const STEP: usize = 4;
/// From the release to the result, where the release is evidence.
const PROMPT: Duration = Duration::from_secs(1);
/// `series.quiet_min_s` where nothing else is configured.
const QUIET_MIN: Duration = Duration::from_secs(2);
/// A least quiet time that shows.
const NOT_WAITED_FOR: &str = "[series]\nquiet_min_s = 60.0\n";

/// An appliance, its reader, and what a clean push gives.
struct Ward {
    dir: tempfile::TempDir,
    subscriber: Subscriber,
    rig: Rig,
    clean: Value,
    /// From the release of the clean push to its result.
    pace: Duration,
    _broker: Process,
}

impl Ward {
    fn new(more: &str) -> Self {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
        let broker = mosquitto(dir.path(), port);
        let subscriber = Subscriber::new(port);
        let rig = Rig::without_page(port, more);
        let mut ward = Self { dir, subscriber, rig, clean: Value::Null, pace: Duration::MAX, _broker: broker };
        let (files, uid) = ward.series("clean");
        (ward.clean, ward.pace) = ward.pushed(&files, &uid);
        assert!(ward.pace < Duration::from_secs(30), "a clean push took {:?}: it was not its release that counted", ward.pace);
        assert_eq!(ward.clean["outcome"], "analysed");
        assert_ne!(ward.clean["lesions"], json!([]), "nothing is found, so nothing is compared");
        ward
    }

    fn series(&self, name: &str) -> (Vec<PathBuf>, String) {
        series(self.dir.path(), name, STEP)
    }

    /// The result of a clean push, and how long after its release it was there.
    fn pushed(&self, files: &[PathBuf], uid: &str) -> (Value, Duration) {
        let (ok, text) = store(self.rig.dicom, files);
        assert!(ok, "{text}");
        self.said(uid, files.len(), SystemTime::now())
    }

    /// What is said of `uid` with all its `slices`, but for identifiers and times; it must have come at most a second after `released` and `waited`. `series`: how many come at once
    /// and share the machine.
    fn settled(&self, uid: &str, slices: usize, released: SystemTime, waited: Duration, series: u32) -> Value {
        let (said, late) = self.said(uid, slices, released);
        let most = waited + PROMPT.max(self.pace * 2 * series);
        assert!(late <= most, "{uid}: said {late:?} after the release, {most:?} are allowed; log:\n{}", self.rig.log());
        said
    }

    fn said(&self, uid: &str, slices: usize, released: SystemTime) -> (Value, Duration) {
        let result = wait_for(&format!("the result of {uid} with {slices} slices; log:\n{}", self.rig.log()), || {
            self.subscriber.results(uid).into_iter().rfind(|d| d["series"]["slices"] == slices)
        });
        let said: SystemTime = result["at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().into();
        let late = said.duration_since(released).unwrap_or_default();
        println!("{uid}: said {} ms after the release, version {}", late.as_millis(), result["version"]);
        (without_names(&result), late)
    }

    fn same(&self, uid: &str, slices: usize, released: SystemTime, series: u32) {
        assert_eq!(self.settled(uid, slices, released, Duration::ZERO, series), self.clean, "{uid}");
    }

    /// pynetdicom does `steps` as `title`; when each was done.
    fn send(&self, title: &str, steps: &[String]) -> Vec<(String, SystemTime)> {
        let output = peer_script("send.py").arg(self.rig.dicom.to_string()).arg(title).args(steps).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}\nlog:\n{}", String::from_utf8_lossy(&output.stderr), self.rig.log());
        let done = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            (line["step"].as_str().unwrap().to_owned(), SystemTime::UNIX_EPOCH + Duration::from_secs_f64(line["at"].as_f64().unwrap()))
        };
        text.lines().map(done).collect()
    }

    /// Versions said of a series.
    fn versions(&self, uid: &str) -> usize {
        self.subscriber.results(uid).len()
    }
}

/// A document without what two series or two moments differ in.
fn without_names(result: &Value) -> Value {
    let mut document = result.clone();
    for name in ["event_id", "seq", "boot_id", "at", "alert_id", "version", "timing_ms"] {
        document.as_object_mut().unwrap().remove(name);
    }
    let own = ["series_instance_uid", "study_instance_uid"].map(|n| result["series"][n].as_str().unwrap().to_owned());
    let caller = format!("\"calling_ae\":{}", result["series"]["calling_ae"]);
    let text = document.to_string().replace(&own[0], "SERIES").replace(&own[1], "STUDY").replace(&caller, "\"calling_ae\":\"\"");
    serde_json::from_str(&text).unwrap()
}

fn steps(parts: &[&[&str]], files: &[PathBuf]) -> Vec<String> {
    // "*" stands for all files.
    let step = |s: &&str| if *s == "*" { files.iter().map(|f| text(f)).collect() } else { vec![(*s).to_owned()] };
    parts.iter().flat_map(|p| p.iter()).flat_map(step).collect()
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn last(done: &[(String, SystemTime)]) -> SystemTime {
    done.last().unwrap().1
}

#[test]
fn one_association_a_study() {
    let ward = Ward::new(NOT_WAITED_FOR);
    let all: Vec<_> = ["study-a", "study-b", "study-c"].map(|n| ward.series(n)).into();
    let files: Vec<PathBuf> = all.iter().flat_map(|(files, _)| files.clone()).collect();
    let (ok, text) = store(ward.rig.dicom, &files);
    assert!(ok, "{text}");
    let released = SystemTime::now();
    all.iter().for_each(|(files, uid)| ward.same(uid, files.len(), released, 3));
}

#[test]
fn one_association_a_series() {
    let ward = Ward::new(NOT_WAITED_FOR);
    for name in ["series-a", "series-b"] {
        let (files, uid) = ward.series(name);
        // dcmsend, which finds the syntaxes by itself, as PACS do.
        let (ok, text) = run(tool("dcmsend").args(["-dn", "-aec", "LESIONWATCH", "127.0.0.1", &ward.rig.dicom.to_string()]).args(&files));
        assert!(ok, "{text}");
        ward.same(&uid, files.len(), SystemTime::now(), 1);
        assert_eq!(ward.versions(&uid), 1);
    }
}

#[test]
fn one_association_an_image() {
    let ward = Ward::new("");
    let (files, uid) = ward.series("images");
    let each = files.iter().flat_map(|f| ["open".to_owned(), text(f), "release".to_owned()]).collect::<Vec<_>>();
    let done = ward.send("CT1", &each);
    let stored: Vec<SystemTime> = done.iter().filter(|(s, _)| s.ends_with(".dcm")).map(|(_, at)| *at).collect();
    let longest = stored.windows(2).map(|w| w[1].duration_since(w[0]).unwrap_or_default()).max().unwrap();
    let result = ward.settled(&uid, files.len(), last(&done), QUIET_MIN / 4 + longest * 4, 1);
    assert_eq!(result, ward.clean);
}

#[test]
fn pauses_within_an_association() {
    let scale = std::env::var("REPLAY_SCALE").map_or(SCALE, |s| s.parse().expect("REPLAY_SCALE is a number"));
    let ward = Ward::new(&format!("[series]\nquiet_min_s = {}\nquiet_max_s = {}\n", 2.0 / scale, 60.0 / scale));
    let all = [1.0, 5.0, 20.0, 55.0].map(|pause_s| (pause_s, ward.series(&format!("pause-{pause_s}"))));
    std::thread::scope(|scope| {
        for (pause_s, (files, uid)) in &all {
            let ward = &ward;
            scope.spawn(move || {
                let (before, after) = files.split_at(files.len() / 2);
                let pause = format!("pause={}", pause_s / scale);
                let all = [&steps(&[&["open", "*", pause.as_str()]], before)[..], &steps(&[&["*", "release"]], after)].concat();
                let done = ward.send("CT1", &all);
                ward.same(uid, files.len(), last(&done), 4);
                // A pause of less than a third of the longest quiet time is not taken for the end; a busy machine pauses, too.
                let longest = done.windows(2).map(|w| w[1].1.duration_since(w[0].1).unwrap_or_default()).max().unwrap();
                if longest.as_secs_f64() < 0.9 * 20.0 / scale {
                    assert_eq!(ward.versions(uid), 1, "pause of {pause_s} s");
                }
            });
        }
    });
}

#[test]
fn two_series_interleaved() {
    let ward = Ward::new(NOT_WAITED_FOR);
    let (a, b) = (ward.series("inter-a"), ward.series("inter-b"));
    let mixed: Vec<PathBuf> = a.0.iter().zip(&b.0).flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
    let done = ward.send("CT1", &steps(&[&["open", "*", "release"]], &mixed));
    for (files, uid) in [a, b] {
        ward.same(&uid, files.len(), last(&done), 2);
        assert_eq!(ward.versions(&uid), 1);
    }
}

#[test]
fn out_of_order() {
    let ward = Ward::new(NOT_WAITED_FOR);
    let (files, uid) = ward.series("order");
    // 7 and 16 have no common divisor: every slice once, far apart.
    let shuffled: Vec<PathBuf> = (0..files.len()).map(|i| files[i * 7 % files.len()].clone()).collect();
    assert_eq!(shuffled.iter().collect::<std::collections::BTreeSet<_>>().len(), files.len());
    let done = ward.send("CT1", &steps(&[&["open", "*", "release"]], &shuffled));
    ward.same(&uid, files.len(), last(&done), 1);
    assert_eq!(ward.versions(&uid), 1);
}

#[test]
fn everything_again() {
    let ward = Ward::new(NOT_WAITED_FOR);
    let (files, uid) = ward.series("again");
    // Twice on one association, once more before there is a result, and once after.
    let done = ward.send("CT1", &steps(&[&["open", "*", "*", "release", "open", "*", "release"]], &files));
    ward.same(&uid, files.len(), last(&done), 1);
    // From another node, as a PACS forwards what the scanner has sent already.
    ward.send("PACS", &steps(&[&["open", "*", "release"]], &files));
    assert_eq!(ward.rig.spooled().len(), 2 * files.len(), "the clean series and this one, once each");
    // storescu writes a data set anew: other bytes under the same UID are kept beside the first, and not analysed.
    let (ok, text) = store(ward.rig.dicom, &files);
    assert!(ok, "{text}");
    // A series that came later is told; had there been anything to say of the repeats, it would have been said before.
    let (others, other) = ward.series("again-other");
    ward.pushed(&others, &other);
    assert_eq!(ward.versions(&uid), 1);
}

#[test]
fn a_missing_slice_is_said_and_a_late_one_makes_it_good() {
    let ward = Ward::new("");
    let (mut files, uid) = ward.series("late");
    let held_back = files.remove(6);
    let (mut fewer, other) = ward.series("fewer");
    fewer.remove(6);
    let (reference, _) = ward.pushed(&fewer, &other);
    let done = ward.send("CT1", &steps(&[&["open", "*", "release"]], &files));
    // A gap is no evidence: the slice may be on its way.
    assert_eq!(ward.settled(&uid, files.len(), last(&done), QUIET_MIN, 1), reference);
    assert_eq!((&reference["outcome"], &reference["reason"]["code"]), (&json!("not_analysed"), &json!("missing_slices")));
    let done = ward.send("CT1", &steps(&[&["open", "*", "release"]], &[held_back]));
    ward.same(&uid, files.len() + 1, last(&done), 1);
    let versions: Vec<i64> = ward.subscriber.results(&uid).iter().map(|r| r["version"].as_i64().unwrap()).collect();
    assert!(versions.len() == 2 && versions[1] > versions[0], "{versions:?}");
}

#[test]
fn an_abort_half_way_and_another_try() {
    let ward = Ward::new(NOT_WAITED_FOR);
    let (files, uid) = ward.series("abort");
    let (first, _) = files.split_at(files.len() / 2);
    ward.send("CT1", &steps(&[&["open", "*", "abort"]], first));
    let done = ward.send("CT1", &steps(&[&["open", "*", "release"]], &files));
    ward.same(&uid, files.len(), last(&done), 1);
}

#[test]
fn two_scanners_at_once() {
    let ward = Ward::new(NOT_WAITED_FOR);
    let all = [("CT1", ward.series("scanner-1")), ("CT2", ward.series("scanner-2"))];
    std::thread::scope(|scope| {
        for (title, (files, uid)) in &all {
            let ward = &ward;
            scope.spawn(move || {
                let done = ward.send(title, &steps(&[&["open", "*", "release"]], files));
                ward.same(uid, files.len(), last(&done), 2);
            });
        }
    });
    for (title, (_, uid)) in &all {
        let results = ward.subscriber.results(uid);
        assert_eq!((results.len(), &results[0]["series"]["calling_ae"]), (1, &json!(title)));
    }
}
