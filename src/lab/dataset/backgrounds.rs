//! Folders of real CT as backgrounds: decoded once, with the regions that hold real, unmarked disease set apart.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::error::{Class, Failure};
use crate::lab::synthesize::places::site::Sites;
use crate::series::header;
use crate::volume::body::{PixelBox, body_box};
use crate::volume::frame::ImageGrid;
use crate::volume::{HuImage, pixels};

/// A region with real disease that nobody outlined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disease {
    /// Where, image pixels.
    pub region: PixelBox,
    /// A whole organ of which only parts are sick: a lesion may be put into it, what else lies there counts neither way.
    pub whole_organ: bool,
}

/// One image of a scan.
#[derive(Debug, Clone, PartialEq)]
pub struct ScanSlice {
    /// HU.
    pub image: HuImage,
    /// Position along z, mm.
    pub z_mm: f64,
    /// Where the body is.
    pub body: PixelBox,
    /// Regions with real, unmarked disease: neither lesion nor background.
    pub disease: Vec<Disease>,
    /// SOP Instance UID.
    pub sop_uid: String,
    /// File number (`NNNN.dcm`).
    pub number: u32,
    /// Where lesions may lie, known where the body was made up; else it is told from the image.
    pub sites: Option<Sites>,
}

/// Slices of one geometry, rising z; a single slice is a scan of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Scan {
    /// Folder name.
    pub name: String,
    /// In-plane geometry.
    pub grid: ImageGrid,
    /// Distance of neighbouring slices, mm (5 for a single slice).
    pub spacing_mm: f64,
    /// The slices.
    pub slices: Vec<ScanSlice>,
}

/// Reads every folder of `root` as one scan, folders named `…-single-slices` as one scan an image. `skip` names folders to leave out.
///
/// # Errors
/// Unreadable folders or tables; images that do not decode are named on stderr and left out.
pub fn read(root: &Path, skip: &[String]) -> Result<Vec<Scan>, Failure> {
    read_where(root, |name| !skip.iter().any(|s| s == name))
}

/// As [`read`], of the folder `name` alone.
///
/// # Errors
/// As [`read`].
pub fn read_one(root: &Path, name: &str) -> Result<Vec<Scan>, Failure> {
    read_where(root, |other| other == name)
}

fn read_where(root: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<Scan>, Failure> {
    let io = |path: &Path, e: &dyn std::fmt::Display| Failure::new(Class::Io, format!("{}: {e}", path.display()));
    let disease = disease_table(&root.join("REAL-DISEASE.csv"))?;
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(root).map_err(|e| io(root, &e))?.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| p.is_dir()).collect();
    folders.sort();
    let mut scans = Vec::new();
    for folder in folders {
        let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if !wanted(&name) {
            continue;
        }
        let files: Vec<PathBuf> =
            std::fs::read_dir(&folder).map_err(|e| io(&folder, &e))?.filter_map(|e| e.ok().map(|e| e.path())).collect();
        let mut read: Vec<(ImageGrid, ScanSlice)> = files
            .par_iter()
            .filter(|p| p.extension().is_some_and(|e| e == "dcm"))
            .filter_map(|path| slice(path, disease.get(&name)).map_err(|e| eprintln!("{}: left out: {e}", path.display())).ok())
            .collect();
        read.sort_by(|a, b| a.1.z_mm.total_cmp(&b.1.z_mm).then(a.1.number.cmp(&b.1.number)));
        if name.ends_with("single-slices") {
            scans.extend(read.into_iter().map(|(grid, s)| Scan { name: name.clone(), grid, spacing_mm: 5.0, slices: vec![s] }));
        } else if let Some(grid) = read.first().map(|r| r.0) {
            let slices: Vec<ScanSlice> = read.into_iter().filter(|(g, _)| *g == grid).map(|(_, s)| s).collect();
            let spacing_mm =
                if slices.len() > 1 { (slices[slices.len() - 1].z_mm - slices[0].z_mm) / (slices.len() - 1) as f64 } else { 5.0 };
            scans.push(Scan { name, grid, spacing_mm, slices });
        }
    }
    if scans.is_empty() {
        return Err(Failure::new(
            Class::Data,
            format!("{}: no CT series found; name the folder that holds one folder a series", root.display()),
        ));
    }
    Ok(scans)
}

fn slice(path: &Path, disease: Option<&Vec<(u32, u32, Disease)>>) -> Result<(ImageGrid, ScanSlice), String> {
    let header = header::read(path).map_err(|e| e.to_string())?;
    let image = pixels::decode(path).map_err(|e| e.to_string())?;
    let spacing_mm = header.pixel_spacing_mm.ok_or("no Pixel Spacing")?;
    let z_mm = header.position_mm.ok_or("no Image Position (Patient)")?[2];
    let number = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok()).unwrap_or(0);
    let disease = disease.into_iter().flatten().filter(|(first, last, _)| (*first..=*last).contains(&number)).map(|d| d.2).collect();
    let body = body_box(&image);
    Ok((
        ImageGrid { rows: image.rows, cols: image.cols, spacing_mm },
        ScanSlice { image, z_mm, body, disease, sop_uid: header.sop_instance_uid.to_string(), number, sites: None },
    ))
}

/// Rows `series,first,last,x1,y1,x2,y2,what,…` by series; `what` of a whole organ begins with the word "whole".
fn disease_table(path: &Path) -> Result<HashMap<String, Vec<(u32, u32, Disease)>>, Failure> {
    let mut table: HashMap<String, Vec<_>> = HashMap::new();
    if !path.exists() {
        return Ok(table);
    }
    let bad = |e: &dyn std::fmt::Display| Failure::new(Class::Data, format!("{}: {e}", path.display()));
    let mut reader = csv::ReaderBuilder::new().comment(Some(b'#')).from_path(path).map_err(|e| bad(&e))?;
    for row in reader.records() {
        let row = row.map_err(|e| bad(&e))?;
        let number =
            |i: usize| row.get(i).and_then(|v| v.parse::<usize>().ok()).ok_or_else(|| bad(&format!("column {i} of {row:?} is no number")));
        let region = PixelBox { x1: number(3)?, y1: number(4)?, x2: number(5)?, y2: number(6)? };
        let (first, last) = (number(1)? as u32, number(2)? as u32);
        let whole_organ = row.get(7).is_some_and(|what| what.starts_with("whole "));
        table.entry(row.get(0).unwrap_or_default().to_owned()).or_default().push((first, last, Disease { region, whole_organ }));
    }
    Ok(table)
}
