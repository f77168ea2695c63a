"use strict";
// Everything that came over the wire is set as text or as the value of an attribute, never as markup. Every change is drawn anew beside the page and merged
// into it, so that what stays keeps its focus; clicks are taken at the document by `data-act`.
const $ = (id) => document.getElementById(id);
function make(tag, attributes, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== undefined) e.setAttribute(name, value);
  e.append(...children);
  return e;
}

/// Brings `live` to what `drawn` shows; elements with the same data-key, or at the same place, stay the same elements.
function merge(live, drawn) {
  for (const a of [...live.attributes]) if (!drawn.hasAttribute(a.name)) live.removeAttribute(a.name);
  for (const a of drawn.attributes) if (live.getAttribute(a.name) !== a.value) live.setAttribute(a.name, a.value);
  fill(live, [...drawn.childNodes]);
}
function fill(live, drawn) {
  const key = (n) => n.dataset && n.dataset.key;
  const wanted = new Set(drawn.map(key)), kept = new Map();
  for (const c of [...live.children]) {
    if (!key(c)) continue;
    if (wanted.has(key(c))) kept.set(key(c), c);
    else c.remove();
  }
  let at = live.firstChild;
  for (const next of drawn) {
    const same = key(next) ? kept.get(key(next)) : at && !key(at) && at.nodeName === next.nodeName ? at : undefined;
    if (!same) { live.insertBefore(next, at); continue; }
    if (same === at) at = at.nextSibling;
    else live.insertBefore(same, at);
    if (same.nodeType !== Node.TEXT_NODE) merge(same, next);
    else if (same.data !== next.data) same.data = next.data;
  }
  while (at) { const gone = at; at = at.nextSibling; gone.remove(); }
}
function say(id, text) { if ($(id).textContent !== text) $(id).textContent = text; }

// --- words ---
const two = (n) => String(n).padStart(2, "0");
function clock(iso) {
  const d = new Date(iso);
  if (isNaN(d)) return "?";
  const time = two(d.getHours()) + ":" + two(d.getMinutes()) + ":" + two(d.getSeconds());
  const today = d.toDateString() === new Date().toDateString();
  return today ? time : d.getFullYear() + "-" + two(d.getMonth() + 1) + "-" + two(d.getDate()) + " " + time;
}
function ago(iso) {
  const s = Math.max(0, (Date.now() - Date.parse(iso)) / 1000);
  if (!isFinite(s)) return "?";
  if (s < 60) return Math.floor(s) + " s";
  if (s < 3600) return Math.floor(s / 60) + " min";
  if (s < 48 * 3600) return Math.floor(s / 3600) + " h " + Math.floor((s % 3600) / 60) + " min";
  return Math.floor(s / 86400) + " days";
}
const age = (iso) => make("time", { class: "age", datetime: iso, title: clock(iso) }, ago(iso));
const isHigh = (priority) => priority === "high";
const badge = (priority) => make("span", { class: "badge" }, isHigh(priority) ? "High" : "Routine");
const size = (l) => l.long_axis_mm.toFixed(1) + " × " + l.short_axis_mm.toFixed(1) + " mm";
const instance = (l) => "image " + (l.key_image.instance_number ?? "?");
const lesions = (n) => n + (n === 1 ? " lesion" : " lesions");
function types(all) {
  const count = new Map();
  for (const l of all) count.set(l.type, (count.get(l.type) || 0) + 1);
  return [...count].map(([t, n]) => n + " × " + t).join(", ");
}
/// A UID, shortened; a click copies it whole.
function uid(what, value) {
  const short = value.length > 14 ? "…" + value.slice(-12) : value;
  return make("button", { class: "uid", "data-act": "copy", "data-uid": value, title: what + " " + value + " (click copies it)" }, short);
}
const CLOSING = { seen: "Seen", accepted: "Accept", dismissed: "Dismiss" };
/// Refusals about which nobody needs to do anything.
const QUIET = new Set(["not_ct", "localizer", "not_an_acquisition", "no_pixels", "no_images"]);

// --- state ---
const HEARD_WITHIN_MS = 25000, CONFIRMED_WITHIN_MS = 8000, FEW_SERIES = 15, FEW_LESIONS = 5, FEW_CLOSED = 20;
/// Context of a crop: so many times the box, at least so many pixels.
const CONTEXT = 3, LEAST_CROP_PX = 96, CROP_PX = 380;
let view = null, heard = Date.now(), allSeries = false, viewing = null;
const chosen = new Map(), unfolded = new Set(), announced = new Set(), sending = new Set(), problems = new Map();

const reader = $("reader");
reader.value = localStorage.getItem("reader") || "";
reader.addEventListener("change", () => localStorage.setItem("reader", reader.value));

const open = () => view.alerts.filter((a) => a.open);
const shownAlert = (id) => view.alerts.find((a) => a.event.alert_id === id);
const version = (id) => (shownAlert(id) || { event: view.stubs.find((s) => s.alert_id === id) || {} }).event.version;
const isOpen = (id) => view.stubs.some((s) => s.alert_id === id) || open().some((a) => a.event.alert_id === id);
const picture = (event, lesion) => event.alert_id + "/" + event.version + "/" + lesion.number;
const address = (path) => "/api/images/" + path.split("/").map(encodeURIComponent).join("/");
function lost() {
  if (Date.now() - heard > HEARD_WITHIN_MS) return "This page has lost its service. What you see may be out of date; trying again …";
  return view && view.lost;
}

// --- alerts ---
async function acknowledge(id, action) {
  const key = id + "/" + version(id), asked = version(id);
  if (sending.has(key)) return;
  sending.add(key);
  problems.delete(key);
  draw();
  let problem = "";
  try {
    const r = await fetch("/api/alerts/" + encodeURIComponent(id) + "/ack", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ action, version: asked, by: reader.value }),
    });
    if (!r.ok) problem = (await r.text()).trim() || "status " + r.status;
  } catch {
    problem = "The page's service does not answer.";
  }
  // The alert closes when the appliance has taken the answer in; one that was lost may be given again.
  if (!problem) await new Promise((done) => setTimeout(done, CONFIRMED_WITHIN_MS));
  sending.delete(key);
  if (isOpen(id) && version(id) === asked) problems.set(key, problem || "The appliance has not confirmed it.");
  draw();
}

function buttons(id) {
  const key = id + "/" + version(id), busy = sending.has(key);
  const row = make("div", { class: "buttons" });
  for (const [action, label] of Object.entries(CLOSING)) row.append(make("button", { class: action, "data-act": "answer", "data-action": action, "aria-disabled": busy ? "true" : undefined }, label));
  if (busy) row.append(make("span", { class: "facts" }, "sending …"));
  const all = [row];
  if (problems.has(key)) all.push(make("p", { class: "problem", role: "alert" }, "Not acknowledged. " + problems.get(key) + " Try again."));
  return all;
}

function stub(entry) {
  const head = make("h3", {}, badge(entry.priority), "Details are being fetched");
  const facts = make("p", { class: "facts" }, "open for ", age(entry.opened_at), " · version " + entry.version + " · this page's service has not received its event yet");
  return make("article", { class: "alert " + (isHigh(entry.priority) ? "high" : "routine"), "data-key": entry.alert_id, tabindex: "0", "aria-label": "open alert, details are being fetched" },
    make("div", { class: "picture none" }, "no picture yet"), make("div", {}, head, facts, ...buttons(entry.alert_id)));
}

function thumbnail(event, lesion) {
  const path = lesion && picture(event, lesion), scale = path && view.images[path];
  if (!scale) return make("div", { class: "picture none" }, "no picture");
  const [x1, y1, x2, y2] = lesion.box_px.map((v) => (v + 0.5) * scale - 0.5);
  const side = Math.max(CONTEXT * Math.max(x2 - x1, y2 - y1), LEAST_CROP_PX);
  const canvas = make("canvas", { width: CROP_PX, height: CROP_PX, role: "img", "aria-label": "lesion " + lesion.number + ", cut out of its image", "data-path": path, "data-crop": [(x1 + x2) / 2, (y1 + y2) / 2, side].join(" ") });
  return make("button", { class: "picture", "data-act": "enlarge", title: "enlarge" }, canvas);
}
/// Cuts the surroundings of the box out of the whole picture.
function paint(canvas) {
  const want = canvas.dataset.path + " " + canvas.dataset.crop;
  if (canvas.want === want) return;
  const brush = canvas.getContext("2d");
  brush.clearRect(0, 0, canvas.width, canvas.height);
  canvas.want = want;
  canvas.shows = "";
  const whole = new Image();
  whole.onload = () => {
    if (canvas.want !== want) return;
    const [x, y, side] = canvas.dataset.crop.split(" ").map(Number);
    const cut = Math.min(side, whole.naturalWidth, whole.naturalHeight);
    const from = (middle, length) => Math.max(0, Math.min(length - cut, middle - cut / 2));
    brush.imageSmoothingQuality = "high";
    brush.drawImage(whole, from(x, whole.naturalWidth), from(y, whole.naturalHeight), cut, cut, 0, 0, canvas.width, canvas.height);
    canvas.shows = canvas.dataset.path;
  };
  whole.onerror = () => { if (canvas.want === want) canvas.want = ""; };
  whole.src = address(canvas.dataset.path);
}

function chosenLesion(event) {
  const number = chosen.get(event.alert_id + "/" + event.version);
  return event.lesions.find((l) => l.number === number) || event.lesions[0];
}

function card(shown) {
  const event = shown.event, id = event.alert_id, s = event.series, lesion = chosenLesion(event);
  const head = make("h3", {}, badge(event.priority), lesions(event.lesions.length) + (event.lesions.length ? ": " + types(event.lesions) : ""));
  const facts = make("p", { class: "facts" }, ...(shown.open ? ["open for ", age(shown.opened_at)] : ["opened " + clock(shown.opened_at)]), event.version > 1 ? " · version " + event.version : "",
    " · series " + (s.series_number ?? "-") + (s.body_part ? " " + s.body_part : "") + " · " + s.slices + " slices · from " + (s.calling_ae || "?"));
  const uids = make("p", { class: "facts" }, "study ", uid("Study Instance UID", s.study_instance_uid), " series ", uid("Series Instance UID", s.series_instance_uid));
  const rows = make("ul", { class: "lesions" }), all = unfolded.has(id) || event.lesions.length <= FEW_LESIONS + 1;
  for (const l of all ? event.lesions : event.lesions.slice(0, FEW_LESIONS)) {
    const cells = [l.number, l.type, size(l), "score " + l.score.toFixed(2), instance(l)].map((v) => make("span", {}, String(v)));
    rows.append(make("li", { "data-key": "l" + l.number }, make("button", { class: "lesion", "data-act": "choose", "data-number": l.number, "aria-pressed": l === lesion ? "true" : "false" }, ...cells)));
  }
  if (!all) rows.append(make("li", { "data-key": "more" }, make("button", { class: "lesion", "data-act": "unfold" }, "and " + (event.lesions.length - FEW_LESIONS) + " more")));
  const foot = shown.open ? buttons(id) : [make("p", { class: "facts" }, shown.closed_by || "closed")];
  return make("article", { class: "alert " + (isHigh(event.priority) ? "high" : "routine"), "data-key": id, tabindex: "0", "aria-label": (shown.open ? "open" : "closed") + " alert, " + lesions(event.lesions.length) },
    thumbnail(event, lesion), make("div", {}, head, facts, uids, rows, ...foot));
}

// --- series ---
function row(d) {
  const refused = d.reason && QUIET.has(d.reason.code);
  const kind = d.outcome === "analysed" ? "good" : d.outcome === "failed" ? "bad" : refused ? "faint" : "warn";
  const found = d.outcome !== "analysed" ? (d.reason ? d.reason.text : "") : d.lesions.length ? d.lesions.length + " at or above the operating point: " + types(d.lesions) : "nothing at or above the operating point";
  return make("tr", { "data-key": d.series.series_instance_uid },
    make("td", { class: "number" }, clock(d.at)),
    make("td", { class: "free" }, (d.series.series_number ?? "-") + " " + (d.series.body_part || "") + " ", uid("Series Instance UID", d.series.series_instance_uid)),
    make("td", { class: "number wide" }, String(d.series.slices)),
    make("td", { class: kind }, d.outcome.replace("_", " ") + (d.version > 1 ? " (version " + d.version + ")" : "")),
    make("td", { class: refused ? "free faint" : "free" }, found),
    make("td", { class: "wide" }, ((d.timing_ms.analysed - d.timing_ms.last_slice) / 1000).toFixed(1) + " s"));
}

// --- the whole page ---
function draw() {
  if (!view) return;
  const focused = document.activeElement, inCard = focused && focused.closest("#open .alert");
  const opened = open(), closed = view.alerts.filter((a) => !a.open), waiting = view.stubs.length + opened.length;
  say("title", view.title);
  fill($("open"), [...view.stubs.map(stub), ...opened.map(card)]);
  fill($("closed"), closed.slice(0, FEW_CLOSED).map(card));
  say("closed-count", String(closed.length));
  const few = allSeries ? view.series : view.series.slice(0, FEW_SERIES);
  fill($("series").tBodies[0], few.map(row));
  $("more-series").hidden = few.length === view.series.length;
  say("more-series", "Show all " + view.series.length + " series");
  for (const canvas of document.querySelectorAll("canvas[data-path]")) paint(canvas);
  state();
  drawViewer();
  const fresh = opened.filter((a) => !announced.has(a.event.event_id));
  for (const a of fresh) announced.add(a.event.event_id);
  if (fresh.length) say("announce", fresh.map((a) => "New alert, " + (isHigh(a.event.priority) ? "high" : "routine") + ": " + types(a.event.lesions)).join(". ") + ". " + waiting + " open.");
  // What had the focus moved, or is closed now: the next key must not hit another alert unseen.
  if (document.activeElement !== focused && focused?.isConnected) focused.focus({ preventScroll: true });
  else if (inCard && !inCard.isConnected && !$("viewer").open) $("open-title").focus({ preventScroll: true });
}

/// What depends on the clock, too.
function state() {
  for (const t of document.querySelectorAll("time.age")) if (t.textContent !== ago(t.dateTime)) t.textContent = ago(t.dateTime);
  const why = lost();
  $("lost").hidden = !why;
  if (why) say("lost", why);
  if (!view) return;
  const s = view.status, waiting = view.stubs.length + open().length, last = view.series[0];
  document.querySelector("#state .dot").className = "dot " + (why || !s ? "off" : ["ok", "degraded", "failing"].includes(s.health) ? s.health : "off");
  say("state-text", !view.connected ? "broker not reached" : !s ? "no status from the appliance yet"
    : "appliance " + s.availability + (s.availability === "online" ? "" : " since " + clock(s.time)) + " · engine " + s.engine + " · model " + s.model + " · outbox " + s.outbox_depth);
  fill($("reasons"), (s && !why ? s.reasons : []).map((r) => make("li", { class: s.health === "failing" ? "bad" : "warn" }, r)));
  say("open-count", why && !waiting ? "?" : String(waiting));
  say("silence", waiting ? "" : why ? "Whether alerts are open is not known now." : last
    ? "No open alert. The last series was " + last.outcome.replace("_", " ") + " " + ago(last.at) + " ago, at " + clock(last.at) + "."
    : "No open alert, and no series was received since this page's service started.");
  document.title = (why ? "(!) " : waiting ? "(" + waiting + ") " : "") + "lesionwatch " + view.title;
}

// --- the viewer: the whole slice of one lesion of one version ---
function enlarge(id) {
  const shown = shownAlert(id);
  if (!shown || !shown.event.lesions.length) return;
  viewing = { event: shown.event, lesion: chosenLesion(shown.event) };
  $("viewer").showModal();
  // Not its first button: a key that is still held must not press it.
  $("viewer").focus();
  drawViewer();
}
function step(by) {
  const { event, lesion } = viewing, at = event.lesions.indexOf(lesion) + by;
  if (at < 0 || at >= event.lesions.length) return;
  viewing.lesion = event.lesions[at];
  chosen.set(event.alert_id + "/" + event.version, viewing.lesion.number);
  draw();
}
function drawViewer() {
  if (!viewing) return;
  const { event, lesion } = viewing, now = shownAlert(event.alert_id), path = picture(event, lesion), image = $("viewer-image");
  const changed = !now || now.event.version !== event.version, there = view.images[path] || image.dataset.path === path;
  say("viewer-text", "Lesion " + lesion.number + " of " + event.lesions.length + ": " + [lesion.type, size(lesion), "score " + lesion.score.toFixed(2), instance(lesion)].join(" · "));
  const note = changed ? "This alert has changed since. Close to see its present version." : !now.open ? "This alert is closed: " + now.closed_by + "." : there ? "" : "There is no picture of this lesion.";
  $("viewer-note").hidden = !note;
  say("viewer-note", note);
  image.hidden = !there;
  if (there && image.dataset.path !== path) {
    image.dataset.path = path;
    image.src = address(path);
    image.alt = "lesion " + lesion.number + " marked on its whole image";
  }
  const at = event.lesions.indexOf(lesion);
  for (const b of document.querySelectorAll("#viewer [data-act=step]")) b.disabled = !event.lesions[at + Number(b.dataset.by)];
}
$("viewer").addEventListener("close", () => {
  viewing = null;
  $("viewer-image").removeAttribute("src");
  delete $("viewer-image").dataset.path;
});

async function copy(button) {
  try {
    await navigator.clipboard.writeText(button.dataset.uid);
    say("announce", "copied");
    button.classList.add("copied");
    setTimeout(() => button.classList.remove("copied"), 1500);
  } catch {
    // No clipboard over plain HTTP from another machine: shown whole, to be selected by hand.
    getSelection().removeAllRanges();
    button.textContent = button.dataset.uid;
    getSelection().selectAllChildren(button);
  }
}

const ACTS = {
  answer: (b, id) => { if (b.getAttribute("aria-disabled") !== "true") acknowledge(id, b.dataset.action); },
  enlarge: (b, id) => enlarge(id),
  choose: (b, id) => { chosen.set(id + "/" + version(id), Number(b.dataset.number)); draw(); },
  unfold: (b, id) => { unfolded.add(id); draw(); },
  "more-series": () => { allSeries = true; draw(); },
  step: (b) => step(Number(b.dataset.by)),
  close: () => $("viewer").close(),
  copy,
};
document.addEventListener("click", (e) => {
  const b = e.target.closest("[data-act]");
  if (!b || !view) return;
  ACTS[b.dataset.act](b, b.closest(".alert")?.dataset.key);
});

const ANSWERS = { a: "seen", y: "accepted", n: "dismissed" };
const STEPS = { ArrowLeft: -1, ArrowUp: -1, k: -1, ArrowRight: 1, ArrowDown: 1, j: 1 };
document.addEventListener("keydown", (e) => {
  if (!view || e.target.tagName === "INPUT" || e.ctrlKey || e.metaKey || e.altKey) return;
  if ($("viewer").open) {
    if (e.key in STEPS) { step(STEPS[e.key]); e.preventDefault(); }
    return;
  }
  const cards = [...document.querySelectorAll("#open .alert")], current = e.target.closest("#open .alert"), at = cards.indexOf(current);
  const moves = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 };
  if (e.key in moves && cards.length && (current || !e.key.startsWith("Arrow"))) {
    cards[Math.max(0, Math.min(cards.length - 1, at + moves[e.key]))].focus();
    e.preventDefault();
  } else if (current && e.key in ANSWERS && !e.repeat) {
    // Only on the alert that has the focus, and once a press: a held key is no decision.
    acknowledge(current.dataset.key, ANSWERS[e.key]);
    e.preventDefault();
  } else if (e.key === "Enter" && e.target.matches(".alert")) {
    // Prevented, or the same press would go on to what the dialog focuses.
    e.preventDefault();
    if (!e.repeat) enlarge(e.target.dataset.key);
  }
});

function listen() {
  const source = new EventSource("/events");
  const alive = () => { heard = Date.now(); state(); };
  source.addEventListener("view", (e) => { view = JSON.parse(e.data); heard = Date.now(); draw(); });
  source.addEventListener("alive", alive);
  source.onerror = () => { if (source.readyState === EventSource.CLOSED) setTimeout(listen, 2000); };
}
listen();
setInterval(state, 1000);
