//! HTTP: the page, its live events, acknowledgements, key images, health and metrics.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::reading_list::ReadingList;
use super::{HEARTBEAT, Shared};
use crate::alert::document::{Ack, Action, rfc3339};

/// Changes are told at most this often.
const LEAST_PAUSE: Duration = Duration::from_millis(200);
/// Pages at once; each holds one connection.
const MOST_PAGES: usize = 64;
/// An acknowledgement is a few hundred bytes.
const MOST_BODY_BYTES: usize = 4096;
/// A name fits.
const MOST_NAME: usize = 64;
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Serves until `stop` closes.
pub fn serve(socket: std::net::TcpListener, shared: Shared, mut stop: watch::Receiver<bool>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
        Ok(r) => r,
        Err(e) => return log::error!("dashboard runtime not started error={e}"),
    };
    runtime.block_on(async {
        let listener = match tokio::net::TcpListener::from_std(socket) {
            Ok(l) => l,
            Err(e) => return log::error!("dashboard socket unusable error={e}"),
        };
        let pages = std::sync::Arc::new(tokio::sync::Semaphore::new(MOST_PAGES));
        let app = Router::new()
            .route("/", get(|| async { asset("text/html; charset=utf-8", include_str!("page/index.html")) }))
            .route("/page.css", get(|| async { asset("text/css; charset=utf-8", include_str!("page/page.css")) }))
            .route("/page.js", get(|| async { asset("text/javascript; charset=utf-8", include_str!("page/page.js")) }))
            .route("/events", get(move |state| events(state, pages)))
            .route("/api/alerts", get(alerts))
            .route("/api/alerts/{id}/ack", post(acknowledge))
            .route("/api/images/{alert}/{version}/{number}", get(image))
            .route("/healthz", get(health))
            .route("/metrics", get(metrics))
            .layer(middleware::from_fn_with_state(shared.clone(), guard))
            .with_state(shared);
        let served = axum::serve(listener, app);
        tokio::select! {
            result = served => if let Err(e) = result { log::error!("dashboard stopped error={e}") },
            _ = stop.changed() => {}
        }
    });
}

fn asset(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], text)
}

/// Only pages of this very host may ask: a name that an attacker points at the loopback address is not one (DNS rebinding), and no other site's script
/// may acknowledge (cross-site requests).
async fn guard(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let text = |h: &HeaderMap, name: header::HeaderName| h.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let headers = request.headers();
    let host = text(headers, header::HOST).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host.as_str(), |(n, _)| n).trim_matches(['[', ']']);
    // An address cannot be rebound; a name can, so only the one that every machine has for itself is taken.
    if name != "localhost" && name.parse::<std::net::IpAddr>().is_err() {
        return (StatusCode::MISDIRECTED_REQUEST, "open this page by its address, not by another name\n").into_response();
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let foreign = text(headers, header::ORIGIN).is_some_and(|origin| origin != format!("http://{host}"));
        let json = text(headers, header::CONTENT_TYPE).is_some_and(|t| t.starts_with("application/json"));
        if foreign || !json {
            return (StatusCode::FORBIDDEN, "requests that change something come from this page, as JSON\n").into_response();
        }
    }
    log::debug!("http method={} path={} port={}", request.method(), request.uri().path(), shared.port);
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

fn list(shared: &Shared) -> MutexGuard<'_, ReadingList> {
    shared.list.lock().unwrap_or_else(PoisonError::into_inner)
}

fn view(shared: &Shared) -> String {
    let mut view = list(shared).view();
    view["title"] = shared.title.clone().into();
    view.to_string()
}

/// 200 while the appliance says `ok` or `degraded`, 503 where it says `failing` or cannot be heard.
async fn health(State(shared): State<Shared>) -> impl IntoResponse {
    let (verdict, reasons) = list(&shared).health();
    let code = if verdict == "failing" { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (code, headers, serde_json::json!({ "health": verdict, "reasons": reasons }).to_string())
}

/// The appliance's own part, if it runs here, and what the page knows.
async fn metrics(State(shared): State<Shared>) -> impl IntoResponse {
    let mut out = (shared.metrics)();
    let list = list(&shared);
    for (name, kind, help, value) in [
        ("broker_connected", "gauge", "1 while the page reaches the broker", u64::from(list.connected)),
        ("broker_disconnects_total", "counter", "connections of the page to the broker that ended", list.disconnects),
        ("appliance_heard", "gauge", "1 while the appliance is online, as far as the page can tell", u64::from(list.lost().is_none())),
        ("open_alerts", "gauge", "open alerts that the page shows", list.open_count() as u64),
    ] {
        let name = format!("lesionwatch_dashboard_{name}");
        out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"));
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], out)
}

async fn alerts(State(shared): State<Shared>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], view(&shared))
}

/// Server-sent events: the whole view at once and after every change.
async fn events(State(shared): State<Shared>, pages: std::sync::Arc<tokio::sync::Semaphore>) -> Response {
    let Ok(permit) = pages.try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many pages are open\n").into_response();
    };
    let (sender, receiver) = mpsc::channel::<Result<Bytes, std::io::Error>>(2);
    tokio::spawn(async move {
        let _permit = permit;
        let mut changed = shared.changed.clone();
        loop {
            changed.mark_unchanged();
            if sender.send(Ok(Bytes::from(format!("event: view\ndata: {}\n\n", view(&shared))))).await.is_err() {
                return;
            }
            tokio::time::sleep(LEAST_PAUSE).await;
            loop {
                match tokio::time::timeout(HEARTBEAT, changed.changed()).await {
                    Ok(Ok(())) => break,
                    Ok(Err(_)) => return,
                    Err(_) => {
                        if sender.send(Ok(Bytes::from_static(b"event: alive\ndata: \n\n"))).await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(ReceiverStream::new(receiver))).into_response()
}

#[derive(Deserialize)]
struct Acknowledgement {
    action: Action,
    /// What the reader looked at; without it the present version is meant.
    version: Option<u32>,
    #[serde(default)]
    by: String,
}

async fn acknowledge(State(shared): State<Shared>, Path(alert_id): Path<String>, body: Bytes) -> Response {
    if body.len() > MOST_BODY_BYTES {
        return (StatusCode::PAYLOAD_TOO_LARGE, "too long\n").into_response();
    }
    let request: Acknowledgement = match serde_json::from_slice(&body) {
        Ok(r) => r,
        Err(e) => return (StatusCode::BAD_REQUEST, format!("{e}\n")).into_response(),
    };
    let (version, lost) = {
        let list = list(&shared);
        (list.version(&alert_id), list.lost())
    };
    let Some(version) = version else { return (StatusCode::NOT_FOUND, "no such alert\n").into_response() };
    if request.version.is_some_and(|v| v != version) {
        return (StatusCode::CONFLICT, "the alert has a newer version; look at that first\n").into_response();
    }
    if let Some(lost) = lost {
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{lost}\n")).into_response();
    }
    let ack = Ack {
        alert_id,
        version,
        action: request.action,
        by: request.by.chars().filter(|c| !c.is_control()).take(MOST_NAME).collect(),
        role: "reader".into(),
        at: rfc3339(jiff::Timestamp::now()),
    };
    match shared.acks.try_send(ack) {
        // Published; the page changes when the appliance says `acknowledged`.
        Ok(()) => StatusCode::ACCEPTED.into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the broker is not reached; try again\n").into_response(),
    }
}

/// Never stored: the browser asks for a picture under the version it shows, and only that one is answered.
async fn image(State(shared): State<Shared>, Path((alert, version, number)): Path<(String, u32, u32)>) -> Response {
    let png = list(&shared).png(&alert, version, number).map(<[u8]>::to_vec);
    match png {
        Some(png) => ([(header::CONTENT_TYPE, "image/png"), (header::CACHE_CONTROL, "no-store")], png).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
