// Keeps the figures of a page moving, without touching what somebody is at: focus, forms,
// scroll positions and open explanations stay. Everything else works without this.
"use strict";

const root = document.documentElement;
const still = matchMedia("(prefers-reduced-motion: reduce)");

// ---- Regions -------------------------------------------------------------------------

const keyOf = (node) => node.nodeType === Node.ELEMENT_NODE ? node.dataset.key || node.id || "" : "";
const isAlike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);

// move puts node before another of the same parent, and keeps the focus in it.
function move(parent, node, before) {
  if (parent.moveBefore) {
    parent.moveBefore(node, before);
    return;
  }
  const focused = node.contains(document.activeElement) ? document.activeElement : null;
  parent.insertBefore(node, before);
  if (focused) focused.focus({ preventScroll: true });
}

// mend makes the children of one element like those of another, and keeps those that
// are alike.
function mend(from, to) {
  const known = new Map();
  for (const child of from.children) if (keyOf(child)) known.set(keyOf(child), child);
  let at = from.firstChild;
  for (const want of [...to.childNodes]) {
    const key = keyOf(want);
    const byKey = key ? known.get(key) : undefined;
    const have = byKey && isAlike(byKey, want) ? byKey : !key && at && isAlike(at, want) ? at : null;
    if (!have) {
      from.insertBefore(want, at);
      continue;
    }
    if (have === at) at = at.nextSibling;
    else move(from, have, at);
    mendNode(have, want);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function mendNode(have, want) {
  if (have.nodeType !== Node.ELEMENT_NODE) {
    if (have.nodeValue !== want.nodeValue) have.nodeValue = want.nodeValue;
    return;
  }
  if (have.nodeName === "FORM" || "keep" in have.dataset) return;
  for (const { name, value } of want.attributes) {
    if (have.getAttribute(name) !== value) have.setAttribute(name, value);
  }
  for (const { name } of [...have.attributes]) {
    if (name !== "open" && !want.hasAttribute(name)) have.removeAttribute(name);
  }
  mend(have, want);
}

function show(update) {
  for (const [name, html] of Object.entries(update.regions)) {
    const region = document.querySelector(`[data-live="${CSS.escape(name)}"]`);
    if (!region) continue;
    const next = document.createElement("template");
    next.innerHTML = html;
    mend(region, next.content);
  }
  if (update.series) drawAll(update.series);
}

// ---- Charts --------------------------------------------------------------------------

// What each chart draws: its series by name, with a class of the stylesheet for the
// colour. times makes the unit of the axis; least is what it shows at least, and most
// what it always ends at.
const charts = {
  traffic: { lines: [["rate", "requests", "c1"], ["errors", "errors", "c3"], ["refused", "refused", "c4"]], unit: "/s", least: 1 },
  latency: { lines: [["p50_ms", "p50", "c2"], ["p95_ms", "p95", "c1"], ["p99_ms", "p99", "c3"]], unit: " ms", least: 1 },
  cache: { lines: [["hit_ratio", "hit ratio", "c2"]], unit: " %", times: 100, most: 100 },
  saved: { lines: [["saved_s", "saved", "c2"]], unit: " s/s", least: 0.1 },
  queue: { lines: [["waiting", "waiting", "c4"], ["running", "running", "c1"]], unit: "", least: 4, whole: true },
};
const drawn = new Map(); // uPlot by element
let lastSeries = null;

// colour is what a custom property of the stylesheet comes to.
function colour(name) {
  const probe = document.createElement("span");
  probe.className = "probe-" + name;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

// The steps of axes: whole seconds of the clock, and whole things.
const clockSteps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600];
const wholeSteps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000];
const leastSpan = 60; // seconds

const three = (v) => v === null || v === undefined ? "–" : v >= 100 ? v.toFixed(0) : v >= 10 ? v.toFixed(1) : v === 0 ? "0" : v.toFixed(2);
const twoDigits = (n) => String(n).padStart(2, "0");
const clock = (s) => {
  const t = new Date(s * 1000);
  return [t.getUTCHours(), t.getUTCMinutes(), t.getUTCSeconds()].map(twoDigits).join(":");
};

function dataOf(chart, series) {
  const n = series.rate.length;
  const end = Date.parse(series.end) / 1000;
  const data = [Array.from({ length: n }, (_, i) => end - (n - 1 - i) * series.step_s)];
  for (const [name] of chart.lines) data.push(series[name].map((v) => v === null ? null : v * (chart.times || 1)));
  return data;
}

// alone are the numbers of points between two gaps, which no line would show.
function alone(u, line) {
  const values = u.data[line];
  const at = [...values.keys()].filter((i) => values[i] != null && values[i - 1] == null && values[i + 1] == null);
  return at.length ? at : null;
}

function make(element, chart, data) {
  element.replaceChildren();
  const reading = document.createElement("div");
  reading.className = "reading";
  const axis = { stroke: colour("dim"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
  const plot = new uPlot({
    width: Math.max(element.clientWidth, 100),
    height: Math.max(element.clientHeight, 100),
    legend: { show: false },
    cursor: { y: false, drag: { setScale: false, x: false, y: false }, points: { size: 6 } },
    scales: {
      x: { time: true, range: (u, min, max) => [Math.min(min, max - leastSpan), max] },
      y: { range: (u, min, max) => [0, chart.most || Math.max(max * 1.1, chart.least)] },
    },
    axes: [
      { ...axis, size: 24, space: 90, incrs: clockSteps, values: (u, ticks) => ticks.map(clock) },
      { ...axis, size: 62, space: 28, ...(chart.whole && { incrs: wholeSteps }), values: (u, ticks) => ticks.map((v) => (chart.whole ? v : three(v)) + chart.unit) },
    ],
    series: [{}, ...chart.lines.map(([, label, name]) => ({ label, stroke: colour(name), width: 1.75, points: { show: false, filter: alone } }))],
    hooks: {
      setCursor: [(u) => {
        const i = u.cursor.idx;
        reading.textContent = i === null || i === undefined ? "" :
          [clock(u.data[0][i]), ...chart.lines.map(([, label], k) => `${label} ${three(u.data[k + 1][i])}${chart.unit}`)].join(" · ");
      }],
    },
  }, data, element);
  element.append(reading);
  return plot;
}

function drawAll(series) {
  lastSeries = series;
  if (typeof uPlot === "undefined" || series.rate.length < 2) return;
  for (const element of document.querySelectorAll("[data-chart]")) {
    const chart = charts[element.dataset.chart];
    if (!chart) continue;
    const data = dataOf(chart, series);
    const plot = drawn.get(element);
    if (plot) plot.setData(data);
    else {
      drawn.set(element, make(element, chart, data));
      resized.observe(element);
    }
  }
}

const resized = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const plot = drawn.get(target);
    if (plot && target.clientWidth) plot.setSize({ width: target.clientWidth, height: target.clientHeight });
  }
});

function redraw() {
  for (const plot of drawn.values()) plot.destroy();
  drawn.clear();
  if (lastSeries) drawAll(lastSeries);
}

// ---- Colours -------------------------------------------------------------------------

const themes = ["auto", "light", "dark"];
for (const button of document.querySelectorAll("[data-theme-switch]")) {
  const say = () => { button.textContent = "Theme: " + (root.dataset.theme || "auto"); };
  button.hidden = false;
  say();
  button.addEventListener("click", () => {
    const next = themes[(themes.indexOf(root.dataset.theme || "auto") + 1) % themes.length];
    if (next === "auto") delete root.dataset.theme;
    else root.dataset.theme = next;
    try { localStorage.setItem("weir-theme", next); } catch { /* it holds for this page alone */ }
    say();
    redraw();
  });
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

// ---- Forms ---------------------------------------------------------------------------

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});

// ---- The stream ----------------------------------------------------------------------

// A browser keeps at most six connections to a server that speaks HTTP/1.1, for all of
// its windows together. So at most three of them keep a stream: those that hold one of the
// locks, which windows of the same browser share. The others, and all where there are no
// locks, ask for one update after the other.
const streams = 3;

const url = document.body.dataset.stream;
const status = document.querySelector("[data-status]");
const pause = document.querySelector("[data-pause]");
let source = null;
let release = null; // gives the lock back
let isPaused = still.matches;
let again = 0; // the timer of the next try
let tries = 0;
let starts = 0; // numbers them, so that one that was stopped meanwhile does not go on

function say(text, state) {
  if (status.textContent !== text) status.textContent = text;
  status.dataset.state = state;
}

// take tries to get one of the locks, and returns what gives it back, or null.
async function take() {
  for (let i = 1; navigator.locks && i <= streams; i++) {
    const free = await new Promise((got) => {
      navigator.locks.request("weir-stream-" + i, { ifAvailable: true }, (lock) => {
        if (lock) return new Promise((done) => got(done));
        got(null);
      }).catch(() => got(null));
    });
    if (free) return free;
  }
  return null;
}

function stop() {
  starts++;
  clearTimeout(again);
  if (source) source.close();
  source = null;
  if (release) release();
  release = null;
}

async function start() {
  stop();
  if (isPaused || document.hidden) return;
  const mine = starts;
  const lock = await take();
  if (mine !== starts) {
    if (lock) lock();
    return;
  }
  release = lock;
  connect();
}

const withField = (field) => url + (url.includes("?") ? "&" : "?") + field;

function connect() {
  const brief = !release;
  let updated = false; // since the last connection
  source = new EventSource(brief ? withField("brief=1") : url);
  source.addEventListener("update", (event) => {
    tries = 0;
    updated = true;
    say("live", "live");
    update(JSON.parse(event.data));
  });
  source.onerror = () => {
    const isOver = brief && updated; // the browser comes again, or this window has a stream now
    updated = false;
    if (isOver) promote();
    else lost();
  };
}

// promote begins a stream where one has become free.
async function promote() {
  const mine = starts;
  const lock = await take();
  if (!lock) return;
  if (mine !== starts) {
    lock();
    return;
  }
  stop();
  release = lock;
  connect();
}

// update shows an update. A page that could not be shown is loaded again when it can be.
function update(next) {
  const down = document.body.dataset.down;
  if (down && Object.keys(next.regions).length > 1) location.replace(down);
  else show(next);
}

// lost waits for the browser to connect again, or does it where the browser gives up:
// Weir stops, or refuses.
async function lost() {
  if (!source) return;
  say("paused: connection lost", "lost");
  if (source.readyState !== EventSource.CLOSED) return;
  stop();
  tries++;
  const mine = starts;
  again = setTimeout(start, Math.min(1000 * 2 ** tries, 30000));
  try {
    const answer = await fetch(withField("brief=1"), { method: "HEAD" });
    if (mine !== starts) return;
    if (answer.status === 401) say("paused: the session has ended, load the page again to log in", "lost");
    if (answer.status === 503 && answer.headers.get("Content-Type") === "application/problem+json") {
      say("paused: too many windows are open, here or elsewhere; tried again", "lost");
    }
  } catch {
    // It is away, which is said already.
  }
}

function press() {
  pause.textContent = isPaused ? "Go live" : "Pause";
  if (isPaused) say(still.matches ? "paused: less motion" : "paused", "paused");
}

if (url && status && pause) {
  pause.hidden = false;
  press();
  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    press();
    if (isPaused) stop();
    else {
      say("connecting", "paused");
      start();
    }
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) stop();
    else start();
  });
  addEventListener("pagehide", stop);
  addEventListener("pageshow", (event) => { if (event.persisted) start(); });
  start();
}
