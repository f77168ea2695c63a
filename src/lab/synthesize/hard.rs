//! Hard negatives: places of the background scans that a detector took for lesions (`lesionwatch scan --force --candidates` over the folder of CT).

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use crate::error::{Class, Failure};
use crate::lab::dataset::Scan;

/// Candidates below this raw score are passed over.
const LEAST_SCORE: f32 = 0.35;
/// Candidates of one image that are kept, best first.
const MOST_AN_IMAGE: usize = 12;

/// A false alarm on an image without a marked lesion there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FalseAlarm {
    /// Index of the scan.
    pub scan: usize,
    /// Index of the slice in it.
    pub slice: usize,
    /// Middle of the box, image pixels.
    pub centre: [f64; 2],
    /// How often it is drawn, relative to the others.
    pub weight: f32,
}

/// The columns of the candidates' table that are used.
#[derive(Deserialize)]
struct Row {
    sop_uid: String,
    x1: f64,
    y1: f64,
    x2: f64,
    y2: f64,
    score: f32,
}

/// Reads a table of candidates and keeps those that lie on `scans`, outside the regions of real disease.
///
/// # Errors
/// An unreadable table, or one of which no row lies on the scans.
pub fn read(path: &Path, scans: &[Scan]) -> Result<Vec<FalseAlarm>, Failure> {
    let bad = |e: &dyn std::fmt::Display| Failure::new(Class::Data, format!("{}: {e}", path.display()));
    let mut of_image: HashMap<&str, (usize, usize)> = HashMap::new();
    for (n, scan) in scans.iter().enumerate() {
        of_image.extend(scan.slices.iter().enumerate().map(|(i, s)| (s.sop_uid.as_str(), (n, i))));
    }
    let mut by_image: HashMap<(usize, usize), Vec<FalseAlarm>> = HashMap::new();
    for row in csv::Reader::from_path(path).map_err(|e| bad(&e))?.deserialize::<Row>() {
        let row = row.map_err(|e| bad(&e))?;
        let Some(&(scan, slice)) = of_image.get(row.sop_uid.as_str()) else { continue };
        let centre = [(row.x1 + row.x2) / 2.0, (row.y1 + row.y2) / 2.0];
        let sick = scans[scan].slices[slice].disease.iter().any(|d| d.region.holds(centre));
        if row.score >= LEAST_SCORE && !sick {
            // Twice as sure, four times as often.
            by_image.entry((scan, slice)).or_default().push(FalseAlarm { scan, slice, centre, weight: row.score * row.score });
        }
    }
    let mut images: Vec<_> = by_image.into_iter().collect();
    images.sort_by_key(|(image, _)| *image);
    let alarms: Vec<FalseAlarm> = images
        .into_iter()
        .flat_map(|(_, mut alarms)| {
            alarms.sort_by(|a, b| b.weight.total_cmp(&a.weight));
            alarms.truncate(MOST_AN_IMAGE);
            alarms
        })
        .collect();
    if alarms.is_empty() {
        return Err(bad(&format!("no candidate of at least {LEAST_SCORE} lies on the images of --ct; scan that folder with --candidates")));
    }
    Ok(alarms)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::lab::dataset::{Disease, ScanSlice};
    use crate::volume::HuImage;
    use crate::volume::body::PixelBox;
    use crate::volume::frame::ImageGrid;

    fn scan() -> Scan {
        let grid = ImageGrid { rows: 64, cols: 64, spacing_mm: [0.8, 0.8] };
        let region = PixelBox { x1: 40, y1: 40, x2: 60, y2: 60 };
        let slice = |number: u32| ScanSlice {
            image: HuImage { rows: 64, cols: 64, hu: vec![0; 64 * 64] },
            z_mm: f64::from(number),
            body: PixelBox { x1: 0, y1: 0, x2: 63, y2: 63 },
            disease: vec![Disease { region, whole_organ: false }],
            sop_uid: format!("1.2.{number}"),
            number,
            sites: None,
        };
        Scan { name: "a".into(), grid, spacing_mm: 1.0, slices: vec![slice(1), slice(2)] }
    }

    #[test]
    fn sure_candidates_on_healthy_places_are_kept_and_the_rest_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.csv");
        let header = "series_uid,sop_uid,instance_number,slot_z_mm,x1,y1,x2,y2,score,type\n";
        let rows = "9,1.2.2,2,2.0,10,20,20,30,0.8,liver\n9,1.2.2,2,2.0,10,20,20,30,0.2,liver\n9,1.2.2,2,2.0,45,45,55,55,0.9,liver\n9,7.7,1,0,1,1,9,9,0.9,lung\n";
        std::fs::write(&path, format!("{header}{rows}")).unwrap();
        let alarms = read(&path, &[scan()]).unwrap();
        assert_eq!(alarms, [FalseAlarm { scan: 0, slice: 1, centre: [15.0, 25.0], weight: 0.8 * 0.8 }]);
        std::fs::write(&path, header).unwrap();
        assert!(read(&path, &[scan()]).unwrap_err().to_string().contains("--candidates"));
    }
}
