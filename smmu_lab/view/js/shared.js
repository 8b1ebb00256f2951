// What every widget of smmu_lab uses. Python puts this text in front of the widget's own file: there is no import.

/** A DOM node. Children are nodes or texts; a text is never parsed as markup. */
function node(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(key, "");
    else if (value !== false) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
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
