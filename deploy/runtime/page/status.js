// The operator's view of the runtime: reads /status.json once a second and /trend.json every few seconds, and changes
// nothing. Every text from the plant goes in with textContent (or as an attribute that is never interpreted).
import { Trend } from "/plots.js";

const NO_ANSWER_S = 5;
// Drawings in a field of 40 x 40: pairs of an SVG element and its attributes. Told apart by outline, not by colour.
const path = (d, name) => ["path", { d, class: name || "line" }];
const SHAPES = {
  OFF: [["rect", { x: 7, y: 7, width: 26, height: 26 }]],
  SHADOW: [["circle", { cx: 20, cy: 20, r: 14 }], path("M20 6a14 14 0 0 0 0 28z", "solid")],
  ADVISORY: [path("M20 4 36 20 20 36 4 20z"), path("M20 13v9M20 26v2")],
  ARMED: [path("M13 5h14l8 8v14l-8 8H13l-8-8V13z", "solid")],
};
const MEANINGS = {
  OFF: "Reads nothing, computes nothing, writes nothing.",
  SHADOW: "Computes and records; writes nothing to the plant.",
  ADVISORY: "Shows its advice to the operator; does not command the plant.",
  ARMED: "Commands the plant.",
};
const SEVERITIES = {
  alarm: ["ALARM", [path("M13 4h14l9 9v14l-9 9H13l-9-9V13z", "solid"), path("M20 11v11M20 26v3", "mark")]],
  warning: ["WARNING", [path("M20 5 37 35H3z"), path("M20 15v10M20 28v3")]],
  info: ["INFO", [["circle", { cx: 20, cy: 20, r: 15 }], path("M20 18v11M20 11v3")]],
};
// What a score is called, and whether it fails below or above its limit.
const SCORES = [
  ["score_observed", "observed transition, dynamics reward", "below"],
  ["score_predicted", "predicted transition, dynamics reward", "below"],
  ["spread", "spread of the ensemble", "above"],
  ["shortfall", "shortfall of this step, in standard deviations", "above"],
  ["ewma", "shortfall, moving average (EWMA)", "above"],
  ["cusum", "shortfall, cumulative sum (CUSUM)", "above"],
];

const byId = (id) => document.getElementById(id);
const trend = new Trend(byId("plots"), byId("cursor-time"));
let status = null; // the last answer
let received = 0; // performance.now() then
let asked = performance.now(); // when the runtime last answered, or since when it has not
let trendAt = -Infinity;

function text(element, content) {
  if (element.textContent !== content) element.textContent = content;
  return element;
}
function make(tag, className, content) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (content !== undefined) element.textContent = content;
  return element;
}
function shape(drawing) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 40 40");
  svg.setAttribute("aria-hidden", "true");
  draw(svg, drawing);
  return svg;
}
// Keeps the children of a list or table: one a key, made once, then only filled, so that a selection survives.
function fill(parent, entries, key, create, update) {
  const kept = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const entry of entries) {
    const id = key(entry);
    let child = kept.get(id);
    if (child) kept.delete(id);
    else { child = create(entry); child.dataset.key = id; }
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
    update(child, entry);
  }
  for (const child of kept.values()) child.remove();
}

const known = (value) => value !== null && value !== undefined;
function number(value, low, high) {
  if (!known(value)) return "–";
  const span = known(low) && high > low ? high - low : Math.abs(value) || 1;
  if (Math.abs(value) >= 1e6 || span < 1e-5) return value.toPrecision(4);
  return value.toFixed(Math.max(0, Math.min(6, 3 - Math.floor(Math.log10(span) + 1e-9))));
}
const short = (value) => (known(value) ? String(Number(value.toPrecision(4))) : "–");
function duration(seconds) {
  if (!known(seconds)) return "never seen";
  if (seconds < 9.95) return seconds.toFixed(1) + " s";
  if (seconds < 120) return Math.round(seconds) + " s";
  if (seconds < 7200) return Math.round(seconds / 60) + " min";
  return seconds < 172800 ? (seconds / 3600).toFixed(1) + " h" : Math.round(seconds / 86400) + " days";
}
function when(ms) {
  const date = new Date(ms), two = (n) => String(n).padStart(2, "0");
  const clock = [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":");
  const day = [date.getFullYear(), date.getMonth() + 1, date.getDate()].map(two).join("-");
  return Math.abs(Date.now() - ms) < 43200000 ? clock : day + " " + clock;
}
const ago = (ms, now) => (now - ms >= 0 ? duration((now - ms) / 1000) + " ago" : "clock was set back");

function bar(svg, low, high, now, wish) {
  const at = (value) => Math.max(0, Math.min(100, (100 * (value - low)) / (high - low || 1)));
  const parts = [["rect", { class: "track", x: "0", y: "6", width: "100%", height: "4", rx: "2" }]];
  if (known(wish)) parts.push(["circle", { class: "wish", cx: at(wish) + "%", cy: "8", r: "6" }]);
  if (known(now)) {
    const out = now < low || now > high;
    parts.push(["circle", { class: out ? "now out" : "now", cx: at(now) + "%", cy: "8", r: out ? "7" : "5" }]);
  }
  draw(svg, parts);
}
function draw(svg, parts) {
  svg.replaceChildren(...parts.map(([tag, attributes]) => {
    const part = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) part.setAttribute(name, value);
    return part;
  }));
}

function showMode(s) {
  const badge = byId("badge");
  if (badge.dataset.mode !== s.mode) {
    badge.dataset.mode = s.mode;
    draw(byId("badge-shape"), SHAPES[s.mode] || []);
    text(byId("badge-word"), s.mode);
  }
  text(byId("plant"), s.plant);
  text(byId("meaning"), MEANINGS[s.mode] || "");
  text(byId("since"), `in this mode since ${when(s.mode_since_ms)} (${ago(s.mode_since_ms, s.time_ms)}) · controller ${s.controller}`);
  byId("wait").hidden = s.wanted === s.mode;
  text(byId("wait"), s.wanted === s.mode ? "" : `${s.wanted} was asked for, and waits: ${s.why || "no reason given"}`);
}

function showNotices(s) {
  const key = (n) => [n.active, n.severity, n.name, n.time_ms, n.text].join("\n");
  const unique = (list) => [...new Map(list.map((n) => [key(n), n])).values()];
  const order = ["alarm", "warning", "info"];
  const active = unique(s.notices.filter((n) => n.active)).sort((a, b) => order.indexOf(a.severity) - order.indexOf(b.severity) || b.time_ms - a.time_ms);
  const past = unique(s.notices.filter((n) => !n.active));
  const create = (n) => {
    if (!n.severity) return make("li", "none", "No active alarm or warning.");
    const [word, drawing] = SEVERITIES[n.severity] || SEVERITIES.alarm;
    const item = make("li", n.severity + (n.active ? " active" : "")), head = make("span", "word"), what = make("span", "what");
    head.append(shape(drawing), make("span", "", word));
    what.append(make("span", "text", n.text), make("span", "name", n.name));
    item.append(head, what, make("time"));
    return item;
  };
  const update = (item, n) => { if (n.severity) text(item.lastChild, `${n.active ? "since" : "began"} ${when(n.time_ms)} (${ago(n.time_ms, s.time_ms)})`); };
  fill(byId("notices-active"), active.length ? active : [{}], key, create, update);
  fill(byId("notices-past"), past, key, create, update);
  text(byId("past-summary"), past.length === 1 ? "1 event that is over" : `${past.length} events that are over`);
  byId("past").hidden = past.length === 0;
  return active;
}

function row(labels) {
  const line = make("tr"), name = make("td", "name");
  name.append(make("b"), make("small"));
  line.append(name);
  for (const [label, className] of labels) {
    const cell = make("td", className);
    if (label) cell.dataset.label = label;
    line.append(cell);
  }
  return line;
}
function rangeCell(cell) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), ends = make("div", "ends");
  svg.setAttribute("class", "bar");
  svg.setAttribute("aria-hidden", "true");
  ends.append(make("span"), make("span"));
  cell.append(svg, ends);
}
function showRange(cell, v, now, wish) {
  bar(cell.firstChild, v.low, v.high, now, wish);
  text(cell.lastChild.firstChild, short(v.low));
  text(cell.lastChild.lastChild, short(v.high));
}
function showName(cell, v) {
  text(cell.firstChild, v.name);
  text(cell.lastChild, v.description);
}
function withUnit(cell, shown, unit) {
  if (!cell.lastChild) cell.append(make("span"), make("span", "unit"));
  text(cell.firstChild, shown);
  text(cell.lastChild, unit === "1" ? "" : unit);
}

function showValues(s) {
  const create = () => {
    const line = row([["value", "number strong"], ["quality", "quality"], ["age", "number"], ["", "range"]]);
    rangeCell(line.lastChild);
    return line;
  };
  fill(byId("values-rows"), s.tags, (t) => t.name, create, (line, t) => {
    const [name, value, quality, age, range] = line.children;
    showName(name, t);
    withUnit(value, number(t.value, t.low, t.high), t.unit);
    text(quality, t.usable ? "✓ usable" : known(t.value) ? "✕ NOT USED" : "✕ NO VALUE");
    quality.className = t.usable ? "quality good" : "quality bad";
    text(age, duration(t.age_s));
    showRange(range, t, t.value);
  });
}

function showCommands(s) {
  const create = () => {
    const line = row([["in force", "number strong"], ["action", "number"], ["policy", "number"], ["fallback", "number"], ["", "range"]]);
    rangeCell(line.lastChild);
    return line;
  };
  fill(byId("commands-rows"), s.commands, (c) => c.name, create, (line, c) => {
    const [name, ...rest] = line.children;
    showName(name, c);
    withUnit(rest[0], number(c.in_force, c.low, c.high), c.unit);
    ["action", "policy", "fallback"].forEach((field, i) => text(rest[i + 1], number(c[field], c.low, c.high)));
    showRange(rest[4], c, c.in_force, c.action);
  });
  const written = s.mode === "ARMED" ? "The action is written to the plant." : "The action is NOT written to the plant in this mode.";
  text(byId("commands-note"), `${written} Dot: in force on the plant. Ring: the controller's action.`);
}

function showScores(s) {
  text(byId("trust-word"), known(s.trust) ? Math.round(100 * s.trust) + " %" : "not known");
  const svg = byId("trust-bar");
  svg.setAttribute("aria-label", `trust: ${byId("trust-word").textContent}`);
  draw(svg, [["rect", { class: "track", x: "0", y: "3", width: "100%", height: "9", rx: "4" }],
    ["rect", { class: "part", x: "0", y: "3", width: 100 * Math.max(0, Math.min(1, s.trust)) + "%", height: "9", rx: "4" }]]);
  const named = SCORES.map(([name, words, side]) => ({ name, words, side, value: s[name], limit: s.limits[name] }));
  const others = Object.keys(s.limits).filter((name) => !SCORES.some(([score]) => score === name));
  const all = named.concat(others.map((name) => ({ name, words: name, side: "", limit: s.limits[name] })));
  fill(byId("scores-rows"), all, (c) => c.name, () => {
    const line = make("tr");
    line.append(make("td"), make("td", "number"), make("td", "number"), make("td", "quality"));
    return line;
  }, (line, c) => {
    const [name, now, limit, state] = line.children;
    const beyond = c.side === "below" ? c.value < c.limit : c.value > c.limit;
    text(name, c.words);
    text(now, known(c.value) ? c.value.toPrecision(3) : "–");
    text(limit, known(c.limit) ? `${c.side === "below" ? "≥" : c.side ? "≤" : ""} ${c.limit.toPrecision(3)}` : "none");
    const judged = known(c.limit) && known(c.value);
    text(state, !c.side ? "" : !known(c.value) ? "not known" : !judged ? "shown only" : beyond ? "✕ BEYOND" : "✓ within");
    state.className = "quality " + (judged ? (beyond ? "bad" : "good") : "soft");
  });
}

function showFlags(s) {
  const entries = (map, kind) => Object.entries(map).map(([name, meaning]) => ({ name, meaning, kind }));
  const all = [...entries(s.faults, "fault"), ...entries(s.flags, "flag")];
  fill(byId("flags-list"), all.length ? all : [{ kind: "none", name: "" }], (f) => f.kind + "\n" + f.name, (f) => {
    if (f.kind === "none") return make("li", "none good", "No flag is raised, no fault found.");
    const item = make("li", f.kind);
    item.append(make("span", "kind", f.kind === "fault" ? "FAULT" : "flag"), make("span", "name", f.name), make("span", "meaning"));
    return item;
  }, (item, f) => { if (f.kind !== "none") text(item.lastChild, f.meaning); });
}

function pairs(list, entries, boxed) {
  fill(list, boxed ? entries : entries.flatMap(([k, v]) => [["dt", k, k], ["dd", k, v]]), (e) => (boxed ? e[0] : e[0] + "\n" + e[1]), (e) => {
    if (!boxed) return make(e[0]);
    const box = make("div");
    box.append(make("dt"), make("dd"));
    return box;
  }, (element, e) => {
    if (!boxed) return text(element, e[2]);
    text(element.firstChild, e[0]);
    return text(element.lastChild, e[1]);
  });
}
function showRest(s) {
  const percent = (ms) => ms / (10 * s.period_s);
  const share = (ms) => (known(ms) ? `${number(ms, 0, 10)} ms (${percent(ms).toFixed(percent(ms) < 9.95 ? 1 : 0)} % of the period)` : "not known");
  pairs(byId("latency-list"), [["controller", share(s.compute_ms)], ["whole cycle", share(s.cycle_ms)]], false);
  pairs(byId("counters-list"), Object.entries(s.counters).map(([name, count]) => [name.replaceAll("_", " "), String(count)]), true);
  const about = [["controller", s.controller], ["period", duration(s.period_s)], ["lease", s.lease || "none"],
    ["change record", s.change_record || "none"], ["armed by", s.operator || "nobody"], ["recalibration", s.calibration || "–"]];
  pairs(byId("about-list"), about.concat(Object.entries(s.slots).map(([slot, what]) => [`slot ${slot}`, what])), false);
}

function show() {
  const s = status.snapshot;
  if (!s) return;
  showMode(s);
  const active = showNotices(s);
  showValues(s);
  showCommands(s);
  showScores(s);
  showFlags(s);
  showRest(s);
  trend.describe(s);
  const alarms = active.filter((n) => n.severity === "alarm").length;
  document.title = `${alarms ? `(${alarms}) ` : ""}${s.mode} · ${s.plant}`;
}

// Runs by this browser's own clock, so that it tells the age of the data also when nobody answers.
function showFreshness() {
  const silent = (performance.now() - asked) / 1000;
  const s = status && status.snapshot;
  const age = s ? status.age_s + (performance.now() - received) / 1000 : silent;
  const noAnswer = silent > NO_ANSWER_S, stale = noAnswer || (s && age > status.stale_after_s);
  text(byId("fresh-word"), s ? `${stale ? "STALE: " : ""}data ${duration(age)} old` : stale ? "STALE: no data" : "no data yet");
  byId("fresh-word").className = stale ? "bad" : "";
  text(byId("clock"), s ? `cycle ${s.cycle} at ${when(s.time_ms)}` : "");
  document.documentElement.classList.toggle("old", Boolean(stale));
  byId("stale").hidden = !stale;
  const last = s ? ` What is shown is ${duration(age)} old: look at the plant's own displays.` : "";
  if (stale) text(byId("stale"), noAnswer ? `STALE: the runtime does not answer.${last}` : `STALE: the runtime answers, but has finished no cycle for ${duration(age)}. Look at the plant's own displays.`);
  if (stale) document.title = `STALE · ${s ? s.plant : "controlkit"}`;
}

// `null` where nothing came, or only half of it.
async function read(path) {
  try {
    const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(4000) });
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}
async function poll() {
  try {
    const fresh = await read("/status.json");
    if (!fresh) return;
    if (status && status.run !== fresh.run) { trend.forget(); trendAt = -Infinity; }
    status = fresh;
    received = asked = performance.now();
    show();
    if (!fresh.snapshot || received - trendAt < trend.everyMs) return;
    const more = await read("/trend.json?since=" + trend.since);
    if (!more) return;
    trend.take(more);
    trendAt = performance.now();
  } finally {
    // Whatever this round met, the next one tries again.
    showFreshness();
    setTimeout(poll, 1000);
  }
}
addEventListener("resize", () => trend.draw());
setInterval(showFreshness, 500);
poll();
