// A control over one field of the scenario: a slider over steps, a choice or a switch.

/** `turned(path, value)` hears what the reader chose. */
function knobControl(knob, turned) {
  const input = {
    steps: () => node("input", { type: "range", min: 0, step: 1 }),
    flag: () => node("input", { type: "checkbox" }),
    choice: () => node("select"),
  }[knob.kind]();
  const name = node("span", {}, knob.label, " ");
  const value = node("strong");
  const note = node("small", { class: "note" });
  const why = node("small", { class: "why" });
  if (knob.kind === "steps") name.append(value);
  const head = knob.kind === "flag" ? [input, name] : [name, input];
  const element = node("label", { class: `knob ${knob.kind}`, title: knob.about }, ...head, note, why);
  let choices = [];
  input.dataset.path = knob.path;
  input.setAttribute("aria-label", knob.label);
  input.addEventListener("input", () => {
    say();
    turned(knob.path, knob.kind === "flag" ? input.checked : choices[Number(input.value)][0]);
  });

  /** Say in words what a slider stands at. */
  function say() {
    if (knob.kind !== "steps") return;
    const words = choices[Number(input.value)]?.[1] ?? "";
    value.textContent = words;
    input.setAttribute("aria-valuetext", words);
  }

  function offer(next) {
    choices = next.choices;
    note.textContent = next.note;
    element.title = next.about;
    if (knob.kind === "steps") input.max = choices.length - 1;
    if (knob.kind !== "choice") return;
    input.replaceChildren(...choices.map(([, label], k) => node("option", { value: k }, label)));
  }

  return {
    path: knob.path,
    element,
    offer,
    /** Stand at a value. `fixed`: why it says nothing now; `problem`: what is wrong with it. */
    stand(now, fixed = "", problem = "") {
      const place = choices.findIndex(([each]) => each === now);
      if (knob.kind === "flag") input.checked = now === true;
      else if (place >= 0) input.value = place;
      input.disabled = Boolean(fixed);
      input.setAttribute("aria-invalid", Boolean(problem));
      why.textContent = problem || fixed;
      input.setAttribute("aria-description", [problem || fixed, element.title].filter(Boolean).join(". "));
      why.classList.toggle("problem", Boolean(problem));
      say();
    },
  };
}
