// Every concept of every layer: a table that is sorted, searched and linked to, a screenful at a time.
const all = document.getElementById("all");
const SCREEN = 50;

function listConcepts() {
  const values = data.all.layers[state.layer];
  const total = values.share.length;
  const words = folded(state.filter).split(/\s+/).filter(Boolean);
  const found = [...Array(total).keys()].filter((number) => {
    const text = folded([`#${number}`, nameOf(number) ?? "", classOf(values, number)].join(" "));
    return words.every((word) => text.includes(word));
  });
  const column = values[state.by];
  if (column) {
    const sign = state.up ? 1 : -1;
    const rank = state.by === "class" ? (number) => classOf(values, number) : (number) => column[number];
    const order = (a, b) => (state.by === "class" ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
    // What is missing comes last in both directions.
    const known = found.filter((number) => column[number] !== null).sort((a, b) => sign * order(rank(a), rank(b)) || a - b);
    found.splice(0, found.length, ...known, ...found.filter((number) => column[number] === null));
  } else if (!state.up) {
    found.reverse();
  }
  // A concept that the address names is on the screen.
  const marked = state.concept === null ? -1 : found.indexOf(state.concept);
  if (marked >= 0 && (marked < state.from || marked >= state.from + SCREEN)) state.from = marked - (marked % SCREEN);
  state.from = Math.min(state.from, Math.max(0, found.length - 1 - ((found.length - 1) % SCREEN)));
  const shown = found.slice(state.from, state.from + SCREEN);
  all.querySelector("thead").replaceChildren(headingRow());
  all.querySelector("tbody").replaceChildren(...shown.map((number) => conceptRow(values, number)));
  document.getElementById("which").value = shown.length
    ? `${state.from + 1}–${state.from + shown.length} of ${found.length}` + (words.length ? ` found among ${total}` : "")
    : "nothing found";
  document.getElementById("earlier").disabled = state.from === 0;
  document.getElementById("later").disabled = state.from + SCREEN >= found.length;
}

const classOf = (values, number) => data.all.classes[values.class[number]] ?? "";
const shownAs = (number) => indexOf.get(places.get(`${state.layer}/${number}`));

function nameOf(number) {
  const index = shownAs(number);
  return (index === undefined ? kept.get(data.dictionaries[state.layer])?.get(String(number)) : given.get(data.nodes[index].id)) || null;
}

function headingRow() {
  const row = make("tr");
  for (const [key, title] of [["number", "Concept"], ...Object.entries(data.all.headings)]) {
    const cell = row.appendChild(make("th", key === "number" || key === "class" ? "" : "figure"));
    cell.scope = "col";
    if (state.by === key) cell.ariaSort = state.up ? "ascending" : "descending";
    const button = cell.appendChild(make("button", "sort", title));
    button.addEventListener("click", () => {
      // Numbers and names from the least, all else from the largest, and then the other way.
      const first = key === "number" || key === "class";
      Object.assign(state, { up: state.by === key ? !state.up : first, by: key, from: 0, concept: null });
      listConcepts();
      all.querySelector(`th:nth-child(${[...row.cells].indexOf(cell) + 1}) button`).focus();
      commit();
    });
  }
  return row;
}

function conceptRow(values, number) {
  const row = make("tr", state.concept === number ? "marked" : "");
  const cell = row.appendChild(make("td", "which"));
  const index = shownAs(number);
  cell.append(picture(index === undefined ? null : data.nodes[index].picture));
  const button = cell.appendChild(make("button", "plain", `#${number}`));
  button.title = "Puts this concept into the address";
  button.addEventListener("click", () => {
    state.concept = number;
    listConcepts();
    all.querySelector(".marked button").focus();
    commit();
  });
  const name = nameOf(number);
  if (name) cell.append(make("bdi", "", name));
  if (index !== undefined) {
    const there = cell.appendChild(make("button", "plain", "in the graph"));
    there.addEventListener("click", () => go(index));
  }
  for (const key of Object.keys(data.all.headings)) {
    const value = values[key]?.[number] ?? null;
    if (key === "class") row.appendChild(make("td")).append(make("bdi", "", classOf(values, number) || "—"));
    else row.append(make("td", "figure", value === null ? "—" : inFigures(key, value)));
  }
  return row;
}

const plainly = new Intl.NumberFormat("en", { minimumSignificantDigits: 3, maximumSignificantDigits: 3 });
function inFigures(key, value) {
  if (key === "part") return percent(value);
  return plainly.format(key === "share" ? 100 * value : value).replace("-", "−");
}

if (all) {
  const layer = document.getElementById("layer");
  const filter = document.getElementById("filter");
  all.hidden = false;
  layer.addEventListener("change", () => {
    Object.assign(state, { layer: layer.value, from: 0, concept: null });
    listConcepts();
    commit();
  });
  filter.addEventListener("input", () => {
    Object.assign(state, { filter: filter.value, from: 0, concept: null });
    listConcepts();
    commitSoon();
  });
  for (const [id, by] of [["earlier", -SCREEN], ["later", SCREEN]]) {
    document.getElementById(id).addEventListener("click", () => {
      Object.assign(state, { from: Math.max(0, state.from + by), concept: null });
      listConcepts();
      commit();
    });
  }
  all.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
}

// Controls and table as the state has them; a concept that the address names is brought into view.
function restoreAll() {
  if (!all) return;
  document.getElementById("layer").value = state.layer;
  document.getElementById("filter").value = state.filter;
  listConcepts();
  all.querySelector(".marked")?.scrollIntoView({ block: "center" });
}
