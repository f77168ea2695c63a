//! The rows of a set that one looks at first, for terminal and page; all others are in the JSON.

use super::froc::Rule;
use super::report::{Report, Row};

/// Rows of one set.
pub struct Headline<'a> {
    /// Images of the set.
    pub images: usize,
    /// Those with a lesion.
    pub key_images: usize,
    /// Cases.
    pub volumes: usize,
    /// Patients.
    pub patients: usize,
    /// False positives an image: everything by every rule, then types and sizes.
    pub by_image: Vec<&'a Row>,
    /// False positives a volume.
    pub by_volume: Vec<&'a Row>,
}

impl Row {
    /// Of all types and sizes.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.kind == "all" && self.size == "all"
    }

    /// Type or size it is of, empty for the whole.
    #[must_use]
    pub fn cut(&self) -> &str {
        match (self.kind.as_str(), self.size.as_str()) {
            ("all", "all") => "",
            ("all", size) => size,
            (kind, _) => kind,
        }
    }

    /// What its false positives are counted over, with the article.
    #[must_use]
    pub fn per_what(&self) -> &'static str {
        if self.per == "image" { "an image" } else { "a volume" }
    }
}

impl Report {
    /// Names of the sets that have rows, in their order; pooled last.
    #[must_use]
    pub fn row_sets(&self) -> Vec<&str> {
        let mut sets: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !sets.contains(&row.set.as_str()) {
                sets.push(&row.set);
            }
        }
        sets
    }

    /// What to look at first of `set`.
    #[must_use]
    pub fn headline(&self, set: &str) -> Headline<'_> {
        let of_set = || self.rows.iter().filter(|r| r.set == set);
        let all = of_set().find(|r| r.images == "all");
        let key_images = of_set().find(|r| r.images == "key").map_or(0, |r| r.n_images);
        let images = all.map_or(0, |r| r.n_images);
        let by = |rule: Rule| move |r: &&Row| r.rule == rule.name();
        // Where every image holds a lesion, `all` says what `key` does.
        let whole = of_set().filter(|r| r.is_whole() && r.per == "image" && (r.images == "key" || key_images < images));
        let (iou, others): (Vec<&Row>, Vec<&Row>) = whole.partition(by(Rule::Iou));
        let others = others.into_iter().filter(|r| r.images == "key" && r.unit == "boxes");
        let cuts = of_set().filter(by(Rule::Iou)).filter(|r| !r.is_whole() && r.images == "key" && r.unit == "boxes");
        let by_volume = of_set().filter(by(Rule::Iou)).filter(|r| r.is_whole() && r.per == "volume" && r.n_volumes < r.n_images);
        Headline {
            images,
            key_images,
            volumes: all.map_or(0, |r| r.n_volumes),
            patients: all.map_or(0, |r| r.n_patients),
            by_image: iou.into_iter().chain(others).chain(cuts).collect(),
            by_volume: by_volume.collect(),
        }
    }
}
