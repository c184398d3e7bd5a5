// The trend of the last hour as small SVG plots: mean line, band from lowest to highest, one cursor over all of them.
const WIDTH = 400, HEIGHT = 150, LEFT = 54, RIGHT = 8, TOP = 8, BOTTOM = 30;
const MODES = ["OFF", "SHADOW", "ADVISORY", "ARMED"];
const FIRST = 4; // number, time, mode and count come before the numbers of a row

const svgPart = (tag, attributes, content) => {
  const part = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) part.setAttribute(name, value);
  if (content !== undefined) part.textContent = content;
  return part;
};
const element = (tag, className, content) => {
  const part = document.createElement(tag);
  if (className) part.className = className;
  if (content !== undefined) part.textContent = content;
  return part;
};
function ticks(low, high, most) {
  const raw = (high - low) / most, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw * 0.999);
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) out.push(i * step);
  const digits = Math.max(0, Math.min(8, -Math.floor(Math.log10(step) + 1e-9)));
  const large = Math.max(Math.abs(low), Math.abs(high)) >= 1e5;
  return out.map((v) => [v, large ? v.toExponential(1) : v.toFixed(digits)]);
}
const short = (v) => (v === null ? "–" : Math.abs(v) >= 1e6 || (v !== 0 && Math.abs(v) < 1e-3) ? v.toExponential(2) : String(Number(v.toPrecision(4))));

export class Trend {
  constructor(place, cursorTime) {
    this.place = place;
    this.cursorTime = cursorTime;
    this.plots = [];
    this.cursor = null; // number of a row's bucket
    this.forget();
  }

  forget() {
    this.rows = [];
    this.names = "";
    this.since = 0;
    this.everyMs = 5000;
  }

  // Units, limits and ranges come with the status.
  describe(snapshot) { this.snapshot = snapshot; }

  take(answer) {
    const names = JSON.stringify(answer.series);
    if (names !== this.names || answer.run !== this.run) this.rows = [];
    const fresh = new Set(answer.rows.map((row) => row[0]));
    const oldest = answer.now - answer.trend_s / answer.width_s;
    this.rows = this.rows.filter((row) => !fresh.has(row[0]) && row[0] >= oldest).concat(answer.rows);
    Object.assign(this, { now: answer.now, width: answer.width_s, span: answer.trend_s, run: answer.run });
    this.since = this.rows.length ? this.rows[this.rows.length - 1][0] : 0;
    this.everyMs = Math.max(5000, 1000 * this.width);
    if (names !== this.names) {
      this.names = names;
      this.series = answer.series;
      this.layOut();
    }
    this.draw();
  }

  layOut() {
    const at = (kind, name) => this.series.findIndex((s) => s[0] === kind && s[1] === name);
    const s = this.snapshot;
    const unit = (list, name) => (s[list].find((one) => one.name === name) || { unit: "" }).unit;
    const column = (kind, name, label) => ({ at: FIRST + 3 * at(kind, name), label });
    const plans = this.series.filter(([kind]) => kind === "value").map(([, name]) => ({ title: name, unit: unit("tags", name), lines: [column("value", name, "")] }));
    for (const [, name] of this.series.filter(([kind]) => kind === "in_force")) {
      plans.push({ title: name, unit: unit("commands", name), lines: [column("in_force", name, "in force"), column("action", name, "action")] });
    }
    plans.push({ title: "mode", unit: "lowest in each stretch", modes: true, lines: [] });
    plans.push({ title: "trust", unit: "share of the policy", fixed: [0, 1], lines: [column("trust", "", "")] });
    plans.push({ title: "dynamics reward", unit: "1", limits: ["score_observed", "score_predicted"],
      lines: [column("score_observed", "", "observed"), column("score_predicted", "", "predicted")] });
    for (const [name, title] of [["shortfall", "shortfall"], ["ewma", "EWMA of the shortfall"], ["cusum", "CUSUM of the shortfall"]]) {
      plans.push({ title, unit: "standard deviations", limits: [name], lines: [column(name, "", "")] });
    }
    this.plots = plans.map((plan) => this.figure(plan));
    this.place.replaceChildren(...this.plots.map((plot) => plot.figure));
  }

  figure(plan) {
    const figure = element("figure"), caption = element("figcaption"), legend = element("span", "legend");
    const unit = plan.unit === "1" || !plan.unit ? "" : `, ${plan.unit}`;
    caption.append(element("b", "", plan.title + unit), legend);
    if (plan.lines.length > 1) legend.append(element("span", "one", "— " + plan.lines[0].label), "  ", element("span", "two", "- - " + plan.lines[1].label));
    const readout = element("div", "readout");
    const svg = svgPart("svg", { class: "plot", role: "img", tabindex: "0", preserveAspectRatio: "none" });
    svg.setAttribute("aria-label", `${plan.title}${unit}: trend of the last hour`);
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const share = (event.clientX - box.left - LEFT) / Math.max(1, box.width - LEFT - RIGHT);
      this.pointAt(this.now - ((1 - share) * this.span) / this.width);
    });
    svg.addEventListener("pointerleave", () => { this.cursor = null; this.drawCursor(); });
    svg.addEventListener("blur", () => { this.cursor = null; this.drawCursor(); });
    svg.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -60, PageDown: 60, Home: -Infinity, End: Infinity }[event.key];
      if (by === undefined || !this.rows.length) return;
      event.preventDefault();
      const here = this.cursor === null ? this.rows.length - 1 : this.rows.findIndex((row) => row[0] >= this.cursor);
      const next = Math.max(0, Math.min(this.rows.length - 1, (here < 0 ? this.rows.length - 1 : here) + by));
      this.pointAt(this.rows[next][0]);
    });
    figure.append(caption, svg, readout);
    return { figure, svg, readout, plan };
  }

  pointAt(bucket) {
    let best = null;
    for (const row of this.rows) if (best === null || Math.abs(row[0] + 0.5 - bucket) <= Math.abs(best + 0.5 - bucket)) best = row[0];
    this.cursor = best;
    this.drawCursor();
  }

  draw() {
    for (const plot of this.plots) this.drawPlot(plot);
    this.drawCursor();
    this.place.dataset.rows = String(this.rows.length);
  }

  drawPlot(plot) {
    const { svg, plan } = plot;
    const width = Math.max(200, Math.round(svg.clientWidth || WIDTH)), right = width - RIGHT, bottom = HEIGHT - BOTTOM;
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const x = (bucket) => right - ((this.now - bucket) * this.width * (right - LEFT)) / this.span;
    const limits = (plan.limits || []).map((name) => this.snapshot.limits[name]).filter((limit) => limit !== undefined && limit !== null);
    const [low, high] = this.scale(plan, limits);
    const y = (value) => bottom - ((value - low) * (bottom - TOP)) / (high - low);
    Object.assign(plot, { x, y, bottom });
    const parts = [];
    const marks = plan.modes ? MODES.map((mode, i) => [i, mode]) : ticks(low, high, 4);
    for (const [value, label] of marks) {
      parts.push(svgPart("line", { class: "grid", x1: LEFT, x2: right, y1: y(value), y2: y(value) }));
      parts.push(svgPart("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end", ...(plan.modes ? { textLength: Math.min(46, 7 * label.length), lengthAdjust: "spacingAndGlyphs" } : {}) }, label));
    }
    const minutes = this.span / 60;
    for (const [ago, label] of ticks(0, minutes, 4)) {
      const place = x(this.now - (ago * 60) / this.width);
      parts.push(svgPart("line", { class: "grid", x1: place, x2: place, y1: bottom, y2: bottom + 4 }));
      const anchor = place > right - 14 ? "end" : place < LEFT + 14 ? "start" : "middle";
      parts.push(svgPart("text", { x: place, y: HEIGHT - 12, "text-anchor": anchor }, ago === 0 ? "now" : `−${label} min`));
    }
    plan.lines.forEach((line, i) => parts.push(...this.paths(line.at, i ? "two" : "one", x, y)));
    if (plan.modes) parts.push(this.steps(x, y));
    for (const limit of limits) {
      parts.push(svgPart("line", { class: "limit", x1: LEFT, x2: right, y1: y(limit), y2: y(limit) }));
      parts.push(svgPart("text", { class: "limit", x: LEFT + 4, y: y(limit) + (y(limit) < TOP + 14 ? 13 : -4) }, `limit ${short(limit)}`));
    }
    plot.line = svgPart("line", { class: "cursor", y1: TOP, y2: bottom, visibility: "hidden" });
    svg.replaceChildren(...parts, plot.line);
  }

  scale(plan, limits) {
    if (plan.modes) return [-0.3, 3.3];
    if (plan.fixed) return [plan.fixed[0] - 0.04, plan.fixed[1] + 0.04];
    let low = Math.min(...limits), high = Math.max(...limits);
    for (const row of this.rows) for (const { at } of plan.lines) {
      if (row[at] === null) continue;
      low = Math.min(low, row[at]);
      high = Math.max(high, row[at + 2]);
    }
    if (!(low <= high)) return [0, 1];
    const room = (high - low) * 0.08 || Math.max(Math.abs(high) * 0.01, 1e-6);
    return [low - room, high + room];
  }

  // A line is broken where buckets are missing, or hold no value.
  stretches(at) {
    const gap = Math.max(2.5, (3.5 * this.snapshot.period_s) / this.width);
    const out = [];
    let before = null;
    for (const row of this.rows) {
      if (at !== null && row[at] === null) { before = null; continue; }
      if (before === null || row[0] - before > gap) out.push([]);
      out[out.length - 1].push(row);
      before = row[0];
    }
    return out;
  }

  paths(at, name, x, y) {
    const point = (row, field) => `${x(row[0] + 0.5).toFixed(1)} ${y(row[at + field]).toFixed(1)}`;
    const stretches = this.stretches(at);
    const band = stretches.map((rows) => `M${rows.map((row) => point(row, 0)).join("L")}L${[...rows].reverse().map((row) => point(row, 2)).join("L")}Z`).join("");
    // A stretch of one row would be invisible as a line: its end caps show.
    const mean = stretches.map((rows) => `M${rows.map((row) => point(row, 1)).join("L")}${rows.length === 1 ? "h0.1" : ""}`).join("");
    return [svgPart("path", { class: `band ${name}`, d: band }), svgPart("path", { class: `mean ${name}`, d: mean })];
  }

  steps(x, y) {
    const d = this.stretches(null).map((rows) => rows.map((row, i) => {
      const level = y(MODES.indexOf(row[2])).toFixed(1);
      return `${i ? "V" + level : `M${x(row[0]).toFixed(1)} ${level}`}H${x(Math.min(row[0] + 1, this.now)).toFixed(1)}`;
    }).join("")).join("");
    return svgPart("path", { class: "mean one", d });
  }

  drawCursor() {
    const row = this.cursor === null ? null : this.rows.find((one) => one[0] === this.cursor);
    const latest = this.rows[this.rows.length - 1];
    this.cursorTime.textContent = row ? `${new Date(row[1]).toLocaleTimeString([], { hour12: false })} · mode ${row[2]} · ${row[3]} cycles` : "";
    for (const { svg, line, readout, plan, x } of this.plots) {
      if (!line) continue;
      const place = row ? x(row[0] + 0.5) : 0;
      line.setAttribute("visibility", row ? "visible" : "hidden");
      line.setAttribute("x1", place);
      line.setAttribute("x2", place);
      const shown = row || latest;
      const values = !shown ? "" : plan.modes ? shown[2] : plan.lines.map(({ at, label }) => `${label ? label + " " : ""}${short(shown[at + 1])}${shown[at] === shown[at + 2] ? "" : ` (${short(shown[at])} .. ${short(shown[at + 2])})`}`).join(" · ");
      readout.textContent = shown ? `${row ? "then" : "now"}: ${values}` : "";
      svg.setAttribute("aria-description", readout.textContent);
    }
  }
}
