//! Key slices with marked lesions: an index in memory, images on disk until asked for.
//!
//! The index holds numbers only, about 300 bytes a key slice; what is read for one sample is dropped with it. So memory does not depend on the size of the
//! images, and 40,000 rows take 12 MiB.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::key_slice::{self, Stack};
pub use super::key_slice::{Mark, Split};
use super::picture::{self, Unreadable};
use super::{Scan, ScanSlice, deeplesion, truth_table};
use crate::error::{Class, Failure};
use crate::volume::HuImage;
use crate::volume::body::{PixelBox, body_box};
use crate::volume::frame::ImageGrid;
use crate::volume::slots::{self, Slot, SlotGrid};

/// Damaged files that are named on stderr; beyond, they are only counted.
const MOST_NAMED: usize = 100;

/// Where the images of a key slice are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place {
    /// In the layout of the release.
    Release(deeplesion::Place),
    /// In DICOM files of an image table.
    Dicom(truth_table::Place),
}

/// A key slice with as much of its context as was asked for.
pub struct Loaded {
    /// The slices that were read; only the key slice's body is measured.
    pub scan: Scan,
    /// Slots on them.
    pub grid: SlotGrid,
    /// The key slice's slot.
    pub slot: usize,
}

impl Loaded {
    /// The key slice.
    #[must_use]
    pub fn key(&self) -> &ScanSlice {
        &self.scan.slices[self.grid.slots[self.slot].lower]
    }
}

/// What could not be read so far.
#[derive(Debug, Default)]
pub struct Trouble {
    files: Mutex<HashSet<PathBuf>>,
    key_slices: AtomicUsize,
    neighbours: AtomicUsize,
}

impl Trouble {
    fn note(&self, e: &Unreadable, count: &AtomicUsize, consequence: &str) {
        count.fetch_add(1, Ordering::Relaxed);
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if files.len() < MOST_NAMED && files.insert(e.path.clone()) {
            eprintln!("{e}; {consequence}");
            if files.len() == MOST_NAMED {
                eprintln!("{MOST_NAMED} images could not be read; further ones are only counted");
            }
        }
    }

    /// Key slices that were asked for and could not be read, and slices of context that their neighbours stood in for; the same file may count again.
    #[must_use]
    pub fn counts(&self) -> [usize; 2] {
        [&self.key_slices, &self.neighbours].map(|n| n.load(Ordering::Relaxed))
    }

    /// Damaged files so far, at most 100.
    #[must_use]
    pub fn files(&self) -> usize {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Which tables a dataset has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// `DL_info.csv` of the release or of `mine`.
    Release(PathBuf),
    /// `images.csv` and `truth.csv` of the evaluator.
    TruthTable(PathBuf),
}

impl Layout {
    /// Looks what `path` is: a folder, or the table `DL_info.csv` itself.
    ///
    /// # Errors
    /// Neither layout.
    pub fn of(path: &Path) -> Result<Self, Failure> {
        if path.is_file() && path.extension().is_some_and(|e| e == "csv") {
            return Ok(Self::Release(path.to_owned()));
        }
        let table = path.join("DL_info.csv");
        if table.is_file() {
            return Ok(Self::Release(table));
        }
        if path.join("images.csv").is_file() && path.join("truth.csv").is_file() {
            return Ok(Self::TruthTable(path.to_owned()));
        }
        let needed = "a folder with DL_info.csv and Images_png (the DeepLesion release, or what `lesionlab mine` wrote), or one with images.csv and truth.csv of `lesionlab evaluate` beside DICOM";
        let class = if path.exists() { Class::Data } else { Class::Io };
        Err(Failure::new(class, format!("{}: no dataset; {needed} is needed", path.display())))
    }
}

/// A key slice of either.
type KeySlice = key_slice::KeySlice<Place>;

/// Where images come from.
enum Images {
    Release(deeplesion::Images),
    Dicom(truth_table::Images),
}

/// A dataset, or a part of one.
pub struct MarkedSlices {
    root: PathBuf,
    images: Images,
    keys: Vec<KeySlice>,
    trouble: Arc<Trouble>,
}

impl MarkedSlices {
    /// Reads the tables; no image. Rows that cannot be used are told on stderr by number; `lesionlab dataset` names them.
    ///
    /// # Errors
    /// No dataset, a table that is none.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let (images, keys) = match Layout::of(path)? {
            Layout::Release(table) => {
                let (images, keys) = deeplesion::open(&table)?;
                (Images::Release(images), keys.into_iter().map(|k| k.at(Place::Release)).collect())
            }
            Layout::TruthTable(folder) => {
                let (images, keys) = truth_table::open(&folder)?;
                (Images::Dicom(images), keys.into_iter().map(|k| k.at(Place::Dicom)).collect())
            }
        };
        Ok(Self { root: path.to_owned(), images, keys, trouble: Arc::default() })
    }

    /// Keeps one split.
    ///
    /// # Errors
    /// [`Class::Data`] where it holds nothing to be found.
    pub fn only(mut self, split: Split) -> Result<Self, Failure> {
        let mut others: BTreeMap<&str, usize> = BTreeMap::new();
        for key in self.keys.iter().filter(|k| k.split != split) {
            *others.entry(key.split.name()).or_default() += 1;
        }
        let there = others.iter().map(|(name, n)| format!("{name} has {n}")).collect::<Vec<_>>().join(", ");
        self.keys.retain(|k| k.split == split && k.marks.iter().any(|m| !m.noisy));
        self.keys.shrink_to_fit();
        if self.keys.is_empty() {
            let text = format!(
                "{}: its {} split is empty: no usable key slice is in it ({}); `lesionlab dataset {}` says what there is",
                self.root.display(),
                split.name(),
                if there.is_empty() { "nor in any other split" } else { &there },
                self.root.display()
            );
            return Err(Failure::new(Class::Data, text));
        }
        Ok(self)
    }

    /// As it was named.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The key slices.
    #[must_use]
    pub fn keys(&self) -> &[KeySlice] {
        &self.keys
    }

    /// What could not be read, for whoever tells of it.
    #[must_use]
    pub fn trouble(&self) -> Arc<Trouble> {
        Arc::clone(&self.trouble)
    }

    /// The slices round key slice `key`.
    ///
    /// # Errors
    /// No geometry, or the key image is not among its neighbours.
    pub fn stack(&self, key: usize) -> Result<Stack, Unreadable> {
        match (&self.images, &self.keys[key].place) {
            (Images::Release(images), Place::Release(place)) => images.stack(place),
            (Images::Dicom(images), Place::Dicom(place)) => images.stack(place),
            _ => Err(Unreadable::new(&self.root, "two layouts in one dataset")),
        }
    }

    /// Reads a key slice with the images of `slots` slots round it. Beyond the ends the end slice repeats; a neighbour that is missing or damaged is
    /// replaced by the nearest that is there.
    ///
    /// # Errors
    /// The key image cannot be read; it is counted in [`MarkedSlices::trouble`].
    pub fn load(&self, key: usize, slots: usize) -> Result<Loaded, Unreadable> {
        self.load_untold(key, slots).inspect_err(|e| self.trouble.note(e, &self.trouble.key_slices, "its key slice is left out"))
    }

    fn load_untold(&self, key: usize, slots: usize) -> Result<Loaded, Unreadable> {
        let mut stack = self.stack(key)?;
        let mut read = BTreeMap::new();
        loop {
            let positions: Vec<f64> = stack.slices.iter().map(|(z, _)| *z).collect();
            let grid = slots::grid(&positions, stack.interval_mm);
            let on_key = |s: &Slot| s.weight == 0.0 && stack.slices[s.lower].0 == 0.0;
            let Some(at) = grid.slots.iter().position(on_key) else {
                return Err(Unreadable::new(&self.root, "a key slice has no slot of its own"));
            };
            let mut window = grid.window(at, slots);
            window.dedup();
            let wanted: Vec<usize> = window.iter().flat_map(|s| [grid.slots[*s].lower, grid.slots[*s].upper]).collect();
            let key_slice = grid.slots[at].lower;
            let mut failed = None;
            // The key slice first: without it the others are of no use.
            for i in [key_slice].into_iter().chain(wanted) {
                let (z, path) = &stack.slices[i];
                if read.contains_key(&z.to_bits()) {
                    continue;
                }
                match picture::read(path).and_then(|image| fits(image, stack.grid, path)) {
                    Ok(image) => {
                        read.insert(z.to_bits(), image);
                    }
                    Err(e) if i == key_slice => return Err(e),
                    Err(e) => {
                        self.trouble.note(&e, &self.trouble.neighbours, "its nearest neighbour stands in for it");
                        failed = Some(i);
                        break;
                    }
                }
            }
            if let Some(i) = failed {
                stack.slices.remove(i);
                continue;
            }
            return Ok(self.gather(&stack, &grid, &window, at, read));
        }
    }

    /// The window as a scan of its own.
    fn gather(&self, stack: &Stack, grid: &SlotGrid, window: &[usize], at: usize, mut read: BTreeMap<u64, HuImage>) -> Loaded {
        let whole = PixelBox { x1: 0, y1: 0, x2: stack.grid.cols.saturating_sub(1), y2: stack.grid.rows.saturating_sub(1) };
        let body = read.get(&0f64.to_bits()).map_or(whole, body_box);
        let mut slices = Vec::new();
        let mut place = BTreeMap::new();
        for (i, (z, _)) in stack.slices.iter().enumerate() {
            // Slices that another attempt read, and that this window does without, are dropped here.
            let used = window.iter().any(|s| [grid.slots[*s].lower, grid.slots[*s].upper].contains(&i));
            if let Some(image) = read.remove(&z.to_bits()).filter(|_| used) {
                place.insert(i, slices.len());
                slices.push(ScanSlice { image, z_mm: *z, body, disease: Vec::new(), sop_uid: String::new(), number: 0, sites: None });
            }
        }
        let of = |i: usize| place.get(&i).copied().unwrap_or_default();
        let slots =
            window.iter().map(|s| Slot { lower: of(grid.slots[*s].lower), upper: of(grid.slots[*s].upper), ..grid.slots[*s] }).collect();
        let scan = Scan { name: self.root.display().to_string(), grid: stack.grid, spacing_mm: stack.interval_mm, slices };
        let slot = window.iter().position(|s| *s == at).unwrap_or_default();
        Loaded { scan, grid: SlotGrid { step_mm: grid.step_mm, slots }, slot }
    }
}

/// The size that the table says: coordinates are worth nothing on another one.
fn fits(image: HuImage, grid: ImageGrid, path: &Path) -> Result<crate::volume::HuImage, Unreadable> {
    if [image.rows, image.cols] == [grid.rows, grid.cols] {
        return Ok(image);
    }
    let reason = format!("{} x {} pixels where the table says {} x {}", image.cols, image.rows, grid.cols, grid.rows);
    Err(Unreadable::new(path, reason))
}
