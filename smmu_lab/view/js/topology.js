// The machine: walk along its layers, see the way of a command, open a part to read what it holds.

const LAYERS = 6; // that of the guests is -1
const PANEL = 290; // px that the details need beside the picture

function render({ model, el }) {
  const about = model.get("about");
  const machine = node("div", { class: "machine" });
  const panel = node("section", { class: "panel", hidden: true });
  const stage = node("div", { class: "stage" }, machine, panel);
  const status = node("p", { class: "unseen", role: "status" });
  let cells = [];
  let boxes = []; // the group of each cell; none for what is not drawn
  let current = 0; // what the Tab key comes to
  let hovered = -1;
  let focused = -1;

  /** Put the picture into the page, each of its boxes a button. */
  function draw() {
    cells = model.get("cells");
    machine.innerHTML = model.get("svg"); // written and escaped by smmu_lab.charts
    const svg = machine.firstElementChild;
    svg.setAttribute("role", "group"); // an image could hold no buttons
    svg.setAttribute("aria-label", about.title);
    boxes = cells.map(() => null);
    for (const box of svg.querySelectorAll("[data-cell]")) {
      const place = Number(box.dataset.cell);
      boxes[place] = box;
      box.setAttribute("role", "button");
      box.setAttribute("aria-label", cells[place].label);
      box.setAttribute("tabindex", -1);
      if (cells[place].layer < 0) box.classList.add("frame");
      box.addEventListener("pointermove", ({ movementX, movementY }) => {
        if (hovered !== place && (movementX || movementY)) light((hovered = place)); // not where the page moved
      });
      box.addEventListener("pointerleave", () => light((hovered = -1)));
      box.addEventListener("focus", () => {
        hovered = -1;
        focused = place;
        stand(place);
        light();
      });
      box.addEventListener("blur", () => light((focused = -1)));
      box.addEventListener("click", () => select(place));
    }
    const limits = cells.findIndex((cell, place) => boxes[place] && cell.name === about.limits[0]);
    const first = cells.findIndex((cell, place) => boxes[place] && cell.layer === 0);
    stand(limits >= 0 ? limits : Math.max(0, first));
    show();
  }

  /** Of all boxes the Tab key comes to one; arrows move on from there. */
  function stand(place) {
    boxes[current]?.setAttribute("tabindex", -1);
    boxes[place]?.setAttribute("tabindex", 0);
    current = place;
  }

  function focus(place) {
    const box = boxes[place];
    if (!box) return;
    box.focus({ preventScroll: true });
    box.firstElementChild.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  // -- the way of a command -----------------------------------------------------------------------------------------

  const selected = () => cells.findIndex((cell) => cell.name === model.get("selected"));

  /** Show what lies before and behind a box: the one that was pointed at, else the focused, else the open one. */
  function light() {
    const place = [hovered, focused, selected()].find((each) => each >= 0) ?? -1;
    const way = new Set(place < 0 ? [] : cells[place].way);
    machine.classList.toggle("lit", place >= 0);
    el.dataset.lit = cells[place]?.name ?? "";
    boxes.forEach((box, each) => box?.classList.toggle("on", way.has(each) || each === place));
    for (const edge of machine.querySelectorAll("[data-way]")) {
      edge.classList.toggle("on", edge.dataset.way.split(" ").every((end) => way.has(Number(end))));
    }
  }

  // -- walking ------------------------------------------------------------------------------------------------------

  const middle = (place) => {
    const { top, height } = boxes[place].firstElementChild.getBoundingClientRect();
    return top + Math.min(height, 40) / 2; // what encloses others is where its words are
  };

  /** The boxes of a layer, from the top down. */
  const layer = (number) =>
    cells
      .map((cell, place) => place)
      .filter((place) => boxes[place] && cells[place].layer === number)
      .sort((a, b) => middle(a) - middle(b));

  /** To the next layer with boxes: the nearest one that an edge leads to; else that a command passes; else at all. */
  function across(by) {
    const from = cells[current];
    const ends = (one, other) => machine.querySelector(`[data-way="${one} ${other}"]`);
    const joined = (place) => ends(current, place) || ends(place, current);
    for (let number = from.layer + by; number >= -1 && number < LAYERS; number += by) {
      const all = layer(number);
      if (!all.length) continue;
      const passed = all.filter((place) => from.way.includes(place));
      const near = [all.filter(joined), passed, all].find((some) => some.length);
      const here = middle(current);
      const far = (place) => Math.abs(middle(place) - here);
      return focus(near.reduce((a, b) => (far(b) < far(a) ? b : a)));
    }
  }

  function along(by) {
    const all = layer(cells[current].layer);
    focus(all[all.indexOf(current) + by] ?? current);
  }

  // -- details ------------------------------------------------------------------------------------------------------

  function select(place) {
    model.set("selected", cells[place]?.name ?? "");
    model.save_changes();
    if (place < 0) return;
    stage.scrollIntoView({ block: "nearest" });
    boxes[place].firstElementChild.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  function close() {
    const place = selected();
    select(-1);
    focus(place);
  }

  function table({ caption, header, rows, left }) {
    const line = (name, cellsOf) =>
      node("tr", {}, ...cellsOf.map((words, k) => node(name, { class: left[k] ? "left" : false }, words)));
    return node(
      "table",
      {},
      node("caption", {}, caption),
      node("thead", {}, line("th", header)),
      node("tbody", {}, ...rows.map((row) => line("td", row))),
    );
  }

  /** What the open part is and holds. */
  function show() {
    const place = selected();
    boxes.forEach((box, each) => box?.setAttribute("aria-expanded", each === place));
    panel.hidden = place < 0;
    el.dataset.selected = cells[place]?.name ?? "";
    light();
    if (place < 0) return panel.replaceChildren();
    const cell = cells[place];
    const facts = cell.rows.flatMap(([label, value]) => [node("dt", {}, label), node("dd", {}, value)]);
    const drawing = node("div", { class: "drawing" });
    drawing.innerHTML = cell.svg; // written and escaped by smmu_lab.charts, too
    drawing.hidden = !cell.svg;
    const tables = cell.sheets.map(table);
    tables.splice(1, 0, drawing);
    panel.setAttribute("aria-label", `Details of ${cell.title}`);
    panel.replaceChildren(
      node(
        "header",
        {},
        node("div", {}, node("strong", {}, cell.title), " ", node("span", { class: "faint" }, cell.kind)),
        button("✕", "Close the details", close, "Esc"),
      ),
      node("div", { class: "parts" }, node("dl", {}, ...facts), node("div", { class: "figures" }, ...tables)),
    );
    panel.scrollTop = 0;
    status.textContent = `Details of ${cell.title} are open after the picture.`;
  }

  el.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || selected() < 0) return; // JupyterLab may have it
    event.preventDefault();
    event.stopPropagation();
    close();
  });
  onKeys(machine, {
    ArrowRight: () => across(1),
    ArrowLeft: () => across(-1),
    ArrowDown: () => along(1),
    ArrowUp: () => along(-1),
    Enter: () => select(current),
    " ": () => select(current),
  });
  keepKeys(panel);
  el.classList.add("smmu-lab", "view", "topology");
  el.append(
    insteadOfPicture(model),
    node(
      "div",
      { class: "toolbar" },
      node("p", {}, node("strong", {}, about.title), node("br"), about.verdict),
      fullScreen(el),
    ),
    node("p", { class: "faint hint" }, "Point at a part: the way of commands. Click, or arrows and Enter: details."),
    stage,
    status,
  );
  model.on("change:selected", show);
  model.on("change:svg", draw);
  draw();
  const unwatch = watchWidth(stage, (width) => {
    stage.classList.toggle("beside", width >= Number(machine.firstElementChild.getAttribute("width")) + PANEL);
  });
  return () => {
    unwatch();
    model.off("change:selected", show);
    model.off("change:svg", draw);
  };
}

export default { render };
