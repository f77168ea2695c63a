//! Promise: bad input gets a clear error that names what to do, and loses nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{Rig, Subscriber, check_schema, free_port, mosquitto, run, series, store, tiny_bundle, tool, wait_for};
use dicom_ul::pdu::{AssociationRQ, Pdu, PresentationContextProposed, write_pdu};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

/// Exit code and stderr of `lesionwatch run` with this configuration.
fn refused(dir: &Path, config: &str) -> (i32, String) {
    let path = dir.join("config.toml");
    std::fs::write(&path, config).unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_lesionwatch")).args(["run", "--config"]).arg(&path).env("RUST_LOG", "error").output().unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn what_cannot_start_says_why_and_exits_with_its_class() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = tiny_bundle(dir.path());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let state = dir.path().join("state");
    let free = || {
        format!(
            "[dicom]\nlisten = \"127.0.0.1:0\"\n[dashboard]\nlisten = \"\"\n[state]\ndir = \"{}\"\n[model]\nbundle = \"{}\"\n",
            state.display(),
            bundle.display()
        )
    };

    let (code, text) = refused(dir.path(), "[dicom]\nlisen = \"127.0.0.1:0\"\n");
    assert!(code == 78 && text.contains("line 2") && text.contains("`listen`"), "{code} {text}");

    for open in
        ["[dashboard]\nlisten = \"0.0.0.0:8080\"", "[mqtt]\nembedded_listen = \"0.0.0.0:1883\"", "[mqtt]\nurl = \"mqtt://u:hunter2@h\""]
    {
        let (code, text) = refused(dir.path(), open);
        assert!(code == 78 && !text.contains("hunter2"), "{open}: {code} {text}");
    }

    let (code, text) = refused(dir.path(), &format!("{}[mqtt]\nembedded_listen = \"{taken}\"\n", free()));
    assert!(code == 69 && text.contains(&taken.to_string()) && text.contains("embedded_listen"), "{code} {text}");
    let (code, text) = refused(
        dir.path(),
        &format!("{}[mqtt]\nembedded_listen = \"127.0.0.1:0\"\n", free())
            .replace("127.0.0.1:0\"\n[dashboard]", &format!("{taken}\"\n[dashboard]")),
    );
    assert!(code == 69 && text.contains(&taken.to_string()) && text.contains("[dicom] listen"), "{code} {text}");

    let file = dir.path().join("a-file");
    std::fs::write(&file, b"").unwrap();
    let (code, text) = refused(dir.path(), &free().replace(&state.display().to_string(), &file.join("below").display().to_string()));
    assert!(code == 74 && text.contains("a-file") && text.contains("[state] dir"), "{code} {text}");

    let weights = bundle.join("weights.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let (code, text) = refused(dir.path(), &free());
    assert!(code == 65 && text.contains("weights.safetensors") && text.contains("SHA-256"), "{code} {text}");

    let output = Command::new(env!("CARGO_BIN_EXE_lesionwatch")).args(["scan", file.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(65));
    let output = Command::new(env!("CARGO_BIN_EXE_lesionwatch")).args(["scann"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
}

fn resident_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap().trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn strangers_on_the_port_cost_nothing() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let rig = Rig::without_page(port, "");
    let say = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(("127.0.0.1", rig.dicom)).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        // Aborted or closed: either ends the read.
        let _ = stream.read_to_end(&mut answer);
        answer
    };
    say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    let hostile = || {
        // P-DATA-TF and A-ASSOCIATE-RQ of 3 GB.
        assert_eq!(say(&[4, 0, 0xb2, 0xd0, 0x5e, 0])[..1], [7], "A-ABORT");
        assert_eq!(say(&[1, 0, 0xb2, 0xd0, 0x5e, 0])[..1], [7], "A-ABORT");
        say(&[0xff; 700]);
    };
    // The first ones touch pages that the next ones use again.
    (0..20).for_each(|_| hostile());
    let before = resident_kib(rig.pid());
    (0..50).for_each(|_| hostile());
    let grown = resident_kib(rig.pid()).saturating_sub(before);
    assert!(grown < 1024, "grew by {grown} KiB over 150 hostile connections");
    let (ok, text) = run(tool("echoscu").args(["127.0.0.1", &rig.dicom.to_string()]));
    assert!(ok, "{text}");
}

#[test]
fn a_peer_writes_no_lines_into_the_log() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let rig = Rig::without_page(port, "");
    let forged = "1.2\nFORGED association released \u{1b}[2J";
    let context = |id| PresentationContextProposed {
        id,
        abstract_syntax: forged.into(),
        transfer_syntaxes: vec![forged.into(), "1.2.840.10008.1.2".into()],
    };
    let request = Pdu::AssociationRQ(AssociationRQ {
        protocol_version: 1,
        calling_ae_title: "CT".into(),
        called_ae_title: "LESIONWATCH".into(),
        application_context_name: "1.2.840.10008.3.1.1.1".into(),
        presentation_contexts: (0..100).map(|n| context(2 * n + 1)).collect(),
        user_variables: Vec::new(),
    });
    let mut bytes = Vec::new();
    write_pdu(&mut bytes, &request).unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", rig.dicom)).unwrap();
    stream.write_all(&bytes).unwrap();
    assert!(stream.read(&mut [0; 16]).unwrap() > 0);
    drop(stream);
    let log = wait_for("the end of the association", || Some(rig.log()).filter(|l| l.contains("calling=\"CT\"")));
    assert!(log.contains("presentation context refused") && log.contains("refused more="), "{log}");
    assert!(!log.contains('\u{1b}') && !log.lines().any(|l| l.starts_with("FORGED")), "{log}");
    assert!(log.lines().filter(|l| l.contains("presentation context")).count() < 12, "{log}");
}

#[test]
fn associations_over_the_limit_are_rejected_and_come_back() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let mut rig = Rig::without_page(port, "");
    rig.terminate();
    rig.configure("[dicom]\n", "[dicom]\nmax_associations = 2\n");
    rig.start();
    // The probe of the start may still be on the list.
    let echo = || run(tool("echoscu").args(["-to", "5", "127.0.0.1", &rig.dicom.to_string()])).0;
    wait_for("an echo", || echo().then_some(()));
    let held: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(("127.0.0.1", rig.dicom)).unwrap()).collect();
    wait_for("a rejection", || (!echo()).then_some(()));
    assert!(rig.log().contains("reason=local_limit"), "{}", rig.log());
    drop(held);
    wait_for("an echo again", || echo().then_some(()));
}

#[test]
fn damaged_series_end_in_a_stated_outcome() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let subscriber = Subscriber::new(port);
    let rig = Rig::new(port, "[series]\nquiet_min_s = 0.5");
    let modify = |files: &[std::path::PathBuf], what: &[&str]| {
        for file in files {
            let (ok, text) = run(tool("dcmodify").arg("-nb").args(what).arg(file));
            assert!(ok, "{text}");
        }
    };
    let words = format!("Modality={}", "free text ".repeat(2_700));
    let cases: [(&str, &[&str], &str, &str); 6] = [
        ("words", &["-m", &words], "not_analysed", "not_ct"),
        ("mr", &["-m", "Modality=MR"], "not_analysed", "not_ct"),
        ("flat", &["-e", "PixelSpacing"], "not_analysed", "no_geometry"),
        ("nohu", &["-e", "RescaleSlope"], "not_analysed", "no_rescale"),
        ("huge", &["-m", "Rows=60000"], "failed", "decode"),
        ("scout", &["-m", "ImageType=ORIGINAL\\PRIMARY\\LOCALIZER"], "not_analysed", "localizer"),
    ];
    for (name, what, outcome, code) in cases {
        let (files, uid) = series(dir.path(), name, 4);
        modify(&files, what);
        let (ok, text) = store(rig.dicom, &files);
        assert!(ok, "{text}");
        let result = wait_for(&format!("the outcome of {name}; log:\n{}", rig.log()), || subscriber.results(&uid).pop());
        check_schema("result", &result);
        assert_eq!((result["outcome"].as_str(), result["reason"]["code"].as_str()), (Some(outcome), Some(code)), "{name}: {result:#}");
    }
    // Identifiers that are missing are refused at the door, with nothing stored.
    let (files, _) = series(dir.path(), "nameless", 20);
    modify(&files, &["-e", "SeriesInstanceUID"]);
    let before = rig.spooled().len();
    let (_, text) = store(rig.dicom, &files);
    assert!(text.contains("C000") || text.contains("annot") || rig.log().contains("Series Instance UID is missing"), "{text}");
    assert_eq!(rig.spooled().len(), before);
}

#[test]
fn an_auto_forward_rule_never_fails_on_a_class() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let subscriber = Subscriber::new(port);
    let rig = Rig::without_page(port, "[series]\nquiet_min_s = 0.5");
    // Siemens CSA Non-Image and GE's private 3-D model in a study; a palette and a hanging protocol belong to no study.
    for (name, class, in_a_study) in [
        ("csa", "1.3.12.2.1107.5.9.1", true),
        ("ge", "1.2.840.113619.4.26", true),
        ("beams", "1.2.840.10008.5.1.4.34.7", true),
        ("palette", "1.2.840.10008.5.1.4.39.1", false),
        ("hanging", "1.2.840.10008.5.1.4.38.1", false),
    ] {
        let (mut files, uid) = series(dir.path(), name, 100);
        files.truncate(1);
        let mut modify = tool("dcmodify");
        modify.args(["-nb", "-m", &format!("SOPClassUID={class}"), "-e", "PixelData", "-e", "BitsAllocated"]);
        if !in_a_study {
            modify.args(["-e", "StudyInstanceUID", "-e", "SeriesInstanceUID"]);
        }
        let (ok, text) = run(modify.arg(&files[0]));
        assert!(ok, "{text}");
        let (ok, text) = run(tool("dcmsend").args(["-v", "-nuc", "-aec", "LESIONWATCH", "127.0.0.1", &rig.dicom.to_string()]).args(&files));
        assert!(ok && text.contains("with status SUCCESS  : 1"), "{name}: {text}\n{}", rig.log());
        if in_a_study {
            let result = wait_for(&format!("the outcome of {name}"), || subscriber.results(&uid).pop());
            assert_eq!((&result["outcome"], &result["reason"]["code"]), (&"not_analysed".into(), &"no_pixels".into()), "{result:#}");
        } else {
            assert!(rig.log().contains(&format!("reason=of_no_patient class={class}")), "{}", rig.log());
        }
    }
}
