// Which nodes and links are drawn, and which are lit.
let drawn = new Set();
let near = new Set();
let lit = new Set();
let listed = new Set();
let traced = { from: null, to: null, found: [], links: new Set(), nodes: new Set() };

// Moves a class from some elements to others, touching only those where it changes.
function move(elements, before, after, name) {
  for (const index of before) if (!after.has(index)) elements(index).classList.remove(name);
  for (const index of after) if (!before.has(index)) elements(index).classList.add(name);
  return after;
}
const pathOf = (index) => paths.get(index);
const nodeOf = (index) => nodes[index];

// The slider is finer towards nothing, since most concepts are small beside their layer's largest.
const leastShare = () => (state.least / 100) ** 2;

function isDrawn(index) {
  if (index === state.open || state.pins.includes(index)) return true;
  if (state.only) return traced.nodes.has(index);
  return (data.nodes[index].size[state.mode] ?? 1) >= leastShare();
}

function show() {
  trace();
  drawn = new Set([...nodes.keys()].filter(isDrawn));
  nodes.forEach((node, index) => node.classList.toggle("gone", !drawn.has(index)));
  const between = (index) => drawn.has(data.links[index].source) && drawn.has(data.links[index].target);
  const order = ranking(between);
  const rank = new Map(order.map((index, position) => [index, position]));
  paths.forEach((path, index) => {
    const position = rank.get(index);
    path.classList.toggle("gone", position === undefined);
    path.classList.toggle("out", position === undefined || position >= state.links);
  });
  if (count) {
    document.getElementById("shown").value = Math.min(state.links, order.length);
    document.getElementById("total").textContent = order.length;
  }
  if (least) {
    const share = state.least ? `${Number((100 * leastShare()).toPrecision(2))} %` : "0 %";
    document.getElementById("at-least").value = share;
    least.ariaValueText = share;
  }
  if (chosen !== null && !drawn.has(chosen)) close();
  highlight();
}

// The strongest paths between the two nodes that were pinned last.
function trace() {
  const two = state.paths ? state.pins.slice(-2) : [];
  const found = two.length === 2 ? strongestPaths(...two) : { from: null, to: null, found: [] };
  const links = new Set(found.found.flatMap((path) => path.links));
  const via = new Set([...links].flatMap((index) => [data.links[index].source, data.links[index].target]));
  move(pathOf, traced.links, links, "traced");
  move(nodeOf, traced.nodes, via, "traced");
  traced = { ...found, links, nodes: via };
  graph.classList.toggle("tracing", links.size > 0);
}

function highlight() {
  graph.classList.toggle("busy", chosen !== null);
  nodes.forEach((node, index) => node.classList.toggle("chosen", index === chosen));
  if (chosen === null) {
    near = move(nodeOf, near, new Set(), "on");
    lit = move(pathOf, lit, new Set(), "on");
    listed = move(pathOf, listed, new Set(), "listed");
    return;
  }
  // What the card lists is drawn too, however few links the slider shows.
  const own = new Set([...ends.source[chosen], ...ends.target[chosen]]);
  const told = new Set(["source", "target"].flatMap((end) => strongest(chosen, end).listed));
  const around = new Set([chosen]);
  for (const index of own) {
    const { source, target } = data.links[index];
    if (told.has(index) || !pathOf(index).classList.contains("out")) around.add(source).add(target);
  }
  near = move(nodeOf, near, around, "on");
  lit = move(pathOf, lit, own, "on");
  listed = move(pathOf, listed, told, "listed");
}
