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

// Charts: the values nearest to the pointer
const hiddenRuns = new Set();
for (const svg of document.querySelectorAll(".chart")) {
  const chart = data.charts[svg.dataset.key];
  const cursor = svg.querySelector(".cursor");
  const grid = svg.querySelector(".grid");
  const box = svg.viewBox.baseVal;
  const left = grid ? Number(grid.getAttribute("x1")) : 0;
  const right = grid ? Number(grid.getAttribute("x2")) : box.width;
  const [low, high] = chart.range;
  svg.addEventListener("pointermove", (event) => {
    const area = svg.getBoundingClientRect();
    const pixel = (event.clientX - area.left) / area.width * box.width;
    const wanted = low + (pixel - left) / (right - left) * (high - low);
    let nearest = null;
    const lines = chart.lines.filter((line) => !hiddenRuns.has(line.run));
    for (const line of lines) for (const x of line.x)
      if (nearest === null || Math.abs(x - wanted) < Math.abs(nearest - wanted)) nearest = x;
    if (nearest === null) return;
    const said = [];
    for (const line of lines) {
      const at = line.x.indexOf(nearest);
      if (at >= 0) said.push((data.runs.length > 1 ? data.runs[line.run] + "\t" : "") + round(line.y[at]));
    }
    const place = left + (nearest - low) / (high - low) * (right - left);
    cursor.setAttribute("x1", place);
    cursor.setAttribute("x2", place);
    cursor.classList.remove("hidden");
    showTip(event, [round(nearest), ...said].join("\n"));
  });
  svg.addEventListener("pointerleave", () => {
    cursor.classList.add("hidden");
    hideTip();
  });
}

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
})();
