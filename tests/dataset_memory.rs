//! Promise: a dataset is read lazily: the index of 40,000 rows takes a few megabytes, and drawing samples takes none that stays. Alone in its file, since
//! it looks at the memory of the whole process.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "common/harvest.rs"]
mod harvest;

use std::io::Write;

use harvest::{HEADER, Lesion, SIDE, image, write_png};
use lesionwatch::lab::dataset::marked::{MarkedSlices, Split};
use rand::SeedableRng;
use rand::rngs::StdRng;

const ROWS: usize = 40_000;
/// Slices of each series; every one is a key slice.
const SLICES: usize = 40;
/// Growth by the index, MiB: 200 bytes a row are 8.
const MOST_INDEX_MIB: f64 = 16.0;
/// Growth by drawing: what one sample needs at a time, and what the allocator keeps of it. The images of the samples drawn are ten times that.
const MOST_DRAWN_MIB: f64 = 16.0;

/// Resident memory of this process, MiB.
fn resident_mib() -> f64 {
    let pages: f64 = std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096.0 / 1048576.0
}

#[test]
fn memory_does_not_follow_the_dataset() {
    let root = tempfile::tempdir().unwrap();
    let images = root.path().join("Images_png");
    let one = root.path().join("one");
    std::fs::create_dir_all(&images).unwrap();
    std::fs::create_dir_all(&one).unwrap();
    let extent = Lesion::new(1, 1).extent;
    for slice in 1..=SLICES {
        write_png(&one.join(format!("{slice:03}.png")), &image(slice, extent), SIDE);
    }
    let mut table = std::io::BufWriter::new(std::fs::File::create(root.path().join("DL_info.csv")).unwrap());
    writeln!(table, "{HEADER}").unwrap();
    for patient in 1..=ROWS / SLICES {
        // The same images for every series: a link takes no room on the disk of whoever runs this.
        std::os::unix::fs::symlink(&one, images.join(Lesion::new(patient, 1).folder())).unwrap();
        for slice in 1..=SLICES {
            writeln!(table, "{}", Lesion { slice, range: [1, SLICES], ..Lesion::new(patient, 1) }.row()).unwrap();
        }
    }
    drop(table);
    let before = resident_mib();
    let set = MarkedSlices::open(root.path()).unwrap().only(Split::Train).unwrap();
    let index = resident_mib() - before;
    assert_eq!(set.keys().len(), ROWS);
    assert!(index < MOST_INDEX_MIB, "the index of {ROWS} rows takes {index:.1} MiB");
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..20 {
        set.sample(&mut rng, 3).unwrap();
    }
    let before = resident_mib();
    for _ in 0..200 {
        set.sample(&mut rng, 3).unwrap();
    }
    let drawn = resident_mib() - before;
    println!("index {index:.1} MiB, after 200 samples {drawn:.1} MiB more");
    assert!(drawn < MOST_DRAWN_MIB, "200 samples left {drawn:.1} MiB");
}
