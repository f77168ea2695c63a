//! Where in the body's box a lesion of a type lies, as radiologists mark them (`density.txt`): a node lies at the spine more often than under the skin of the
//! back, and what a detector does not see there while it learns it does not look for there.

use rand::Rng;

use crate::detect::TYPE_NAMES;
use crate::lab::synthesize::Defect;
use crate::volume::body::PixelBox;

/// Cells a side.
const CELLS: usize = 12;
/// Of the fullest cell's share, what every cell has at least: rare is not never, and a patient may lie prone.
const FLOOR: f64 = 0.12;

/// Shares by type, in [`TYPE_NAMES`]' order.
pub struct Density {
    cells: Vec<[[f64; CELLS]; CELLS]>,
}

impl Density {
    /// The built-in table.
    ///
    /// # Errors
    /// A type that is missing, or a raster that is not 12 × 12 numbers.
    pub fn built_in() -> Result<Self, Defect> {
        Self::parse(include_str!("density.txt"))
    }

    fn parse(text: &str) -> Result<Self, Defect> {
        let cells = TYPE_NAMES.iter().map(|name| raster(text, name).ok_or(Defect::Density(name)));
        Ok(Self { cells: cells.collect::<Result<_, _>>()? })
    }

    /// Whether a place drawn evenly over its tissue is kept, so that those kept are as dense as the marks. `at`: x, y, image pixels.
    pub fn keeps(&self, rng: &mut impl Rng, lesion_type: usize, at: [u16; 2], body: PixelBox) -> bool {
        rng.random_bool(self.share(lesion_type, at, body))
    }

    /// Of the fullest cell's, not under [`FLOOR`].
    fn share(&self, lesion_type: usize, [x, y]: [u16; 2], body: PixelBox) -> f64 {
        let cell = |v: u16, low: usize, high: usize| {
            let along = (f64::from(v) - low as f64) / (high.saturating_sub(low)).max(1) as f64;
            ((along * CELLS as f64).max(0.0) as usize).min(CELLS - 1)
        };
        let share = self.cells.get(lesion_type).map_or(1.0, |c| c[cell(y, body.y1, body.y2)][cell(x, body.x1, body.x2)]);
        share.max(FLOOR)
    }
}

fn raster(text: &str, name: &str) -> Option<[[f64; CELLS]; CELLS]> {
    let mut lines = text.lines().skip_while(|l| *l != format!("[{name}]")).skip(1);
    let mut cells = [[0.0; CELLS]; CELLS];
    for row in &mut cells {
        let numbers: Vec<f64> = lines.next()?.split_whitespace().map_while(|v| v.parse().ok()).collect();
        *row = numbers.try_into().ok()?;
    }
    let most = cells.iter().flatten().copied().fold(0.0, f64::max);
    cells.iter_mut().flatten().for_each(|v| *v /= most);
    (most > 0.0).then_some(cells)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const BODY: PixelBox = PixelBox { x1: 100, y1: 100, x2: 400, y2: 340 };

    fn of(name: &str) -> usize {
        TYPE_NAMES.iter().position(|n| *n == name).expect("a type")
    }

    #[test]
    fn livers_lie_on_the_right_and_nodes_at_the_spine() {
        let density = Density::built_in().expect("a table");
        let share = |name, at| density.share(of(name), at, BODY);
        // The patient's right is the image's left.
        assert!(share("liver", [175, 230]) > 0.9 && share("liver", [350, 230]) == FLOOR);
        assert!(share("abdomen", [250, 230]) > 0.9 && share("abdomen", [130, 130]) == FLOOR);
        assert!(share("bone", [250, 270]) > 0.9);
    }

    #[test]
    fn places_outside_the_box_count_as_its_border_and_unknown_types_anywhere() {
        let density = Density::built_in().expect("a table");
        assert_eq!(density.share(of("lung"), [0, 500], BODY), FLOOR);
        assert_eq!(density.share(TYPE_NAMES.len(), [0, 500], BODY), 1.0);
    }

    #[test]
    fn what_is_kept_is_as_dense_as_the_table() {
        let density = Density::built_in().expect("a table");
        let mut rng = StdRng::seed_from_u64(5);
        let mut kept = |at| (0..4000).filter(|_| density.keeps(&mut rng, of("kidney"), at, BODY)).count() as f64 / 4000.0;
        let (full, thin) = (kept([190, 250]), kept([250, 250]));
        assert!((full - 1.0).abs() < 0.01, "{full}");
        assert!((thin - 0.2).abs() < 0.05, "{thin}");
    }

    #[test]
    fn a_raster_cut_short_is_a_defect() {
        let text = include_str!("density.txt");
        let defect = Density::parse(&text[..text.len() - 40]).err().expect("a defect").to_string();
        assert!(defect.contains("pelvis"), "{defect}");
    }
}
