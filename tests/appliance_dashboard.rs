//! Promise: a reader sees the alert appear, acknowledges it with one key or click, and every open page and the outbox follow.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use common::webdriver::{Browser, ENTER, ESCAPE, RIGHT, TAB};
use common::{Process, Rig, Subscriber, free_port, mosquitto, run, series, store, tool, wait_for};
use lesionwatch::lesion::{Lesion, keyimage};
use lesionwatch::volume::HuImage;
use serde_json::{Value, json};

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
        one.eval("const c = document.querySelector('#open .alert canvas'); return Boolean(c && c.shows)").as_bool().filter(|b| *b)
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
    wait_for("a good verdict", || {
        let health = get(&own, "/healthz");
        (health.starts_with("HTTP/1.1 200") && health.contains("\"health\":\"ok\"")).then_some(())
    });
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

/// The page alone, on its own port; the test plays the appliance.
fn page_alone(dir: &Path, broker: u16) -> (Process, u16) {
    let port = free_port();
    let config = dir.join(format!("page-{port}.toml"));
    let text = format!("[mqtt]\nurl = \"mqtt://127.0.0.1:{broker}\"\n[dashboard]\nlisten = \"127.0.0.1:{port}\"\n");
    std::fs::write(&config, text).unwrap();
    let log = std::fs::File::create(dir.join(format!("page-{port}.log"))).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_lesionwatch"))
        .args(["dashboard", "--config"])
        .arg(&config)
        .env("RUST_LOG", "info")
        .stderr(log)
        .spawn()
        .unwrap();
    let process = Process(child);
    wait_for("the page's service", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    (process, port)
}

fn get(port: u16, path: &str) -> String {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n").unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn ack(port: u16, alert: &str, version: u32) -> String {
    let body = json!({ "action": "seen", "version": version }).to_string();
    let head = format!("POST /api/alerts/{alert}/ack HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n");
    http(port, &format!("{head}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()))
}

/// Says something as the appliance would.
fn say(broker: u16, topic: &str, document: &Value, retained: bool) {
    let mut command = tool("mosquitto_pub");
    command.args(["-V", "5", "-h", "127.0.0.1", "-q", "1", "-p", &broker.to_string()]);
    command.args(["-t", &format!("lesionwatch/site/ct1/{topic}"), "-m", &document.to_string()]);
    if retained {
        command.arg("-r");
    }
    let (ok, text) = run(&mut command);
    assert!(ok, "{text}");
}

fn status(broker: u16, availability: &str, health: &str) {
    let document = json!({ "schema": "lesionwatch/1", "availability": availability, "boot_id": "b", "version": "0", "engine": "e", "model": "m", "health": health,
        "reasons": if health == "ok" { json!([]) } else { json!(["disk full: 1 MiB free"]) }, "outbox_depth": 0, "time": "2026-01-01T00:00:00.000Z" });
    say(broker, "status", &document, true);
}

fn open_list(broker: u16, at: &str, open: &[(&str, u32)]) {
    let open: Vec<Value> = open
        .iter()
        .map(|(id, version)| json!({ "alert_id": id, "version": version, "priority": "high", "opened_at": "2026-01-01T00:00:00.000Z" }))
        .collect();
    say(broker, "alerts/open", &json!({ "schema": "lesionwatch/1", "at": at, "open": open }), true);
}

fn lesion(number: u32, x: f32) -> Lesion {
    Lesion {
        number,
        score: 0.5,
        types: [0.125; 8],
        key_slice: 5,
        slices: [3, 7],
        box_px: [x, 50.0, x + 40.0, 90.0],
        center_lps_mm: [0.0; 3],
        long_axis_mm: 10.0,
        short_axis_mm: 8.0,
        recist_px: [[x + 5.0, 70.0], [x + 35.0, 70.0], [x + 20.0, 60.0], [x + 20.0, 80.0]],
        segmented: false,
        volume_mm3: 1.0,
    }
}

const UID: &str = "1.2.826.0.1.3680043.8.498.12345678901234567890123456789012345678";

/// An event about lesions whose boxes begin at `xs`.
fn event(broker: u16, alert: &str, kind: &str, version: u32, seq: i64, xs: &[f32]) {
    say(broker, "alerts", &document(alert, kind, version, seq, xs), false);
}

fn document(alert: &str, kind: &str, version: u32, seq: i64, xs: &[f32]) -> Value {
    let lesions: Vec<Value> = xs
        .iter()
        .enumerate()
        .map(|(i, x)| {
            json!({ "number": i + 1, "score": 0.5, "type": "soft tissue", "type_probabilities": {}, "key_image": { "sop_instance_uid": "1.2", "instance_number": 6 },
                "box_px": [x, 50.0, x + 40.0, 90.0], "center_lps_mm": [0, 0, 0], "long_axis_mm": 10.0, "short_axis_mm": 8.0,
                "recist_px": [[0, 0], [0, 0], [0, 0], [0, 0]], "segmented": false, "volume_mm3": 1.0, "slices": [4, 8] })
        })
        .collect();
    json!({ "schema": "lesionwatch/1", "event_id": format!("{alert}-{seq}"), "seq": seq, "boot_id": "b", "type": kind, "at": "2026-01-01T00:00:00.000Z",
        "clock_trusted": true, "alert_id": alert, "version": version, "priority": "high", "outcome": "analysed", "reason": null,
        "series": { "study_instance_uid": UID, "series_instance_uid": UID, "modality": "CT", "body_part": "CHESTABDOMENPELVIS", "series_number": 3, "calling_ae": "CT", "slices": 9, "slice_spacing_mm": 2.0 },
        "model": { "name": "m", "version": "1", "sha256": "x", "engine": "tract", "quantization": "f32" },
        "lesions": lesions, "timing_ms": { "first_slice": 0, "last_slice": 1, "settled": 2, "analysed": 3, "offered": 4 } })
}

fn picture(broker: u16, dir: &Path, alert: &str, number: u32, x: f32) {
    let image = HuImage { rows: 512, cols: 512, hu: vec![0; 512 * 512] };
    let file = dir.join("picture.png");
    std::fs::write(&file, keyimage::draw(&image, &lesion(number, x)).unwrap()).unwrap();
    let mut command = tool("mosquitto_pub");
    command.args(["-V", "5", "-h", "127.0.0.1", "-q", "1", "-p", &broker.to_string()]);
    let (ok, text) = run(command.args(["-t", &format!("lesionwatch/site/ct1/images/{alert}/{number}"), "-f"]).arg(file));
    assert!(ok, "{text}");
}

/// What is said on a topic from now on: the session is made before the reader comes, so nothing is missed.
struct Heard {
    _process: Process,
    documents: Arc<Mutex<Vec<Value>>>,
}

impl Heard {
    fn on(broker: u16, topic: &str) -> Self {
        let command = || {
            let mut command = tool("mosquitto_sub");
            command.args(["-V", "311", "-c", "-q", "1", "-h", "127.0.0.1", "-p", &broker.to_string(), "-i", &topic.replace('/', "-")]);
            command.args(["-t", &format!("lesionwatch/site/ct1/{topic}")]);
            command
        };
        let (ok, text) = run(command().arg("-E"));
        assert!(ok, "{text}");
        let mut child = command().stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let documents = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&documents);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                sink.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        Self { _process: Process(child), documents }
    }

    /// Everything up to the first document that is `wanted`.
    fn until(&self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        wait_for("a document", || {
            let heard = self.documents.lock().unwrap();
            heard.iter().position(&wanted).map(|at| heard[..=at].to_vec())
        })
    }

    /// What a person answered first.
    fn answer(&self) -> Value {
        self.until(|d| d["role"] == "reader").pop().unwrap()
    }
}

fn online(page: u16) {
    wait_for("the page's own broker connection and a status", || get(page, "/healthz").starts_with("HTTP/1.1 200").then_some(()));
}

fn visible(browser: &Browser, page: u16, condition: &str) {
    wait_for(condition, || browser.eval(&format!("return Boolean({condition})")).as_bool().filter(|b| *b));
    assert!(browser.eval("return location.href").as_str().unwrap().contains(&page.to_string()));
}

#[test]
fn a_picture_belongs_to_one_version() {
    let broker = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), broker);
    status(broker, "online", "ok");
    let (_page, page) = page_alone(dir.path(), broker);
    online(page);
    picture(broker, dir.path(), "a", 1, 100.0);
    event(broker, "a", "opened", 1, 1, &[100.0]);
    let first = wait_for("the first picture", || Some(get(page, "/api/images/a/1/1")).filter(|r| r.starts_with("HTTP/1.1 200")));
    assert!(first.contains("cache-control: no-store"), "{}", &first[..200]);
    // Version 2 is about another lesion, whose picture does not come yet.
    event(broker, "a", "updated", 2, 2, &[300.0]);
    wait_for("version 2", || get(page, "/api/alerts").contains("\"version\":2").then_some(()));
    for path in ["/api/images/a/1/1", "/api/images/a/2/1"] {
        assert!(get(page, path).starts_with("HTTP/1.1 404"), "{path}");
    }
    // The first picture again, late; then the right one.
    picture(broker, dir.path(), "a", 1, 100.0);
    picture(broker, dir.path(), "a", 1, 300.0);
    let second = wait_for("the second picture", || Some(get(page, "/api/images/a/2/1")).filter(|r| r.starts_with("HTTP/1.1 200")));
    assert!(second.contains("box 300.0 50.0 340.0 90.0"));
    assert!(ack(page, "a", 1).starts_with("HTTP/1.1 409"), "who looked at version 1 has not seen version 2");
}

#[test]
fn open_alerts_are_shown_after_a_restart_and_asked_for_once() {
    let broker = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), broker);
    status(broker, "online", "ok");
    open_list(broker, "2026-01-01T00:00:01.000Z", &[("a", 1), ("b", 2)]);
    let (asked, answered) = (Heard::on(broker, "cmd/resend"), Heard::on(broker, "ack"));
    let (_page, page) = page_alone(dir.path(), broker);
    let browser = Browser::start();
    browser.open(&format!("http://127.0.0.1:{page}/"));
    visible(&browser, page, "document.querySelectorAll('#open .alert').length === 2");
    assert_eq!(browser.eval(OPEN), 2);
    let text = browser.eval("return document.getElementById('open').innerText");
    assert!(text.as_str().unwrap().contains("Details are being fetched"), "{text}");
    assert_eq!(browser.eval("return document.getElementById('silence').textContent"), "");
    // A stub can be acknowledged, in the version that is listed.
    browser.eval("document.querySelector('#open .alert[data-key=b]').focus()");
    browser.press("a");
    let ack = answered.answer();
    assert_eq!((ack["alert_id"].as_str(), ack["version"].as_u64(), ack["action"].as_str()), (Some("b"), Some(2), Some("seen")));
    let request = asked.until(|_| true).pop().unwrap();
    assert!(request["since_seq"] == 0 && request["transaction"].is_string(), "{request}");
    // The details come, twice: shown once.
    event(broker, "a", "opened", 1, 1, &[100.0]);
    event(broker, "a", "opened", 1, 1, &[100.0]);
    visible(&browser, page, "document.querySelector('#open .alert[data-key=a]')?.innerText.includes('1 lesion: 1 × soft tissue')");
    assert_eq!(browser.eval(OPEN), 2);
    // Nothing more was asked: the next thing said there is the test's own.
    say(broker, "cmd/resend", &json!("end"), false);
    assert_eq!(asked.until(|d| d == "end"), [request, json!("end")]);
}

#[test]
fn two_pages_of_one_device_live_side_by_side() {
    let broker = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), broker);
    status(broker, "online", "ok");
    let (_one, one) = page_alone(dir.path(), broker);
    online(one);
    let (_two, two) = page_alone(dir.path(), broker);
    online(two);
    event(broker, "a", "opened", 1, 1, &[100.0]);
    for page in [one, two] {
        wait_for("the alert", || get(page, "/metrics").contains("\nlesionwatch_dashboard_open_alerts 1\n").then_some(()));
        let metrics = get(page, "/metrics");
        assert!(metrics.contains("\nlesionwatch_dashboard_broker_disconnects_total 0\n"), "{metrics}");
    }
}

#[test]
fn health_is_the_verdict() {
    let broker = free_port();
    let dir = tempfile::tempdir().unwrap();
    let mut process = mosquitto(dir.path(), broker);
    let (_page, page) = page_alone(dir.path(), broker);
    let verdict = |code: &str, word: &str| {
        wait_for(word, || Some(get(page, "/healthz")).filter(|h| h.starts_with(&format!("HTTP/1.1 {code}")) && h.contains(word)))
    };
    verdict("503", "Nothing was heard");
    status(broker, "online", "degraded");
    verdict("200", "degraded");
    status(broker, "online", "failing");
    verdict("503", "disk full");
    status(broker, "offline", "ok");
    verdict("503", "appliance is offline");
    event(broker, "a", "opened", 1, 1, &[100.0]);
    wait_for("the alert", || get(page, "/metrics").contains("\nlesionwatch_dashboard_open_alerts 1\n").then_some(()));
    assert!(ack(page, "a", 1).starts_with("HTTP/1.1 503"), "an answer that would be lost is not taken");
    process.kill();
    verdict("503", "broker is not reached");
}

#[test]
fn the_keyboard_is_enough_and_never_too_much() {
    let broker = free_port();
    let dir = tempfile::tempdir().unwrap();
    let _broker = mosquitto(dir.path(), broker);
    status(broker, "online", "ok");
    let (_page, page) = page_alone(dir.path(), broker);
    online(page);
    for (seq, alert) in [(1, "a"), (2, "b")] {
        picture(broker, dir.path(), alert, 1, 100.0);
        picture(broker, dir.path(), alert, 2, 300.0);
        event(broker, alert, "opened", 1, seq, &[100.0, 300.0]);
    }
    let answered = Heard::on(broker, "ack");
    let browser = Browser::start();
    browser.open(&format!("http://127.0.0.1:{page}/"));
    visible(&browser, page, "document.querySelectorAll('#open .alert canvas').length === 2");
    visible(&browser, page, "[...document.querySelectorAll('#open canvas')].every((c) => c.shows)");
    let yellow = "const c = document.querySelector('#open canvas'), p = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; \
        let n = 0; for (let i = 0; i < p.length; i += 4) if (p[i] > 200 && p[i + 1] > 160 && p[i + 2] < 80) n++; return n";
    assert!(browser.eval(yellow).as_u64().unwrap() > 500, "the crop holds the lesion's box");

    // Nothing has the focus: keys that answer do nothing. Held keys neither.
    browser.press("n");
    browser.press("j");
    assert_eq!(browser.eval("return document.activeElement.dataset.key"), "b");
    browser.eval("document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key: 'n', bubbles: true, repeat: true }))");
    // Enter opens, and the same press does not close.
    browser.press(ENTER);
    assert_eq!(browser.eval("return document.getElementById('viewer').open"), true);
    visible(&browser, page, "document.getElementById('viewer-image').naturalWidth === 512");
    browser.press(RIGHT);
    let text = browser.eval("return document.getElementById('viewer-text').textContent");
    assert!(text.as_str().unwrap().starts_with("Lesion 2 of 2"), "{text}");
    let bottom = "return document.querySelector('#viewer [data-act=close]').getBoundingClientRect().bottom <= innerHeight";
    assert_eq!(browser.eval(bottom), true);
    browser.press(ESCAPE);
    assert_eq!(browser.eval("return document.getElementById('viewer').open"), false);

    // Lesions are reached by Tab and chosen by Enter.
    let act = "return document.activeElement.dataset.act + document.activeElement.dataset.number";
    browser.eval("document.querySelector('#open .alert').focus()");
    wait_for("a lesion under Tab", || {
        browser.press(TAB);
        (browser.eval(act) == "choose1").then_some(())
    });
    browser.press(ENTER);
    assert_eq!(browser.eval("return document.activeElement.getAttribute('aria-pressed')"), "true");
    // News leave the focus where it is, on the same element.
    browser.eval("window.before = document.activeElement");
    event(broker, "c", "opened", 1, 3, &[100.0]);
    visible(&browser, page, "document.querySelectorAll('#open .alert').length === 3");
    assert_eq!(browser.eval("return window.before === document.activeElement && document.activeElement !== document.body"), true);
    // An answer is the focused alert's; after it no other alert has the focus.
    browser.press("y");
    let ack = answered.answer();
    assert_eq!((ack["alert_id"].as_str(), ack["action"].as_str()), (Some("b"), Some("accepted")));
    event(broker, "b", "acknowledged", 1, 4, &[100.0, 300.0]);
    visible(&browser, page, "document.querySelectorAll('#open .alert').length === 2");
    assert_eq!(browser.eval("return document.activeElement.id"), "open-title");
}

#[test]
fn silence_is_not_claimed_when_nothing_can_be_heard() {
    let broker = free_port();
    let dir = tempfile::tempdir().unwrap();
    let mut process = mosquitto(dir.path(), broker);
    status(broker, "online", "ok");
    let (_page, page) = page_alone(dir.path(), broker);
    let browser = Browser::start();
    browser.devtools("Emulation.setEmulatedMedia", &json!({ "features": [{ "name": "prefers-color-scheme", "value": "dark" }] }));
    browser.open(&format!("http://127.0.0.1:{page}/"));
    visible(
        &browser,
        page,
        "document.getElementById('silence').textContent.startsWith('No open alert') && document.getElementById('lost').hidden",
    );
    status(broker, "offline", "ok");
    visible(&browser, page, "!document.getElementById('lost').hidden && document.getElementById('lost').textContent.includes('offline')");
    let silence = browser.eval("return document.getElementById('silence').textContent");
    assert!(!silence.as_str().unwrap().to_lowercase().contains("no open alert"), "{silence}");
    status(broker, "online", "ok");
    event(broker, "a", "opened", 1, 1, &[100.0, 200.0, 300.0]);
    visible(&browser, page, "document.getElementById('lost').hidden && document.querySelector('#open .alert')");

    let title = browser.eval("return document.querySelector('#open .uid').title");
    assert!(title.as_str().unwrap().contains(UID), "{title}");
    // A refusal that needs nothing done does not look like a problem; one that does, does.
    for (seq, code) in [(2, "localizer"), (3, "too_few_slices")] {
        let mut document = document("a", "result", 1, seq, &[]);
        document["outcome"] = json!("not_analysed");
        document["reason"] = json!({ "code": code, "text": code });
        document["series"]["series_instance_uid"] = json!(code);
        say(broker, "results", &document, false);
    }
    visible(&browser, page, "document.querySelectorAll('#series tbody tr').length === 2");
    let kind = |uid: &str| browser.eval(&format!("return document.querySelector('#series tr[data-key={uid}] td:nth-child(4)').className"));
    assert_eq!((kind("localizer"), kind("too_few_slices")), (json!("faint"), json!("warn")));

    // On a telephone nothing is wider than the screen.
    browser
        .devtools("Emulation.setDeviceMetricsOverride", &json!({ "width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": false }));
    visible(&browser, page, "innerWidth === 390");
    assert_eq!(browser.eval("return document.documentElement.scrollWidth <= innerWidth"), true);

    process.kill();
    visible(&browser, page, "!document.getElementById('lost').hidden && document.getElementById('lost').textContent.includes('broker')");
    let contrast = "const light = (c) => { const [r, g, b] = c.match(/\\d+/g).slice(0, 3).map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); \
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; }; const s = getComputedStyle(document.getElementById('lost')), a = light(s.color), b = light(s.backgroundColor); \
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)";
    let ratio = browser.eval(contrast).as_f64().unwrap();
    assert!(ratio >= 4.5, "{ratio}");
    // An answer that cannot be sent says so on the alert itself.
    browser.press("j");
    browser.press("a");
    visible(&browser, page, "document.querySelector('#open .alert .problem')?.textContent.includes('broker')");
}
