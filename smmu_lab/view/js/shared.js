// What every widget of smmu_lab uses. Python puts the palette and this text in front of the widget's own: no import.

/** A DOM node. Children are nodes or texts; a text is never parsed as markup. */
function node(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** An SVG node. */
function drawn(name, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** A button that says what it does; `key` is the key that does the same, for the tooltip. */
function button(label, title, press, key = "") {
  const made = node("button", { type: "button", "aria-label": title, title: key ? `${title} (${key})` : title }, label);
  made.addEventListener("click", press);
  return made;
}

/** A button that gives the whole screen to a widget, with larger type, and takes it back. */
function fullScreen(el) {
  return button("Full screen", "Full screen, and back", () =>
    document.fullscreenElement ? document.exitFullscreen() : el.requestFullscreen(),
  );
}

/** A style that hides the picture which stands in for a widget, for as long as it is in the page with the widget. */
function insteadOfPicture(model) {
  return node("style", {}, `[data-picture="${model.get("picture")}"] { display: none; }`);
}

/**
 * Let controls have the keys they live on. JupyterLab takes plain arrows and letters for cells and headings; what comes
 * with a modifier (run, save) and Escape stay with it.
 */
function keepKeys(target) {
  target.addEventListener("keydown", (event) => {
    const others = event.ctrlKey || event.metaKey || event.altKey || event.shiftKey || event.key === "Escape";
    if (!others) event.stopPropagation();
  });
}

/** Keys of a widget: { "ArrowRight": act, ... }. A key that a control inside lives on stays with the control. */
function onKeys(target, acts) {
  target.addEventListener("keydown", (event) => {
    const own = event.target.closest("input, select, textarea");
    const pressed = event.target.closest("button") && (event.key === " " || event.key === "Enter");
    if (own || pressed || event.ctrlKey || event.metaKey || event.altKey || !(event.key in acts)) return;
    event.preventDefault();
    event.stopPropagation();
    acts[event.key](event);
  });
}

/** The reader asked for less motion. */
function lessMotion() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

/** Call `reader(width)` when the width of a node has changed, and once it is known. Returns how to stop. */
function watchWidth(target, reader) {
  let last = 0;
  const observer = new ResizeObserver(() => {
    const width = Math.floor(target.clientWidth);
    if (width > 0 && Math.abs(width - last) > 4) reader((last = width));
  });
  observer.observe(target);
  return () => observer.disconnect();
}

/** Call `reader()` when colours may have changed: the system's theme, or JupyterLab's. Returns how to stop. */
function watchTheme(reader) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const later = () => requestAnimationFrame(() => requestAnimationFrame(reader)); // JupyterLab hides all meanwhile
  const observer = new MutationObserver(later);
  observer.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-name", "data-jp-theme-light"] });
  system.addEventListener("change", later);
  return () => {
    observer.disconnect();
    system.removeEventListener("change", later);
  };
}

/**
 * Ask Python for one setting at a time: while an answer is due, only the latest wish is kept, so that dragging never
 * makes a backlog. The trait `setting` is the question; `shown.setting` says which question was answered last.
 */
function latestOnly(model) {
  const same = (a, b) => JSON.stringify(Object.entries(a).sort()) === JSON.stringify(Object.entries(b).sort());
  let wanted = model.get("setting");
  const asking = () => !same(model.get("setting"), model.get("shown").setting);
  const ask = () => {
    if (asking() || same(wanted, model.get("setting"))) return;
    model.set("setting", wanted);
    model.save_changes();
  };
  return {
    want(setting) {
      wanted = setting;
      ask();
    },
    next: ask,
    waiting: () => asking() || !same(wanted, model.get("setting")),
  };
}

/**
 * Columns of whole numbers that came as one block of bytes. `layout`: [name, type, length] each, where type is that
 * of Python's array module; 64-bit columns become numbers, which are exact up to 2**53 (104 days in ns).
 */
function columns(bytes, layout) {
  const types = { B: Uint8Array, H: Uint16Array, I: Uint32Array, q: BigInt64Array };
  const found = {};
  let at = bytes.byteOffset;
  for (const [name, type, length] of layout) {
    const Type = types[type];
    const raw = new Type(bytes.buffer.slice(at, at + length * Type.BYTES_PER_ELEMENT));
    found[name] = type === "q" ? Float64Array.from(raw, Number) : raw;
    at += length * Type.BYTES_PER_ELEMENT;
  }
  return found;
}

/** Nanoseconds in words: 950 ns, 12.3 µs, 4 ms. */
function showTime(ns) {
  const [scale, unit] = ns < 1e3 ? [1, "ns"] : ns < 1e6 ? [1e3, "µs"] : ns < 1e9 ? [1e6, "ms"] : [1e9, "s"];
  const value = ns / scale;
  return `${scale === 1 ? Math.round(value) : Number(value.toPrecision(3))} ${unit}`;
}
