//! Where the marked images lie: an index over folders of CT, by SOP Instance UID and Frame of Reference UID, made of headers only.
//!
//! Only series that a mark refers to are kept: memory grows with the marked series (about 200 bytes a slice), not with the archive.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::image_header::{self, Facts, Geometry, ImageHeader, StackKey};
use super::mark::{Document, Place, Refusal};
use crate::error::{Class, Failure};

/// Headers held at once while a folder is read.
const CHUNK: usize = 4096;
/// Slices nearer than this lie at the same place, mm.
const SAME_PLACE_MM: f64 = 0.01;
/// Slice interval of a stack that has one slice and says nothing of its thickness, mm.
const USUAL_INTERVAL_MM: f64 = 5.0;

/// What marks refer to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// SOP Instance UIDs.
    pub images: HashSet<String>,
    /// Frame of Reference UIDs, numbered.
    pub frames: HashMap<String, u32>,
}

impl Wanted {
    /// Of all marks.
    #[must_use]
    pub fn of(documents: &[Document]) -> Self {
        let mut wanted = Self::default();
        for mark in documents.iter().flat_map(|d| &d.marks) {
            match &mark.place {
                Place::Image { sop_instance_uid, .. } => {
                    wanted.images.insert(sop_instance_uid.clone());
                }
                Place::Patient { frame_of_reference_uid, sop_instance_uid, .. } => {
                    let next = u32::try_from(wanted.frames.len()).unwrap_or(u32::MAX);
                    wanted.frames.entry(frame_of_reference_uid.clone()).or_insert(next);
                    wanted.images.extend(sop_instance_uid.clone());
                }
            }
        }
        wanted
    }

    fn wants(&self, header: &ImageHeader) -> bool {
        self.images.contains(&*header.sop_instance_uid) || self.frames.contains_key(&*header.frame_of_reference_uid)
    }
}

/// One image of a stack.
#[derive(Debug, Clone, PartialEq)]
pub struct Slice {
    folder: u32,
    name: Box<OsStr>,
    /// Number of its frame of reference, where a mark refers to that.
    frame: Option<u32>,
    /// (0008,0018)
    pub sop_instance_uid: Box<str>,
    /// Centre of the first pixel, LPS mm.
    pub position_mm: [f64; 3],
    instance_number: i64,
}

/// Images of one series and geometry.
#[derive(Debug, Clone, PartialEq)]
pub struct Stack {
    /// What they have in common.
    pub key: StackKey,
    /// `None` where the headers do not give it; then `against` says so.
    pub geometry: Option<Geometry>,
    /// What stands against marks on it.
    pub against: Option<Refusal>,
    /// Study and patient, from the image of the lowest UID.
    pub facts: Facts,
    /// From head to feet; those at one place by instance number.
    pub slices: Vec<Slice>,
    /// Indices into `slices` by place, from head to feet.
    pub places: Vec<Vec<usize>>,
}

impl Stack {
    /// Position along the normal, mm.
    #[must_use]
    pub fn height_mm(&self, slice: usize) -> f64 {
        let normal = self.geometry.map_or([0.0; 3], |g| g.normal);
        normal.iter().zip(self.slices[slice].position_mm).map(|(n, p)| n * p).sum()
    }

    /// Place of a slice, counted from the head, and its rank among the slices that lie there.
    #[must_use]
    pub fn place_of(&self, slice: usize) -> (usize, usize) {
        let place = self.places.iter().position(|p| p.contains(&slice)).unwrap_or(0);
        (place, self.places.get(place).and_then(|p| p.iter().position(|s| *s == slice)).unwrap_or(0))
    }

    /// One slice a place: that of rank `layer`, or the last there is (a second phase in the same series is a stack of its own).
    #[must_use]
    pub fn layer(&self, layer: usize) -> Vec<usize> {
        self.places.iter().filter_map(|p| p.get(layer.min(p.len().saturating_sub(1))).copied()).collect()
    }

    /// Median distance of neighbouring places, mm.
    #[must_use]
    pub fn interval_mm(&self) -> f64 {
        let heights: Vec<f64> = self.layer(0).into_iter().map(|s| self.height_mm(s)).collect();
        let mut steps: Vec<f64> = heights.windows(2).map(|w| (w[0] - w[1]).abs()).collect();
        steps.sort_by(f64::total_cmp);
        steps.get(steps.len() / 2).copied().or(self.facts.thickness_mm).unwrap_or(USUAL_INTERVAL_MM)
    }

    fn arrange(&mut self) {
        self.slices.sort_by(|a, b| (&a.sop_instance_uid, a.folder, &a.name).cmp(&(&b.sop_instance_uid, b.folder, &b.name)));
        // A copy of an image elsewhere is the same image.
        self.slices.dedup_by(|b, a| a.sop_instance_uid == b.sop_instance_uid);
        let normal = self.geometry.map_or([0.0; 3], |g| g.normal);
        let height = |s: &Slice| -> f64 { normal.iter().zip(s.position_mm).map(|(n, p)| n * p).sum() };
        self.slices.sort_by(|a, b| height(b).total_cmp(&height(a)).then_with(|| a.sop_instance_uid.cmp(&b.sop_instance_uid)));
        for slice in 0..self.slices.len() {
            match self.places.last_mut().filter(|p| (height(&self.slices[p[0]]) - height(&self.slices[slice])).abs() < SAME_PLACE_MM) {
                Some(place) => place.push(slice),
                None => self.places.push(vec![slice]),
            }
        }
        for place in &mut self.places {
            place.sort_by_key(|s| (self.slices[*s].instance_number, *s));
        }
    }
}

/// The index.
#[derive(Debug, Default)]
pub struct Index {
    folders: Vec<PathBuf>,
    /// Stacks with a marked image, in the order of their keys.
    pub stacks: Vec<Stack>,
    by_image: HashMap<Box<str>, (usize, usize)>,
    frames: HashMap<String, u32>,
    by_frame: HashMap<u32, Vec<(usize, usize)>>,
    /// Headers read.
    pub headers: usize,
    /// Files that are no DICOM images, with why.
    pub not_read: Vec<(PathBuf, String)>,
}

impl Index {
    /// Reads the headers of all files below `roots`; `progress` is told how many were read.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn read(roots: &[PathBuf], wanted: &Wanted, mut progress: impl FnMut(usize)) -> Result<Self, Failure> {
        let mut index = Self { folders: folders(roots)?, ..Self::default() };
        let (mut kept, mut stacks) = (HashSet::new(), BTreeMap::new());
        // Folders with slices of a series that was not wanted yet when they were read: a series may lie in several.
        let mut passed: HashMap<Box<str>, Vec<usize>> = HashMap::new();
        for folder in 0..index.folders.len() {
            for files in files(&index.folders[folder])?.chunks(CHUNK) {
                let headers = index.headers_of(files);
                kept.extend(headers.iter().filter(|(_, h)| wanted.wants(h)).map(|(_, h)| h.key.series_instance_uid.clone()));
                for (path, header) in headers {
                    if kept.contains(&header.key.series_instance_uid) {
                        add(&mut stacks, folder, &path, header, wanted);
                    } else if passed.get(&header.key.series_instance_uid).and_then(|f| f.last()) != Some(&folder) {
                        passed.entry(header.key.series_instance_uid).or_default().push(folder);
                    }
                }
                progress(index.headers);
            }
        }
        let mut again: Vec<usize> = passed.into_iter().filter(|(s, _)| kept.contains(s)).flat_map(|(_, f)| f).collect();
        again.sort_unstable();
        again.dedup();
        for folder in again {
            for files in files(&index.folders[folder])?.chunks(CHUNK) {
                let (counted, told) = (index.headers, index.not_read.len());
                let headers = index.headers_of(files);
                index.headers = counted;
                index.not_read.truncate(told);
                for (path, header) in headers.into_iter().filter(|(_, h)| kept.contains(&h.key.series_instance_uid)) {
                    add(&mut stacks, folder, &path, header, wanted);
                }
            }
        }
        index.finish(stacks, wanted);
        Ok(index)
    }

    fn headers_of(&mut self, files: &[PathBuf]) -> Vec<(PathBuf, ImageHeader)> {
        let read: Vec<_> = files.par_iter().map(|path| (path.clone(), image_header::read(path))).collect();
        let mut headers = Vec::new();
        for (path, header) in read {
            match header {
                Ok(header) => headers.push((path, header)),
                Err(e) => self.not_read.push((path, e)),
            }
        }
        self.headers += headers.len();
        headers
    }

    fn finish(&mut self, stacks: BTreeMap<StackKey, (Stack, Box<str>)>, wanted: &Wanted) {
        self.frames.clone_from(&wanted.frames);
        self.stacks = stacks.into_values().map(|(stack, _)| stack).collect();
        for (n, stack) in self.stacks.iter_mut().enumerate() {
            stack.arrange();
            for (s, slice) in stack.slices.iter().enumerate() {
                if wanted.images.contains(&*slice.sop_instance_uid) {
                    self.by_image.entry(slice.sop_instance_uid.clone()).or_insert((n, s));
                }
                if let Some(frame) = slice.frame {
                    self.by_frame.entry(frame).or_default().push((n, s));
                }
            }
        }
    }

    /// Stack and slice of a marked image.
    #[must_use]
    pub fn image(&self, sop_instance_uid: &str) -> Option<(usize, usize)> {
        self.by_image.get(sop_instance_uid).copied()
    }

    /// Stack and slice of every image in a frame of reference.
    #[must_use]
    pub fn frame(&self, frame_of_reference_uid: &str) -> &[(usize, usize)] {
        self.frames.get(frame_of_reference_uid).and_then(|frame| self.by_frame.get(frame)).map_or(&[], Vec::as_slice)
    }

    /// The file of a slice.
    #[must_use]
    pub fn path(&self, slice: &Slice) -> PathBuf {
        self.folders[slice.folder as usize].join(&*slice.name)
    }
}

/// Adds a slice; facts come from the slice of the lowest UID, so that no order of reading shows.
fn add(stacks: &mut BTreeMap<StackKey, (Stack, Box<str>)>, folder: usize, path: &Path, header: ImageHeader, wanted: &Wanted) {
    let slice = Slice {
        folder: u32::try_from(folder).unwrap_or(u32::MAX),
        name: path.file_name().unwrap_or_default().into(),
        frame: wanted.frames.get(&*header.frame_of_reference_uid).copied(),
        sop_instance_uid: header.sop_instance_uid.clone(),
        position_mm: header.position_mm,
        instance_number: header.instance_number,
    };
    let (stack, least) = stacks.entry(header.key.clone()).or_insert_with(|| {
        let (key, geometry, against, facts) = (header.key.clone(), header.geometry, header.against.clone(), header.facts.clone());
        (Stack { key, geometry, against, facts, slices: Vec::new(), places: Vec::new() }, header.sop_instance_uid.clone())
    });
    if header.sop_instance_uid < *least {
        (stack.geometry, stack.against, stack.facts, *least) = (header.geometry, header.against, header.facts, header.sop_instance_uid);
    }
    stack.slices.push(slice);
}

fn failed(path: &Path, e: &std::io::Error) -> Failure {
    Failure::new(Class::Io, format!("{}: {e}", path.display()))
}

/// `roots` and every folder below, sorted. Links are not followed: a folder that holds itself would never end.
fn folders(roots: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut open: Vec<PathBuf> = roots.to_vec();
    let mut all = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).map_err(|e| failed(&folder, &e))? {
            let entry = entry.map_err(|e| failed(&folder, &e))?;
            if entry.file_type().map_err(|e| failed(&folder, &e))?.is_dir() {
                open.push(entry.path());
            }
        }
        all.push(folder);
    }
    all.sort();
    all.dedup();
    Ok(all)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| failed(folder, &e))? {
        let entry = entry.map_err(|e| failed(folder, &e))?;
        if entry.file_type().map_err(|e| failed(folder, &e))?.is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}
