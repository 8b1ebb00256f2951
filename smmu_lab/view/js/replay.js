// A run that is replayed: the columns of a journal, and what they say about any instant. Pure: no DOM, no clock.

/** The first index in an ascending array, from `low` on and before `high`, whose value is greater than `value`. */
function after(values, value, low = 0, high = values.length) {
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] > value) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** Where each value of a column that comes in runs begins: [value, from, to] each. */
function* runsOf(column) {
  for (let from = 0; from < column.length; ) {
    let to = from;
    while (to < column.length && column[to] === column[from]) to++;
    yield [column[from], from, to];
    from = to;
  }
}

function replay(model) {
  const about = model.get("about");
  const of = columns(model.get("record"), model.get("parts"));
  const list = (name) => of[`lists.${name}`];
  const stamps = ["asked", "written", "published", "taken", "visible", "covered", "seen"];

  const queues = about.rings.map((ring) => ({ ...ring, from: 0, to: 0, origin: 0, prod: [0, 0], cons: [0, 0] }));
  for (const [queue, from, to] of runsOf(list("queue"))) {
    Object.assign(queues[queue], { from, to, origin: list("begin")[from] });
  }
  for (const [queue, from, to] of runsOf(of["moves.queue"])) {
    const split = after(of["moves.prod"], 0, from, to);
    Object.assign(queues[queue], { cons: [from, split], prod: [split, to] });
  }
  const lanes = about.lanes.map((lane) => ({ ...lane, slices: [] }));
  for (const [lane, start, end] of runsOf(of["spans.lane"])) {
    for (const [row, from, to] of runsOf(of["spans.row"].subarray(start, end))) {
      lanes[lane].slices[row] = [start + from, start + to];
    }
  }

  const all = [...stamps.map(list), of["entries.start"], of["entries.done"], of["moves.time"], of["spans.start"]];
  all.push(of["spans.end"], of["ops.end"], about.stops.flatMap((stop) => stop.times), [about.end]);
  const times = new Float64Array(all.reduce((sum, column) => sum + column.length, 1));
  let filled = 1; // the first one is 0
  for (const column of all) for (const time of column) if (time >= 0 && time <= about.end) times[filled++] = time;
  const sorted = times.subarray(0, filled).sort();
  const events = sorted.filter((time, place) => !place || time !== sorted[place - 1]);

  const counted = (queue, which, time) => {
    const [from, to] = queues[queue][which];
    const at = after(of["moves.time"], time, from, to);
    return at > from ? of["moves.count"][at - 1] : queues[queue].origin;
  };
  const prod = (queue, time) => counted(queue, "prod", time);
  const cons = (queue, time) => counted(queue, "cons", time);

  /** The list, and the entry, that holds the place `count` of a queue; -1 if none does. */
  function entryAt(queue, count) {
    const { from, to } = queues[queue];
    const row = after(list("begin"), count, from, to) - 1;
    const inside = row < from ? -1 : count - list("begin")[row];
    if (inside < 0 || inside >= list("entries")[row]) return { list: -1, entry: -1 };
    return { list: row, entry: list("first")[row] + inside };
  }

  /** What has become of an entry: 0 empty, 1 written, 2 published, 3 taken up, 4 at the SMMU, 5 run, 6 behind CONS. */
  function stateOf(row, entry, time) {
    const passed = (at) => at >= 0 && at <= time;
    if (passed(list("covered")[row])) return 6;
    if (passed(of["entries.done"][entry])) return 5;
    if (passed(of["entries.start"][entry])) return 4;
    if (passed(list("taken")[row])) return 3;
    if (passed(list("published")[row])) return 2;
    return passed(list("asked")[row]) ? 1 : 0;
  }

  /** The driver has given up a CMD_SYNC that it never saw. */
  const gaveUp = (row) => {
    const [visible, seen] = [list("visible")[row], list("seen")[row]];
    return seen >= 0 && (visible < 0 || visible > seen);
  };

  /** Everything that is known about an entry, in the order of time. */
  function life(row, entry) {
    const said = [
      ["the driver begins to write its list", list("asked")[row]],
      ["its list is written", list("written")[row]],
      [list("owner")[row] ? "its vCPU writes PROD" : "another vCPU writes PROD for it", list("published")[row]],
      ["the consumer takes it up", list("taken")[row]],
      ["the SMMU begins the list that holds it", of["entries.start"][entry]],
      ["the SMMU is through with that list", of["entries.done"][entry]],
      ["CONS covers it", list("covered")[row]],
      [gaveUp(row) ? "its vCPU gives up after 1 s" : "its vCPU has seen the end", list("seen")[row]],
    ];
    return said.filter(([, time]) => time >= 0).sort((one, other) => one[1] - other[1]);
  }

  const kept = (column) => Float64Array.from(column.filter((time) => time >= 0)).sort();
  const doorbells = () => kept(of["moves.time"].filter((_, place) => of["moves.prod"][place]));
  const syncs = () => kept(list("seen").filter((_, row) => !gaveUp(row)));
  const errors = () => Float64Array.from(about.stops.map((stop) => stop.times[0])).sort();

  /** When a queue comes to hold at least so many entries. */
  function fuller(queue, least) {
    const [from, to] = queues[queue].prod;
    const found = [];
    let before = 0;
    for (let k = from; k < to; k++) {
      const time = of["moves.time"][k];
      const held = of["moves.count"][k] - cons(queue, time);
      const was = before && before - cons(queue, time - 1);
      if (held >= least && was < least) found.push(time);
      before = of["moves.count"][k];
    }
    return Float64Array.from(found);
  }

  /** The most entries that a queue holds at a time. */
  function peak(queue) {
    const [from, to] = queues[queue].prod;
    let most = 0;
    for (let k = from; k < to; k++) most = Math.max(most, of["moves.count"][k] - cons(queue, of["moves.time"][k]));
    return most;
  }

  /** When operations that take at least so long end. */
  function slower(least) {
    return kept(of["ops.end"].filter((end, row) => of["ops.took"][row] >= least && end <= about.end));
  }

  const moments = { doorbells, syncs, errors, fuller, slower };
  return { about, of, list, queues, lanes, events, prod, cons, entryAt, stateOf, life, peak, moments };
}
