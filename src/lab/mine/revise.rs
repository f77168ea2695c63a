//! Which statement of a lesion counts when it was made more than once: copies, replaced documents, lesions measured again. Pure.

use std::collections::HashMap;

use super::images::Index;
use super::mark::{Document, Mark, Reason, Refusal};
use super::place::Placed;
use super::review::Line;

/// Sorts documents so that no order of files shows, and empties those that are copies or were replaced, with a line for each mark.
pub fn documents(documents: &mut [Document]) -> Vec<Line> {
    // The path is the last word, and only among documents of the same content.
    documents.sort_by_cached_key(|d| (d.uid.clone(), d.moment.clone(), format!("{:?}{:?}", d.marks, d.left_out), d.path.clone()));
    let mut lines = Vec::new();
    for i in 1..documents.len() {
        let (before, after) = documents.split_at_mut(i);
        let (Some(old), Some(new)) = (before.last_mut(), after.first_mut()) else { continue };
        if new.uid.is_empty() || new.uid != old.uid {
            continue;
        }
        if new.moment == old.moment && new.marks == old.marks && new.left_out == old.left_out {
            // The later path goes, and with it what it held: the earlier one is handed on so that a third copy is compared with it too.
            let refusal = Refusal::new(Reason::Duplicate, format!("the same document as {}", old.path.display()));
            lines.push(Line::new(new, "", &refusal));
            std::mem::swap(&mut old.path, &mut new.path);
            (old.marks, old.left_out) = (Vec::new(), Vec::new());
        } else {
            let text = format!("a later state of document {} was read from {}", old.uid, new.path.display());
            withdraw(old, &Refusal::new(Reason::Superseded, text), &mut lines);
        }
    }
    let place: HashMap<String, usize> = documents.iter().enumerate().map(|(i, d)| (d.uid.clone(), i)).collect();
    let mut replaced = Vec::new();
    for (new, document) in documents.iter().enumerate() {
        for old in document.predecessors.iter().filter_map(|uid| place.get(uid)).filter(|old| **old != new) {
            let back = documents[*old].predecessors.contains(&document.uid);
            // Two that name each other: the later one stands.
            if !back || (&documents[*old].moment, &documents[*old].uid) < (&document.moment, &document.uid) {
                replaced.push((*old, document.uid.clone()));
            }
        }
    }
    for (old, by) in replaced {
        withdraw(&mut documents[old], &Refusal::new(Reason::Superseded, format!("replaced by document {by}")), &mut lines);
    }
    lines
}

/// Takes the marks out of a document, with a line for each.
fn withdraw(document: &mut Document, refusal: &Refusal, lines: &mut Vec<Line>) {
    let marks: Vec<Mark> = std::mem::take(&mut document.marks);
    lines.extend(marks.iter().map(|mark| Line::about(document, mark, refusal)));
}

/// Keeps of every lesion that was measured again in the same study (same Tracking UID) what the latest document says. Other studies are other time points.
pub fn lesions(placed: &mut Vec<Placed>, documents: &[Document], index: &Index) -> Vec<Line> {
    let said = |p: &Placed| (p.mark.moment.clone(), documents[p.document].uid.clone());
    let lesion = |p: &Placed| {
        let study = index.stacks[p.stack].facts.study_instance_uid.clone();
        p.mark.tracking_uid.clone().map(|uid| (uid, study))
    };
    let mut latest = HashMap::new();
    for p in placed.iter() {
        if let Some(lesion) = lesion(p) {
            let last = latest.entry(lesion).or_insert_with(|| said(p));
            *last = said(p).max(last.clone());
        }
    }
    let mut lines = Vec::new();
    placed.retain(|p| {
        let Some(last) = lesion(p).and_then(|l| latest.get(&l)).filter(|last| **last != said(p)) else { return true };
        let text = format!("the same lesion was measured again on {} in document {}", last.0, last.1);
        lines.push(Line::about(&documents[p.document], &p.mark, &Refusal::new(Reason::Superseded, text)));
        false
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::super::mark::{Kind, Place};
    use super::*;

    fn document(path: &str, uid: &str, moment: &str, predecessors: &[&str], x: f64) -> Document {
        let place = Place::Image { sop_instance_uid: "1.2".into(), points_px: [[x; 2]; 4] };
        let mark = Mark {
            item: "group 1".into(),
            tracking_uid: None,
            moment: moment.into(),
            place,
            stated_mm: None,
            lesion_type: -1,
            patient: None,
        };
        Document {
            path: path.into(),
            kind: Kind::StructuredReport,
            uid: uid.into(),
            moment: moment.into(),
            predecessors: predecessors.iter().map(|p| (*p).to_owned()).collect(),
            marks: vec![mark],
            left_out: Vec::new(),
        }
    }

    fn standing(documents: &[Document]) -> Vec<(&str, f64)> {
        let x = |m: &Mark| if let Place::Image { points_px, .. } = &m.place { points_px[0][0] } else { f64::NAN };
        documents.iter().flat_map(|d| d.marks.iter().map(move |m| (d.uid.as_str(), x(m)))).collect()
    }

    #[test]
    fn copies_count_once_and_each_has_its_line() {
        let mut all = [document("b", "1", "2020", &[], 1.0), document("c", "1", "2020", &[], 1.0), document("a", "1", "2020", &[], 1.0)];
        let lines = documents(&mut all);
        assert_eq!(standing(&all), [("1", 1.0)]);
        let mut said: Vec<String> = lines.iter().map(|l| format!("{} {} {}", l.source.display(), l.reason, l.detail)).collect();
        said.sort();
        assert_eq!(said, ["b duplicate the same document as a", "c duplicate the same document as a"]);
    }

    #[test]
    fn a_later_state_and_a_successor_replace() {
        let mut all = [document("a", "1", "2021", &[], 2.0), document("b", "1", "2020", &[], 1.0), document("c", "0", "2019", &["1"], 3.0)];
        let lines = documents(&mut all);
        assert_eq!(standing(&all), [("0", 3.0)]);
        assert!(lines.len() == 2 && lines.iter().all(|l| l.reason == "superseded"), "{lines:?}");
    }

    #[test]
    fn of_two_that_name_each_other_the_later_stands() {
        let mut all = [document("a", "1", "2021", &["2"], 1.0), document("b", "2", "2020", &["1"], 2.0)];
        documents(&mut all);
        assert_eq!(standing(&all), [("1", 1.0)]);
    }
}
