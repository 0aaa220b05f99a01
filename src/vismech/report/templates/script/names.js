// Names that the reader gives to concepts: kept by the browser for each dictionary, saved to a file and loaded from one.
// They stand over those that the run was given; an empty one takes such a name away.
const KEYS = new Map(Object.entries(data.dictionaries).map(([layer, key]) => [key, layer]));
const PREFIX = "vismech:names:";
const LONGEST = 80;
const preset = new Map(data.nodes.filter((node) => node.name).map((node) => [node.id, node.name]));
const places = new Map(data.nodes.filter((node) => node.concept !== null).map((node) => [`${node.layer}/${node.concept}`, node.id]));
// Of each dictionary the names of all its concepts, by number: another graph may have kept others of them.
const kept = new Map([...KEYS.keys()].map((key) => [key, new Map()]));
let given = stored();

// A page without storage, as in a frame, still takes names until it is closed.
function stored() {
  for (const key of kept.keys()) {
    try {
      kept.set(key, clean(JSON.parse(localStorage.getItem(PREFIX + key) ?? "{}")));
    } catch {
      // Nothing that can be read: what is kept here stays.
    }
  }
  return shownNames();
}

// Numbers of concepts and their names as texts of one line.
function clean(names) {
  return new Map(
    Object.entries(names)
      .filter(([concept, name]) => /^\d+$/.test(concept) && typeof name === "string")
      .map(([concept, name]) => [concept, name.replace(/\s+/g, " ").trim().slice(0, LONGEST)]),
  );
}

// Node's id → name, of the concepts that this graph has.
function shownNames() {
  const found = new Map(preset);
  for (const [key, names] of kept) {
    for (const [concept, name] of names) {
      const id = places.get(`${KEYS.get(key)}/${concept}`);
      if (id !== undefined && name) found.set(id, name);
      else found.delete(id);
    }
  }
  return found;
}

function nameConcept(index, name) {
  const { layer, concept } = data.nodes[index];
  clean({ [concept]: name }).forEach((line, number) => kept.get(data.dictionaries[layer]).set(number, line));
  keepNames();
}

function keepNames() {
  given = shownNames();
  try {
    for (const [key, names] of kept) {
      if (names.size) localStorage.setItem(PREFIX + key, JSON.stringify(Object.fromEntries(names)));
    }
  } catch {
    document.getElementById("names-told").value = "This browser keeps no names: save them as a file.";
  }
  tellNames();
}

// Dictionary's key → concept → name, of every name that is known.
function toSave() {
  const found = {};
  const add = (key, concept, name) => { (found[key] ??= {})[concept] = name; };
  for (const [id, name] of given) {
    const { layer, concept } = data.nodes[indexOf.get(id)];
    add(data.dictionaries[layer], concept, name);
  }
  for (const [key, names] of kept) {
    for (const [concept, name] of names) if (name && !places.has(`${KEYS.get(key)}/${concept}`)) add(key, concept, name);
  }
  return found;
}

function tellNames() {
  if (all) listConcepts();
  nodes.forEach((_, index) => tellName(index));
  data.links.forEach((link, index) => entitle(index, link.weight[state.mode]));
  document.getElementById("save").disabled = Object.keys(toSave()).length === 0;
}

// On a node's tile, on its card in the list of all, and for a screen reader.
function tellName(index) {
  const node = data.nodes[index];
  if (node.concept === null) return;
  const name = given.get(node.id);
  const text = nodes[index].querySelector(".name");
  const room = Number(nodes[index].querySelector(".plate").getAttribute("width")) - 12;
  text.firstChild.data = name ? fitted(short(index), text, room) : text.dataset.number;
  text.querySelector("title").textContent = full(index);
  nodes[index].setAttribute("aria-label", (name ? `${name}, ` : "") + nodes[index].dataset.spoken);
  const heading = document.querySelector(`#details-${index} h4`);
  heading.querySelector(".given")?.remove();
  if (name) heading.prepend(make("bdi", "given", name));
}

const canvas = document.createElement("canvas").getContext("2d");
const letters = new Intl.Segmenter();

function fitted(name, text, room) {
  const { fontWeight, fontSize, fontFamily } = getComputedStyle(text);
  canvas.font = `${fontWeight} ${fontSize} ${fontFamily}`;
  if (canvas.measureText(name).width <= room) return name;
  const parts = [...letters.segment(name)].map(({ segment }) => segment);
  while (parts.length && canvas.measureText(`${parts.join("")}…`).width > room) parts.pop();
  return `${parts.join("").trimEnd()}…`;
}

function saveNames() {
  saveAs("names.json", new Blob([JSON.stringify({ names: toSave() }, null, 1)], { type: "application/json" }));
}

async function loadNames(file) {
  const told = document.getElementById("names-told");
  try {
    const found = JSON.parse(await file.text()).names;
    if (typeof found !== "object") throw new TypeError("no names");
    let loaded = 0;
    let others = 0;
    for (const [key, part] of Object.entries(found)) {
      const names = [...clean(part)].filter(([, name]) => name);
      if (!KEYS.has(key)) {
        others += names.length;
        continue;
      }
      names.forEach(([concept, name]) => kept.get(key).set(concept, name));
      loaded += names.length;
    }
    keepNames();
    told.value = `${loaded} name${loaded === 1 ? "" : "s"} loaded.` + (others ? ` Of other dictionaries: ${others}.` : "");
    if (chosen !== null) fill();
  } catch {
    told.value = "This file holds no names.";
  }
}
