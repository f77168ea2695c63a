//! Whole synthesized studies as DICOM, with the bookmarks that a radiologist would have left on them and the evaluator's tables.
//!
//! A patient is a real series altered ([`another`](super::another)), cut to the slices round the lesions that are painted into it at its own geometry.
//! `OUT/CT/SYN-0001/0001.dcm` …, `OUT/bookmarks.csv` (as `mine` reads a vendor's export), `OUT/images.csv` and `OUT/truth.csv` (as `evaluate` reads them;
//! paths start from `OUT/CT`).
//! A patient depends on the seed and its number alone, so patients of two runs are the same or others by their numbers.

use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rayon::prelude::*;

use super::another::Another;
use super::dicom_out::{self, SeriesFacts, uid};
use super::insert::{self, Slices};
use super::kind::{Drawn, Kind};
use super::places::density::Density;
use super::places::site::{Site, Sites};
use super::recist;
use super::shape::Shape;
use super::{Planes, choose, pick, place_of, sticks_out};
use crate::detect::TYPE_NAMES;
use crate::error::{Class, Failure};
use crate::lab::dataset::Scan;
use crate::volume::pixels::{AIR_HU, MOST_HU};

/// Lesions of a patient lie at most this far from where the first was looked for, mm: a series is not longer than it needs to be.
const SPREAD_MM: f64 = 60.0;
/// Slices on each side of the lesions that are kept, mm: `mine` keeps 30 as context.
const KEPT_MM: f64 = 40.0;
/// Series with fewer slices are no study.
const LEAST_SLICES: usize = 8;
/// Draws of a patient before the series are said to have no room, and of a lesion's place in one.
const MOST_PATIENTS: usize = 20;
const MOST_PLACES: usize = 60;
/// Pixels of a lesion on its key image.
const LEAST_PIXELS: usize = 12;
/// Pixels between a lesion and the edge of the planes that it is painted into: what its noise is told from.
const ROOM_PX: f32 = 5.0;
/// Boxes of one image are apart: nobody could tell whose a candidate is.
const MOST_OVERLAP: f32 = 0.0;

/// What `synthesize --studies` was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Folder to write.
    pub out: PathBuf,
    /// How many patients.
    pub patients: usize,
    /// Number of the first.
    pub first: usize,
    /// Seed.
    pub seed: u64,
    /// Fewest and most lesions of a patient.
    pub lesions: [usize; 2],
    /// Names of kinds of `table.toml`; none means all.
    pub kinds: Vec<String>,
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Patients.
    pub patients: usize,
    /// Images.
    pub images: usize,
    /// Lesions.
    pub lesions: usize,
}

/// One painted lesion as its reader marks it.
#[derive(Debug, Clone, PartialEq)]
struct Lesion {
    /// Slice of the largest section, and the first and last that show it.
    key: usize,
    shown: [usize; 2],
    /// End points on the key slice, pixels; long axis first.
    points: [[f32; 2]; 4],
    /// DeepLesion's box.
    box_px: [f32; 4],
    /// Index into [`TYPE_NAMES`].
    lesion_type: usize,
}

/// Writes the studies; patients are worked on in parallel.
///
/// # Errors
/// [`Class::Usage`] for a folder in use, an unknown kind or a range that is none; [`Class::Data`] where no series has room for the lesions; I/O.
pub fn run(scans: &[Scan], request: &Request) -> Result<Written, Failure> {
    let kinds = chosen(&request.kinds)?;
    let density = Density::built_in().map_err(|e| Failure::new(Class::Internal, e.to_string()))?;
    let [low, high] = request.lesions;
    if low == 0 || low > high || request.patients == 0 || request.first == 0 {
        let text = format!("--lesions-each {low}..{high}, --patients {}, --first {}: 1 or more, rising", request.patients, request.first);
        return Err(Failure::new(Class::Usage, text));
    }
    let scans: Vec<&Scan> =
        scans.iter().filter(|s| s.slices.len() >= LEAST_SLICES && s.grid.spacing_mm[0] == s.grid.spacing_mm[1]).collect();
    if scans.is_empty() {
        let text = format!("no series of --ct has {LEAST_SLICES} slices of square pixels: a study cannot be made of single images");
        return Err(Failure::new(Class::Data, text));
    }
    let io = |path: &Path, e: &dyn std::fmt::Display| Failure::new(Class::Io, format!("{}: {e}", path.display()));
    if request.out.join("bookmarks.csv").exists() {
        return Err(Failure::new(
            Class::Usage,
            format!("{} holds studies already; name a new folder, or remove it", request.out.display()),
        ));
    }
    std::fs::create_dir_all(&request.out).map_err(|e| io(&request.out, &e))?;
    let patients: Vec<(Written, Rows)> = (request.first..request.first + request.patients)
        .into_par_iter()
        .map(|number| patient(&scans, &kinds, &density, number, request))
        .collect::<Result<_, _>>()?;
    let table = |name: &str, head: &str, of: fn(&Rows) -> &String| {
        let path = request.out.join(name);
        let text = format!("{head}\n{}", patients.iter().map(|(_, rows)| of(rows).as_str()).collect::<String>());
        std::fs::write(&path, text).map_err(|e| io(&path, &e))
    };
    table("images.csv", "set,case,patient,sop_uid,path", |r| &r.images)?;
    table("truth.csv", "set,case,patient,sop_uid,x1,y1,x2,y2,box_kind,lesion_id,type,long_axis_mm", |r| &r.truth)?;
    let columns = "sop_instance_uid,long_x1,long_y1,long_x2,long_y2,short_x1,short_y1,short_x2,short_y2,long_mm,short_mm,unit,patient,tracking_uid,type";
    table("bookmarks.csv", columns, |r| &r.bookmarks)?;
    Ok(patients.iter().fold(Written::default(), |a, (b, _)| Written {
        patients: a.patients + b.patients,
        images: a.images + b.images,
        lesions: a.lesions + b.lesions,
    }))
}

/// The kinds of these names.
fn chosen(names: &[String]) -> Result<Vec<Kind>, Failure> {
    let all = super::kind::table().map_err(|e| Failure::new(Class::Internal, format!("table.toml: {e}")))?;
    if let Some(name) = names.iter().find(|n| !all.iter().any(|k| k.name == **n)) {
        let known = all.iter().map(|k| k.name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(Failure::new(Class::Usage, format!("--kinds: there is no kind '{name}'; there are {known}")));
    }
    Ok(all.into_iter().filter(|k| names.is_empty() || names.contains(&k.name)).collect())
}

/// Lines of the three tables.
#[derive(Debug, Default)]
struct Rows {
    images: String,
    truth: String,
    bookmarks: String,
}

fn patient(scans: &[&Scan], kinds: &[Kind], density: &Density, number: usize, request: &Request) -> Result<(Written, Rows), Failure> {
    let mut rng = StdRng::seed_from_u64(request.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number as u64));
    let weights: Vec<f32> = scans.iter().map(|s| (s.slices.len() as f32).sqrt()).collect();
    let wanted = rng.random_range(request.lesions[0]..=request.lesions[1]);
    for _ in 0..MOST_PATIENTS {
        let scan = scans[pick(&mut rng, &weights)];
        let (mut new, middle) = stretch(scan, &mut rng);
        let lesions = paint(&mut new, middle, kinds, density, wanted, &mut rng);
        if lesions.len() >= request.lesions[0] {
            return write(&new, &lesions, number, request);
        }
    }
    let names = kinds.iter().map(|k| k.name.as_str()).collect::<Vec<_>>().join(", ");
    let text = format!(
        "patient {number}: no place for {} lesions of the kinds {names} in the series of --ct; ask for fewer or for other kinds",
        request.lesions[0]
    );
    Err(Failure::new(Class::Data, text))
}

/// Another patient's stretch of `scan`, and the z that its lesions are looked for round.
fn stretch(scan: &Scan, rng: &mut StdRng) -> (Scan, f64) {
    let middle = scan.slices[rng.random_range(0..scan.slices.len())].z_mm;
    let near = |z: f64| (z - middle).abs() <= SPREAD_MM + KEPT_MM;
    let first = scan.slices.iter().position(|s| near(s.z_mm)).unwrap_or(0);
    let last = scan.slices.iter().rposition(|s| near(s.z_mm)).unwrap_or(first);
    (Another::random(rng, scan.grid.spacing_mm[0]).of(scan, first..last + 1, rng), middle)
}

/// Paints up to `wanted` lesions. No key slice shows another lesion: the marks are all there is to find on it.
fn paint(scan: &mut Scan, middle: f64, kinds: &[Kind], density: &Density, wanted: usize, rng: &mut StdRng) -> Vec<Lesion> {
    let near: Vec<usize> = (0..scan.slices.len()).filter(|i| (scan.slices[*i].z_mm - middle).abs() <= SPREAD_MM).collect();
    // Places of the scan as it was: a painted lesion is no organ to put another into.
    let sites: Vec<Sites> = near.iter().map(|i| Sites::find(scan, &scan.slices[*i])).collect();
    let mut lesions: Vec<Lesion> = Vec::new();
    for _ in 0..MOST_PLACES {
        if lesions.len() == wanted {
            break;
        }
        let Some(n) = choose(rng, &(0..near.len()).collect::<Vec<_>>()).copied() else { break };
        let weights: Vec<f32> = kinds.iter().map(|k| if sites[n].of(k.site).is_empty() { 0.0 } else { k.weight }).collect();
        if weights.iter().all(|w| *w == 0.0) {
            continue;
        }
        let kind = &kinds[pick(rng, &weights)];
        let (Some(place), Some(lesion_type)) = (place_of(rng, density, &sites[n], kind), kind.type_in(sites[n].part)) else { continue };
        let drawn = kind.draw(rng, sites[n].muscle_hu);
        let wanted = Wanted { at: near[n], place, site: kind.site, drawn, lesion_type };
        lesions.extend(lesion(scan, wanted, &lesions, rng));
    }
    lesions
}

/// A lesion that is to be painted, where.
struct Wanted {
    /// Slice of its centre.
    at: usize,
    /// Its centre there, image pixels.
    place: [u16; 2],
    site: Site,
    drawn: Drawn,
    lesion_type: usize,
}

/// Paints one lesion, unless it does not fit there.
fn lesion(scan: &mut Scan, wanted: Wanted, others: &[Lesion], rng: &mut StdRng) -> Option<Lesion> {
    let Wanted { at, place, site, drawn: Drawn { shape, look, long_mm }, lesion_type } = wanted;
    let z = rng.random_range(-0.5..0.5) * scan.spacing_mm as f32;
    let mut window = Window::cut(scan, at, place, &shape, z)?;
    let (planes, centre) = (&window.planes, window.centre);
    if sticks_out(planes, at - window.first, site, [centre[0], centre[1]], long_mm) {
        return None;
    }
    let sections: Vec<Vec<bool>> = (0..planes.hu.len()).map(|i| insert::section(planes, i, &shape, centre, look)).collect();
    let areas: Vec<usize> = sections.iter().map(|s| s.iter().filter(|v| **v).count()).collect();
    let key = (0..areas.len()).max_by_key(|i| areas[*i])?;
    let shown = [areas.iter().position(|a| *a > 0)? + window.first, areas.iter().rposition(|a| *a > 0)? + window.first];
    let points =
        recist::axes(&sections[key], planes.size, LEAST_PIXELS)?.map(|[x, y]| [x + window.corner[0] as f32, y + window.corner[1] as f32]);
    let key = key + window.first;
    let holds = |range: [usize; 2], i: usize| (range[0]..=range[1]).contains(&i);
    let box_px = recist::box_of(&points);
    let clash = |o: &Lesion| {
        holds(o.shown, key) || holds(shown, o.key) || (o.key == key && crate::detect::nms::iou(o.box_px, box_px) > MOST_OVERLAP)
    };
    let (right, bottom) = (scan.grid.cols as f32 - 1.0, scan.grid.rows as f32 - 1.0);
    if others.iter().any(clash) || box_px[0] < 0.0 || box_px[1] < 0.0 || box_px[2] > right || box_px[3] > bottom {
        return None;
    }
    insert::paint(&mut window.planes, &shape, centre, look, Slices::of(scan.spacing_mm as f32), rng);
    window.put_back(scan);
    Some(Lesion { key, shown, points, box_px, lesion_type })
}

/// Square pieces of the slices that a lesion can reach.
struct Window {
    planes: Planes,
    first: usize,
    /// Column and row of the pieces' first pixel.
    corner: [usize; 2],
    /// The lesion's centre as [`insert::paint`] takes it.
    centre: [f32; 3],
}

impl Window {
    /// `None` where it would not lie on the image.
    fn cut(scan: &Scan, at: usize, place: [u16; 2], shape: &Shape, z: f32) -> Option<Self> {
        let pixel_mm = scan.grid.spacing_mm[0] as f32;
        let half = (shape.reach_mm() / pixel_mm + ROOM_PX).ceil() as usize;
        let [x, y] = place.map(usize::from);
        let corner = [x.checked_sub(half)?, y.checked_sub(half)?];
        if x + half >= scan.grid.cols || y + half >= scan.grid.rows {
            return None;
        }
        let size = 2 * half + 1;
        let middle = scan.slices[at].z_mm;
        let offset = |i: usize| (scan.slices[i].z_mm - middle) as f32;
        let reached: Vec<usize> =
            (0..scan.slices.len()).filter(|i| (offset(*i) - z).abs() <= shape.height_mm() + scan.spacing_mm as f32).collect();
        let piece = |i: usize| {
            let image = &scan.slices[i].image;
            let row = |r: usize| &image.hu[(corner[1] + r) * image.cols + corner[0]..][..size];
            (0..size).flat_map(row).map(|v| f32::from(*v)).collect::<Vec<f32>>()
        };
        let planes = Planes {
            size,
            pixel_mm,
            hu: reached.iter().map(|i| piece(*i)).collect(),
            offsets_mm: reached.iter().map(|i| offset(*i)).collect(),
        };
        Some(Self { planes, first: *reached.first()?, corner, centre: [half as f32, half as f32, z] })
    }

    fn put_back(&self, scan: &mut Scan) {
        let size = self.planes.size;
        for (n, plane) in self.planes.hu.iter().enumerate() {
            let image = &mut scan.slices[self.first + n].image;
            for (r, row) in plane.chunks_exact(size).enumerate() {
                let at = (self.corner[1] + r) * image.cols + self.corner[0];
                for (out, v) in image.hu[at..at + size].iter_mut().zip(row) {
                    *out = v.round().clamp(AIR_HU.into(), MOST_HU.into()) as i16;
                }
            }
        }
    }
}

/// Writes the images of one patient, from head to feet, and says its lines.
fn write(scan: &Scan, lesions: &[Lesion], number: usize, request: &Request) -> Result<(Written, Rows), Failure> {
    let z = |i: usize| scan.slices[i].z_mm;
    let (low, high) = lesions.iter().fold((f64::MAX, f64::MIN), |(l, h), x| (l.min(z(x.shown[0])), h.max(z(x.shown[1]))));
    let kept: Vec<usize> = (0..scan.slices.len()).filter(|i| (low - KEPT_MM..=high + KEPT_MM).contains(&z(*i))).rev().collect();
    let name = format!("SYN-{number:04}");
    let (seed, own) = (request.seed.to_string(), number.to_string());
    let uid = |what: &str| uid(&["lesionlab synthesize", &seed, &own, what]);
    let series = SeriesFacts {
        patient_id: name.clone(),
        study_uid: uid("study"),
        series_uid: uid("series"),
        frame_uid: uid("frame"),
        spacing_mm: scan.grid.spacing_mm,
        thickness_mm: scan.spacing_mm,
    };
    let folder = request.out.join("CT").join(&name);
    std::fs::create_dir_all(&folder).map_err(|e| Failure::new(Class::Io, format!("{}: {e}", folder.display())))?;
    let mut rows = Rows::default();
    for (n, i) in kept.iter().enumerate() {
        let (file, sop_uid) = (format!("{:04}.dcm", n + 1), uid(&format!("image {}", n + 1)));
        dicom_out::write(&folder.join(&file), &series, &sop_uid, n + 1, z(*i), &scan.slices[*i].image)?;
        let on: Vec<(usize, &Lesion)> = lesions.iter().enumerate().filter(|(_, l)| l.key == *i).collect();
        if !on.is_empty() {
            rows.images += &format!("synthesized,{name},{name},{sop_uid},{name}/{file}\n");
        }
        for (l, lesion) in on {
            let [long, short] = lesion.lengths_mm(scan.grid.spacing_mm);
            let [x1, y1, x2, y2] = lesion.box_px;
            let kind = TYPE_NAMES[lesion.lesion_type];
            rows.truth += &format!("synthesized,{name},{name},{sop_uid},{x1},{y1},{x2},{y2},recist5,{},{kind},{long:.2}\n", l + 1);
            let ends = lesion.points.as_flattened().iter().map(f32::to_string).collect::<Vec<_>>().join(",");
            let tracking = uid(&format!("lesion {}", l + 1));
            rows.bookmarks += &format!("{sop_uid},{ends},{long:.2},{short:.2},mm,{name},{tracking},{}\n", lesion.lesion_type + 1);
        }
    }
    Ok((Written { patients: 1, images: kept.len(), lesions: lesions.len() }, rows))
}

impl Lesion {
    /// Long and short axis.
    fn lengths_mm(&self, [sy, sx]: [f64; 2]) -> [f64; 2] {
        let length = |a: [f32; 2], b: [f32; 2]| (f64::from(b[0] - a[0]) * sx).hypot(f64::from(b[1] - a[1]) * sy);
        [length(self.points[0], self.points[1]), length(self.points[2], self.points[3])]
    }
}
