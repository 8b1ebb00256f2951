// Swim lanes on a canvas: only what is visible is drawn. Names and the axis are text of the page.

const MOST_LANES = 30; // of several guests at once
const LANE = { row: 15, gap: 8, thick: 13, thin: 5, head: 22, label: 132 };

/** Black or white, whichever reads better on a colour. */
function inkOn(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => (parseInt(colour.slice(at, at + 2), 16) / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 ? "#000000" : "#ffffff";
}

/** A round step of time that is at least so many ns. */
function roundStep(least) {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, least)));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= least);
}

/**
 * The lanes of a replay. `draw(view)` draws them for view = { time, from, width (ns), list (followed, or -1) };
 * `find(event)` tells what is under the pointer.
 */
function swimLanes(run) {
  const stages = Object.keys(PALETTE.stages);
  const colours = stages.map((stage) => PALETTE.stages[stage]);
  const inks = colours.map(inkOn);
  const waiting = new Set(PALETTE.waiting);
  const { of } = run;
  const guests = new Set(run.lanes.map((lane) => lane.guest));
  const many = run.lanes.length > MOST_LANES && guests.size > 2;
  let [top, places] = [0, []]; // where each lane begins, px; a lane that is not shown has none

  const canvas = node("canvas", { role: "img", "aria-label": run.about.summary });
  const names = node("div", { class: "names" });
  const axis = drawn("svg", { class: "axis", height: LANE.head, "aria-hidden": "true" });
  const spacer = node("div", { class: "spacer" }, names, canvas);
  const scroller = node("div", { class: "scroller", tabindex: 0, role: "group", "aria-label": "Lanes" }, spacer);
  const legend = node("p", { class: "legend" });
  for (const stage of Array.from(new Set(of["spans.stage"])).sort((one, other) => one - other)) {
    const sign = node("span", { style: `background:${colours[stage]}` });
    legend.append(node("span", { class: "key" }, sign, ` ${stages[stage]}`), " ");
  }
  legend.append(node("span", { class: "key" }, "thick: works, thin: waits"));
  const el = node("div", { class: "lanes" }, axis, scroller, legend);
  let theme;
  let size = [0, 0];
  let last;

  /** Give lanes their places: of many guests only those of one, beside the host's. */
  function arrange(guest) {
    top = 4;
    names.replaceChildren();
    places = run.lanes.map((lane) => {
      if (many && lane.guest && lane.guest !== guest) return undefined;
      const at = top;
      const style = `top:${at - 3}px;height:${lane.rows * LANE.row + 6}px`;
      const hidden = lane.hidden ? ` and ${lane.hidden.toLocaleString("en")} bars that found no room` : "";
      const more = lane.hidden ? node("span", { class: "faint more" }, `+${lane.hidden.toLocaleString("en")}`) : "";
      names.append(node("span", { style, title: lane.title + hidden }, lane.name, more));
      top += lane.rows * LANE.row + LANE.gap;
      return at;
    });
    spacer.style.height = `${top}px`;
  }

  function restyle() {
    const style = getComputedStyle(el);
    const [ink, line] = ["--ink", "--line"].map((name) => style.getPropertyValue(name));
    theme = { ink, line, font: `11px ${style.fontFamily}` };
  }

  function resize() {
    const wide = Math.max(50, scroller.clientWidth - LANE.label);
    const high = Math.min(top, scroller.clientHeight);
    const scale = (window.devicePixelRatio || 1) * (canvas.currentCSSZoom || 1);
    if (size[0] === wide && size[1] === high && canvas.width === Math.round(wide * scale)) return;
    size = [wide, high];
    canvas.width = Math.round(wide * scale);
    canvas.height = Math.round(high * scale);
    canvas.style.width = `${wide}px`;
    canvas.style.height = `${high}px`;
    canvas.getContext("2d").setTransform(scale, 0, 0, scale, 0, 0);
    axis.setAttribute("width", wide + LANE.label);
  }

  function drawAxis(view, x) {
    const step = roundStep(view.width / Math.max(2, Math.floor(size[0] / 110)));
    const marks = [];
    for (let at = Math.ceil(view.from / step) * step; at <= view.from + view.width; at += step) {
      const place = LANE.label + x(at);
      if (place > LANE.label + size[0] - 30) break;
      marks.push(drawn("line", { x1: place, x2: place, y1: 16, y2: LANE.head, class: "line" }));
      const anchor = place < LANE.label + 30 ? "start" : "middle";
      marks.push(drawn("text", { x: place, y: 12, "text-anchor": anchor }, showTime(at)));
    }
    axis.replaceChildren(...marks);
    return step;
  }

  function draw(view) {
    last = view;
    if (!theme) restyle();
    resize();
    const [wide, high] = size;
    const pen = canvas.getContext("2d");
    const scale = wide / view.width;
    const x = (time) => (time - view.from) * scale;
    const until = view.from + view.width;
    const scrolled = scroller.scrollTop;
    pen.clearRect(0, 0, wide, high);
    pen.font = theme.font;
    pen.textBaseline = "middle";
    pen.strokeStyle = theme.line;
    pen.lineWidth = 1;
    const step = drawAxis(view, x);
    for (let at = Math.ceil(view.from / step) * step; at <= until; at += step) {
      pen.beginPath();
      pen.moveTo(Math.round(x(at)) + 0.5, 0);
      pen.lineTo(Math.round(x(at)) + 0.5, high);
      pen.stroke();
    }
    let bars = 0;
    run.lanes.forEach((lane, k) => {
      const y = places[k] - scrolled;
      if (!(y <= high) || y + lane.rows * LANE.row < 0) return;
      lane.slices.forEach(([from, to], row) => {
        let edge = -1;
        for (let at = after(of["spans.end"], view.from, from, to); at < to && of["spans.start"][at] < until; at++) {
          const left = Math.max(0, x(of["spans.start"][at]));
          const right = Math.min(wide, x(of["spans.end"][at]));
          if (right < edge) continue; // under the pixel of the one before
          const stage = of["spans.stage"][at];
          const thick = of["spans.thin"][at] ? LANE.thin : LANE.thick;
          const about = view.list >= of["spans.first"][at] && view.list <= of["spans.last"][at];
          const span = Math.max(1, right - left);
          const middle = y + row * LANE.row + LANE.row / 2;
          pen.globalAlpha = view.list < 0 || about ? 1 : 0.3;
          pen.fillStyle = colours[stage];
          pen.fillRect(left, middle - thick / 2, span, thick);
          if (about) {
            pen.strokeStyle = theme.ink;
            pen.strokeRect(left - 0.5, middle - LANE.thick / 2 - 0.5, span + 1, LANE.thick + 1);
          }
          if (span > 16 + stages[stage].length * 6 && thick === LANE.thick) {
            pen.fillStyle = inks[stage];
            pen.fillText(stages[stage], left + 5, middle + 0.5);
          }
          edge = left + span + 0.3;
          bars++;
        }
      });
    });
    pen.globalAlpha = 1;
    pen.strokeStyle = theme.ink;
    pen.lineWidth = 1.5;
    pen.beginPath();
    pen.moveTo(x(view.time), 0);
    pen.lineTo(x(view.time), high);
    pen.stroke();
    el.dataset.bars = bars;
    el.dataset.width = view.width;
  }

  /** Where the pointer is on the canvas, px; on a page for a projector it is larger than it is laid out. */
  function placeOf(event) {
    const { left, top, width } = canvas.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top].map((px) => (px * size[0]) / width);
  }

  const timeAt = (event) => last.from + (placeOf(event)[0] / size[0]) * last.width;

  /** The span under the pointer: its place in the columns, or -1. */
  function find(event) {
    const y = placeOf(event)[1] + scroller.scrollTop;
    const time = timeAt(event);
    const slack = (2 * last.width) / size[0];
    for (let k = 0; k < places.length; k++) {
      const row = Math.floor((y - places[k]) / LANE.row);
      const [from, to] = (row >= 0 && row < run.lanes[k].rows && run.lanes[k].slices[row]) || [0, 0];
      const at = after(of["spans.end"], time - slack, from, to);
      if (at < to && of["spans.start"][at] <= time + slack) return at;
    }
    return -1;
  }

  /** What a span is, in words. */
  function describe(at) {
    const lane = run.lanes[of["spans.lane"][at]];
    const [start, end] = [of["spans.start"][at], of["spans.end"][at]];
    const stage = stages[of["spans.stage"][at]];
    const waits = of["spans.thin"][at] && !waiting.has(stage) ? ", waiting" : "";
    return `${lane.name}: ${stage}${waits}, ${showTime(start)} to ${showTime(end)} (${showTime(end - start)})`;
  }

  scroller.addEventListener("scroll", () => draw(last));
  const shown = (k) => places[k] !== undefined;
  return { el, canvas, many, shown, arrange, draw, restyle, find, describe, timeAt };
}
