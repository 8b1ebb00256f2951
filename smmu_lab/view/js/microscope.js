// The microscope: a recorded run, replayed. What is shown follows from the time alone: stepping back needs no history.

const SPEEDS = [100, 300, 1e3, 3e3, 1e4, 3e4, 1e5, 1e6, 1e7]; // ns of the run per second of the reader's
const ZOOMS = [500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 2e6, 5e6, 1e7, 5e7, 2e8, 1e9]; // ns that are seen
const JUMPS = [
  ["doorbell", "doorbell (PROD write)"],
  ["sync", "CMD_SYNC seen"],
  ["error", "error"],
  ["fuller", "queue with at least … entries"],
  ["slower", "operation of at least … ns"],
];

function render({ model, el }) {
  const run = replay(model);
  const { events } = run;
  const state = { time: 0, queue: 0, list: -1, entry: -1, zoom: 0, playing: 0, frames: 0, pinned: null };
  state.zoom = ZOOMS.findIndex((width) => width >= Math.min(run.about.end, run.about.window)) % ZOOMS.length;
  if (state.zoom < 0) state.zoom = ZOOMS.length - 1;

  const lanes = swimLanes(run);
  const ring = ringView(run, follow);
  const status = node("p", { class: "status", role: "status" });
  const clock = node("output", { class: "clock" });
  const scrub = node("input", { type: "range", min: 0, max: Math.max(1, events.length - 1), "aria-label": "Time" });
  const choice = (label, options) => {
    const made = options.map(([value, words]) => node("option", { value }, words));
    const select = node("select", { "aria-label": label }, ...made);
    return [node("label", {}, `${label} `, select), select];
  };
  const [speedLabel, speed] = choice("Speed", SPEEDS.map((ns) => [ns, `${showTime(ns)} per s`]));
  const [queueLabel, queue] = choice("Queue", run.queues.map((each, k) => [k, each.name]));
  const [jumpLabel, jump] = choice("Jump to", JUMPS);
  const least = node("input", { type: "number", min: 1, step: 1, "aria-label": "At least" });
  const stops = node("input", { type: "checkbox" });
  const play = button("▶", "Play", toggle, "Space");
  const followed = node("div", { class: "followed" });
  speed.value = SPEEDS.find((ns) => ns >= ZOOMS[state.zoom] / 4) ?? SPEEDS.at(-1);

  // -- time ----------------------------------------------------------------------------------------------------------

  const place = () => Math.max(0, after(events, state.time) - 1);

  /** Move to a time; at rest it is always that of an event. */
  function go(time, rest = true) {
    state.time = Math.min(Math.max(0, time), run.about.end);
    if (rest) state.time = events[place()];
    show();
    if (rest) speak();
  }

  function step(by) {
    pause();
    if (state.entry < 0) return go(events[Math.min(Math.max(0, place() + by), events.length - 1)]);
    const stamps = run.life(state.list, state.entry).map(([, time]) => time);
    const next = by > 0 ? stamps.find((time) => time > state.time) : stamps.findLast((time) => time < state.time);
    if (next !== undefined) go(next);
  }

  function toggle() {
    if (state.playing) return pause();
    if (state.time >= run.about.end) go(0);
    play.textContent = "❚❚";
    play.setAttribute("aria-label", "Pause");
    state.frames = 0;
    let before; // the first frame only begins to count
    const frame = (now) => {
      const next = state.time + ((now - (before ?? now)) / 1000) * Number(speed.value);
      const halts = stops.checked ? marks() : [];
      const halt = halts[after(halts, state.time)];
      before = now;
      state.frames++;
      if (halt !== undefined && halt <= next) return pause(), go(halt);
      go(next, false);
      if (next >= run.about.end) return pause();
      state.playing = requestAnimationFrame(frame);
    };
    // With less motion nothing glides: one event after the other, two a second.
    const tick = () => {
      const next = events[place() + 1];
      const halts = stops.checked ? marks() : [];
      state.playing = -setTimeout(tick, 500);
      if (next === undefined || halts[after(halts, state.time) - 1] === state.time) return pause();
      go(next);
    };
    state.playing = lessMotion() ? -setTimeout(tick, 0) : requestAnimationFrame(frame);
    show();
  }

  function pause() {
    if (!state.playing) return;
    if (state.playing > 0) cancelAnimationFrame(state.playing);
    else clearTimeout(-state.playing);
    state.playing = 0;
    play.textContent = "▶";
    play.setAttribute("aria-label", "Play");
    go(state.time);
  }

  // -- jumps ---------------------------------------------------------------------------------------------------------

  const { doorbells, syncs, errors, fuller, slower } = run.moments;
  const known = {};

  /** The times that a kind of jump leads to. */
  function marks(kind = jump.value) {
    const key = `${kind} ${state.queue} ${least.value}`;
    const number = Number(least.value) || 1;
    const makers = { doorbell: doorbells, sync: syncs, error: errors };
    makers.fuller = () => fuller(state.queue, number);
    makers.slower = () => slower(number);
    return (known[key] ??= makers[kind]());
  }

  function leap(by, kind = jump.value) {
    pause();
    const times = marks(kind);
    const at = by > 0 ? after(times, state.time) : after(times, state.time - 0.5) - 1;
    if (times[at] !== undefined) return go(times[at]);
    const none = `No ${by > 0 ? "further" : "earlier"} one: ${times.length} in all.`;
    status.textContent = times.length ? none : missing(kind);
  }

  function missing(kind) {
    if (kind === "error") return "No error in this run: a scenario with fault.kind has one.";
    const { name } = run.queues[state.queue];
    if (kind === "fuller") return `${name} never holds more than ${run.peak(state.queue)} entries.`;
    if (kind === "slower") return `No operation takes longer than ${showTime(run.about.slowest)}.`;
    return "There is none in this run.";
  }

  function chooseQueue(number) {
    state.queue = number;
    queue.value = number;
    lanes.arrange(run.queues[number].guest);
  }

  function chooseJump() {
    const half = run.queues[state.queue].size / 2;
    least.value = { fuller: half, slower: Math.round(run.about.p99) }[jump.value] ?? "";
    least.hidden = !["fuller", "slower"].includes(jump.value);
  }

  // -- following -----------------------------------------------------------------------------------------------------

  function follow(list, entry) {
    Object.assign(state, { list, entry });
    if (list >= 0 && run.list("queue")[list] !== state.queue) chooseQueue(run.list("queue")[list]);
    tellLife();
    show();
  }

  /** Follow the first entry that is in the queue now, or else the next one that will be. */
  function followNext() {
    const { from, to } = run.queues[state.queue];
    let row = state.list >= from && state.list < to ? state.list : -1;
    if (row >= 0) {
      if (state.entry + 1 < run.list("first")[row] + run.list("entries")[row]) return follow(row, state.entry + 1);
      row++;
    } else {
      const next = run.entryAt(state.queue, run.cons(state.queue, state.time));
      if (next.entry >= 0 && run.list("asked")[next.list] <= state.time) return follow(next.list, next.entry);
      row = after(run.list("asked"), state.time, from, to);
    }
    if (row < to) return follow(row, run.list("first")[row]);
    status.textContent = "No further command in this queue.";
  }

  function tellLife() {
    followed.replaceChildren();
    if (state.entry < 0) return;
    const { list, entry } = state;
    const life = run.life(list, entry);
    const text = run.about.texts[run.of["entries.text"][entry]];
    const items = life.map(([what, time], k) => {
      const since = k ? ` +${showTime(time - life[k - 1][1])}` : "";
      const item = button(`${showTime(time)} ${what}`, `Go to ${what}`, () => (pause(), go(time)));
      item.removeAttribute("aria-label");
      item.time = time;
      return node("li", {}, item, node("span", { class: "faint" }, since));
    });
    const [guest, vcpu, op] = ["guest", "vcpu", "op"].map((name) => run.list(name)[list]);
    const who = `guest ${guest}, vCPU ${vcpu}, its operation ${run.of["ops.number"][op]}`;
    followed.append(
      node("p", {}, node("strong", {}, text), ` ${who} `, button("✕", "Follow none", () => follow(-1, -1), "Esc")),
      node("ol", {}, ...items),
    );
  }

  // -- showing -------------------------------------------------------------------------------------------------------

  let width = 0; // of what is seen, ns

  function show() {
    const { time } = state;
    width = Math.min(ZOOMS[state.zoom], Math.max(run.about.end, 100));
    const from = state.pinned ?? Math.min(Math.max(0, time - width * 0.4), Math.max(0, run.about.end - width));
    state.from = from;
    lanes.draw({ time, from, width, list: state.list });
    ring.show(state.queue, time, state.entry);
    scrub.value = place();
    scrub.setAttribute("aria-valuetext", showTime(time));
    clock.textContent = `${(time / 1e3).toFixed(3)} µs`;
    for (const item of followed.querySelectorAll("button[title^='Go']")) item.dataset.past = item.time <= time;
    el.dataset.time = time;
    el.dataset.prod = run.prod(state.queue, time);
    el.dataset.cons = run.cons(state.queue, time);
    el.dataset.playing = Boolean(state.playing);
    el.dataset.frames = state.frames;
    el.dataset.event = place();
  }

  /** Say what goes on at this instant, for those who do not see the lanes. */
  function speak() {
    const said = new Set();
    run.lanes.forEach((lane, k) =>
      lanes.shown(k) && lane.slices.forEach(([from, to]) => {
        const at = after(run.of["spans.end"], state.time, from, to);
        if (at < to && run.of["spans.start"][at] <= state.time) said.add(lanes.describe(at).split(",")[0]);
      }),
    );
    const more = said.size > 6 ? ` and ${said.size - 6} more` : "";
    status.textContent = said.size ? `${[...said].slice(0, 6).join(" · ")}${more}` : "Nobody works on a command.";
  }

  function zoom(by) {
    state.zoom = Math.min(Math.max(0, state.zoom + by), ZOOMS.length - 1);
    show();
  }

  queue.addEventListener("change", () => {
    chooseQueue(Number(queue.value));
    chooseJump();
    show();
  });
  jump.addEventListener("change", chooseJump);
  scrub.addEventListener("input", () => (pause(), go(events[Number(scrub.value)])));
  lanes.canvas.addEventListener("pointerdown", (event) => {
    pause();
    lanes.canvas.setPointerCapture(event.pointerId);
    state.pinned = state.from; // what is seen stands still under the pointer
    const at = lanes.find(event);
    if (at >= 0 && event.shiftKey) {
      const list = run.of["spans.first"][at];
      follow(list, run.list("first")[list]);
    }
    go(lanes.timeAt(event));
  });
  for (const over of ["pointerup", "pointercancel"]) {
    lanes.canvas.addEventListener(over, () => ((state.pinned = null), show()));
  }
  lanes.canvas.addEventListener("pointermove", (event) => {
    if (event.buttons) return go(lanes.timeAt(event));
    const at = lanes.find(event);
    lanes.canvas.title = at < 0 ? "" : `${lanes.describe(at)}. Shift and press: follow.`;
    if (at >= 0 && !state.playing) status.textContent = lanes.describe(at);
  });
  keepKeys(el);
  onKeys(el, {
    " ": toggle,
    ArrowRight: () => step(1),
    ArrowLeft: () => step(-1),
    Home: () => (pause(), go(0)),
    End: () => (pause(), go(run.about.end)),
    "+": () => zoom(-1),
    "-": () => zoom(1),
    d: () => leap(1, "doorbell"),
    D: () => leap(-1, "doorbell"),
    s: () => leap(1, "sync"),
    S: () => leap(-1, "sync"),
    e: () => leap(1, "error"),
    E: () => leap(-1, "error"),
    n: () => leap(1),
    N: () => leap(-1),
    f: followNext,
  });
  el.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || state.entry < 0) return; // else it is JupyterLab's
    event.stopPropagation();
    follow(-1, -1);
  });

  const which = lanes.many ? "; lanes of the guest whose queue is chosen, and of the host" : "";
  const note = run.about.note + which;
  el.classList.add("smmu-lab", "view", "microscope");
  el.tabIndex = 0;
  el.setAttribute("role", "group");
  el.setAttribute("aria-label", `Microscope: ${run.about.title}`);
  el.append(
    insteadOfPicture(model),
    node("p", { class: "title" }, node("strong", {}, run.about.title), node("span", { class: "faint" }, ` ${note}`)),
    node(
      "div",
      { class: "toolbar", role: "group", "aria-label": "Playback" },
      button("❘◀", "To the start", () => (pause(), go(0)), "Home"),
      button("◀", "Step back", () => step(-1), "←"),
      play,
      button("▶❘", "Step", () => step(1), "→"),
      clock,
      speedLabel,
      button("−", "See more time", () => zoom(1), "-"),
      button("+", "See less time", () => zoom(-1), "+"),
      button("Follow", "Follow the next command", followNext, "f"),
      queueLabel,
      fullScreen(el),
    ),
    node(
      "div",
      { class: "toolbar", role: "group", "aria-label": "Jumps" },
      jumpLabel,
      least,
      button("Previous", "Jump back", () => leap(-1), "N"),
      button("Next", "Jump on", () => leap(1), "n"),
      node("label", {}, stops, " stop there while playing"),
    ),
    scrub,
    node("div", { class: "stage" }, lanes.el, ring.el),
    status,
    followed,
  );
  chooseQueue(0);
  chooseJump();
  const unwatch = [watchWidth(lanes.el, show), watchTheme(() => (lanes.restyle(), show()))];
  requestAnimationFrame(() => (lanes.restyle(), go(0)));
  return () => {
    pause();
    unwatch.forEach((stop) => stop());
  };
}

export default { render };
