//! A real PACS for tests.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use super::{Process, free_port, tool, wait_for};

/// An Orthanc with a folder of its own, which knows one other node as `box` and lets everybody find and get.
pub struct Orthanc {
    _process: Process,
    http: u16,
}

impl Orthanc {
    pub fn start(dir: &Path, dicom: u16, other: u16) -> Self {
        let http = free_port();
        let config = json!({
            "Name": "pacs", "StorageDirectory": dir.join("orthanc"), "IndexDirectory": dir.join("orthanc"), "Plugins": [],
            "HttpPort": http, "RemoteAccessAllowed": false, "AuthenticationEnabled": false,
            "DicomServerEnabled": true, "DicomAlwaysAllowFind": true, "DicomAlwaysAllowGet": true, "DicomPort": dicom, "DicomAet": "ORTHANC", "DicomCheckModalityHost": false,
            "DicomModalities": { "box": { "AET": "LESIONWATCH", "Host": "127.0.0.1", "Port": other, "AllowStorageCommitment": true } },
        });
        let path = dir.join("orthanc.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let log = std::fs::File::create(dir.join("orthanc.log")).unwrap();
        let child = tool("Orthanc").arg(&path).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let orthanc = Self { _process: Process(child), http };
        wait_for("Orthanc", || TcpStream::connect(("127.0.0.1", http)).ok());
        orthanc
    }

    /// One request; the body of the answer.
    pub fn ask(&self, method: &str, path: &str, body: &[u8]) -> Value {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http)).unwrap();
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{method} {path}: {answer}");
        serde_json::from_str(body).unwrap_or(Value::Null)
    }
}
