//! Small datasets in the layout of the DeepLesion release.
#![allow(dead_code)]

use std::fmt::Write;
use std::path::{Path, PathBuf};

pub const HEADER: &str = "File_name,Patient_index,Study_index,Series_ID,Key_slice_index,Measurement_coordinates,Bounding_boxes,Lesion_diameters_Pixel_,Normalized_lesion_location,Coarse_lesion_type,Possibly_noisy,Slice_range,Spacing_mm_px_,Image_size,DICOM_windows,Patient_gender,Patient_age,Train_Val_Test";

/// One lesion; a bright rectangle on a grey body. Coordinates from 0.
#[derive(Clone)]
pub struct Lesion {
    pub patient: usize,
    pub slice: usize,
    /// First and last column and row.
    pub extent: [usize; 4],
    pub lesion_type: i8,
    pub noisy: bool,
    pub range: [usize; 2],
    pub interval_mm: f64,
    pub split: usize,
}

impl Lesion {
    pub fn new(patient: usize, split: usize) -> Self {
        Self { patient, slice: 5, extent: [100, 120, 129, 139], lesion_type: -1, noisy: false, range: [3, 7], interval_mm: 2.0, split }
    }

    pub fn folder(&self) -> String {
        format!("{:06}_01_01", self.patient)
    }

    /// The row as the release writes it: pixels from 1.
    pub fn row(&self) -> String {
        let [x1, y1, x2, y2] = self.extent.map(|v| v as f64 + 1.0);
        let (mx, my) = ((x1 + x2) / 2.0, (y1 + y2) / 2.0);
        let Self { patient, slice, lesion_type, noisy, range, interval_mm, split, .. } = self;
        format!(
            "{}_{slice:03}.png,{patient},1,1,{slice},\"{x1}, {my}, {x2}, {my}, {mx}, {y1}, {mx}, {y2}\",\"{}, {}, {}, {}\",\"{}, {}\",\"0.31, 0.42, 0.53\",{lesion_type},{},\"{}, {}\",\"0.8, 0.8, {interval_mm}\",\"{SIDE}, {SIDE}\",\"-175, 275\",F,50,{split}",
            self.folder(),
            x1 - 5.0,
            y1 - 5.0,
            x2 + 5.0,
            y2 + 5.0,
            x2 - x1,
            y2 - y1,
            u8::from(*noisy),
            range[0],
            range[1],
        )
    }
}

/// Side of the images, pixels.
pub const SIDE: usize = 256;

/// A grey body in air with the lesion bright; the air holds 10 HU for every slice number, to know the slices by.
pub fn image(slice: usize, extent: [usize; 4]) -> Vec<i32> {
    let [x1, y1, x2, y2] = extent;
    (0..SIDE * SIDE)
        .map(|i| match (i % SIDE, i / SIDE) {
            (x, y) if (x1..=x2).contains(&x) && (y1..=y2).contains(&y) => 300,
            (x, y) if (30..226).contains(&x) && (30..226).contains(&y) => 20,
            _ => -1000 + 10 * slice as i32,
        })
        .collect()
}

pub fn write_png(path: &Path, hu: &[i32], side: usize) {
    let file = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    let mut encoder = png::Encoder::new(file, side as u32, (hu.len() / side) as u32);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Sixteen);
    encoder.set_compression(png::Compression::Fast);
    let bytes: Vec<u8> = hu.iter().flat_map(|v| ((v + 32768) as u16).to_be_bytes()).collect();
    encoder.write_header().unwrap().write_image_data(&bytes).unwrap();
}

/// Writes table and images; every lesion has a series of its own.
pub fn write(root: &Path, lesions: &[Lesion]) {
    let mut table = format!("{HEADER}\n");
    for lesion in lesions {
        writeln!(table, "{}", lesion.row()).unwrap();
        let folder = root.join("Images_png").join(lesion.folder());
        std::fs::create_dir_all(&folder).unwrap();
        for slice in lesion.range[0]..=lesion.range[1] {
            write_png(&folder.join(format!("{slice:03}.png")), &image(slice, lesion.extent), SIDE);
        }
    }
    std::fs::write(root.join("DL_info.csv"), table).unwrap();
}

pub fn file(root: &Path, lesion: &Lesion, slice: usize) -> PathBuf {
    root.join("Images_png").join(lesion.folder()).join(format!("{slice:03}.png"))
}

/// Leaves the first half of a file.
pub fn cut_short(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}
