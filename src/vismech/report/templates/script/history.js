// The reader's choices in the address, so that they can be sent, undone and done again.
let written = "";
let waiting = 0;

function told() {
  const query = new URLSearchParams();
  if (state.mode !== START.mode) query.set("mode", state.mode);
  if (state.links !== START.links) query.set("links", state.links);
  if (state.least !== START.least) query.set("least", state.least);
  for (const index of state.pins) query.append("pin", data.nodes[index].id);
  if (!state.paths) query.set("paths", "0");
  if (state.only) query.set("only", "1");
  if (state.open !== null) query.set("open", data.nodes[state.open].id);
  if (state.search) query.set("search", state.search);
  if (state.layer !== START.layer || state.concept !== null) query.set("layer", state.layer);
  if (state.concept !== null) query.set("concept", state.concept);
  if (state.by !== START.by || state.up !== START.up) query.set("by", (state.up ? "" : "-") + state.by);
  if (state.from) query.set("from", state.from);
  if (state.filter) query.set("filter", state.filter);
  return query.toString();
}

// What an address says, as far as this graph has it.
function read(text) {
  const query = new URLSearchParams(text.replace(/^#/, ""));
  const number = (name, low, high) => {
    const value = query.has(name) ? Math.round(Number(query.get(name))) : NaN;
    return Number.isNaN(value) ? START[name] : Math.min(Math.max(value, low), high);
  };
  const pins = query.getAll("pin").map((id) => indexOf.get(id)).filter((index) => index !== undefined);
  return {
    mode: modes.has(query.get("mode")) ? query.get("mode") : START.mode,
    links: number("links", 1, data.links.length),
    least: number("least", 0, 100),
    pins: [...new Set(pins)],
    paths: query.get("paths") !== "0",
    only: query.get("only") === "1" && pins.length > 0,
    open: indexOf.get(query.get("open")) ?? null,
    search: query.get("search") ?? "",
    ...readList(query),
  };
}

function readList(query) {
  const layer = LAYERS.includes(query.get("layer")) ? query.get("layer") : START.layer;
  if (layer === null) return LIST;
  const total = data.all.layers[layer].share.length;
  const whole = (name) => (/^\d+$/.test(query.get(name) ?? "") && Number(query.get(name)) < total ? Number(query.get(name)) : null);
  const by = (query.get("by") ?? "").replace(/^-/, "");
  const known = by in data.all.headings;
  return {
    layer,
    by: known ? by : START.by,
    up: !(query.get("by") ?? "").startsWith("-"),
    from: whole("from") ?? 0,
    filter: query.get("filter") ?? "",
    concept: whole("concept"),
  };
}

// A step that the browser's back button undoes.
function commit() {
  clearTimeout(waiting);
  const now = told();
  if (now === written) return;
  written = now;
  try {
    history.pushState(null, "", `#${now}`);
  } catch {
    // A page in a frame has no address of its own.
  }
}

function commitSoon() {
  clearTimeout(waiting);
  waiting = setTimeout(commit, 400);
}

// Makes page and controls what an address says.
function restore() {
  clearTimeout(waiting);
  const mode = state.mode;
  Object.assign(state, read(location.hash));
  written = told();
  const opened = state.open;
  if (count) count.value = state.links;
  if (least) least.value = state.least;
  for (const input of controls.querySelectorAll("[name=mode]")) input.checked = input.value === state.mode;
  box.value = state.search;
  if (mode !== state.mode) weigh();
  if (opened === null) close();
  show();
  search();
  if (opened !== null) open(opened, true);
  if (chosen !== null) fill();
  tellPins();
  restoreAll();
}
