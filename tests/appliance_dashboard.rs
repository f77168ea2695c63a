//! Promise: a reader sees the alert appear, acknowledges it with one key or click, and every open page and the outbox follow.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::webdriver::Browser;
use common::{Rig, Subscriber, free_port, mosquitto, series, store, wait_for};
use std::io::{Read, Write};

const OPEN: &str = "return Number(document.getElementById('open-count').textContent)";

#[test]
fn a_reader_sees_and_acknowledges() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let subscriber = Subscriber::new(port);
    let rig = Rig::new(port, "");
    let (one, two) = (Browser::start(), Browser::start());
    for browser in [&one, &two] {
        browser.open(&format!("http://127.0.0.1:{}/", rig.page));
        wait_for("the page", || {
            browser.eval("return document.getElementById('state-text').textContent").as_str().filter(|t| t.contains("online")).map(|_| ())
        });
        assert_eq!(browser.eval(OPEN), 0);
    }
    let silence = one.eval("return document.getElementById('silence').textContent");
    assert!(silence.as_str().unwrap().contains("no series was received"), "{silence}");

    let (files, uid) = series(dir.path(), "page", 4);
    assert!(store(rig.dicom, &files).0);
    for browser in [&one, &two] {
        wait_for("the alert on the page", || (browser.eval(OPEN) == 1).then_some(()));
    }
    wait_for("its picture", || {
        one.eval("const i = document.querySelector('#open .alert .picture img'); return i && i.complete && i.naturalWidth > 100")
            .as_bool()
            .filter(|b| *b)
    });
    let text = one.eval("return document.querySelector('#open .alert').innerText");
    assert!(text.as_str().unwrap().contains("mm") && text.as_str().unwrap().contains("slices"), "{text}");
    let row = one.eval("return document.querySelector('#series tbody tr').innerText");
    assert!(row.as_str().unwrap().contains("analysed"), "{row}");
    // The page's software has it: delivery is done before a person looks.
    wait_for("an empty outbox", || {
        subscriber.of("status").last().filter(|s| s["outbox_depth"] == 0 && s["availability"] == "online").map(|_| ())
    });

    one.press("j");
    one.press("a");
    for browser in [&one, &two] {
        wait_for("the alert closed on every page", || (browser.eval(OPEN) == 0).then_some(()));
    }
    let closed = wait_for("the acknowledgement", || subscriber.of("alerts").into_iter().find(|e| e["type"] == "acknowledged"));
    assert_eq!(
        (closed["acknowledgement"]["action"].as_str(), closed["series"]["series_instance_uid"].as_str()),
        (Some("seen"), Some(uid.as_str()))
    );
    wait_for("an empty outbox", || subscriber.of("status").last().filter(|s| s["outbox_depth"] == 0).map(|_| ()));
}

/// One HTTP exchange; status line and the rest.
fn http(port: u16, request: &str) -> String {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn other_sites_and_other_names_are_refused() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), port);
    let rig = Rig::new(port, "");
    let get = |host: &str, path: &str| http(rig.page, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
    let own = format!("127.0.0.1:{}", rig.page);
    assert!(get(&own, "/healthz").starts_with("HTTP/1.1 200"));
    assert!(get(&own, "/metrics").contains("lesionwatch_objects_stored_total"));
    assert!(get(&own, "/").contains("content-security-policy"));
    assert!(get("attacker.example", "/api/alerts").starts_with("HTTP/1.1 421"));
    let post = |origin: &str, kind: &str| {
        http(
            rig.page,
            &format!(
                "POST /api/alerts/x/ack HTTP/1.1\r\nHost: {own}\r\nOrigin: {origin}\r\nContent-Type: {kind}\r\nContent-Length: 17\r\nConnection: close\r\n\r\n{{\"action\":\"seen\"}}"
            ),
        )
    };
    assert!(post("http://attacker.example", "application/json").starts_with("HTTP/1.1 403"));
    assert!(post(&format!("http://{own}"), "text/plain").starts_with("HTTP/1.1 403"));
    assert!(post(&format!("http://{own}"), "application/json").starts_with("HTTP/1.1 404"));
}
