"use strict";
// The timeline to zoom: exact spans up to `until`, shares of bins from there on.
for (const figure of document.querySelectorAll("figure.zoom")) {
  figure.hidden = false;
  timeline(figure, JSON.parse(figure.querySelector("script").textContent));
}

function timeline(figure, data) {
  const ROW = 26, AXIS = 24, PAD = 4, CLOSEST = 1e6;
  const canvas = figure.querySelector("canvas"), pen = canvas.getContext("2d");
  const status = figure.querySelector(".status");
  let from = 0, to = data.end;
  // While narrower than this, exact spans are wide enough to be told apart.
  const names = () => (canvas.clientWidth < 520 ? 78 : 130);
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);

  function paint() {
    const width = canvas.clientWidth, height = data.actors.length * ROW + AXIS;
    const sharp = window.devicePixelRatio || 1;
    canvas.width = width * sharp;
    canvas.height = height * sharp;
    canvas.style.height = height + "px";
    pen.setTransform(sharp, 0, 0, sharp, 0, 0);
    pen.fillStyle = colour("--paper");
    pen.fillRect(0, 0, width, height);
    const left = names(), x = (t) => left + ((t - from) / (to - from)) * (width - left - PAD);
    pen.font = "12px system-ui, sans-serif";
    axis(x, width, height);
    pen.save();
    pen.beginPath();
    pen.rect(left, 0, width - left, height);
    pen.clip();
    if (to > data.until) bins(x);
    const drawn = spans(x);
    pen.restore();
    data.actors.forEach((actor, row) => {
      pen.fillStyle = colour("--ink");
      pen.textAlign = "left";
      pen.textBaseline = "middle";
      pen.fillText(left < 100 ? actor.replace("server/", "") : actor, 2, row * ROW + ROW / 2, left - 6);
    });
    return drawn;
  }

  function axis(x, width, height) {
    const unit = unitOf(to - from), step = nice((to - from) / unit[1] / Math.max(2, width / 130)) * unit[1];
    pen.textBaseline = "alphabetic";
    pen.textAlign = "center";
    for (let t = Math.ceil(from / step) * step; t <= to; t += step) {
      pen.strokeStyle = colour("--line");
      pen.beginPath();
      pen.moveTo(x(t), 0);
      pen.lineTo(x(t), height - AXIS + 4);
      pen.stroke();
      pen.fillStyle = colour("--grey");
      const text = said(t, unit);
      pen.fillText(text, Math.min(x(t), width - pen.measureText(text).width / 2 - 2), height - 7);
    }
  }

  function bins(x) {
    const tops = new Map();
    for (const row of data.bins) {
      const count = row.percent.length, length = data.end / count;
      if (!tops.has(row.actor)) tops.set(row.actor, new Float64Array(count));
      const top = tops.get(row.actor);
      pen.fillStyle = data.kinds[row.kind].colour;
      row.percent.forEach((share, bin) => {
        const start = Math.max(bin * length, data.until), end = (bin + 1) * length;
        if (share && end > from && start < to && end > start) {
          const tall = ((ROW - 2 * PAD) * share) / 100, base = (row.actor + 1) * ROW - PAD - top[bin];
          pen.fillRect(x(start), base - tall, x(end) - x(start), tall);
          top[bin] += tall;
        }
      });
    }
  }

  function spans(x) {
    const { kind, actor, start, end, batch } = data.exact;
    let drawn = 0;
    for (let i = 0; i < start.length; i++) {
      if (end[i] < from || start[i] > to) continue;
      drawn += 1;
      const wide = Math.max(x(end[i]) - x(start[i]), 0.4), y = actor[i] * ROW + PAD;
      pen.fillStyle = data.kinds[kind[i]].colour;
      pen.fillRect(x(start[i]), y, wide > 3 ? wide - 0.6 : wide, ROW - 2 * PAD);
      const text = String(batch[i]);
      if (batch[i] >= 0 && wide > 10 + 7 * text.length) {
        pen.fillStyle = dark(data.kinds[kind[i]].colour) ? "#ffffff" : "#262626";
        pen.textAlign = "center";
        pen.textBaseline = "middle";
        const a = Math.max(x(start[i]), names()), b = Math.min(x(end[i]), canvas.clientWidth);
        pen.fillText(text, (a + b) / 2, y + (ROW - 2 * PAD) / 2);
      }
    }
    return drawn;
  }

  function show(a, b) {
    const least = data.end / CLOSEST, long = Math.min(Math.max(b - a, least), data.end);
    from = Math.min(Math.max(a, 0), data.end - long);
    to = from + long;
    const drawn = paint(), unit = unitOf(to - from);
    const words = to > data.until ? ", later than " + said(data.until, unitOf(data.until)) + " as shares" : "";
    status.textContent = "From " + said(from, unit) + " to " + said(to, unit) + ": " + drawn.toLocaleString("en") + " pieces of work" + words + ".";
  }

  const acts = {
    earlier: () => show(from - (to - from) / 4, to - (to - from) / 4),
    later: () => show(from + (to - from) / 4, to + (to - from) / 4),
    in: (at = 0.5) => zoom(0.5, at),
    out: (at = 0.5) => zoom(2, at),
    all: () => show(0, data.end),
  };
  const zoom = (factor, at) => {
    const fixed = from + (to - from) * at, long = (to - from) * factor;
    show(fixed - long * at, fixed + long * (1 - at));
  };
  const keys = { ArrowLeft: "earlier", ArrowRight: "later", "+": "in", "=": "in", "-": "out", Home: "all" };

  figure.querySelector(".tools").addEventListener("click", (event) => {
    if (event.target.dataset.do) acts[event.target.dataset.do]();
  });
  canvas.addEventListener("keydown", (event) => {
    if (!(event.key in keys) || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    acts[keys[event.key]]();
  });
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas && !event.ctrlKey) return; // else the page could not be scrolled
    event.preventDefault();
    const at = (event.offsetX - names()) / (canvas.clientWidth - names());
    zoom(event.deltaY < 0 ? 0.8 : 1.25, Math.min(Math.max(at, 0), 1));
  }, { passive: false });
  let held = null;
  canvas.addEventListener("pointerdown", (event) => {
    held = { x: event.clientX, from, to };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!held) return;
    const moved = ((event.clientX - held.x) / (canvas.clientWidth - names())) * (held.to - held.from);
    show(held.from - moved, held.to - moved);
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { held = null; });
  window.addEventListener("resize", () => show(from, to));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => show(from, to));

  for (const kind of data.kinds) {
    const item = document.createElement("li"), box = svg("svg"), square = svg("rect");
    square.setAttribute("width", "100%");
    square.setAttribute("height", "100%");
    square.setAttribute("fill", kind.colour);
    box.append(square);
    item.append(box, kind.name.replace("_", " "));
    figure.querySelector(".key").append(item);
  }
  show(0, data.end);
}

function svg(name) {
  return document.createElementNS("http://www.w3.org/2000/svg", name);
}

function unitOf(long) {
  return [["d", 86400, 172800], ["h", 3600, 7200], ["min", 60, 120], ["s", 1, 1], ["ms", 1e-3, 1e-3], ["us", 1e-6, 0]].find((u) => long >= u[2]);
}

function said(seconds, unit) {
  return Number((seconds / unit[1]).toPrecision(4)).toLocaleString("en", { maximumFractionDigits: 6 }) + " " + unit[0];
}

function nice(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].find((f) => f * power >= rough) * power;
}

function dark(hex) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return 0.299 * r + 0.587 * g + 0.114 * b < 140;
}
