// The ring: PROD and CONS on a circle, and the slots around CONS, each with the command that is in it.

const STATES = ["empty", "written", "published", "taken up", "at the SMMU", "run", "behind CONS"];
const SLOTS = 64;
const [ACROSS, PAGE] = [8, 32];
const [X, Y, R] = [68, 70, 44]; // of the circle

/** The ring of one queue of a replay. `show(queue, time, entry)` shows an instant; `chosen(list, entry)` is called. */
function ringView(run, chosen) {
  const kinds = Object.keys(PALETTE.commands);
  const wide = 300;
  const circle = drawn("svg", { class: "circle", viewBox: "0 0 300 136", width: wide, height: 136, role: "img" });
  const track = drawn("circle", { cx: X, cy: Y, r: R, class: "track" });
  const arc = drawn("path", { class: "arc" });
  const [prodMark, consMark] = [0, 1].map(() => drawn("path", { class: "pointer", d: "M0 0l6-11h-12z" }));
  const [prodName, consName] = ["P", "C"].map((name) =>
    drawn("text", { class: "strong", "text-anchor": "middle" }, name),
  );
  const held = drawn("text", { x: X, y: Y + 5, "text-anchor": "middle", class: "strong" });
  const size = drawn("text", { x: 150, y: 129 });
  const words = ["PROD", "CONS"].map((name, k) => {
    const value = drawn("text", { x: 150, y: 31 + 52 * k, class: "strong" });
    const wrap = drawn("text", { x: 150, y: 46 + 52 * k, class: "small faint" });
    circle.append(drawn("text", { x: 150, y: 15 + 52 * k, class: "small" }, `${name} (${name[0]})`), value, wrap);
    return [value, wrap];
  });
  circle.append(track, arc, prodMark, consMark, prodName, consName, held, size);

  const grid = node("div", { class: "slots", role: "group", "aria-label": "Slots from CONS on" });
  const slots = Array.from({ length: SLOTS }, (_, k) => {
    const slot = node("button", { type: "button", tabindex: k ? -1 : 0 });
    slot.addEventListener("click", () => slot.entry >= 0 && chosen(slot.list, slot.entry));
    grid.append(slot);
    return slot;
  });
  const told = node("p", { class: "told" }, "Point at a slot to see its command.");
  let at = { queue: 0, time: 0 };

  /** What is in a slot, in words. */
  function describe(slot) {
    const count = slot.count;
    const ring = run.queues[at.queue];
    const where = `slot ${count % ring.size}`;
    if (slot.entry < 0) return `${where}: nothing yet`;
    const text = run.about.texts[run.of["entries.text"][slot.entry]];
    const who = `guest ${run.list("guest")[slot.list]}, vCPU ${run.list("vcpu")[slot.list]}`;
    const state = run.stateOf(slot.list, slot.entry, at.time);
    const early = state === 6 && run.of["entries.done"][slot.entry] > at.time ? ", not run yet" : "";
    return `${where}: ${text} · ${who} · ${STATES[state]}${early}`;
  }

  const tell = (event) => event.target.count >= 0 && (told.textContent = describe(event.target));
  grid.addEventListener("pointerover", tell);
  grid.addEventListener("focusin", tell);
  onKeys(grid, Object.fromEntries(
    [["ArrowRight", 1], ["ArrowLeft", -1], ["ArrowDown", ACROSS], ["ArrowUp", -ACROSS]].map(([key, by]) => [
      key,
      (event) => {
        const to = slots[slots.indexOf(event.target) + by];
        if (!to) return;
        slots.forEach((slot) => (slot.tabIndex = slot === to ? 0 : -1));
        to.focus();
      },
    ]),
  ));

  function point(mark, name, index, entries) {
    const turn = (index / entries) * 360;
    const angle = ((turn - 90) * Math.PI) / 180;
    const outside = mark === prodMark;
    const r = outside ? R + 4 : R - 4;
    const place = `${X + r * Math.cos(angle)} ${Y + r * Math.sin(angle)}`;
    mark.setAttribute("transform", `translate(${place}) rotate(${outside ? turn : turn + 180})`);
    const far = outside ? R + 20 : R - 19;
    name.setAttribute("x", X + far * Math.cos(angle));
    name.setAttribute("y", Y + 4 + far * Math.sin(angle));
  }

  function show(queue, time, entry) {
    const ring = run.queues[queue];
    const [prod, cons] = [run.prod(queue, time), run.cons(queue, time)];
    const base = cons - (cons % PAGE); // it stands still for a while, so that slots fill and empty in their places
    at = { queue, time };
    words.forEach(([value, wrap], k) => {
      const count = k ? cons : prod;
      value.textContent = `0x${(count % (2 * ring.size)).toString(16)}`;
      wrap.textContent = `index ${(count % ring.size).toLocaleString("en")}, wrap ${Math.floor(count / ring.size) % 2}`;
    });
    held.textContent = (prod - cons).toLocaleString("en");
    size.textContent = `${held.textContent} of ${ring.size.toLocaleString("en")} in it`;
    point(prodMark, prodName, prod % ring.size, ring.size);
    point(consMark, consName, cons % ring.size, ring.size);
    const share = Math.min(0.9999, Math.max(prod > cons ? 0.008 : 0, (prod - cons) / ring.size));
    const [from, to] = [cons / ring.size, cons / ring.size + share].map((turn) => 2 * Math.PI * (turn - 0.25));
    const ends = [from, to].map((angle) => `${X + R * Math.cos(angle)} ${Y + R * Math.sin(angle)}`);
    arc.setAttribute("d", share ? `M${ends[0]}A${R} ${R} 0 ${share > 0.5 ? 1 : 0} 1 ${ends[1]}` : "");
    const said = `PROD ${prod % ring.size}, CONS ${cons % ring.size}, ${prod - cons} of ${ring.size} entries in it`;
    circle.setAttribute("aria-label", `${ring.name}: ${said}`);
    slots.forEach((slot, k) => {
      const count = base + k;
      const found = run.entryAt(queue, count);
      const state = found.entry < 0 ? 0 : run.stateOf(found.list, found.entry, time);
      const kind = state ? kinds[run.of["entries.kind"][found.entry]] : "";
      const marks = [count === cons && "cons", count === prod && "prod", state && found.entry === entry && "followed"];
      const face = `${count} ${kind} ${state} ${marks}`;
      if (slot.face === face) return;
      Object.assign(slot, { face, count, ...(state ? found : { list: -1, entry: -1 }) });
      const [letter, colour] = PALETTE.commands[kind] ?? ["·", ""];
      slot.className = `state${state} ${marks.filter(Boolean).join(" ")}`;
      slot.style.setProperty("--kind", colour || "transparent");
      slot.style.setProperty("--on", colour ? inkOn(colour) : "inherit");
      slot.textContent = letter;
      slot.setAttribute("aria-label", `slot ${count % ring.size}: ${state ? `${kind}, ${STATES[state]}` : "empty"}`);
    });
    if (grid.contains(document.activeElement)) told.textContent = describe(document.activeElement);
  }

  const legend = node("p", { class: "legend" });
  const key = (sign, word) => legend.append(node("span", { class: "key" }, sign, ` ${word}`), " ");
  for (const kind of new Set(Array.from(run.of["entries.kind"], (number) => kinds[number]))) {
    const [letter, colour] = PALETTE.commands[kind];
    key(node("span", { class: "state3", style: `--kind:${colour};--on:${inkOn(colour)}` }, letter), kind);
  }
  STATES.slice(1).forEach((word, k) => key(node("span", { class: `state${k + 1}` }), word));
  return { el: node("div", { class: "ring" }, circle, grid, told, legend), show };
}
