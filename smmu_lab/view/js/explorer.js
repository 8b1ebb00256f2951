// The explorer: controls on top, below them what Python answered.

const PATIENCE = 3000; // ms without an answer before we say so

function render({ model, el }) {
  const choices = model.get("choices");
  const wishes = latestOnly(model);
  let timer;

  const pages = node("input", { type: "range", min: 0, max: choices.pages.length - 1, step: 1 });
  const ril = node("input", { type: "checkbox" });
  const vcpus = node("input", { type: "range", min: 1, max: choices.vcpus, step: 1 });
  const costs = node("select", {}, ...choices.costs.map(([name, title]) => node("option", { value: name, title }, name)));
  const pagesShown = node("strong");
  const vcpusShown = node("strong");
  const controls = node(
    "form",
    { class: "controls", "aria-label": "What the guest does, and on what machine" },
    node("label", { class: "wide" }, node("span", {}, "Pages per unmap ", pagesShown), pages),
    node("label", {}, node("span", {}, "vCPUs ", vcpusShown), vcpus),
    node("label", {}, node("span", {}, "Costs"), costs),
    node("label", { class: "switch" }, ril, node("span", {}, "Range invalidation (RIL)")),
  );
  const result = node("div", { class: "result" });
  const message = node("p", { class: "message", role: "status" });

  /** Say in words what the controls stand at. */
  function describe() {
    const [count, size] = choices.pages[pages.value];
    pagesShown.textContent = `${count} (${size})`;
    pages.setAttribute("aria-valuetext", `${count} pages, ${size}`);
    vcpusShown.textContent = vcpus.value;
  }

  /** The controls follow a setting that came from Python or from another view. */
  function follow() {
    const setting = model.get("setting");
    const place = choices.pages.findIndex(([count]) => count === setting["workload.pages"]);
    if (place >= 0) pages.value = place;
    ril.checked = setting["smmu.ril"];
    vcpus.value = setting.vcpus;
    costs.value = setting.costs;
    describe();
  }

  function wish() {
    describe();
    wishes.want({
      "workload.pages": choices.pages[pages.value][0],
      "smmu.ril": ril.checked,
      vcpus: Number(vcpus.value),
      costs: costs.value,
    });
    wait();
  }

  /** Mark what is shown as old while a newer picture is on its way. */
  function wait() {
    clearTimeout(timer);
    const waiting = wishes.waiting();
    result.setAttribute("aria-busy", waiting);
    if (waiting) {
      timer = setTimeout(() => {
        message.textContent = "No answer yet: the kernel is busy or stopped. The picture shows an older setting.";
      }, PATIENCE);
    }
  }

  function show() {
    const { html, error } = model.get("shown");
    result.innerHTML = html; // written and escaped by smmu_lab.charts
    message.textContent = error;
    wishes.next();
    wait();
  }

  keepKeys(controls);
  controls.addEventListener("input", wish);
  controls.addEventListener("submit", (event) => event.preventDefault());
  model.on("change:shown", show);
  model.on("change:setting", follow);
  el.classList.add("smmu-lab", "view", "explorer");
  el.append(insteadOfPicture(model), controls, message, result);
  follow();
  show();
  const unwatch = watchWidth(result, (width) => {
    model.set("width", width);
    model.save_changes();
  });

  return () => {
    clearTimeout(timer);
    unwatch();
    model.off("change:shown", show);
    model.off("change:setting", follow);
  };
}

export default { render };
