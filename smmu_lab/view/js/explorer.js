// The explorer: controls on top, below them what Python answered.

const PATIENCE = 3000; // ms without an answer before we say so
const PAUSE = 250; // ms after the last key before all is simulated
const VIEWS = { waterfall: "Where the time goes", distribution: "Distribution", counts: "Figures" };
const LEVELS = { preview: "◐ preview", full: "● full run" };

function sameSetting(a, b) {
  const sorted = (setting) => JSON.stringify(Object.entries(setting).sort());
  return sorted(a) === sorted(b);
}

function render({ model, el }) {
  const wishes = latestOnly(model);
  let wanted = model.get("setting");
  let past = [wanted]; // settings to go back to
  let at = 0;
  let patience, pause;
  let held = false; // a slider, by pointer
  let owed = false; // all of what is wanted is to be simulated

  // -- what is there -------------------------------------------------------------------------------------------------

  const made = new Map(); // path to control
  const knobs = (group) =>
    model.get("knobs")[group].map((knob) => {
      made.set(knob.path, knobControl(knob, (path, value) => wish({ ...wanted, [path]: value })));
      return made.get(knob.path).element;
    });
  const everyday = node("div", { class: "knobs everyday" }, ...knobs(""));
  const chosen = approachPanel(model, (approaches) => wish({ ...wanted, approaches }));
  const panels = { Approaches: chosen.element };
  for (const group of Object.keys(model.get("knobs")).filter(Boolean)) {
    panels[group] = node("div", { class: "knobs" }, ...knobs(group));
  }
  const code = codePanel();
  panels["Copy as code"] = code.element;
  const openers = Object.entries(panels).map(([title, panel]) => {
    panel.classList.add("panel");
    panel.hidden = true;
    const opener = button(title, title, () => open(panel.hidden ? title : ""));
    opener.setAttribute("aria-expanded", false);
    return { title, panel, opener };
  });

  const undo = button("↶ Undo", "Undo", () => step(-1), "Ctrl+Z");
  const redo = button("↷ Redo", "Redo", () => step(1), "Ctrl+Shift+Z");
  const reset = button("Reset", "Reset to where the explorer started", () => {
    wish(model.get("start"));
    settle();
  });
  const tools = node(
    "div",
    { class: "toolbar" },
    ...openers.map((each) => each.opener),
    node("span", { class: "gap" }),
    undo,
    redo,
    reset,
    fullScreen(el),
  );
  const form = node(
    "form",
    { class: "controls", "aria-label": "Approaches, workload, machine and costs" },
    everyday,
    tools,
    ...openers.map((each) => each.panel),
  );
  const views = Object.entries(VIEWS).map(([view, title]) => {
    const made = button(title, title, () => {
      model.set("looking", view);
      model.save_changes();
      show();
    });
    return { view, button: made };
  });
  const level = node("span", { class: "level" });
  const bar = node("div", { class: "toolbar", role: "group", "aria-label": "Picture" });
  bar.append(...views.map((each) => each.button), level);
  const message = node("p", { class: "message", role: "status" });
  const result = node("div", { class: "result", tabindex: 0, role: "region", "aria-label": "Result" });
  const verdict = node("p", { class: "verdict" });
  const basis = node("p", { class: "faint basis" });
  const warnings = node("ul", { class: "warnings" });
  const heard = node("p", { class: "unseen", role: "status" });

  /** The same as Python and as TOML, to copy. */
  function codePanel() {
    const texts = ["python", "toml"].map((kind) => {
      const title = kind === "python" ? "Python" : "TOML";
      const text = node("textarea", { readonly: true, rows: 9, "aria-label": title, spellcheck: "false", wrap: "off" });
      const copied = node("span", { role: "status" });
      const copy = button(`Copy ${title}`, `Copy ${title}`, async () => {
        text.select();
        copied.textContent = await navigator.clipboard?.writeText(text.value).then(
          () => "copied",
          () => "",
        ) || "selected: copy it with Ctrl+C";
      });
      return { kind, text, copied, element: node("div", {}, text, node("div", { class: "toolbar" }, copy, copied)) };
    });
    return {
      element: node("div", { class: "code" }, ...texts.map((each) => each.element)),
      follow() {
        for (const { kind, text, copied } of texts) {
          text.value = model.get("code")[kind] ?? "";
          copied.textContent = "";
        }
      },
    };
  }

  // -- what the reader does ------------------------------------------------------------------------------------------

  function open(title) {
    for (const each of openers) {
      each.panel.hidden = each.title !== title;
      each.opener.setAttribute("aria-expanded", each.title === title);
    }
    if (title === "Copy as code") model.send("code");
  }

  function wish(setting) {
    wanted = setting;
    wishes.want(wanted);
    stand();
    wait();
    clearTimeout(pause);
    if (!held) pause = setTimeout(settle, PAUSE);
  }

  /** The reader let go: this is a step to come back to, and worth all of its operations. */
  function settle() {
    clearTimeout(pause);
    held = false;
    if (!sameSetting(wanted, past[at])) {
      past = [...past.slice(0, at + 1), wanted];
      at += 1;
    }
    owed = true;
    pay();
  }

  function pay() {
    undo.disabled = at === 0 && sameSetting(wanted, past[0]);
    redo.disabled = at === past.length - 1;
    if (!owed || wishes.waiting()) return;
    owed = false;
    model.send("settle");
  }

  function step(by) {
    if (!sameSetting(wanted, past[at])) settle();
    if (!past[at + by]) return;
    at += by;
    wish(past[at]);
    settle();
  }

  // -- what is shown -------------------------------------------------------------------------------------------------

  /** Controls offer what fits profile and page size. */
  function offer() {
    for (const group of Object.values(model.get("knobs"))) for (const knob of group) made.get(knob.path).offer(knob);
    stand();
  }

  /** Controls stand at what is wanted, and else at what Python says. */
  function stand() {
    const { values = {}, fixed = {}, names = [], refused = [], problems = [], setting } = model.get("shown");
    const answered = setting && sameSetting(setting, wanted);
    for (const [path, control] of made) {
      const wrong = answered ? problems.filter((line) => line.startsWith(`${path}:`)).join("\n") : "";
      const [first, second] = fixed[path] ? [values, wanted] : [wanted, values];
      control.stand(first[path] ?? second[path], fixed[path], wrong);
    }
    chosen.follow(wanted.approaches, names, answered ? refused : []);
    openers[0].opener.textContent = `Approaches (${wanted.approaches?.length ?? 0})`;
    openers[0].opener.classList.toggle("wrong", answered && refused.some(Boolean));
  }

  /** Mark what is shown as old while a newer picture is on its way. */
  function wait() {
    clearTimeout(patience);
    const waiting = wishes.waiting();
    result.setAttribute("aria-busy", waiting);
    if (waiting) {
      patience = setTimeout(() => {
        message.textContent = "No answer yet: the kernel is busy or stopped. The picture shows an older setting.";
      }, PATIENCE);
    }
  }

  function show() {
    const shown = model.get("shown");
    const looking = model.get("looking");
    const picture = shown.pictures?.[looking];
    if (picture !== undefined) result.innerHTML = picture; // written and escaped by smmu_lab.charts
    for (const each of views) each.button.setAttribute("aria-pressed", each.view === looking);
    result.dataset.level = shown.level;
    verdict.textContent = shown.verdict ?? "";
    basis.textContent = shown.basis ?? "";
    warnings.replaceChildren(...(shown.warnings ?? []).map((line) => node("li", {}, line)));
    const problems = shown.problems ?? [];
    const old = problems.length && shown.level ? "\nThe picture shows the last setting that was simulated." : "";
    message.textContent = problems.join("\n") + old;
    if (shown.level === "full" && !problems.length) heard.textContent = shown.verdict;
    run();
    follow();
    stand();
    wishes.next();
    wait();
    pay();
    if (!code.element.hidden && !wishes.waiting()) model.send("code");
  }

  function run() {
    const running = model.get("running");
    level.dataset.running = running;
    const { level: now, problems } = model.get("shown");
    const about = now && problems.length ? "○ an older setting" : (LEVELS[now] ?? "");
    level.textContent = about + (running ? ", the full run is under way" : "");
  }

  /** A setting that came from Python or from another view. */
  function follow() {
    const setting = model.get("setting");
    if (wishes.waiting() && sameSetting(setting, model.get("shown").setting ?? {})) return; // ours is newer
    if (sameSetting(setting, wanted)) return;
    wanted = setting;
    wishes.want(wanted);
    settle();
    stand();
  }

  keepKeys(el);
  el.addEventListener("keydown", (event) => {
    const writes = event.target.closest("textarea, input[type='text']");
    const back = event.key.toLowerCase() === "z";
    if (writes || !(event.ctrlKey || event.metaKey) || !(back || event.key.toLowerCase() === "y")) return;
    event.preventDefault();
    event.stopPropagation();
    step(back && !event.shiftKey ? -1 : 1);
  });
  form.addEventListener("pointerdown", (event) => (held = event.target.type === "range" && !event.target.disabled));
  form.addEventListener("change", (event) => (held || event.target.type !== "range") && settle());
  form.addEventListener("click", (event) => event.target.closest(".entry button") && settle()); // a step of its own
  form.addEventListener("submit", (event) => event.preventDefault());
  const release = () => held && settle();
  window.addEventListener("pointerup", release);
  window.addEventListener("pointercancel", release);
  const heeds = { shown: show, knobs: offer, running: run, code: code.follow, setting: follow };
  for (const [name, act] of Object.entries(heeds)) model.on(`change:${name}`, act);
  el.classList.add("smmu-lab", "view", "explorer");
  el.append(insteadOfPicture(model), form, bar, message, result, verdict, basis, warnings, heard);
  open("");
  code.follow();
  offer();
  show();
  const unwatch = watchWidth(result, (width) => {
    model.set("width", width);
    model.save_changes();
  });

  return () => {
    clearTimeout(patience);
    clearTimeout(pause);
    unwatch();
    window.removeEventListener("pointerup", release);
    window.removeEventListener("pointercancel", release);
    for (const [name, act] of Object.entries(heeds)) model.off(`change:${name}`, act);
  };
}

export default { render };
