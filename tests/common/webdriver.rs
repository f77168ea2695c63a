//! A WebDriver client of a few calls, enough to look at a page as a person would.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::{Process, free_port, tool, wait_for};

pub struct Browser {
    _driver: Process,
    port: u16,
    session: String,
}

fn request(port: u16, method: &str, path: &str, body: &Value) -> Option<Value> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(super::PATIENCE)).ok()?;
    let body = if method == "GET" { String::new() } else { body.to_string() };
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).ok()?;
    // The driver keeps the connection open: what its length says is what there is.
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let length = head.lines().find_map(|l| l.strip_prefix("content-length:"))?.trim().parse().ok()?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    serde_json::from_slice(&body).ok()
}

/// Keys that have no character, as WebDriver names them.
pub const TAB: &str = "\u{E004}";
pub const ENTER: &str = "\u{E007}";
pub const ESCAPE: &str = "\u{E00C}";
pub const RIGHT: &str = "\u{E014}";

impl Browser {
    pub fn start() -> Self {
        let port = free_port();
        let driver = Process(
            tool("chromedriver")
                .arg(format!("--port={port}"))
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap(),
        );
        wait_for("chromedriver", || request(port, "GET", "/status", &Value::Null).filter(|s| s["value"]["ready"] == true));
        let args = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--window-size=1200,900",
        ];
        let capabilities = json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": { "args": args } } } });
        let answer = request(port, "POST", "/session", &capabilities).unwrap();
        let session = answer["value"]["sessionId"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
        Self { _driver: driver, port, session }
    }

    fn call(&self, path: &str, body: &Value) -> Value {
        let answer = request(self.port, "POST", &format!("/session/{}/{path}", self.session), body).unwrap();
        answer["value"].clone()
    }

    pub fn open(&self, url: &str) {
        self.call("url", &json!({ "url": url }));
    }

    /// Runs a script that returns a value.
    pub fn eval(&self, script: &str) -> Value {
        self.call("execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Presses a key on the page.
    pub fn press(&self, key: &str) {
        let actions = json!({ "actions": [{ "type": "key", "id": "k", "actions": [{ "type": "keyDown", "value": key }, { "type": "keyUp", "value": key }] }] });
        self.call("actions", &actions);
    }

    /// A command of the DevTools protocol: screen sizes and colour schemes that a person may have.
    pub fn devtools(&self, command: &str, parameters: &Value) {
        self.call("goog/cdp/execute", &json!({ "cmd": command, "params": parameters }));
    }

    /// PNG bytes in base64.
    pub fn screenshot(&self) -> String {
        let answer = request(self.port, "GET", &format!("/session/{}/screenshot", self.session), &Value::Null).unwrap();
        answer["value"].as_str().unwrap().to_owned()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = request(self.port, "DELETE", &format!("/session/{}", self.session), &Value::Null);
    }
}
