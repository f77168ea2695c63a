//! Lesions → a folder laid out as DeepLesion is: `Images_png/{patient}_{study}_{series}/{slice}.png` (HU + 32768) and, written last, `DL_info.csv`.
//!
//! Numbers stand for identities: patients in the order of their hash, studies by date, series by number, slices from head to feet.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::images::{Index, Stack};
use super::lesion::Lesion;
use super::mark::{Document, Reason, Refusal};
use super::numbers::Numbers;
use super::review::Line;
use super::rules::suspicions;
use super::table::Row;
use super::truth_table::Marked;
use crate::error::{Class, Failure};
use crate::volume::body::body_box;
use crate::volume::{HuImage, pixels};

/// Context on each side of a key slice, mm.
const CONTEXT_MM: f64 = 30.0;
/// A slice this little beyond still counts, mm: positions are rounded.
const CONTEXT_SLACK_MM: f64 = 0.01;
/// Stored value of 0 HU.
const ZERO_HU: i32 = 32768;

/// What was written.
#[derive(Debug, Default)]
pub struct Harvest {
    /// Rows of the table, sorted.
    pub rows: Vec<Row>,
    /// What is to be told of lesions.
    pub lines: Vec<Line>,
    /// Images written.
    pub slices: usize,
    /// The same lesions on their own images.
    pub marked: Vec<Marked>,
}

/// Series key: patient, stack, layer.
type SeriesKey = ([u8; 32], usize, usize);

fn numbers(lesions: &[Lesion], index: &Index) -> BTreeMap<SeriesKey, Numbers> {
    let mut patients: BTreeMap<[u8; 32], BTreeMap<(&str, &str), BTreeSet<(i64, usize, usize)>>> = BTreeMap::new();
    for l in lesions {
        let facts = &index.stacks[l.stack].facts;
        let studies = patients.entry(l.patient).or_default();
        let series = studies.entry((&facts.study_date, &facts.study_instance_uid)).or_default();
        // Stacks stand in the order of their keys, which begin with the Series Instance UID.
        series.insert((facts.series_number, l.stack, l.layer));
    }
    let mut all = BTreeMap::new();
    for (p, (patient, studies)) in patients.into_iter().enumerate() {
        for (s, (_, series)) in studies.into_iter().enumerate() {
            for (n, (_, stack, layer)) in series.into_iter().enumerate() {
                all.insert((patient, stack, layer), Numbers { patient: p + 1, study: s + 1, series: n + 1 });
            }
        }
    }
    all
}

/// Writes everything below `out`; `progress` is told of each image. Everything is in place when the table appears.
///
/// # Errors
/// [`Class::Io`] with the file that could not be written.
pub fn write(
    out: &Path,
    lesions: &[Lesion],
    documents: &[Document],
    index: &Index,
    progress: &(dyn Fn() + Sync),
) -> Result<Harvest, Failure> {
    let mut series: BTreeMap<SeriesKey, Vec<&Lesion>> = BTreeMap::new();
    for l in lesions {
        series.entry((l.patient, l.stack, l.layer)).or_default().push(l);
    }
    let mut harvest = Harvest::default();
    for (key, numbers) in numbers(lesions, index) {
        let writer = Series {
            folder: out.join("Images_png").join(numbers.folder()),
            numbers,
            stack: &index.stacks[key.1],
            slices: index.stacks[key.1].layer(key.2),
            documents,
            index,
            progress,
        };
        writer.write(series.get(&key).map_or(&[], Vec::as_slice), &mut harvest)?;
    }
    harvest.rows.sort_by(|a, b| a.order().cmp(&b.order()));
    Ok(harvest)
}

/// Images that a whole harvest of `lesions` has, for the bar.
#[must_use]
pub fn planned(lesions: &[Lesion], index: &Index) -> usize {
    let mut planned: BTreeSet<(SeriesKey, usize)> = BTreeSet::new();
    for l in lesions {
        let heights = heights(&index.stacks[l.stack], &index.stacks[l.stack].layer(l.layer));
        planned.extend(context(&heights, l.place).map(|place| ((l.patient, l.stack, l.layer), place)));
    }
    planned.len()
}

fn heights(stack: &Stack, slices: &[usize]) -> Vec<f64> {
    slices.iter().map(|s| stack.height_mm(*s)).collect()
}

/// Places within the context of a key slice.
fn context(heights: &[f64], key: usize) -> std::ops::RangeInclusive<usize> {
    let near = |place: &usize| (heights[*place] - heights[key]).abs() <= CONTEXT_MM + CONTEXT_SLACK_MM;
    let first = (0..key).rev().take_while(near).last().unwrap_or(key);
    let last = (key + 1..heights.len()).take_while(near).last().unwrap_or(key);
    first..=last
}

/// One series being written.
struct Series<'a> {
    folder: PathBuf,
    numbers: Numbers,
    stack: &'a Stack,
    /// Slice of each place.
    slices: Vec<usize>,
    documents: &'a [Document],
    index: &'a Index,
    progress: &'a (dyn Fn() + Sync),
}

impl Series<'_> {
    fn write(&self, lesions: &[&Lesion], harvest: &mut Harvest) -> Result<(), Failure> {
        std::fs::create_dir_all(&self.folder).map_err(|e| Failure::new(Class::Io, format!("{}: {e}", self.folder.display())))?;
        let heights = heights(self.stack, &self.slices);
        let mut keys: BTreeMap<usize, Vec<&Lesion>> = BTreeMap::new();
        for l in lesions {
            keys.entry(l.place).or_default().push(l);
        }
        // Key slices first: what hangs on a damaged one needs no context.
        let looked: Vec<_> =
            keys.into_par_iter().map(|(place, on)| self.key(place, &on).map(|found| (place, on, found))).collect::<Result<_, _>>()?;
        let (mut failed, mut rows) = (BTreeMap::new(), Vec::new());
        let mut written = 0;
        for (place, on, found) in looked {
            match found {
                Ok(found) => {
                    written += 1;
                    rows.extend(on.into_iter().zip(found));
                }
                Err(e) => {
                    let refusal = Refusal::new(Reason::NoPixels, format!("the key image cannot be decoded: {e}"));
                    harvest.lines.extend(on.iter().flat_map(|l| self.lines(l, &refusal, "")));
                    failed.insert(place, e);
                }
            }
        }
        let keys: BTreeSet<usize> = rows.iter().map(|(l, _)| l.place).collect();
        let around: BTreeSet<usize> = keys.iter().flat_map(|k| context(&heights, *k)).filter(|p| !keys.contains(p)).collect();
        let around: Vec<usize> = around.into_iter().filter(|p| !failed.contains_key(p)).collect();
        let done: Vec<_> = around.par_iter().map(|p| self.image(*p).map(|image| (*p, image.err()))).collect::<Result<_, _>>()?;
        written += done.iter().filter(|(_, e)| e.is_none()).count();
        failed.extend(done.into_iter().filter_map(|(p, e)| e.map(|e| (p, e))));
        if rows.is_empty() {
            // Empty now: nothing of it could be decoded. A folder that is still there does no harm.
            let _ = std::fs::remove_dir(&self.folder);
        }
        harvest.slices += written;
        for (lesion, found) in rows {
            self.row(lesion, &found, &heights, &failed, harvest);
        }
        Ok(())
    }

    /// Writes a key slice and looks at its lesions. The inner error is the image's, the outer one the disk's.
    fn key(&self, place: usize, lesions: &[&Lesion]) -> Result<Result<Vec<Vec<Refusal>>, String>, Failure> {
        Ok(self.image(place)?.map(|image| {
            let body = body_box(&image);
            lesions.iter().map(|l| suspicions(&l.points, &image, body)).collect()
        }))
    }

    /// Decodes the slice at a place and writes it.
    fn image(&self, place: usize) -> Result<Result<HuImage, String>, Failure> {
        let source = self.index.path(&self.stack.slices[self.slices[place]]);
        let decoded = match pixels::decode(&source) {
            Ok(image) if [image.rows, image.cols] == self.stack.key.size.map(usize::from) => image,
            Ok(_) => return Ok(Err(format!("{}: size differs from its header", source.display()))),
            Err(e) => return Ok(Err(format!("{}: {e}", source.display()))),
        };
        let path = self.folder.join(format!("{:03}.png", place + 1));
        write_png(&path, &decoded).map_err(|e| Failure::new(Class::Io, format!("{}: {e}", path.display())))?;
        (self.progress)();
        Ok(Ok(decoded))
    }

    fn row(&self, lesion: &Lesion, found: &[Refusal], heights: &[f64], failed: &BTreeMap<usize, String>, harvest: &mut Harvest) {
        let range = context(heights, lesion.place);
        let first = (*range.start()..lesion.place).rev().take_while(|p| !failed.contains_key(p)).last().unwrap_or(lesion.place);
        let last = (lesion.place + 1..=*range.end()).take_while(|p| !failed.contains_key(p)).last().unwrap_or(lesion.place);
        let row = Row::new(lesion, self.numbers, self.stack, !found.is_empty(), [first + 1, last + 1]);
        let cut = range.filter_map(|p| failed.get(&p)).next();
        let cut = cut.map(|e| Refusal::new(Reason::ContextCut, format!("a slice of context cannot be decoded: {e}")));
        harvest.lines.extend(found.iter().chain(&cut).flat_map(|refusal| self.lines(lesion, refusal, &row.file_name)));
        if lesion.origins.len() > 1 {
            let refusal =
                Refusal::new(Reason::Merged, format!("averaged with {} overlapping marks of its image", lesion.origins.len() - 1));
            harvest.lines.extend(self.lines(lesion, &refusal, &row.file_name).into_iter().skip(1));
        }
        let image = &self.stack.slices[lesion.slice];
        harvest.marked.push(Marked {
            numbers: self.numbers,
            sop_instance_uid: image.sop_instance_uid.to_string(),
            path: self.index.path(image),
            points: lesion.points,
            spacing_mm: self.stack.geometry.map_or([1.0; 2], |g| g.spacing_mm),
            lesion_type: lesion.lesion_type,
            split: row.split,
            noisy: row.noisy,
        });
        harvest.rows.push(row);
    }

    /// A line for each mark of a lesion.
    fn lines(&self, lesion: &Lesion, refusal: &Refusal, file_name: &str) -> Vec<Line> {
        lesion.origins.iter().map(|o| Line::about(&self.documents[o.document], &o.mark, refusal).of(file_name)).collect()
    }
}

/// 16-bit grey, HU + 32768.
fn write_png(path: &Path, image: &HuImage) -> Result<(), Box<dyn std::error::Error>> {
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), u32::try_from(image.cols)?, u32::try_from(image.rows)?);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Sixteen);
    encoder.set_compression(png::Compression::Fast);
    let bytes: Vec<u8> = image.hu.iter().flat_map(|hu| ((i32::from(*hu) + ZERO_HU) as u16).to_be_bytes()).collect();
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&bytes)?;
    writer.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_reaches_thirty_millimetres_and_ends_at_a_gap() {
        let heights: Vec<f64> = (0..50).map(|i| -2.5 * f64::from(i)).collect();
        assert_eq!(context(&heights, 20), 8..=32);
        assert_eq!(context(&heights, 0), 0..=12);
        assert_eq!(context(&[0.0, -40.0, -42.0], 1), 1..=2);
    }
}
