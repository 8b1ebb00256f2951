// The approaches of the explorer: which rows of the catalogue, and what is changed in each.

const MOST = 8; // approaches at once

/** Ink and shape of an approach, as every picture has them. */
function mark(ink, shape) {
  const path = drawn("path", { d: shape, fill: ink, stroke: ink, "stroke-width": 1.5 });
  return drawn("svg", { viewBox: "-8 -8 16 16", width: 14, height: 14, "aria-hidden": "true" }, path);
}

/** `chosen(entries)` hears the new list of `{ row, changes }`. */
function approachPanel(model, chosen) {
  const catalogue = new Map(model.get("catalogue").map((row) => [row.name, row]));
  const columns = model.get("columns");
  let entries = [];
  let made = []; // what stands for each entry

  const boxes = [...catalogue.values()].map((row) => {
    const box = node("input", { type: "checkbox", title: row.title });
    box.addEventListener("input", () => {
      const others = entries.filter((each) => each.row !== row.name);
      chosen(box.checked ? [...others, { row: row.name, changes: null }] : others);
    });
    return { row: row.name, box, element: node("label", { class: "knob flag", title: row.title }, box, row.name) };
  });
  const full = node("small", { class: "why" });
  const rows = node(
    "fieldset",
    { class: "rows" },
    node("legend", {}, "Compared, at most ", String(MOST)),
    ...boxes.map((each) => each.element),
    full,
  );
  const list = node("div", { class: "entries" });

  function replaced(index, changes) {
    return entries.map((each, k) => (k === index ? { ...each, changes } : each));
  }

  /** No change is the row itself, unless that is there already. */
  function reduced(index, changes) {
    const { row } = entries[index];
    const plain = entries.some((each, k) => k !== index && each.row === row && each.changes === null);
    return Object.keys(changes).length || plain ? changes : null;
  }

  function change(index, column, value) {
    const { row, changes } = entries[index];
    const { [column]: _, ...others } = changes ?? {};
    const next = value === catalogue.get(row)[column] ? others : { ...others, [column]: value };
    chosen(replaced(index, reduced(index, next)));
  }

  function entryOf(index) {
    const row = catalogue.get(entries[index].row);
    const name = node("strong");
    const shape = node("span", { class: "mark" });
    const problem = node("span", { class: "problem" });
    const selects = columns.map(({ name: column, about, choices }) => {
      const options = choices.map(([, label], k) => node("option", { value: k }, label));
      const select = node("select", { title: about, "data-column": column }, ...options);
      select.addEventListener("input", () => change(index, column, choices[Number(select.value)][0]));
      const label = node("label", { class: "knob choice", title: about }, node("span", {}, column), select);
      return { column, choices, select, label };
    });
    const back = () => chosen(replaced(index, reduced(index, {})));
    const revert = button("Revert", "Revert to the row of the catalogue", back);
    const more = button("Add a what-if", "Add a what-if: a copy of it to change", () => {
      const copy = { row: row.name, changes: { ...entries[index].changes } };
      chosen([...entries.slice(0, index + 1), copy, ...entries.slice(index + 1)]);
      list.children[index + 1]?.querySelector("summary").focus();
    });
    const remove = button("Remove", "Remove it from the comparison", () => {
      chosen(entries.filter((_, k) => k !== index));
      (list.children[Math.min(index, entries.length - 1)]?.querySelector("summary") ?? boxes[0].box).focus();
    });
    const details = node(
      "details",
      {},
      node("summary", {}, shape, name, node("span", { class: "faint" }, ` ${row?.title ?? ""}`), problem),
      node("div", { class: "knobs" }, ...selects.map((each) => each.label)),
      node("div", { class: "toolbar" }, revert, more, remove),
    );
    const element = node("div", { class: "entry" }, details);
    details.addEventListener("toggle", () => details.open && element.scrollIntoView({ block: "nearest" }));
    return { row: entries[index].row, name, shape, problem, selects, revert, more, element };
  }

  /** Stand at these entries; `names` and `refused` are what Python says of each, while they are the same. */
  function follow(next, names, refused) {
    entries = Array.isArray(next) ? next.filter((each) => each?.row) : []; // Python says what is wrong with others
    const many = entries.length >= MOST;
    for (const { row, box } of boxes) {
      box.checked = entries.some((each) => each.row === row);
      box.disabled = many && !box.checked;
    }
    full.textContent = many ? `There are ${entries.length}; leave one out to take another.` : "";
    if (made.length !== entries.length || made.some((each, k) => each.row !== entries[k].row)) {
      const open = new Set(made.filter((each) => each.element.firstChild.open).map((each) => each.row));
      made = entries.map((_, k) => entryOf(k));
      for (const each of made) each.element.firstChild.open = open.has(each.row);
      list.replaceChildren(...made.map((each) => each.element));
    }
    made.forEach((each, k) => {
      const { row, changes } = entries[k];
      const [name, ink, shape] = names[k] ?? [row, "currentColor", "M-4 0h8"];
      each.name.textContent = name;
      each.shape.replaceChildren(mark(ink, shape));
      each.problem.textContent = refused[k] ?? "";
      each.revert.disabled = !changes || !Object.keys(changes).length;
      each.more.disabled = many;
      for (const { column, choices, select, label } of each.selects) {
        const value = changes?.[column] ?? catalogue.get(row)?.[column];
        select.value = choices.findIndex(([option]) => option === value);
        label.classList.toggle("changed", changes?.[column] !== undefined);
        select.setAttribute("aria-label", `${column} of ${name}`);
      }
    });
  }

  return { element: node("div", {}, rows, list), follow };
}
