"use strict";
// One glance is on its way at a time, and what moves meanwhile is asked as one, the latest. It overtakes a whole answer.
const REST_MS = 250;
const tab = crypto.randomUUID();
const moved = new Map();
let asked = 0, shown = 0, busy = null, rest = null;
const at = (id) => document.getElementById(id);

for (const knob of document.querySelectorAll(".knob")) {
  const key = knob.dataset.key, field = knob.querySelector("input, select");
  const output = knob.querySelector("output"), button = knob.querySelector("button");
  const stops = field.dataset.stops ? JSON.parse(field.dataset.stops) : null;
  const take = () => {
    const value = stops ? stops[field.value] : field.value;
    if (value === "") moved.delete(key);
    else moved.set(key, value);
    settle();
  };
  const settle = () => {
    const value = moved.get(key);
    if (stops) output.textContent = value ?? output.dataset.stated;
    if (stops) field.setAttribute("aria-valuetext", output.textContent);
    button.disabled = value === undefined;
  };
  const put = (value) => {
    if (value === undefined) moved.delete(key);
    else moved.set(key, value);
    field.value = stops ? (value === undefined ? field.dataset.begin : stops.indexOf(value)) : value ?? "";
    settle();
  };
  const wanted = new URLSearchParams(location.hash.slice(1)).get(key);
  const known = stops ?? [...(field.options ?? [])].map((option) => option.value);
  put(wanted !== null && known.includes(wanted) ? wanted : undefined);
  field.addEventListener("input", () => { take(); move(); });
  button.addEventListener("click", () => { put(undefined); field.focus(); move(); });
}

function move() {
  asked += 1;
  at("main").classList.add("old");
  history.replaceState(null, "", "#" + new URLSearchParams([...moved]));
  clearTimeout(rest);
  if (busy === null || busy.whole) ask(false);
}

async function ask(whole) {
  const number = asked, began = performance.now(), mine = { whole };
  busy = mine;
  const words = new URLSearchParams([...moved, ["at", number], ["tab", tab], ["whole", whole ? "1" : "0"]]);
  try {
    const reply = await fetch("answer?" + words);
    const found = await reply.json();
    if (reply.status !== 409 && number >= shown) show(number, found, performance.now() - began);
    if (number === asked && found.whole === false) rest = setTimeout(() => { if (busy === null) ask(true); }, REST_MS);
  } catch (error) {
    show(number, { error: "mobisim does not answer; is the command still running?" }, 0);
  }
  if (busy !== mine) return; // it was overtaken
  busy = null;
  if (number !== asked) ask(false);
}

function show(number, found, took) {
  shown = number;
  if (number === asked) at("main").classList.remove("old");
  const bad = found.error !== undefined;
  at("headline").className = bad || !found.fits ? "alarm" : "headline";
  const [place, ...said] = bad ? found.error.split("\n") : []; // an error's place comes first, if it has one
  const [headline, ...lines] = bad ? (said.length ? [...said, place] : [place]) : [found.headline, ...found.details];
  at("headline").textContent = headline;
  at("details").replaceChildren(...lines.map((line) => element("p", line)));
  at("numbers").replaceChildren(...(bad ? [] : found.numbers).map(([name, value]) => row(name, element("td", value))));
  at("bars").replaceChildren(...(bad ? [] : found.bars).map((b) => row(b.name, element("td", b.words), bar(b))));
  at("command").textContent = bad ? "" : found.command;
  at("figures").hidden = bad;
  at("busy").hidden = bad || !found.bars.length;
  document.body.dataset.state = bad ? "error" : found.whole ? "whole" : "glance";
  document.body.dataset.took = took.toFixed(0);
}

function row(name, ...cells) {
  const line = element("tr"), head = element("th", name);
  head.scope = "row";
  line.append(head, ...cells);
  return line;
}

function bar(found) {
  const cell = element("td"), box = svg("svg"), part = svg("rect");
  box.setAttribute("class", "bar");
  box.setAttribute("viewBox", "0 0 100 10");
  box.setAttribute("preserveAspectRatio", "none");
  box.setAttribute("aria-hidden", "true");
  part.setAttribute("class", found.role);
  part.setAttribute("width", 100 * found.share);
  part.setAttribute("height", 10);
  box.append(part);
  cell.append(box);
  return cell;
}

function element(name, text = "") {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

function svg(name) {
  return document.createElementNS("http://www.w3.org/2000/svg", name);
}

at("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(at("command").textContent);
    at("copied").textContent = "copied";
  } catch (error) {
    getSelection().selectAllChildren(at("command"));
    at("copied").textContent = "selected: copy it with the keyboard";
  }
});
at("knobs").addEventListener("submit", (event) => event.preventDefault());
move();
