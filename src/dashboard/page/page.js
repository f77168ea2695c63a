"use strict";
// Everything that came over the wire is set as text, never as markup.
const $ = (id) => document.getElementById(id);
const make = (tag, className, text) => {
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (text !== undefined) e.textContent = text;
  return e;
};
const short = (uid) => (uid.length > 14 ? "…" + uid.slice(-12) : uid);
const ago = (iso) => {
  const s = Math.max(0, (Date.now() - Date.parse(iso)) / 1000);
  if (!isFinite(s)) return "";
  if (s < 60) return Math.round(s) + " s ago";
  if (s < 3600) return Math.round(s / 60) + " min ago";
  return Math.round(s / 3600) + " h ago";
};
let view = null, heard = 0, chosen = {}, announced = new Set(), sending = new Set();

const reader = $("reader");
reader.value = localStorage.getItem("reader") || "";
reader.addEventListener("change", () => localStorage.setItem("reader", reader.value));

function types(lesions) {
  const count = new Map();
  for (const l of lesions) count.set(l.type, (count.get(l.type) || 0) + 1);
  return [...count].map(([t, n]) => n + " × " + t).join(", ");
}

async function acknowledge(id, action) {
  if (sending.has(id)) return;
  sending.add(id);
  draw();
  try {
    const r = await fetch("/api/alerts/" + encodeURIComponent(id) + "/ack", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ action, by: reader.value }),
    });
    if (!r.ok) throw new Error((await r.text()).trim());
  } catch (e) {
    $("announce").textContent = "not acknowledged: " + e.message;
  }
  // The page changes when the appliance has taken it in; a lost answer may be given again.
  setTimeout(() => { sending.delete(id); draw(); }, 4000);
}

function enlarge(event, lesion) {
  $("viewer-image").src = "/api/images/" + encodeURIComponent(event.alert_id) + "/" + lesion.number;
  $("viewer-image").alt = "key image of lesion " + lesion.number;
  $("viewer-text").textContent = "Lesion " + lesion.number + ": " + lesion.type + ", " + size(lesion) + ", instance " + (lesion.key_image.instance_number ?? "?") + ", score " + lesion.score.toFixed(2);
  $("viewer").showModal();
}
const size = (l) => l.long_axis_mm.toFixed(1) + " × " + l.short_axis_mm.toFixed(1) + " mm";

function card(shown) {
  const event = shown.event, id = event.alert_id, images = new Set(view.images);
  const box = make("article", "alert " + event.priority);
  box.dataset.id = id;
  box.tabIndex = 0;
  const number = chosen[id] || (event.lesions[0] && event.lesions[0].number);
  const lesion = event.lesions.find((l) => l.number === number) || event.lesions[0];
  if (lesion && images.has(id + "/" + lesion.number)) {
    const picture = make("button", "picture");
    picture.title = "enlarge";
    const img = make("img");
    img.alt = "lesion " + lesion.number + " marked on its key image";
    img.src = "/api/images/" + encodeURIComponent(id) + "/" + lesion.number;
    picture.append(img);
    picture.addEventListener("click", () => enlarge(event, lesion));
    box.append(picture);
  } else {
    box.append(make("div", "picture none", "no image"));
  }
  const text = make("div");
  const head = make("h3");
  head.append(make("span", "badge", event.priority), document.createTextNode(event.lesions.length + (event.lesions.length === 1 ? " lesion: " : " lesions: ") + types(event.lesions)));
  const s = event.series;
  const facts = make("p", "facts", "Series " + (s.series_number ?? "-") + (s.body_part ? " · " + s.body_part : "") + " · " + s.slices + " slices · from " + (s.calling_ae || "?") + " · study " + short(s.study_instance_uid) + " · ");
  const age = make("time", "age", ago(event.at));
  age.dateTime = event.at;
  facts.append(age);
  text.append(head, facts);
  const table = make("table", "lesions"), body = make("tbody");
  for (const l of event.lesions) {
    const row = make("tr", lesion && l.number === lesion.number ? "shown" : "");
    for (const v of [l.number, l.type, size(l), "score " + l.score.toFixed(2), "instance " + (l.key_image.instance_number ?? "?")]) row.append(make("td", "number", v));
    row.addEventListener("click", () => { chosen[id] = l.number; draw(); });
    body.append(row);
  }
  table.append(body);
  text.append(table);
  if (shown.open) {
    const buttons = make("div", "buttons");
    for (const [action, label] of [["seen", "Seen"], ["accepted", "Accept"], ["dismissed", "Dismiss"]]) {
      const b = make("button", action, label);
      b.disabled = sending.has(id);
      b.addEventListener("click", () => acknowledge(id, action));
      buttons.append(b);
    }
    text.append(buttons);
  } else {
    text.append(make("p", "closed-by", shown.closed_by || "closed"));
  }
  box.append(text);
  return box;
}

function draw() {
  if (!view) return;
  const focused = document.activeElement && document.activeElement.closest && document.activeElement.closest(".alert");
  const focusedId = focused && focused.dataset.id;
  const open = view.alerts.filter((a) => a.open), closed = view.alerts.filter((a) => !a.open);
  $("title").textContent = view.title;
  document.title = (open.length ? "(" + open.length + ") " : "") + "lesionwatch " + view.title;
  $("open-count").textContent = open.length;
  $("open").replaceChildren(...open.map(card));
  $("closed").replaceChildren(...closed.slice(0, 20).map(card));
  const last = view.series[0];
  $("silence").textContent = open.length ? "" : last
    ? "No open alert. The last series was " + last.outcome.replace("_", " ") + " " + ago(last.at) + "."
    : "No open alert, and no series was received since this page's service started.";
  $("series").tBodies[0].replaceChildren(...view.series.map((d) => {
    const row = make("tr");
    const time = make("td", "number", new Date(d.at).toLocaleTimeString());
    const found = d.outcome === "analysed" ? (d.lesions.length ? d.lesions.length + " at or above the operating point: " + types(d.lesions) : "nothing at or above the operating point") : (d.reason ? d.reason.text : "");
    row.append(time, make("td", "", (d.series.series_number ?? "-") + " " + (d.series.body_part || "") + " " + short(d.series.series_instance_uid)), make("td", "number", d.series.slices),
      make("td", "outcome-" + d.outcome, d.outcome.replace("_", " ") + (d.version > 1 ? " (version " + d.version + ")" : "")), make("td", "", found),
      make("td", "number", ((d.timing_ms.analysed - d.timing_ms.last_slice) / 1000).toFixed(1) + " s after the last slice"));
    return row;
  }));
  state();
  for (const a of open) if (!announced.has(a.event.event_id)) {
    announced.add(a.event.event_id);
    $("announce").textContent = "New " + a.event.priority + " alert: " + a.event.lesions.length + " lesions, " + types(a.event.lesions);
  }
  if (focusedId) {
    const again = document.querySelector('.alert[data-id="' + CSS.escape(focusedId) + '"]');
    if (again) again.focus();
  }
}

function state() {
  const s = view.status, dot = document.querySelector("#state .dot");
  const online = s && s.availability === "online" && view.connected;
  dot.className = "dot " + (online ? s.health : "off");
  $("state-text").textContent = !view.connected ? "broker not reached" : !s ? "no status from the appliance yet"
    : "appliance " + s.availability + " · engine " + s.engine + " · model " + s.model + " · outbox " + s.outbox_depth;
  $("reasons").replaceChildren(...(s && online ? s.reasons : []).map((r) => make("li", "", r)));
}

document.addEventListener("keydown", (e) => {
  if (e.target.tagName === "INPUT" || e.ctrlKey || e.metaKey || e.altKey || $("viewer").open) return;
  const cards = [...document.querySelectorAll("#open .alert")];
  const at = cards.findIndex((c) => c.contains(document.activeElement));
  const move = (n) => { if (cards.length) cards[Math.max(0, Math.min(cards.length - 1, n))].focus(); e.preventDefault(); };
  const current = cards[Math.max(0, at)];
  if (e.key === "j" || e.key === "ArrowDown") move(at + 1);
  else if (e.key === "k" || e.key === "ArrowUp") move(at - 1);
  else if (current && e.key === "a") acknowledge(current.dataset.id, "seen");
  else if (current && e.key === "y") acknowledge(current.dataset.id, "accepted");
  else if (current && e.key === "n") acknowledge(current.dataset.id, "dismissed");
  else if (current && e.key === "Enter" && e.target === current) current.querySelector("button.picture")?.click();
});

function listen() {
  const source = new EventSource("/events");
  const alive = () => { heard = Date.now(); $("lost").hidden = true; };
  source.addEventListener("view", (e) => { view = JSON.parse(e.data); alive(); draw(); });
  source.addEventListener("alive", alive);
  source.onerror = () => { if (source.readyState === 2) setTimeout(listen, 2000); };
}
listen();
setInterval(() => {
  $("lost").hidden = Date.now() - heard < 25000;
  for (const t of document.querySelectorAll("time.age")) t.textContent = ago(t.dateTime);
}, 1000);
