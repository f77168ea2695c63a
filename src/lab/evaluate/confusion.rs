//! What type found lesions are taken for. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

/// Found lesions by true type and predicted type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Confusion(BTreeMap<String, BTreeMap<String, usize>>);

impl<'a> FromIterator<(&'a str, &'a str)> for Confusion {
    /// Of pairs (true type, predicted type); pairs without one of them are passed over.
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(pairs: I) -> Self {
        let mut confusion = Self::default();
        for (truth, predicted) in pairs.into_iter().filter(|(t, p)| !t.is_empty() && !p.is_empty()) {
            *confusion.0.entry(truth.to_owned()).or_default().entry(predicted.to_owned()).or_default() += 1;
        }
        confusion
    }
}

impl Confusion {
    /// Lesions whose type was told.
    #[must_use]
    pub fn n(&self) -> usize {
        self.rows().iter().map(|(_, counts)| counts.iter().sum::<usize>()).sum()
    }

    /// Those whose type was told rightly.
    #[must_use]
    pub fn right(&self) -> usize {
        self.0.iter().filter_map(|(truth, of)| of.get(truth)).sum()
    }

    /// Types that occur as true or as predicted ones, sorted: the columns.
    #[must_use]
    pub fn types(&self) -> Vec<&str> {
        let mut types: Vec<&str> = self.0.iter().flat_map(|(t, of)| std::iter::once(t).chain(of.keys())).map(String::as_str).collect();
        types.sort_unstable();
        types.dedup();
        types
    }

    /// True types with the counts of every column.
    #[must_use]
    pub fn rows(&self) -> Vec<(&str, Vec<usize>)> {
        let types = self.types();
        self.0.iter().map(|(truth, of)| (truth.as_str(), types.iter().map(|t| of.get(*t).copied().unwrap_or(0)).collect())).collect()
    }

    /// As a Markdown table, true types downwards.
    #[must_use]
    pub fn markdown(&self) -> String {
        let types = self.types();
        let mut out = format!("| true, taken for | {} |\n|---|{}\n", types.join(" | "), "---|".repeat(types.len()));
        for (truth, counts) in self.rows() {
            let _ = writeln!(out, "| {truth} | {} |", counts.iter().map(usize::to_string).collect::<Vec<_>>().join(" | "));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_counted_where_both_types_are_known() {
        let pairs = [("liver", "liver"), ("liver", "kidney"), ("lung", "lung"), ("lung", ""), ("", "lung")];
        let confusion: Confusion = pairs.into_iter().collect();
        assert_eq!((confusion.n(), confusion.right()), (3, 2));
        assert_eq!(confusion.types(), ["kidney", "liver", "lung"]);
        assert_eq!(confusion.rows(), [("liver", vec![1, 1, 0]), ("lung", vec![0, 0, 1])]);
        assert!(confusion.markdown().contains("| liver | 1 | 1 | 0 |"));
    }
}
