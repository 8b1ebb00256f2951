// The dashboard of a comparison. Hiding, sorting, scale, reference and provenance need no kernel; with one, the
// pictures are drawn anew for what is shown.

const PATIENCE = 3000; // ms without an answer before we say so
const LEAVE = 250; // ms in which the pointer may cross from a stage to its costs
const WIDE = 1100; // px: from here on all panels stand side by side
const SPACE = 24; // px between them

let dashboards = 0;

/** The sign of an approach, as in the pictures. */
function sign(approach) {
  const { ink, marker } = approach;
  const path = drawn("path", { d: marker, fill: ink, stroke: ink, "stroke-width": 1.5 });
  return drawn("svg", { viewBox: "-7 -7 14 14", "aria-hidden": "true" }, path);
}

/** Hide rows of a picture, and move the others into an order. */
function arrange(svg, order, hidden) {
  const rows = [...svg.querySelectorAll("g[data-approach]")];
  const shown = order.filter((name) => !hidden.has(name) && rows.some((row) => row.dataset.approach === name));
  const high = Number(svg.dataset.row ?? 0);
  rows.forEach((row, place) => {
    row.style.display = hidden.has(row.dataset.approach) ? "none" : "";
    row.setAttribute("transform", `translate(0 ${(shown.indexOf(row.dataset.approach) - place) * high})`);
  });
}

/** The table of costs behind a stage. `rows`: [cost, share in words], or a sentence. */
function costTable(facts, rows) {
  const body = rows.map((row) => {
    if (typeof row === "string") return node("tr", {}, node("td", { colspan: 6 }, node("em", {}, row)));
    const [name, share] = row;
    const cost = facts.costs[name];
    return node(
      "tr",
      { "data-cost": name },
      node("td", {}, node("strong", {}, name), node("br"), node("span", { class: "faint" }, cost.meaning)),
      node("td", { class: "tight" }, cost.value),
      node("td", { class: "tight" }, cost.range),
      node("td", {}, cost.basis),
      node("td", {}, share),
      node("td", { class: "faint" }, cost.source),
    );
  });
  const head = ["Cost", "Value", "Range", "Basis", "Share", "Source"].map((word) => node("th", { scope: "col" }, word));
  return node("table", {}, node("thead", {}, node("tr", {}, ...head)), node("tbody", {}, ...body));
}

/** What is said of a stage under one approach, as rows of the table. */
function rowsOf({ own, ahead }) {
  const rows = own.map(([cost, share]) => [cost, share ?? "depends on when it polls"]);
  if (ahead.length) rows.push("Time of whoever is ahead, made of:", ...ahead.map((cost) => [cost, ""]));
  return rows.length ? rows : ["No cost by itself: it follows from what went wrong."];
}

/** What is said of a stage under all approaches that are shown. */
function rowsOfAll(facts, stage, names) {
  const found = new Map();
  for (const name of names) {
    const { own = [], ahead = [] } = facts.made[name][stage] ?? {};
    const others = ahead.filter((cost) => !own.some(([each]) => each === cost));
    const said = [...own, ...others.map((cost) => [cost, "of those ahead"])];
    for (const [cost, share] of said) {
      const byShare = found.get(cost) ?? found.set(cost, new Map()).get(cost);
      const words = share ?? "depends on when it polls";
      byShare.set(words, [...(byShare.get(words) ?? []), name]);
    }
  }
  if (!found.size) return ["It takes no time here, or follows from what went wrong."];
  const said = (shares) => [...shares].map(([share, names]) => `${share}: ${names.join(", ")}`).join("; ");
  return [...found].map(([cost, shares]) => [cost, said(shares)]);
}

function render({ model, el }) {
  const facts = model.get("facts");
  const wishes = latestOnly(model);
  const id = `smmu-lab-dashboard-${++dashboards}`;
  const names = facts.approaches.map((each) => each.name);
  let chosen = Object.keys(facts.panels)[0];
  let pinned = null;
  let told = null;
  let waitTimer, leaveTimer;

  // -- controls --

  const boxes = facts.approaches.map((each) => node("input", { type: "checkbox", value: each.name }));
  const option = (value, words = value) => node("option", { value }, words);
  const reference = node("select", { name: "reference" }, ...names.map((name) => option(name)));
  const order = node("select", { name: "order" }, option("given", "as asked"), option("mean"), option("p99"));
  const log = node("input", { type: "checkbox", name: "log", checked: true });
  const controls = node(
    "form",
    { "aria-label": "What is shown of the comparison" },
    node(
      "fieldset",
      {},
      node("legend", {}, "Approaches"),
      ...facts.approaches.map((each, k) => node("label", { title: each.title }, boxes[k], sign(each), each.name)),
    ),
    node("label", {}, "Reference", reference),
    node("label", {}, "Order by", order),
    node("label", {}, log, "Logarithmic latency"),
  );
  reference.value = facts.reference;

  const message = node("p", { class: "message", role: "status" });
  const panels = {};
  const tabs = {};
  for (const [name, title] of Object.entries(facts.panels)) {
    panels[name] = node("div", { class: "panel", id: `${id}-${name}`, "data-panel": name, tabindex: -1 });
    tabs[name] = node("button", { type: "button", role: "tab", "aria-controls": `${id}-${name}` }, title);
    tabs[name].addEventListener("click", () => choose(name));
  }
  const tablist = node("div", { role: "tablist", "aria-label": "Panels" }, ...Object.values(tabs));
  const costs = node("div", { class: "costs", id: `${id}-costs`, hidden: true });

  const hidden = () => new Set(boxes.filter((box) => !box.checked).map((box) => box.value));

  function sorted() {
    const by = order.value;
    return by === "given" ? names : [...facts.approaches].sort((a, b) => a[by] - b[by]).map((each) => each.name);
  }

  const visible = () => sorted().filter((name) => !hidden().has(name));

  // -- panels --

  function choose(name) {
    chosen = name;
    forget();
    const grid = el.dataset.layout === "grid";
    for (const [each, panel] of Object.entries(panels)) {
      const selected = each === name;
      panel.toggleAttribute("data-chosen", selected);
      panel.setAttribute("role", grid ? "region" : "tabpanel");
      panel.setAttribute("aria-label", facts.panels[each]);
      tabs[each].setAttribute("aria-selected", selected);
      tabs[each].tabIndex = selected ? 0 : -1;
    }
  }

  function step(by) {
    const all = Object.keys(panels);
    choose(all[(all.indexOf(chosen) + by + all.length) % all.length]);
    tabs[chosen].focus();
  }

  /** Put what Python drew into the panels, as the controls say. */
  function show() {
    const { panels: html } = model.get("shown");
    const keys = { distribution: log.checked ? "log" : "linear", differences: reference.value };
    keys.percentiles = keys.distribution;
    for (const [name, panel] of Object.entries(panels)) {
      const wanted = name in keys && html[name] ? html[name][keys[name]] : html[name];
      const written = wanted || "<p>No approach is ticked.</p>";
      if (panel.written !== written) fill(panel, written);
      const svg = panel.querySelector("svg");
      if (svg) arrange(svg, sorted(), hidden());
    }
    el.dataset.reference = reference.value;
    el.dataset.order = order.value;
    el.dataset.scale = keys.distribution;
    el.dataset.rows = visible().join(" ");
    stops();
    wishes.next();
    wait();
  }

  function fill(panel, written) {
    const open = panel.querySelector("details")?.open;
    const { approach, stage } = panel.contains(document.activeElement) ? placeOf(document.activeElement) : {};
    if (panel === panels.breakdown) forget();
    panel.written = written;
    panel.innerHTML = written; // written and escaped by smmu_lab.charts
    if (open) panel.querySelector("details").open = true;
    if (panel === panels.breakdown) openUp(panel);
    const same = (each) => placeOf(each).stage === stage && placeOf(each).approach === approach;
    if (stage) targets().flat().find(same)?.focus();
  }

  function wish() {
    wishes.want({ hidden: [...hidden()] });
    show();
  }

  function follow() {
    const off = model.get("setting").hidden;
    boxes.forEach((box) => (box.checked = !off.includes(box.value)));
    show();
  }

  /** Say so when the pictures are those of an older choice. */
  function wait() {
    clearTimeout(waitTimer);
    message.textContent = "";
    el.dataset.waiting = wishes.waiting();
    if (wishes.waiting()) {
      waitTimer = setTimeout(() => {
        message.textContent = "No answer from the kernel: scales are still those of the approaches drawn before.";
      }, PATIENCE);
    }
  }

  // -- what a stage is made of --

  const placeOf = (target) => ({
    approach: target.closest("g[data-approach]")?.dataset.approach ?? "",
    stage: target.dataset.stage ?? target.dataset.key,
  });

  /** Stages as buttons: the picture is no longer one image. */
  function openUp(panel) {
    const svg = panel.querySelector("svg");
    if (!svg) return;
    svg.setAttribute("role", "group");
    for (const each of svg.querySelectorAll("[data-stage], [data-key]")) {
      const { approach, stage } = placeOf(each);
      each.querySelector("title")?.remove();
      each.dataset.costs = "";
      if ("ns" in each.dataset || each.tagName === "rect" && "key" in each.dataset) continue; // the pointer's only
      each.setAttribute("role", "button");
      each.setAttribute("tabindex", -1);
      const mean = approach && facts.made[approach]?.[stage]?.mean;
      each.setAttribute("aria-label", approach ? `${approach}, ${stage}: ${mean}: its costs` : `${stage}: its costs`);
    }
  }

  /** What the arrow keys walk through, row by row as they stand: shares by approach, then the key of stages. */
  function targets() {
    const bars = [...panels.breakdown.querySelectorAll("rect[data-share]")];
    const rows = visible().map((name) => bars.filter((each) => placeOf(each).approach === name));
    return [...rows, [...panels.breakdown.querySelectorAll("text[data-key]")]].filter((row) => row.length);
  }

  /** One stage is reached by Tab: the last one that had the focus, else the first. */
  function stops() {
    const all = targets().flat();
    if (all.length && !all.some((each) => each.tabIndex === 0)) all[0].setAttribute("tabindex", 0);
    for (const each of panels.breakdown.querySelectorAll('[tabindex="0"]')) {
      if (!all.includes(each) && each.dataset.costs !== undefined) each.setAttribute("tabindex", -1);
    }
  }

  function walk(event, across, down) {
    const rows = targets();
    const row = rows.findIndex((each) => each.includes(event.target));
    if (row < 0) return;
    const column = rows[row].indexOf(event.target);
    let next = rows[row][Math.max(0, Math.min(rows[row].length - 1, column + across))];
    if (down) {
      const other = rows[Math.max(0, Math.min(rows.length - 1, row + down))];
      const { stage } = placeOf(event.target);
      next = other.find((each) => placeOf(each).stage === stage) ?? other[Math.min(column, other.length - 1)];
    }
    event.target.setAttribute("tabindex", -1);
    next.setAttribute("tabindex", 0);
    next.focus();
  }

  function tell(target) {
    clearTimeout(leaveTimer);
    if (target === told) return;
    forget();
    told = target;
    const { approach, stage } = placeOf(target);
    const made = approach && facts.made[approach][stage];
    const rows = made ? rowsOf(made) : rowsOfAll(facts, stage, visible());
    const title = approach ? `${stage} under ${approach}: ${made.mean}` : `${stage} under each approach`;
    costs.replaceChildren(
      node("header", {}, node("div", {}, node("h4", {}, title), facts.stages[stage]), close),
      costTable(facts, rows),
      node("p", { class: "faint" }, `${facts.alone} A range is there to be explored; it is no confidence interval.`),
    );
    costs.setAttribute("role", "tooltip");
    costs.setAttribute("aria-label", title);
    costs.dataset.stage = stage;
    costs.dataset.approach = approach;
    costs.hidden = false;
    close.hidden = true;
    target.dataset.told = "";
    if (target.hasAttribute("role")) target.setAttribute("aria-describedby", costs.id);
    place(target);
  }

  /** Below the stage, or above it where there is no room; never beyond the sides. */
  function place(target) {
    const [root, at, size] = [el, target, costs].map((each) => each.getBoundingClientRect());
    const left = Math.max(0, Math.min(at.left - root.left, root.width - size.width));
    const below = at.bottom - root.top + 8;
    const above = at.top - root.top - size.height - 8;
    costs.style.left = `${left}px`;
    costs.style.top = `${below + size.height > root.height && above >= 0 ? above : below}px`;
  }

  function pin(target) {
    tell(target);
    pinned = target;
    costs.classList.add("pinned");
    costs.setAttribute("role", "dialog");
    close.hidden = false;
  }

  function forget() {
    clearTimeout(leaveTimer);
    told?.removeAttribute("aria-describedby");
    if (told) delete told.dataset.told;
    told = pinned = null;
    costs.classList.remove("pinned");
    costs.hidden = true;
  }

  const leave = () => {
    clearTimeout(leaveTimer);
    if (!pinned) leaveTimer = setTimeout(forget, LEAVE);
  };
  const stageAt = (event) => event.target.closest?.("[data-costs]");
  const close = button("×", "Close", () => {
    const back = pinned;
    forget();
    back?.focus();
    forget();
  }, "Escape");

  panels.breakdown.addEventListener("pointerover", (event) => {
    const target = stageAt(event);
    if (target && !pinned) tell(target);
    else if (!target) leave();
  });
  panels.breakdown.addEventListener("pointerleave", leave);
  costs.addEventListener("pointerenter", () => clearTimeout(leaveTimer));
  costs.addEventListener("pointerleave", leave);
  panels.breakdown.addEventListener("focusin", (event) => stageAt(event) && !pinned && tell(stageAt(event)));
  panels.breakdown.addEventListener("focusout", leave);
  panels.breakdown.addEventListener("click", (event) => {
    const target = stageAt(event);
    if (target) pinned === target ? forget() : (forget(), pin(target));
  });
  const toggle = (event) => stageAt(event) && (pinned === event.target ? forget() : (forget(), pin(event.target)));
  onKeys(panels.breakdown, {
    ArrowRight: (event) => walk(event, 1, 0),
    ArrowLeft: (event) => walk(event, -1, 0),
    ArrowDown: (event) => walk(event, 0, 1),
    ArrowUp: (event) => walk(event, 0, -1),
    Home: (event) => walk(event, -99, 0),
    End: (event) => walk(event, 99, 0),
    Enter: toggle,
    " ": toggle,
  });
  el.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || costs.hidden) return;
    event.stopPropagation();
    event.preventDefault();
    if (costs.contains(document.activeElement)) close.click();
    else forget();
  });
  onKeys(tablist, {
    ArrowRight: () => step(1),
    ArrowLeft: () => step(-1),
    Home: () => (step(-Object.keys(panels).indexOf(chosen))),
    End: () => step(-1 - Object.keys(panels).indexOf(chosen)),
  });

  // -- together --

  controls.addEventListener("input", (event) => (boxes.includes(event.target) ? wish() : show()));
  controls.addEventListener("submit", (event) => event.preventDefault());
  keepKeys(el);
  model.on("change:shown", show);
  model.on("change:setting", follow);
  el.classList.add("smmu-lab", "view", "dashboard");
  const all = node("div", { class: "panels" }, ...Object.values(panels));
  el.append(
    insteadOfPicture(model),
    node("h4", {}, facts.title),
    node("p", { class: "said verdict" }, facts.verdict),
    ...facts.warnings.map((each) => node("p", { class: "said" }, each)),
    node("p", { class: "said faint" }, `Figures rest on ${facts.basis}.`),
    controls,
    message,
    tablist,
    all,
    costs,
  );
  el.dataset.layout = "tabs";
  choose(chosen);
  follow();
  const unwatch = watchWidth(all, (width) => {
    el.dataset.layout = width >= WIDE ? "grid" : "tabs";
    choose(chosen);
    model.set("width", width >= WIDE ? Math.floor((width - SPACE) / 2) : width);
    model.save_changes();
  });

  return () => {
    clearTimeout(waitTimer);
    clearTimeout(leaveTimer);
    unwatch();
    model.off("change:shown", show);
    model.off("change:setting", follow);
  };
}

export default { render };
