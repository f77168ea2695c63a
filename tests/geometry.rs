//! Promise: series that cannot be analysed get the right reason.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use lesionwatch::series::{eligibility, header};
use std::path::Path;

fn reason(folder: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/geometry").join(folder);
    let headers: Vec<_> = std::fs::read_dir(path).unwrap().map(|e| header::read(&e.unwrap().path()).unwrap()).collect();
    let refused = eligibility::plan(&headers).unwrap_err();
    assert!(refused.text.ends_with('.') && refused.text.len() > 30, "{}", refused.text);
    refused.code
}

#[test]
fn each_case_has_its_reason() {
    assert_eq!(reason("ge-head-tilt-uneven"), "gantry_tilt");
    assert_eq!(reason("philips-phantom-tilt16.5"), "gantry_tilt");
    assert_eq!(reason("philips-phantom-localizer-1"), "localizer");
    assert_eq!(reason("philips-phantom-localizer-2"), "localizer");
    assert_eq!(reason("philips-phantom-exam-summary-1"), "not_an_acquisition");
    assert_eq!(reason("philips-phantom-exam-summary-2"), "not_an_acquisition");
}
