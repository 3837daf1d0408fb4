"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const make = (tag, name, text) => {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
};
const round = (value) => Number(value.toPrecision(4)).toString();

// Tooltip
const tip = $("tip");
const showTip = (event, text) => {
  tip.textContent = text;
  tip.hidden = false;
  const right = event.clientX + 16 + tip.offsetWidth > window.innerWidth;
  tip.style.left = (right ? event.clientX - 12 - tip.offsetWidth : event.clientX + 16) + "px";
  tip.style.top = Math.min(event.clientY + 14, window.innerHeight - tip.offsetHeight - 6) + "px";
};
const hideTip = () => { tip.hidden = true; };
const told = (target) => (target.closest ? target.closest("[data-tip]") : null);
document.addEventListener("pointermove", (event) => {
  const element = told(event.target);
  if (element) showTip(event, element.dataset.tip);
  else if (!event.target.closest || !event.target.closest(".chart")) hideTip();
});

// Charts: drawn again for smoothing and the x axis; values nearest to the pointer, or by keys
const hiddenRuns = new Set();
const share = $("share");
const byShare = () => Boolean(share && share.checked);
const weight = () => Number($("smooth").value);
const KEYS = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
// The mean of the values so far, each weighing less than the next one.
const smoothed = (values, kept) => {
  let sum = 0, norm = 0;
  return values.map((value) => {
    sum = kept * sum + (1 - kept) * value;
    norm = kept * norm + 1 - kept;
    return sum / norm;
  });
};

function setUp(svg) {
  const chart = data.charts[svg.dataset.key];
  const cursor = svg.querySelector(".cursor");
  const box = svg.viewBox.baseVal;
  const [left, right] = data.plot;
  const [top, bottom] = ["y1", "y2"].map((name) => Number(cursor.getAttribute(name)));
  const range = () => (byShare() ? [0, 1] : chart.range);
  const xs = (line) => (byShare() ? line.x.map((x) => x / data.lengths[line.run]) : line.x);
  const placeX = (x) => { const [low, high] = range(); return left + (x - low) / (high - low) * (right - left); };
  const placeY = (y) => bottom - (y - chart.y_range[0]) / (chart.y_range[1] - chart.y_range[0]) * (bottom - top);
  const shown = () => chart.lines.filter((line) => !hiddenRuns.has(line.run));
  let at = null;

  const draw = () => {
    svg.querySelector(".x-number").classList.toggle("hidden", byShare());
    if (share) svg.querySelector(".x-share").classList.toggle("hidden", !byShare());
    for (const line of chart.lines) {
      const group = svg.querySelector(".run-" + line.run);
      const places = xs(line).map(placeX);
      const points = (values) => values.map((y, i) => places[i].toFixed(1) + "," + placeY(y).toFixed(1)).join(" ");
      const raw = group.querySelector("polyline");
      group.querySelectorAll(".smooth").forEach((element) => element.remove());
      group.querySelectorAll("circle").forEach((circle, i) => circle.setAttribute("cx", places[i]));
      for (const element of group.children) element.classList.toggle("faint", weight() > 0);
      if (!raw) continue;
      raw.setAttribute("points", points(line.y));
      if (weight() > 0) {
        const curve = raw.cloneNode();
        curve.classList.replace("faint", "smooth");
        curve.setAttribute("points", points(smoothed(line.y, weight())));
        group.append(curve);
      }
    }
    clear();
  };
  const clear = () => { at = null; cursor.classList.add("hidden"); };

  // The points at ``x``, where a line has one there: what the tooltip says.
  const read = (x) => {
    const said = [];
    for (const line of shown()) {
      const i = xs(line).indexOf(x);
      if (i < 0) continue;
      const parts = data.runs.length > 1 ? [data.runs[line.run]] : [];
      parts.push(round(line.y[i]));
      if (weight() > 0) parts.push("smoothed " + round(smoothed(line.y, weight())[i]));
      if (byShare()) parts.push("at " + round(line.x[i]));
      said.push(parts.join("\t"));
    }
    at = x;
    cursor.setAttribute("x1", placeX(x));
    cursor.setAttribute("x2", placeX(x));
    cursor.classList.remove("hidden");
    const text = [byShare() ? (100 * x).toFixed(0) + "% of the run" : round(x), ...said].join("\n");
    svg.setAttribute("aria-valuenow", x);
    svg.setAttribute("aria-valuetext", text.replaceAll("\n", ", ").replaceAll("\t", " "));
    return text;
  };
  const stops = () => [...new Set(shown().flatMap(xs))].sort((a, b) => a - b);

  const point = (event) => {
    const area = svg.getBoundingClientRect();
    const pixel = (event.clientX - area.left) / area.width * box.width;
    const far = (x) => Math.abs(placeX(x) - pixel);
    const all = stops();
    if (all.length) showTip(event, read(all.reduce((best, x) => (far(x) < far(best) ? x : best))));
  };
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("keydown", (event) => {
    const all = stops();
    if (event.key === "Escape") { clear(); hideTip(); return; }
    if (!(event.key in KEYS) || !all.length) return;
    event.preventDefault();
    const from = at === null ? (KEYS[event.key] > 0 ? -1 : all.length) : all.indexOf(at);
    const x = all[Math.min(Math.max(from + KEYS[event.key], 0), all.length - 1)];
    const area = svg.getBoundingClientRect();
    const text = read(x);
    showTip({ clientX: area.left + placeX(x) / box.width * area.width, clientY: area.top }, text);
  });
  for (const end of ["pointerleave", "blur"]) svg.addEventListener(end, () => { clear(); hideTip(); });
  return draw;
}

const draws = [...document.querySelectorAll(".chart")].map(setUp);
if (draws.length) {
  const drawAll = () => {
    $("smoothed").textContent = weight() > 0 ? weight().toFixed(2) : "off";
    draws.forEach((draw) => draw());
  };
  $("smooth").addEventListener("input", drawAll);
  if (share) share.addEventListener("change", drawAll);
  if (byShare()) drawAll();
}

// Bars and tokens by keys: each says what pointing at it says
function stepThrough(box) {
  let at = -1;
  const parts = () => box.querySelectorAll("[data-tip]");
  const mark = (i) => { at = i; parts().forEach((part, n) => part.classList.toggle("at", n === i)); };
  box.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { mark(-1); hideTip(); return; }
    const count = parts().length;
    if (!(event.key in KEYS) || !count) return;
    event.preventDefault();
    mark(Math.min(Math.max(at < 0 && KEYS[event.key] < 0 ? count - 1 : at + KEYS[event.key], 0), count - 1));
    const part = parts()[at];
    part.scrollIntoView({ block: "nearest" });
    const area = part.getBoundingClientRect();
    showTip({ clientX: area.left, clientY: area.bottom }, part.dataset.tip);
  });
  box.addEventListener("blur", () => { mark(-1); hideTip(); });
}
document.querySelectorAll(".timeline, svg.plane").forEach(stepThrough);

// Legend
for (const button of document.querySelectorAll("#legend button")) {
  button.addEventListener("click", () => {
    const run = Number(button.dataset.run);
    const shown = hiddenRuns.has(run);
    if (shown) hiddenRuns.delete(run); else hiddenRuns.add(run);
    button.setAttribute("aria-pressed", String(shown));
    for (const element of document.querySelectorAll(".run-" + run)) element.classList.toggle("hidden", !shown);
    if (data.samples.length) showSample();
  });
}

// Samples
const LABELS = { dpo: "DPO reward: log π_dpo / π_ref", kl: "log π / π_ref", value: "critic value" };
const scales = {};
for (const sample of data.samples) for (const answer of sample.answers) for (const response of answer.responses)
  for (const [name, values] of Object.entries(response.tokens || {}))
    (scales[name] = scales[name] || []).push(...values.map(Math.abs));
for (const name of Object.keys(scales)) {
  const sorted = scales[name].sort((a, b) => a - b);
  scales[name] = sorted[Math.floor(0.95 * (sorted.length - 1))] || 1;
}
let current = 0;
const signed = (value) => (value > 0 ? "+" : "") + round(value);

function showTokens(response) {
  const box = make("div", "text");
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "response; arrow keys go from token to token");
  stepThrough(box);
  if (!response.pieces) {
    box.textContent = response.text;
    return box;
  }
  const by = $("colour").value;
  const shown = (by && response.tokens && response.tokens[by]) || [];
  const strongest = shown.reduce((best, value, i) => Math.abs(value) > Math.abs(shown[best]) ? i : best, 0);
  response.pieces.forEach((piece, i) => {
    const token = make("span", "token", piece === "" ? "·" : piece);
    const values = response.tokens || {};
    const lines = Object.keys(values).map((name) => LABELS[name] + "\t" + signed(values[name][i]));
    token.dataset.tip = [JSON.stringify(piece), ...lines].join("\n");
    if (by && values[by]) {
      const strength = Math.min(Math.abs(values[by][i]) / scales[by], 1) * 0.6;
      token.style.backgroundColor = "rgb(var(" + (values[by][i] < 0 ? "--bad" : "--good") + ") / " + strength.toFixed(3) + ")";
    }
    if (shown.length && i === strongest) token.dataset.strongest = "";
    box.append(token);
  });
  const cut = response.length - response.pieces.length;
  if (cut > 0) box.append(make("span", "dim", " … (" + cut + " more tokens)"));
  return box;
}

function showResponse(response) {
  const card = make("div", "response");
  const head = make("h4");
  head.append(make("span", "", "iteration " + response.iteration));
  head.append(make("span", "dim", response.length + " tokens"));
  if (!response.finished) head.append(make("span", "dim", "cut at the limit"));
  const scores = make("dl");
  for (const [name, value] of Object.entries(response.scores)) {
    const item = make("div");
    item.append(make("dt", "", name), make("dd", "", round(value)));
    scores.append(item);
  }
  card.append(head, showTokens(response), scores);
  return card;
}

function showSample() {
  const sample = data.samples[current];
  $("position").textContent = (current + 1) + " / " + data.samples.length;
  $("prompt").textContent = sample.prompt;
  const answers = $("answers");
  answers.replaceChildren();
  for (const answer of sample.answers) {
    if (hiddenRuns.has(answer.run)) continue;
    const title = make("h3");
    title.append(make("span", "dot c" + answer.run % 8), data.runs[answer.run]);
    const pair = make("div", "pair");
    answer.responses.forEach((response) => pair.append(showResponse(response)));
    if (answer.responses.length === 1)
      pair.append(make("div", "response none", "The run drew this prompt once, as far as was searched."));
    answers.append(title, pair);
    pair.querySelectorAll(".text").forEach(showStrongest);
  }
}

// A long response opens where its strongest token score is.
function showStrongest(box) {
  const token = box.querySelector("[data-strongest]");
  if (token) box.scrollTop = token.offsetTop - box.offsetTop - box.clientHeight / 2;
}

if (data.samples.length) {
  const colour = $("colour");
  for (const name of Object.keys(LABELS)) if (name in scales) {
    const option = make("option", "", LABELS[name]);
    option.value = name;
    colour.append(option);
  }
  const first = Object.keys(LABELS).find((name) => name in scales) || "";
  const showScale = () => {
    const by = colour.value;
    $("scale").replaceChildren();
    if (by) $("scale").append("−" + round(scales[by]), make("i"), "+" + round(scales[by]));
  };
  const step = (by) => { current = (current + by + data.samples.length) % data.samples.length; showSample(); };
  colour.value = first;
  colour.addEventListener("change", () => { showScale(); showSample(); });
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  showScale();
  showSample();
}

// A live page loads itself again, and is then as it was left
if (data.reload) {
  const controls = () => [...document.querySelectorAll("#smooth, #share, #colour")];
  const titled = () => [...document.querySelectorAll("details")].map((each) => [each.querySelector("summary").textContent, each]);
  const left = history.state;
  if (left) {
    for (const [title, each] of titled()) if (title in left.open) each.open = left.open[title];
    for (const control of controls()) if (control.id in left.values) {
      const value = left.values[control.id];
      if (control.type === "checkbox") control.checked = value; else control.value = value;
      control.dispatchEvent(new Event(control.id === "smooth" ? "input" : "change"));
    }
    for (const button of document.querySelectorAll("#legend button"))
      if (left.hidden.includes(button.textContent)) button.click();
    const sample = data.samples.findIndex((each) => each.prompt === left.prompt);
    if (sample >= 0) { current = sample; showSample(); }
  }
  setTimeout(() => {
    history.replaceState({
      open: Object.fromEntries(titled().map(([title, each]) => [title, each.open])),
      values: Object.fromEntries(controls().map((each) => [each.id, each.type === "checkbox" ? each.checked : each.value])),
      hidden: [...hiddenRuns].map((run) => data.runs[run]),
      prompt: data.samples.length ? data.samples[current].prompt : null,
    }, "");
    location.reload();
  }, 1000 * data.reload);
}
})();
