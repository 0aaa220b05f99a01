// What the page is of, what the reader has chosen, and what the nodes are called.
const data = JSON.parse(document.getElementById("graph-data").textContent);
const paths = new Map([...graph.querySelectorAll(".link")].map((path) => [Number(path.dataset.link), path]));
const nodes = [...graph.querySelectorAll(".node")];
const controls = document.getElementById("controls");
const count = document.getElementById("count");
const least = document.getElementById("least");
const wide = window.matchMedia("(min-width: 721px)");
const modes = new Set(["mean", ...[...controls.querySelectorAll("[name=mode]")].map((input) => input.value)]);
const indexOf = new Map(data.nodes.map((node, index) => [node.id, index]));

// `pins` and `open` are indices of nodes; `open` is the one whose card stays. `least` is where its slider stands.
// The rest is of the list of all concepts: its layer, order, first row, filter, and the concept that is marked.
const LAYERS = Object.keys(data.all?.layers ?? {});
const LIST = { layer: LAYERS.at(-1) ?? null, by: "number", up: true, from: 0, filter: "", concept: null };
const START = { mode: "mean", links: count ? Number(count.value) : 0, least: 0, pins: [], paths: true, only: false, open: null, search: "", ...LIST };
const state = structuredClone(START);
// The node whose card is seen: the open one, or the one that is pointed at.
let chosen = null;

const digits = { minimumSignificantDigits: 3, maximumSignificantDigits: 3, signDisplay: "exceptZero" };
const format = new Intl.NumberFormat("en", digits);
const write = (value) => format.format(value).replace("-", "−");
const percent = (share) => (share > 0 && share < 0.01 ? "<1 %" : `${Math.round(100 * share)} %`);

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  if (tag === "button") element.type = "button";
  return element;
}

// A node in a few letters, and with its layer and number.
function short(index) {
  const node = data.nodes[index];
  const name = given.get(node.id);
  return name ? (node.absent ? `less of ${name}` : name) : node.short;
}

function full(index) {
  const node = data.nodes[index];
  const name = given.get(node.id);
  return (node.layer ? `${node.layer} · ${node.label}` : node.label) + (name ? ` · ${name}` : "");
}

function picture(index) {
  if (index === null) return document.createElement("i");
  const svg = document.createElementNS(graph.namespaceURI, "svg");
  svg.setAttribute("viewBox", "0 0 96 96");
  svg.setAttribute("class", "picture");
  svg.appendChild(document.createElementNS(graph.namespaceURI, "use")).setAttribute("href", `#picture-${index}`);
  return svg;
}
