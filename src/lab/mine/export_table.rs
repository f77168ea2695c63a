//! A vendor's export of bookmarks, as CSV or JSON → marks. Pure.
//!
//! One row a mark: `sop_instance_uid`, the four end points `long_x1` … `short_y2` (pixels, 0 at the centre of the first pixel), and where known
//! `long_mm`, `short_mm`, `unit` (mm, cm), `patient`, `tracking_uid`, `date` (any digits that sort), `type` (DeepLesion's 1 to 8). JSON is an array of objects
//! with these keys.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::mark::{Document, Kind, LeftOut, Mark, Place, Reason, Refusal, millimetres};

/// The columns that every row needs.
pub const NEEDED: [&str; 9] =
    ["sop_instance_uid", "long_x1", "long_y1", "long_x2", "long_y2", "short_x1", "short_y1", "short_x2", "short_y2"];

type Row = BTreeMap<String, String>;

/// Reads a CSV export.
#[must_use]
pub fn read_csv(path: &Path, text: &str) -> Document {
    let mut reader = csv::ReaderBuilder::new().comment(Some(b'#')).trim(csv::Trim::All).from_reader(text.as_bytes());
    let columns: Vec<String> = match reader.headers() {
        Ok(columns) => columns.iter().map(|c| c.trim_start_matches('\u{feff}').to_owned()).collect(),
        Err(e) => return Document::refused(path.to_owned(), Reason::Unreadable, format!("not readable as CSV: {e}")),
    };
    if let Some(lacking) = NEEDED.iter().find(|c| !columns.iter().any(|have| have == *c)) {
        let text = format!("no column {lacking}: neither DICOM, AIM nor a table of bookmarks");
        return Document::refused(path.to_owned(), Reason::NotMeasurements, text);
    }
    let rows = reader.records().enumerate().map(|(n, record)| match record {
        Ok(record) => {
            let line = record.position().map_or(n as u64 + 2, csv::Position::line);
            (format!("line {line}"), Ok(columns.iter().cloned().zip(record.iter().map(str::to_owned)).collect()))
        }
        Err(e) => (format!("row {}", n + 1), Err(Refusal::new(Reason::Unreadable, e.to_string()))),
    });
    document(path, text, rows)
}

/// Reads a JSON export.
#[must_use]
pub fn read_json(path: &Path, text: &str) -> Document {
    let rows: Vec<Value> = match serde_json::from_str(text) {
        Ok(Value::Array(rows)) => rows,
        Ok(_) => return Document::refused(path.to_owned(), Reason::NotMeasurements, "JSON, but not an array of bookmarks"),
        Err(e) => return Document::refused(path.to_owned(), Reason::Unreadable, format!("not readable as JSON: {e}")),
    };
    let rows = rows.into_iter().enumerate().map(|(n, row)| {
        let fields = match row {
            Value::Object(fields) => Ok(fields.into_iter().filter_map(|(k, v)| Some((k, plain(v)?))).collect()),
            _ => Err(Refusal::new(Reason::Unreadable, "not an object")),
        };
        (format!("element {n}"), fields)
    });
    document(path, text, rows)
}

fn plain(value: Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s),
        Value::Null => None,
        other => Some(other.to_string()),
    }
}

fn document(path: &Path, text: &str, rows: impl Iterator<Item = (String, Result<Row, Refusal>)>) -> Document {
    use sha2::Digest;
    let (mut marks, mut left_out) = (Vec::new(), Vec::new());
    for (item, row) in rows {
        match row.and_then(|row| mark(&item, &row)) {
            Ok(mark) => marks.push(mark),
            Err(refusal) => left_out.push(LeftOut { item, refusal }),
        }
    }
    Document {
        path: path.to_owned(),
        kind: Kind::Table,
        // A table has no identifier: the same content is the same export.
        uid: format!("sha256:{:x}", sha2::Sha256::digest(text.as_bytes())),
        moment: String::new(),
        predecessors: Vec::new(),
        marks,
        left_out,
    }
}

fn mark(item: &str, row: &Row) -> Result<Mark, Refusal> {
    let field = |name: &str| row.get(name).map(|v| v.trim()).filter(|v| !v.is_empty());
    let bad = |name: &str, value: &str| Refusal::new(Reason::Unreadable, format!("{name} is '{value}', not a number"));
    let number = |name: &str| match field(name) {
        None => Ok(None),
        Some(v) => v.parse::<f64>().ok().filter(|n| n.is_finite()).map(Some).ok_or_else(|| bad(name, v)),
    };
    let need = |name: &str| number(name)?.ok_or_else(|| bad(name, ""));
    let sop_instance_uid =
        field("sop_instance_uid").ok_or_else(|| Refusal::new(Reason::NoImageReference, "sop_instance_uid is empty"))?.to_owned();
    let mut points_px = [[0.0; 2]; 4];
    for (i, value) in NEEDED[1..].iter().enumerate() {
        points_px[i / 2][i % 2] = need(value)?;
    }
    let unit = field("unit").unwrap_or("mm");
    let stated = number("long_mm")?.zip(number("short_mm")?);
    let stated_mm = match stated {
        Some((long, short)) => Some([millimetres(long, unit, "long_mm")?, millimetres(short, unit, "short_mm")?]),
        None => None,
    };
    let lesion_type = match field("type") {
        None => -1,
        Some(v) => v.parse::<i8>().ok().filter(|t| *t == -1 || (1..=8).contains(t)).ok_or_else(|| bad("type", v))?,
    };
    Ok(Mark {
        item: item.to_owned(),
        tracking_uid: field("tracking_uid").map(str::to_owned),
        moment: field("date").unwrap_or_default().chars().filter(char::is_ascii_digit).collect(),
        place: Place::Image { sop_instance_uid, points_px },
        stated_mm,
        lesion_type,
        patient: field("patient").map(str::to_owned),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEAD: &str =
        "sop_instance_uid,long_x1,long_y1,long_x2,long_y2,short_x1,short_y1,short_x2,short_y2,long_mm,short_mm,unit,patient,type\n";

    #[test]
    fn csv_and_json_say_the_same() {
        let csv = read_csv(Path::new("b.csv"), &format!("{HEAD}1.2,1,2,3,4,5,6,7,8,1.5,1,cm,P1,5\n"));
        let json = read_json(
            Path::new("b.json"),
            r#"[{"sop_instance_uid":"1.2","long_x1":1,"long_y1":2,"long_x2":3,"long_y2":4,"short_x1":5,"short_y1":6,"short_x2":7,"short_y2":8,"long_mm":1.5,"short_mm":1,"unit":"cm","patient":"P1","type":5,"tracking_uid":null}]"#,
        );
        assert_eq!(csv.marks[0].item, "line 2");
        assert_eq!(Mark { item: String::new(), ..csv.marks[0].clone() }, Mark { item: String::new(), ..json.marks[0].clone() });
        assert_eq!((csv.marks[0].stated_mm, csv.marks[0].lesion_type), (Some([15.0, 10.0]), 5));
    }

    #[test]
    fn a_bad_row_costs_itself() {
        let csv = read_csv(
            Path::new("b.csv"),
            &format!("{HEAD}1.2,1,2,x,4,5,6,7,8,,,,,\n1.2,1,2,3,4,5,6,7,8,,,,,\n1.2,1,2,3,4,5,6,7,8,9,8,in,,\n1.2,1\n"),
        );
        assert_eq!(csv.marks.len(), 1);
        let reasons: Vec<_> = csv.left_out.iter().map(|l| (l.refusal.reason, l.refusal.detail.as_str())).collect();
        assert_eq!(reasons[0], (Reason::Unreadable, "long_x2 is 'x', not a number"));
        assert_eq!(reasons[1].0, Reason::WrongUnit);
        assert_eq!(reasons[2].0, Reason::Unreadable);
    }

    #[test]
    fn another_table_is_said_to_be_one() {
        let read = read_csv(Path::new("b.csv"), "a,b\n1,2\n");
        assert_eq!(read.left_out[0].refusal.reason, Reason::NotMeasurements);
    }

    proptest! {
        #[test]
        fn any_text_is_no_panic(text in "\\PC{0,200}") {
            let _ = read_csv(Path::new("b.csv"), &format!("{HEAD}{text}"));
            let _ = read_json(Path::new("b.json"), &text);
        }
    }
}
