//! Promise: the conformance statement is true: what it lists is accepted by the very configuration it was made from, what it does not list is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{Rig, free_port, mosquitto, peer_script, run};
use std::io::Write;
use std::process::{Command, Stdio};

const COMMITMENT: &str = "1.2.840.10008.1.20.1";

/// The UIDs in the second column of the tables that stand under a heading.
fn uids(statement: &str, heading: &str) -> Vec<String> {
    let section = statement.split_once(&format!("{heading}\n")).unwrap_or_else(|| panic!("no {heading}")).1;
    let section = section.split("\n#").next().unwrap();
    let cells = section.lines().filter_map(|l| l.split('|').nth(2)).map(str::trim);
    cells.filter(|c| c.starts_with("1.")).map(str::to_owned).collect()
}

fn statement(rig: &Rig) -> String {
    let (ok, text) = run(Command::new(env!("CARGO_BIN_EXE_lesionwatch")).args(["conformance", "--config"]).arg(rig.config()));
    assert!(ok, "{text}");
    text
}

/// Which of the pairs of class and transfer syntax pynetdicom gets accepted.
fn accepted(rig: &Rig, title: &str, pairs: &[(String, String)]) -> Vec<bool> {
    let mut command = peer_script("associate.py");
    let mut child =
        command.args([&rig.dicom.to_string(), title]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(serde_json::to_string(pairs).unwrap().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn pairs(classes: &[String], syntaxes: &[String]) -> Vec<(String, String)> {
    classes.iter().flat_map(|class| syntaxes.iter().map(move |syntax| (class.clone(), syntax.clone()))).collect()
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|t| (*t).to_owned()).collect()
}

#[test]
fn everything_that_is_listed_is_accepted_and_nothing_else() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let rig = Rig::without_page(port, "[[dicom.peer]]\ncalling_ae = \"CT1\"\nallow_commitment = true\n");
    let text = statement(&rig);
    let (mut classes, syntaxes) = (uids(&text, "#### 4.2.1 SOP classes"), uids(&text, "##### 4.2.4.1 Presentation contexts"));
    let for_commitment = uids(&text, "##### 4.2.4.3 Storage Commitment");
    assert!(classes.len() > 150 && syntaxes.len() == 13 && for_commitment.len() == 2, "{} {}", classes.len(), syntaxes.len());
    assert!(classes.contains(&COMMITMENT.to_owned()));
    classes.retain(|class| class != COMMITMENT);

    let listed = [pairs(&classes, &syntaxes), pairs(&owned(&[COMMITMENT]), &for_commitment)].concat();
    let answers = accepted(&rig, "CT1", &listed);
    let refused: Vec<_> = listed.iter().zip(&answers).filter(|(_, accepted)| !**accepted).collect();
    assert!(answers.len() == listed.len() && refused.is_empty(), "listed and refused: {refused:?}");

    // Query, worklist, procedure steps, print, commitment by pull; progressive JPEG, MPEG-2, HTJ2K; commitment compressed.
    let others = owned(&[
        "1.2.840.10008.5.1.4.1.2.2.1",
        "1.2.840.10008.5.1.4.31",
        "1.2.840.10008.3.1.2.3.3",
        "1.2.840.10008.5.1.1.9",
        "1.2.840.10008.1.20.2",
    ]);
    let undecodable = owned(&["1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55", "1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.201"]);
    assert!(others.iter().all(|o| !classes.contains(o)) && undecodable.iter().all(|u| !syntaxes.contains(u)));
    let compressed: Vec<String> = syntaxes.iter().filter(|s| !for_commitment.contains(s)).cloned().collect();
    let unlisted = [pairs(&others, &syntaxes), pairs(&classes, &undecodable), pairs(&owned(&[COMMITMENT]), &compressed)].concat();
    let answers = accepted(&rig, "CT1", &unlisted);
    let taken: Vec<_> = unlisted.iter().zip(&answers).filter(|(_, accepted)| **accepted).collect();
    assert!(answers.len() == unlisted.len() && taken.is_empty(), "accepted and not listed: {taken:?}");
}

#[test]
fn a_narrower_configuration_has_a_narrower_statement() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let rig = Rig::without_page(port, "[[dicom.peer]]\ncalling_ae = \"CT1\"\nsop_classes = [\"1.2.840.10008.5.1.4.1.1.2\"]\n");
    let text = statement(&rig);
    let classes = uids(&text, "#### 4.2.1 SOP classes");
    assert_eq!(classes, ["1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.1.2"]);
    assert!(text.contains("Not offered: no configured peer has `allow_commitment`."), "{text}");
    let syntaxes = uids(&text, "##### 4.2.4.1 Presentation contexts");
    assert!(accepted(&rig, "CT1", &pairs(&classes, &syntaxes)).iter().all(|accepted| *accepted));
    let others = owned(&["1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2.1", COMMITMENT]);
    assert!(accepted(&rig, "CT1", &pairs(&others, &syntaxes)).iter().all(|accepted| !accepted));
}
