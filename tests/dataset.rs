//! Promises: `dataset` reads DeepLesion's release, a harvest of `mine` and DICOM with truth tables, and names by line what does not hold what it says;
//! training draws from them, goes on where images are missing or damaged, and ends with a clear word where it cannot.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "common/harvest.rs"]
mod harvest;

use std::path::{Path, PathBuf};
use std::process::Command;

use harvest::{Lesion, SIDE, cut_short, file, image, write, write_png};
use lesionwatch::lab::dataset::marked::{Loaded, MarkedSlices, Split};
use lesionwatch::series::header;
use lesionwatch::volume::pixels;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;

fn lab(words: &[&str]) -> (i32, String) {
    lab_of(Command::new(env!("CARGO_BIN_EXE_lesionlab")).args(words))
}

fn lab_of(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), text)
}

fn text_of(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Slice number of each image that was read, by its air, in the order of z.
fn slices(loaded: &Loaded) -> Vec<i16> {
    loaded.scan.slices.iter().map(|s| (s.image.hu[0] + 1000) / 10).collect()
}

/// Slice number of each of `count` slots round the key slice, interpolated ones in between.
fn window(loaded: &Loaded, count: usize) -> Vec<f32> {
    let number = |i: usize| f32::from((loaded.scan.slices[i].image.hu[0] + 1000) / 10);
    let slots = loaded.grid.window(loaded.slot, count).into_iter().map(|s| loaded.grid.slots[s]);
    slots.map(|s| number(s.lower) + (number(s.upper) - number(s.lower)) * s.weight).collect()
}

#[test]
fn marks_and_context_are_where_the_release_says() {
    let root = tempfile::tempdir().unwrap();
    let thick = Lesion { interval_mm: 5.0, lesion_type: 5, ..Lesion::new(2, 1) };
    let thin = Lesion { interval_mm: 1.0, range: [1, 9], ..Lesion::new(3, 1) };
    let at_the_end = Lesion { slice: 3, ..Lesion::new(4, 1) };
    let lesions = [Lesion::new(1, 1), thick, thin.clone(), at_the_end];
    write(root.path(), &lesions);
    let set = MarkedSlices::open(root.path()).unwrap();
    assert_eq!(set.keys().len(), 4);
    let mark = set.keys()[0].marks[0];
    // The release counts pixels from 1.
    assert_eq!(mark.box_px, [95.0, 115.0, 134.0, 144.0]);
    assert_eq!(mark.points.unwrap()[0], [100.0, 129.5]);
    assert_eq!((mark.lesion_type, set.keys()[1].marks[0].lesion_type), (None, Some(4)));
    let of = |key: usize, slots: usize| set.load(key, slots).unwrap();
    assert_eq!(slices(&of(0, 1)), [5]);
    // Slices are numbered from the head: rising z is falling numbers.
    assert_eq!(window(&of(0, 3), 3), [6.0, 5.0, 4.0]);
    assert_eq!(window(&of(0, 7), 7), [7.0, 7.0, 6.0, 5.0, 4.0, 3.0, 3.0]);
    assert_eq!(window(&of(1, 5), 5), [6.0, 5.5, 5.0, 4.5, 4.0]);
    assert_eq!(window(&of(2, 3), 3), [7.0, 5.0, 3.0]);
    assert_eq!(slices(&of(2, 3)), [7, 5, 3], "only what is needed is read");
    assert_eq!(window(&of(3, 3), 3), [4.0, 3.0, 3.0]);
    // A neighbour that is not there, and one that is cut short.
    std::fs::remove_file(file(root.path(), &lesions[0], 4)).unwrap();
    assert_eq!(window(&of(0, 3), 3), [6.0, 5.0, 5.0]);
    assert_eq!(set.trouble().counts(), [0, 0]);
    cut_short(&file(root.path(), &thin, 7));
    assert_eq!(window(&of(2, 3), 3), [5.0, 5.0, 3.0]);
    assert_eq!((set.trouble().counts(), set.trouble().files()), ([0, 1], 1));
    // The key slice itself: of another size, cut short, not there.
    write_png(&file(root.path(), &lesions[0], 5), &image(5, lesions[0].extent)[..SIDE * 100], SIDE);
    assert!(set.load(0, 1).err().unwrap().to_string().contains("256 x 100 pixels where the table says 256 x 256"));
    cut_short(&file(root.path(), &thin, 5));
    assert!(set.load(2, 1).err().unwrap().to_string().contains("cut short"));
    std::fs::remove_file(file(root.path(), &thin, 5)).unwrap();
    assert!(set.load(2, 3).err().unwrap().to_string().contains("005.png: is not there"));
    assert_eq!(set.trouble().counts(), [3, 1]);
}

#[test]
fn the_same_seed_draws_the_same_samples() {
    let root = tempfile::tempdir().unwrap();
    let lesions: Vec<Lesion> = (1..6).map(|p| Lesion::new(p, 1)).collect();
    write(root.path(), &lesions);
    let draw = |seed: u64| {
        let set = MarkedSlices::open(root.path()).unwrap().only(Split::Train).unwrap();
        let mut rng = StdRng::seed_from_u64(seed);
        (0..6).map(|i| set.sample(&mut rng, if i % 2 == 0 { 1 } else { 3 }).unwrap()).collect::<Vec<_>>()
    };
    assert!(draw(3) == draw(3));
    assert!(draw(3) != draw(4));
}

#[test]
fn the_report_names_each_problem_by_its_line() {
    let root = tempfile::tempdir().unwrap();
    let json = root.path().join("report.json");
    let noisy = Lesion { noisy: true, lesion_type: 8, ..Lesion::new(3, 2) };
    let lesions: Vec<Lesion> = [Lesion::new(1, 1), Lesion { lesion_type: 5, ..Lesion::new(2, 1) }, noisy]
        .into_iter()
        .chain((4..16).map(|p| Lesion::new(p, 3)))
        .collect();
    write(root.path(), &lesions);
    let report = || -> (i32, String, Value) {
        let (code, text) = lab(&["dataset", text_of(root.path()), "--decode", "--json", text_of(&json)]);
        (code, text, serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap())
    };
    let (code, text, whole) = report();
    assert!(code == 0 && text.contains("no problem found") && text.contains("pixels counted from 1"), "{text}");
    assert_eq!(
        (&whole["rows"], &whole["noisy"], &whole["patients"], &whole["key_images_there"]),
        (&15.into(), &1.into(), &15.into(), &15.into())
    );
    assert_eq!((&whole["lesions"]["train"]["lung"], &whole["lesions"]["test"]["unknown"]), (&1.into(), &12.into()));

    // Spoil it, a row or an image at a time; lines count from the header, which is 1.
    let table = std::fs::read_to_string(root.path().join("DL_info.csv")).unwrap();
    let mut rows: Vec<String> = table.lines().map(str::to_owned).collect();
    rows[4] = rows[4].replace("96, 116, 135, 145", "126, 116, 165, 145");
    rows[5] = rows[5].replace("0.31, 0.42, 0.53", "0.31, 0.42, 1.53");
    rows[6] = rows[6].replace("\"256, 256\"", "\"256, 120\"");
    rows[7] = rows[7].replace("0.8, 0.8, 2", "0.8, 0.8, 0");
    rows[8] = rows[8].replace(",8,1,1,5,", ",8,1,1,five,");
    rows[9] = rows[9].replace(",F,50,3", ",F,50,4");
    rows.push(Lesion { slice: 6, ..Lesion::new(1, 3) }.row());
    std::fs::write(root.path().join("DL_info.csv"), rows.join("\n") + "\n").unwrap();
    std::fs::remove_file(file(root.path(), &lesions[9], 5)).unwrap();
    cut_short(&file(root.path(), &lesions[10], 5));
    write_png(&file(root.path(), &lesions[11], 5), &image(5, lesions[11].extent)[..SIDE * 200], SIDE);
    std::fs::remove_file(file(root.path(), &lesions[12], 7)).unwrap();
    let (code, text, found) = report();
    assert_eq!(code, 0, "{text}");
    for (kind, line, words) in [
        ("box", 5, "end points ± 5 px"),
        ("location", 6, "1.53"),
        ("outside_image", 7, "on an image of 256 x 120 pixels"),
        ("spacing", 8, "0.0"),
        ("unreadable", 9, "Key_slice_index: \"five\""),
        ("unreadable", 10, "4 is none of 1 (train)"),
        ("patient_in_two_splits", 17, "patient 1 is in test here and in train before"),
        ("missing_image", 11, "000010_01_01/005.png"),
        ("damaged_image", 12, "cut short"),
        ("image_size", 13, "has 256 x 200 pixels, the table says 256 x 256"),
        ("missing_context", 14, "1 of 5 slices"),
    ] {
        let lines = found["problems"][kind]["lines"].as_array().unwrap_or_else(|| panic!("{kind}: {text}"));
        let prefix = format!("line {line}: ");
        let one: Vec<&str> = lines.iter().filter_map(Value::as_str).filter(|l| l.starts_with(&prefix) && l.contains(words)).collect();
        assert_eq!(one.len(), 1, "{kind}: {lines:?}");
        assert!(text.contains(one[0]));
    }
    // All are counted, few are shown.
    let (_, text) = lab(&["dataset", text_of(root.path()), "--lines", "1", "--json", text_of(&json)]);
    let found: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(
        (&found["problems"]["unreadable"]["count"], found["problems"]["unreadable"]["lines"].as_array().unwrap().len()),
        (&2.into(), 1)
    );
    assert!(text.contains("… and 1 more"), "{text}");
    // Rows of which nobody knows where the lesion is are not trained on.
    assert_eq!(MarkedSlices::open(root.path()).unwrap().keys().len(), 16 - 5);
}

#[test]
fn what_is_no_dataset_is_said_so() {
    let root = tempfile::tempdir().unwrap();
    let (code, text) = lab(&["dataset", text_of(root.path())]);
    assert!(code == 65 && text.contains("DL_info.csv") && text.contains("images.csv"), "{code} {text}");
    let (code, text) = lab(&["dataset", "no/such/folder"]);
    assert!(code == 74 && text.contains("no/such/folder"), "{code} {text}");
    std::fs::write(root.path().join("DL_info.csv"), "File_name,Patient_index\nx,1\n").unwrap();
    let (code, text) = lab(&["dataset", text_of(root.path())]);
    assert!(code == 65 && text.contains("line 1: there is no column Study_index"), "{code} {text}");
    write(root.path(), &[Lesion::new(1, 3), Lesion { noisy: true, ..Lesion::new(2, 1) }]);
    let out = root.path().join("run");
    let train = |more: &[&str]| lab(&[&["train", "--out", text_of(&out)], more].concat());
    let (code, text) = train(&["--harvest", text_of(root.path()), "--harvest-share", "1"]);
    assert!(code == 65 && text.contains("its train split is empty") && text.contains("test has 1"), "{code} {text}");
    let (code, text) = lab(&["dataset", text_of(root.path()), "--split", "validation"]);
    assert!(code == 65 && text.contains("no row of its validation split"), "{code} {text}");
    let (code, text) = train(&[]);
    assert!(code == 64 && text.contains("--ct DIR") && text.contains("--harvest DIR"), "{code} {text}");
    write(root.path(), &[Lesion::new(1, 1)]);
    let (code, text) = train(&["--harvest", text_of(root.path())]);
    assert!(code == 64 && text.contains("--harvest-share 1"), "{code} {text}");
    for (option, value) in [("--harvest-share", "1.5"), ("--real-share", "1.5"), ("--phantom-share", "1"), ("--harvest-share", "NaN")] {
        let (code, text) = train(&["--harvest", text_of(root.path()), "--phantoms", "1", option, value]);
        assert!(code == 64 && text.contains(&format!("{value} is no share")) && text.contains(option), "{code} {text}");
    }
    let (code, text) = train(&["--harvest", text_of(root.path()), "--harvest-share", "1", "--validate"]);
    assert!(code == 65 && text.contains("its validation split is empty"), "{code} {text}");
}

fn sample_scan() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sample/LIDC-IDRI-0314")
}

/// End points of the nodule on instance 112, pixels from 0.
const POINTS: [[f64; 2]; 4] = [[187.0, 255.0], [178.0, 233.0], [189.0, 238.0], [175.0, 243.0]];

#[test]
fn what_mine_writes_comes_back_pixel_for_pixel() {
    let folder = tempfile::tempdir().unwrap();
    let (marks, out) = (folder.path().join("marks.csv"), folder.path().join("harvest"));
    let key = sample_scan().join("0112.dcm");
    let cells: Vec<String> = POINTS.as_flattened().iter().map(f64::to_string).collect();
    let uid = header::read(&key).unwrap().sop_instance_uid;
    let columns = "sop_instance_uid,long_x1,long_y1,long_x2,long_y2,short_x1,short_y1,short_x2,short_y2,type";
    std::fs::write(&marks, format!("{columns}\n{uid},{},5\n", cells.join(","))).unwrap();
    let (code, text) = lab(&["mine", text_of(&marks), "--images", text_of(&sample_scan()), "--out", text_of(&out)]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = lab(&["dataset", text_of(&out), "--decode"]);
    assert!(code == 0 && text.contains("no problem found") && text.contains("pixels counted from 0"), "{text}");

    let set = MarkedSlices::open(&out).unwrap();
    let mark = set.keys()[0].marks[0];
    assert!(mark.points.unwrap().as_flattened().iter().zip(POINTS.as_flattened()).all(|(a, b)| (f64::from(*a) - b).abs() < 0.01));
    assert_eq!((mark.lesion_type, mark.noisy), (Some(4), false));
    let loaded = set.load(0, 3).unwrap();
    assert_eq!(loaded.scan.grid.spacing_mm, header::read(&key).unwrap().pixel_spacing_mm.unwrap());
    // Instances run from head to feet, 2 mm apart: rising z is falling instance numbers.
    let expected = ["0114.dcm", "0112.dcm", "0110.dcm"].map(|n| pixels::decode(&sample_scan().join(n)).unwrap().hu);
    let read: Vec<_> = loaded.scan.slices.iter().map(|s| s.image.hu.clone()).collect();
    assert!(read == expected, "the HU of key image and neighbours");
    assert_eq!(loaded.slot, 1);
}

/// The evaluator's tables over the sample scan: one nodule as a mask box and an unknown lesion.
fn truth_tables(folder: &Path) {
    let mut images = "set,case,patient,sop_uid,path\n".to_owned();
    let mut uid = String::new();
    for number in (60..=180).step_by(2) {
        let name = format!("{number:04}.dcm");
        let path = sample_scan().join(&name);
        let header = header::read(&path).unwrap();
        std::fs::copy(path, folder.join(&name)).unwrap();
        images += &format!("own,scan,P1,{},{name}\n", header.sop_instance_uid);
        if number == 112 {
            uid = header.sop_instance_uid;
        }
    }
    std::fs::write(folder.join("images.csv"), images).unwrap();
    let truth =
        format!("sop_uid,x1,y1,x2,y2,box_kind,lesion_id,type\n{uid},175,233,192,255,mask,1,lung\n{uid},300,300,330,330,recist5,2,\n");
    std::fs::write(folder.join("truth.csv"), truth).unwrap();
}

#[test]
fn dicom_with_truth_tables_is_a_dataset_too() {
    let folder = tempfile::tempdir().unwrap();
    truth_tables(folder.path());
    let (code, text) = lab(&["dataset", text_of(folder.path()), "--decode"]);
    assert!(code == 0 && text.contains("no problem found") && text.contains("2 lesions, 2 usable"), "{text}");
    assert!(text.contains("1 key images, 1 there; 61 slices of context, 61 there"), "{text}");
    let set = MarkedSlices::open(folder.path()).unwrap();
    let marks = &set.keys()[0].marks;
    assert_eq!((marks[0].box_px, marks[0].lesion_type), ([170.0, 228.0, 197.0, 260.0], Some(4)));
    assert_eq!((marks[1].box_px, marks[1].lesion_type), ([300.0, 300.0, 330.0, 330.0], None));
    let loaded = set.load(0, 3).unwrap();
    let expected = ["0114.dcm", "0112.dcm", "0110.dcm"].map(|n| pixels::decode(&sample_scan().join(n)).unwrap().hu);
    assert!(loaded.scan.slices.iter().map(|s| s.image.hu.clone()).collect::<Vec<_>>() == expected);
    // A neighbour that is missing is a gap; a key image that is missing has its line.
    std::fs::remove_file(folder.path().join("0110.dcm")).unwrap();
    let set = MarkedSlices::open(folder.path()).unwrap();
    let loaded = set.load(0, 3).unwrap();
    assert_eq!(loaded.grid.window(loaded.slot, 3), [0, 1, 1]);
    std::fs::remove_file(folder.path().join("0112.dcm")).unwrap();
    let (_, text) = lab(&["dataset", text_of(folder.path())]);
    assert!(text.contains("key image missing: 1; training leaves these images out") && text.contains("0112.dcm"), "{text}");
}

/// A bundle of a net of a few thousand parameters: what goes round it is trained in seconds.
fn tiny_bundle(folder: &Path) -> PathBuf {
    let bundle = folder.join("tiny");
    lesionwatch::detect::tiny::write(&bundle).unwrap();
    bundle
}

#[test]
fn training_on_a_harvest_alone_validates_resumes_and_passes_over_damaged_images() {
    let root = tempfile::tempdir().unwrap();
    let (harvest, out) = (root.path().join("harvest"), root.path().join("run"));
    let lesions: Vec<Lesion> = (1..9).map(|p| Lesion::new(p, if p < 7 { 1 } else { 2 })).collect();
    write(&harvest, &lesions);
    cut_short(&file(&harvest, &lesions[0], 5));
    std::fs::remove_file(file(&harvest, &lesions[1], 5)).unwrap();
    cut_short(&file(&harvest, &lesions[2], 4));
    let bundle = tiny_bundle(root.path());
    let train = |minutes: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lesionlab"));
        command.arg("train").arg("--harvest").arg(&harvest).args(["--harvest-share", "1", "--validate", "0.05", "--minutes", minutes]);
        lab_of(command.arg("--init").arg(&bundle).arg("--out").arg(&out))
    };
    let (code, text) = train("0.15");
    assert_eq!(code, 0, "{text}");
    let of = |slice: usize, patient: usize| format!("{patient:06}_01_01/{slice:03}.png");
    for (name, words) in [
        (of(5, 1), "its key slice is left out"),
        (of(5, 2), "is not there; its key slice is left out"),
        (of(4, 3), "its nearest neighbour stands in"),
    ] {
        let lines = text.lines().filter(|l| l.contains(&name) && l.contains(words)).count();
        assert_eq!(lines, 1, "{name}: {text}");
    }
    assert!(text.contains("unreadable: 3 images") && text.contains("6 key slices to train on"), "{text}");
    assert!(text.lines().any(|l| l.starts_with("validation at step ") && l.contains("2 boxes, 2 images")), "{text}");
    let rows = |path: &Path| -> Vec<String> { std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect() };
    let first = rows(&out.join("validation.csv"));
    assert_eq!(
        first[0],
        "step,samples,minutes,images,boxes,sensitivity_at_1,sensitivity_at_2,sensitivity_at_4,sensitivity_at_5,sensitivity_at_8"
    );
    assert!(first.len() > 1, "{first:?}");
    // Again, for longer: goes on where it stopped.
    let minutes: f64 = first.last().unwrap().split(',').nth(2).unwrap().parse().unwrap();
    let (code, text) = train(&format!("{}", minutes + 0.05));
    assert!(code == 0 && text.contains("resumed at step "), "{text}");
    let second = rows(&out.join("validation.csv"));
    assert!(second.len() > first.len() && second[..first.len()] == first[..]);
    let step = |row: &String| row.split(',').next().unwrap().parse::<usize>().unwrap();
    assert!(step(second.last().unwrap()) > step(first.last().unwrap()));
}

#[test]
fn a_harvest_without_one_readable_image_ends_training() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), &[Lesion::new(1, 1), Lesion::new(2, 1)]);
    std::fs::remove_dir_all(root.path().join("Images_png")).unwrap();
    let bundle = tiny_bundle(root.path());
    let out = root.path().join("run");
    let words = ["--harvest-share", "1", "--minutes", "1", "--init", text_of(&bundle), "--out", text_of(&out)];
    let (code, text) = lab(&[&["train", "--harvest", text_of(root.path())][..], &words].concat());
    assert!(code == 65 && text.contains("key slices in a row cannot be read") && text.contains("lesionlab dataset"), "{code} {text}");
}

#[test]
fn a_loss_that_stays_not_finite_ends_training_and_says_what_is_left() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), &[Lesion::new(1, 1), Lesion::new(2, 1)]);
    let bundle = tiny_bundle(root.path());
    let out = root.path().join("run");
    let train = |rate: &str, minutes: &str| {
        let words = ["--harvest-share", "1", "--init", text_of(&bundle), "--out", text_of(&out), "--rate", rate, "--minutes", minutes];
        lab(&[&["train", "--harvest", text_of(root.path())][..], &words].concat())
    };
    let (code, text) = train("1e30", "5");
    assert!(code == 70 && text.contains("21 steps in a row were not finite; no checkpoint was written yet"), "{code} {text}");
    assert!(!out.join("checkpoint.safetensors").exists());
    let (code, text) = train("1e-3", "0.05");
    assert_eq!(code, 0, "{text}");
    let before = std::fs::read(out.join("checkpoint.safetensors")).unwrap();
    let (code, text) = train("1e30", "5");
    assert!(code == 70 && text.contains("the checkpoint of step ") && text.contains("resume with a lower --rate"), "{code} {text}");
    assert!(before == std::fs::read(out.join("checkpoint.safetensors")).unwrap(), "the checkpoint from before was touched");
}

/// On a disk of its own that holds one checkpoint but not two.
#[test]
fn a_disk_that_runs_full_in_a_checkpoint_leaves_the_last_one_whole() {
    let root = tempfile::tempdir().unwrap();
    let (harvest, disk) = (root.path().join("harvest"), root.path().join("disk"));
    std::fs::create_dir(&disk).unwrap();
    write(&harvest, &[Lesion::new(1, 1), Lesion::new(2, 1)]);
    let bundle = tiny_bundle(root.path());
    let train = |minutes: &str| {
        format!(
            "'{}' train --harvest '{}' --harvest-share 1 --init '{}' --out '{}/run' --minutes {minutes}",
            env!("CARGO_BIN_EXE_lesionlab"),
            harvest.display(),
            bundle.display(),
            disk.display()
        )
    };
    // A filler leaves half of what the first checkpoint took; the second needs a whole one beside it.
    let script = format!(
        r#"set -e
D='{}'; C="$D/run/checkpoint.safetensors"
mount -t tmpfs -o size=64m tmpfs "$D"
{}
size=$(stat -c %s "$C"); sum=$(sha256sum "$C"); free=$(df -B1 --output=avail "$D" | tail -1)
head -c $((free - size / 2)) /dev/zero >"$D/filler"
code=0; {} || code=$?
echo "exit $code"
[ "$sum" = "$(sha256sum "$C")" ] && echo untouched
ls -A "$D/run"
rm "$D/filler"
{}"#,
        disk.display(),
        train("0.02"),
        train("0.1"),
        train("0.18"),
    );
    let is_root = lab_of(Command::new("id").arg("-u")).1.trim() == "0";
    let options: &[&str] = if is_root { &["-m"] } else { &["-U", "-r", "-m"] };
    let (code, text) = lab_of(Command::new("unshare").args(options).args(["sh", "-c", &script]));
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("disk full, the checkpoint of step ") && text.contains(", is whole. Free space and start again"), "{text}");
    assert!(text.contains("exit 74") && text.contains("untouched") && !text.contains("checkpoint.part\n"), "{text}");
    assert_eq!(text.matches("resumed at step ").count(), 2, "{text}");
    assert_eq!(text.matches("done: ").count(), 2, "{text}");
}
