// Names that the reader gives to concepts: kept by the browser for this graph, saved to a file and loaded from one.
const KEY = `vismech:names:${data.hash}`;
const LONGEST = 80;
let given = stored();

// A page without storage, as in a frame, still takes names until it is closed.
function stored() {
  try {
    return known(JSON.parse(localStorage.getItem(KEY) ?? "{}"));
  } catch {
    return new Map();
  }
}

// The names of concepts that this graph has, as texts of one line.
function known(names) {
  const pairs = Object.entries(names)
    .filter(([id, name]) => typeof name === "string" && (data.nodes[indexOf.get(id)]?.concept ?? null) !== null)
    .map(([id, name]) => [id, name.replace(/\s+/g, " ").trim().slice(0, LONGEST)]);
  return new Map(pairs.filter(([, name]) => name));
}

function keepNames(names) {
  given = known(Object.fromEntries(names));
  try {
    localStorage.setItem(KEY, JSON.stringify(Object.fromEntries(given)));
  } catch {
    document.getElementById("names-told").value = "This browser keeps no names: save them as a file.";
  }
  tellNames();
}

function tellNames() {
  nodes.forEach((_, index) => tellName(index));
  data.links.forEach((link, index) => entitle(index, link.weight[state.mode]));
  document.getElementById("save").disabled = given.size === 0;
}

// On a node's tile, on its card in the list of all, and for a screen reader.
function tellName(index) {
  const node = data.nodes[index];
  if (node.concept === null) return;
  const name = given.get(node.id);
  const text = nodes[index].querySelector(".name");
  text.dataset.number ??= text.firstChild.data;
  nodes[index].dataset.spoken ??= nodes[index].getAttribute("aria-label");
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
  const told = { graph: data.hash, names: Object.fromEntries(given) };
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(told, null, 1)], { type: "application/json" }));
  link.download = `names-${data.hash}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function loadNames(file) {
  const told = document.getElementById("names-told");
  try {
    const found = JSON.parse(await file.text());
    if (found.graph !== data.hash) {
      told.value = "These names are of another graph: its concepts are others.";
      return;
    }
    const names = known(found.names);
    keepNames(new Map([...given, ...names]));
    told.value = `${names.size} name${names.size === 1 ? "" : "s"} loaded.`;
    if (chosen !== null) fill();
  } catch {
    told.value = "This file holds no names.";
  }
}
