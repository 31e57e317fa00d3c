"use strict";
// The page: sliders ask, figures and table show. Everything that is drawn comes from an answer; nothing is computed here.
const setup = JSON.parse(document.getElementById("setup").textContent);
const beforehand = document.getElementById("answers") && JSON.parse(document.getElementById("answers").textContent);
const BLUE = "#0072B2", RED = "#D55E00", GREY = "#5a5a5a";  // Okabe & Ito; told apart in greyscale by line and pattern
const FONT = "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
const state = { numbers: { ...setup.view.numbers }, endpoint: setup.view.endpoint, by: setup.view.by, log: setup.view.log };
let answer = null, doses = null;
const byId = (id) => document.getElementById(id);

function element(name, attributes = {}, ...inside) {
  const found = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === null) continue;
    found.setAttribute(key, value === true ? "" : value);
  }
  found.append(...inside);
  return found;
}

// --- controls -------------------------------------------------------------------------------------------------------

function makeControls() {
  const groups = [["Infusion", []], ["Patient", []]];
  for (const slider of setup.sliders) groups[setup.covariates.includes(slider.key) ? 1 : 0][1].push(makeSlider(slider));
  for (const [title, rows] of groups) {
    if (rows.length) byId("controls").append(element("fieldset", {}, element("legend", {}, title), ...rows));
  }
  const endpoint = element("select", { id: "endpoint" },
    ...Object.entries(setup.endpoints).map(([name, one]) => element("option", { value: name }, one.label)));
  const by = element("select", { id: "by" });
  const log = element("input", { type: "checkbox", id: "log" });
  byId("controls").append(element("fieldset", {}, element("legend", {}, "Shown"),
    element("div", { class: "control" }, element("label", { for: "endpoint" }, "Endpoint"), endpoint),
    element("div", { class: "control" }, element("label", { for: "by" }, "Share that reached it by"), by),
    element("div", { class: "control" }, element("label", { class: "tick", for: "log" }, log, "counts on a log axis"))));
  const fillDays = () => by.replaceChildren(...setup.endpoints[state.endpoint].by.map((day) =>
    element("option", { value: day }, `${setup.time} ${day}`)));
  endpoint.value = state.endpoint;
  fillDays();
  by.value = state.by;
  log.checked = state.log;
  endpoint.addEventListener("change", () => {
    state.endpoint = endpoint.value;
    fillDays();
    if (![...by.options].some((one) => one.value === state.by)) state.by = by.options[0].value;
    by.value = state.by;
    show();
  });
  by.addEventListener("change", () => { state.by = by.value; show(); });
  log.addEventListener("change", () => { state.log = log.checked; show(); });
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
}

function makeSlider(slider) {
  const stops = slider.values.length ? slider.values : null;
  const free = setup.covariates.includes(slider.key);
  const middle = stops ? stops[Math.floor(stops.length / 2)] : Number(((slider.low + slider.high) / 2).toPrecision(2));
  const now = () => (slider.key in state.numbers ? state.numbers[slider.key] : middle);
  const place = (value) => (stops ? stops.indexOf(value) : value);
  const range = element("input", { type: "range", id: slider.key, min: stops ? 0 : slider.low,
    max: stops ? stops.length - 1 : slider.high, step: stops ? 1 : slider.step, "aria-describedby": `${slider.key}-seen` });
  const number = element("input", { type: "number", id: `${slider.key}-number`, min: slider.low, max: slider.high,
    step: "any", "aria-label": `${slider.label}, ${slider.unit}`, readonly: Boolean(stops) });
  const asFitted = free && element("input", { type: "checkbox", id: `${slider.key}-fitted` });
  const line = element("div", { class: "line" }, range, number, element("span", { class: "unit" }, slider.unit));
  const settle = () => {
    line.classList.toggle("unused", free && !(slider.key in state.numbers));
    range.value = place(now());
    number.value = Number(now().toPrecision(8));
    if (asFitted) asFitted.checked = !(slider.key in state.numbers);
    range.setAttribute("aria-valuetext", `${number.value} ${slider.unit}`);
  };
  const take = (value) => {
    state.numbers[slider.key] = value;
    settle();
    ask();
  };
  range.addEventListener("input", () => take(stops ? stops[range.value] : Number(range.value)));
  number.addEventListener("change", () => {
    const value = number.value === "" ? NaN : Number(number.value);
    if (Number.isFinite(value)) take(value); else settle();
  });
  const rows = [element("label", { for: slider.key }, slider.label)];
  if (asFitted) {
    asFitted.addEventListener("change", () => {
      if (asFitted.checked) delete state.numbers[slider.key]; else state.numbers[slider.key] = now();
      settle();
      ask();
    });
    rows.push(element("label", { class: "tick", for: `${slider.key}-fitted` }, asFitted, "as in the fitted patients"));
  }
  rows.push(line, element("div", { class: "seen", id: `${slider.key}-seen` }, slider.seen));
  settle();
  return element("div", { class: "control" }, ...rows);
}

// --- asking ---------------------------------------------------------------------------------------------------------

function query() {
  const found = new URLSearchParams();
  for (const slider of setup.sliders) if (slider.key in state.numbers) found.set(slider.key, state.numbers[slider.key]);
  found.set("endpoint", state.endpoint);
  found.set("by", state.by);
  if (state.log) found.set("log", "1");
  return found.toString();
}

let asking = false, again = false, curveOf = "", timer = 0;

// One question at a time: while one is under way, a slider's later positions wait, and only the last is asked.
async function ask() {
  if (beforehand) { fromFile(); return; }
  if (asking) { again = true; return; }
  asking = true;
  const began = performance.now();
  try {
    const found = await reply(`answer?${query()}`);
    if (found) {
      answer = found;
      show();
      const took = performance.now() - began;
      document.body.dataset.took = took;
      document.body.dataset.answers = Number(document.body.dataset.answers || 0) + 1;
      say(`Answered in ${took.toFixed(0)} ms.`);
    }
  } finally {
    asking = false;
  }
  if (again) { again = false; ask(); return; }
  clearTimeout(timer);  // the curve takes longer, and is asked for when the sliders rest
  timer = setTimeout(askCurve, 150);
}

async function askCurve() {
  const own = new URLSearchParams(query());
  for (const key of [`dose.${setup.main}`, "against", "endpoint", "by", "log"]) own.delete(key);
  if (own.toString() === curveOf || asking) return;
  asking = true;
  document.querySelector("figure[data-name=dose_response]")?.classList.add("waiting");
  try {
    const found = await reply(`dose-response?${own}`);
    if (found) { doses = found; curveOf = own.toString(); show(); }
  } finally {
    asking = false;
  }
  if (again) { again = false; ask(); }
}

async function reply(address) {
  let found;
  try {
    found = await fetch(address);
  } catch {
    say("No answer: thymodel explore was stopped. Start it again and reload this page.", true);
    return null;
  }
  if (found.ok) return found.json();
  say(await found.text(), true);
  return null;
}

function fromFile() {
  const [dose, other] = setup.sliders;
  const row = other && other.key in state.numbers ? 1 + other.values.indexOf(state.numbers[other.key]) : 0;
  answer = beforehand.views[row][dose.values.indexOf(state.numbers[dose.key])];
  doses = beforehand.curves[row];
  show();
  say("");
}

function say(text, fault = false) {
  byId("status").textContent = text.trim();
  byId("status").className = fault ? "fault" : "";
}

// --- showing --------------------------------------------------------------------------------------------------------

function show() {
  if (!answer) return;
  if (!beforehand) history.replaceState(null, "", `?${query()}`);
  const figures = [...answer.courses.panels.map(course), incidence()];
  if (doses) figures.push(doseResponse());
  byId("figures").replaceChildren(...figures.map(framed));
  showVerdicts();
  showTable();
}

function framed(drawing) {
  const button = element("button", { type: "button", "aria-label": `${drawing.title} as PNG` }, "PNG");
  button.addEventListener("click", () => savePictures([drawing.svg], drawing.name));
  return element("figure", { "data-name": drawing.name }, drawing.svg, element("figcaption", {}, button));
}

function showVerdicts() {
  const words = { interpolation: "Interpolation: within what the fit has seen", mild: "Mild extrapolation",
    strong: "Strong extrapolation" };
  byId("verdicts").replaceChildren(...answer.verdicts.toReversed().map((one) => {
    const arm = answer.arms.find((other) => other.name === one.arm);
    return element("div", { class: `verdict ${one.level}`, "data-arm": one.arm, "data-level": one.level },
      element("b", {}, words[one.level]), ` (${arm.label})`,
      element("details", one.level === "interpolation" ? {} : { open: true }, element("summary", {}, "why"), one.text));
  }), ...answer.warnings.map((text) => element("div", { class: "verdict strong" }, element("b", {}, "Warning. "), text)),
  ...(answer.export ? [element("p", { class: "note" }, answer.export)] : []));
}

function showTable() {
  const labels = Object.fromEntries(answer.arms.map((arm) => [arm.name, arm.label]));
  const rows = [];
  let last = "";
  for (const row of answer.table) {
    const begins = row.endpoint !== last;
    last = row.endpoint;
    rows.push(element("tr", { class: begins ? "first" : false }, element("td", {}, begins ? row.endpoint : ""),
      element("td", {}, row.quantity + (row.unit ? `, ${row.unit}s` : "")),
      ...["compared", "chosen", "difference"].map((key) => element("td", { class: "number" }, row[key]))));
  }
  byId("table").replaceChildren(
    element("thead", {}, element("tr", {}, ...["Endpoint", "Quantity", labels.compared, labels.chosen, "Difference"].map(
      (text) => element("th", { scope: "col" }, text)))), element("tbody", {}, ...rows));
}

// --- drawing --------------------------------------------------------------------------------------------------------

const WIDTH = 560, HEIGHT = 400, LEFT = 66, RIGHT = 16, TOP = 54, BOTTOM = 110;

function mark(name, attributes = {}, text = null) {
  const found = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  if (text !== null) found.textContent = text;
  return found;
}

function words(x, y, text, more = {}) {
  return mark("text", { x, y, "font-family": FONT, "font-size": 14, fill: "#111", ...more }, text);
}

// One line that stays within the drawing, whatever font the browser has: smaller where it is long, squeezed where that is not enough.
function line(x, y, text, size, more = {}) {
  const room = WIDTH - x - 8, needed = 0.66 * text.length;
  const fit = Math.min(size, Math.max(room / needed, 0.75 * size));
  return words(x, y, text, { "font-size": fit, ...(fit * needed > room ? { textLength: room, lengthAdjust: "spacingAndGlyphs" } : {}), ...more });
}

function ticks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough * 0.999);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high * (1 + 1e-9); k += 1) found.push(Number((k * step).toPrecision(10)));
  return found;
}

function frame(name, title, xLabel, yLabel, x, y, log = false) {
  const svg = mark("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}. The numbers are in the table and in the CSV files.` });
  const across = (value) => LEFT + ((value - x[0]) / (x[1] - x[0])) * (WIDTH - LEFT - RIGHT);
  const level = log ? (value) => Math.log10(Math.max(value, y[0])) : (value) => value;
  const down = (value) => HEIGHT - BOTTOM - ((level(value) - level(y[0])) / (level(y[1]) - level(y[0]))) * (HEIGHT - TOP - BOTTOM);
  svg.append(mark("rect", { x: 0, y: 0, width: WIDTH, height: HEIGHT, fill: "#fff" }),
    line(10, 22, title, 16, { "font-weight": 700 }));
  const grid = log ? powers(y) : ticks(y[0], y[1], 5);
  for (const value of grid) {
    svg.append(mark("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: down(value), y2: down(value), stroke: "#e2e2e2" }),
      words(LEFT - 7, down(value) + 5, shown(value), { "text-anchor": "end" }));
  }
  for (const value of ticks(x[0], x[1], 7)) {
    svg.append(mark("line", { x1: across(value), x2: across(value), y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM + 5, stroke: "#111" }),
      words(across(value), HEIGHT - BOTTOM + 20, shown(value), { "text-anchor": "middle" }));
  }
  svg.append(mark("path", { d: `M${LEFT},${TOP}V${HEIGHT - BOTTOM}H${WIDTH - RIGHT}`, fill: "none", stroke: "#111", "stroke-width": 1.3 }),
    words((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 39, xLabel, { "text-anchor": "middle" }),
    words(10, 44, yLabel, { fill: "#333" }));
  const foot = words(10, HEIGHT - 6, `${setup.name} ${setup.record}`, { "font-size": 10, fill: GREY });
  svg.append(foot);
  if (setup.simulated) {
    svg.append(words(WIDTH - 8, HEIGHT - 6, "SIMULATED data, not patients", { "font-size": 13, "font-weight": 700, fill: "#A33C00", "text-anchor": "end" }));
  }
  return { svg, name, title, across, down, x, y, clip: (value) => Math.min(Math.max(value, y[0]), y[1]) };
}

function shown(value) {
  return Math.abs(value) >= 1e5 ? value.toExponential(0).replace("+", "") : String(Number(value.toPrecision(6)));
}

function powers(y) {
  const found = [];
  for (let p = Math.ceil(Math.log10(y[0]) - 1e-9); 10 ** p <= y[1] * 1.001; p += 1) found.push(Number((10 ** p).toPrecision(3)));
  return found;
}

function path(on, xs, ys) {
  let d = "", up = false;
  xs.forEach((x, k) => {
    if (ys[k] === null) { up = false; return; }
    d += `${up ? "L" : "M"}${on.across(x).toFixed(1)},${on.down(on.clip(ys[k])).toFixed(1)}`;
    up = true;
  });
  return d;
}

function band(on, xs, low, high, attributes) {
  const back = path(on, xs.toReversed(), high.toReversed()).replace("M", "L");
  on.svg.append(mark("path", { d: `${path(on, xs, low)}${back}Z`, stroke: "none", ...attributes }));
}

const STYLES = { compared: { stroke: RED, "stroke-dasharray": "9 5" }, chosen: { stroke: BLUE } };
const ORDER = ["compared", "chosen"];

function legend(on, what) {
  answer.arms.forEach((arm) => {
    const x = arm.name === "chosen" ? 10 : WIDTH / 2 + 6, y = HEIGHT - 52;
    on.svg.append(mark("line", { x1: x, x2: x + 34, y1: y - 5, y2: y - 5, "stroke-width": 3.2, ...STYLES[arm.name] }),
      words(x + 41, y, arm.label, { "font-size": 13 }));
  });
  on.svg.append(line(10, HEIGHT - 32, what, 11.5, { fill: "#333" }));
}

function course(panel, k) {
  const time = answer.courses.time, log = state.log;
  const tops = panel.arms.flatMap((arm) => arm.spread[2]).filter((value) => value !== null);
  const lows = panel.arms.flatMap((arm) => arm.spread[0]).filter((value) => value > 0).sort((a, b) => a - b);
  const isRatio = panel.unit === "ratio";
  const top = Math.max(...tops, isRatio ? 1.1 : 0, 1e-9) * 1.05;
  const low = log ? Math.max(10 ** Math.floor(Math.log10(lows[Math.floor(lows.length / 20)] ?? top / 1000)), top * 1e-5) : 0;
  const on = frame(panel.name, isRatio ? "Implied thymic export" : panel.label, `${setup.time} after transplant`,
    isRatio ? "ratio to a healthy thymus of the same age" : panel.unit, [time[0], time[time.length - 1]], [low, top], log);
  if (panel.healthy && panel.healthy.lower < top) {
    on.svg.append(mark("rect", { x: LEFT, width: WIDTH - LEFT - RIGHT, y: on.down(on.clip(panel.healthy.upper)), fill: GREY, opacity: 0.13,
      height: on.down(on.clip(panel.healthy.lower)) - on.down(on.clip(panel.healthy.upper)) }),
    words(WIDTH - RIGHT - 6, on.down(on.clip(panel.healthy.upper)) + 14, "healthy range", { "font-size": 11.5, fill: "#333", "text-anchor": "end" }));
  }
  if (isRatio) {
    on.svg.append(mark("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: on.down(1), y2: on.down(1), stroke: "#111", "stroke-dasharray": "2 3" }),
      words(WIDTH - RIGHT - 6, on.down(1) - 5, "healthy, same age", { "font-size": 11.5, fill: "#333", "text-anchor": "end" }));
  }
  ORDER.forEach((name, a) => {
    const arm = panel.arms[a], colour = STYLES[name].stroke;
    for (const edge of [0, 2]) {
      on.svg.append(mark("path", { d: path(on, time, arm.spread[edge]), fill: "none", stroke: colour, "stroke-width": 1.4, "stroke-dasharray": "1.5 4" }));
    }
    band(on, time, arm.uncertainty[0], arm.uncertainty[2], { fill: colour, opacity: 0.25 });
  });
  ORDER.forEach((name, a) => on.svg.append(mark("path", { d: path(on, time, panel.arms[a].uncertainty[1]), fill: "none", "stroke-width": 3, ...STYLES[name] })));
  doseDays(on);
  legend(on, "Line and shade: median patient, 90% interval (parameters). Dotted: 5 and 95% of patients.");
  return on;
}

function doseDays(on) {
  const day = state.numbers[`day.${setup.main}`];
  for (let k = 0; k < state.numbers.times; k += 1) {
    const x = on.across(day + k * state.numbers.apart);
    if (x <= WIDTH - RIGHT) on.svg.append(mark("path", { d: `M${x - 6},${TOP - 2}h12l-6,10z`, fill: "#111" }));
  }
}

function incidence() {
  const found = answer.incidence[state.endpoint], endpoint = setup.endpoints[state.endpoint];
  const days = found.days.map((day) => day + endpoint.start);
  const on = frame("incidence", endpoint.label, `${setup.time} after transplant`, "share of patients that have reached it",
    [Math.min(0, endpoint.start), endpoint.horizon], [0, 1]);
  ORDER.forEach((name, a) => band(on, days, found.arms[a][0], found.arms[a][2], { fill: STYLES[name].stroke, opacity: 0.25 }));
  ORDER.forEach((name, a) => on.svg.append(mark("path", { d: path(on, days, found.arms[a][1]), fill: "none", "stroke-width": 3, ...STYLES[name] })));
  const by = on.across(Number(state.by));
  on.svg.append(mark("line", { x1: by, x2: by, y1: TOP, y2: HEIGHT - BOTTOM, stroke: "#111", "stroke-dasharray": "2 3" }));
  doseDays(on);
  legend(on, `Cumulative incidence; shade: 90% interval (parameters). Dotted line: ${setup.time} ${state.by}.`);
  return on;
}

function doseResponse() {
  const xs = doses.doses, rows = doses.reached[state.endpoint].map((one) => one[state.by]);
  const top = xs[xs.length - 1], most = Math.max(...setup.fitted, 0);
  const on = frame("dose_response", `Dose-response by ${setup.time} ${state.by}: ${setup.endpoints[state.endpoint].label}`,
    `dose of ${setup.main}, ${setup.doseUnit}`, "share of patients that have reached it", [0, top], [0, 1]);
  if (most < top) {
    const places = [[most, Math.min(setup.twice * most, top), 0.12], [Math.min(setup.twice * most, top), top, 0.26]];
    for (const [from, to, opacity] of places) {
      if (to > from) on.svg.append(mark("rect", { x: on.across(from), width: on.across(to) - on.across(from), y: TOP, height: HEIGHT - BOTTOM - TOP, fill: GREY, opacity }));
    }
    on.svg.append(words(WIDTH - RIGHT - 6, TOP + 16, most ? "beyond the fitted doses" : "no fitted cohort had any", { "text-anchor": "end", "font-size": 13 }),
      ...(most && setup.twice * most < top ? [words(WIDTH - RIGHT - 6, TOP + 32, "darker: strong extrapolation", { "text-anchor": "end", "font-size": 12 })] : []));
  }
  band(on, xs, rows.map((one) => one[0]), rows.map((one) => one[2]), { fill: BLUE, opacity: 0.25 });
  on.svg.append(mark("path", { d: path(on, xs, rows.map((one) => one[1])), fill: "none", stroke: BLUE, "stroke-width": 3 }));
  xs.forEach((x, k) => on.svg.append(mark("circle", { cx: on.across(x), cy: on.down(rows[k][1]), r: 3.6, fill: BLUE })));
  for (const dose of setup.fitted) {
    const x = on.across(dose), y = HEIGHT - BOTTOM;
    on.svg.append(mark("path", { d: `M${x},${y - 1}l-6,-11h12z`, fill: "#111" }));
  }
  const here = answer.reached[state.endpoint][state.by], x = on.across(state.numbers[`dose.${setup.main}`]);
  on.svg.append(mark("line", { x1: x, x2: x, y1: on.down(here[0]), y2: on.down(here[2]), stroke: "#111", "stroke-width": 2.4 }),
    mark("rect", { x: x - 6, y: on.down(here[1]) - 6, width: 12, height: 12, fill: "#fff", stroke: "#111", "stroke-width": 2.4, transform: `rotate(45 ${x} ${on.down(here[1])})` }));
  on.svg.append(mark("rect", { x: 12, y: HEIGHT - 62, width: 10, height: 10, fill: "#fff", stroke: "#111", "stroke-width": 2, transform: `rotate(45 17 ${HEIGHT - 57})` }),
    words(34, HEIGHT - 52, "the chosen dose", { "font-size": 13 }),
    mark("path", { d: `M${WIDTH / 2 + 17},${HEIGHT - 63}l-6,11h12z`, fill: "#111" }),
    words(WIDTH / 2 + 34, HEIGHT - 52, "fitted doses", { "font-size": 13 }),
    line(10, HEIGHT - 32, "Line and shade: median, 90% interval (parameters). Straight between computed dots.", 11.5, { fill: "#333" }));
  return on;
}

// --- saving ---------------------------------------------------------------------------------------------------------

function save(name, content, kind) {
  const link = element("a", { href: URL.createObjectURL(new Blob([content], { type: kind })), download: `${setup.name}_${name}` });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  byId("saved").textContent = `Saved ${setup.name}_${name}.`;
}

const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

function curvesCsv() {
  const rows = [["figure", "arm", "quantity", "unit", setup.time, "q05", "median", "q95"]];
  const add = (figure, arm, quantity, unit, xs, [low, middle, high]) => xs.forEach((x, k) =>
    rows.push([figure, arm, quantity, unit, x, low[k] ?? "", middle[k] ?? "", high[k] ?? ""]));
  answer.arms.forEach((arm, a) => {
    for (const panel of answer.courses.panels) {
      add(panel.name, arm.label, "median patient, over posterior draws", panel.unit, answer.courses.time, panel.arms[a].uncertainty);
      add(panel.name, arm.label, "patients, median over posterior draws", panel.unit, answer.courses.time, panel.arms[a].spread);
    }
    for (const [name, one] of Object.entries(answer.incidence)) {
      add(name, arm.label, "share that has reached the endpoint", "1", one.days.map((day) => day + setup.endpoints[name].start), one.arms[a]);
    }
  });
  return (setup.simulated ? "# SIMULATED data, not patients\n" : "") + rows.map((row) => row.map((one) => quoted(String(one))).join(",")).join("\n") + "\n";
}

async function savePictures(pictures, name) {
  const columns = pictures.length > 1 ? 2 : 1, scale = 2;
  const canvas = element("canvas", { width: scale * WIDTH * columns, height: scale * HEIGHT * Math.ceil(pictures.length / columns) });
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  for (const [k, svg] of pictures.entries()) {
    const whole = svg.cloneNode(true);
    whole.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    whole.setAttribute("width", scale * WIDTH);
    whole.setAttribute("height", scale * HEIGHT);
    const image = new Image();
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(whole))}`;
    await image.decode();
    context.drawImage(image, (k % columns) * scale * WIDTH, Math.floor(k / columns) * scale * HEIGHT);
  }
  const blob = await new Promise((done) => { canvas.toBlob(done, "image/png"); });
  save(`${name}.png`, blob, "image/png");
}

byId("save-scenario").addEventListener("click", () => answer && save("scenario.toml", answer.scenario, "application/toml"));
byId("save-doses").addEventListener("click", () => doses && save("dose_response.toml", doses.scenario, "application/toml"));
byId("save-table").addEventListener("click", () => answer && save("table.csv", answer.csv, "text/csv"));
byId("save-curves").addEventListener("click", () => answer && save("curves.csv", curvesCsv(), "text/csv"));
byId("save-figures").addEventListener("click", () => answer && savePictures([...document.querySelectorAll("#figures svg")], "figures"));
byId("copy-link")?.addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(location.href);
    byId("saved").textContent = "The link is on the clipboard.";
  } catch {
    byId("saved").textContent = `The link is this page's address: ${location.href}`;
  }
});

makeControls();
ask();
