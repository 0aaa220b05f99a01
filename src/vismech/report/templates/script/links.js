// Links: their order and look in a choice of weights, which are drawn, and the strongest of a node or between two.
const LISTED = 5;
const PATHS = 3;
const strength = (index) => data.links[index].strength[state.mode];
const size = (index) => Math.abs(strength(index));
const ends = { source: data.nodes.map(() => []), target: data.nodes.map(() => []) };
data.links.forEach(({ source, target }, index) => {
  ends.source[source].push(index);
  ends.target[target].push(index);
});
const bySize = new Map();

// All links from the strongest on.
function ordered() {
  if (!bySize.has(state.mode)) {
    bySize.set(state.mode, [...data.links.keys()].sort((a, b) => size(b) - size(a) || a - b));
  }
  return bySize.get(state.mode);
}

// Width, colour and title of every link; the strongest are painted last, on top.
function weigh() {
  const order = ordered();
  order.forEach((index) => {
    const { weight } = data.links[index];
    const path = paths.get(index);
    path.style.setProperty("--s", size(index));
    path.classList.toggle("negative", strength(index) < 0);
    entitle(index, weight[state.mode]);
  });
  // Outside the document while they move, which is ten times as quick.
  const layer = document.getElementById("links");
  const next = layer.nextSibling;
  layer.remove();
  layer.append(...order.toReversed().map((index) => paths.get(index)));
  graph.insertBefore(layer, next);
}

function entitle(index, weight) {
  const { source, target } = data.links[index];
  const path = paths.get(index);
  const title = path.firstChild ?? path.appendChild(document.createElementNS(graph.namespaceURI, "title"));
  title.textContent = `${full(source)} → ${full(target)}: ${write(weight)}`;
}

// The strongest link into each layer, then each second strongest, and so on: strengths compare within a layer only.
function ranking(eligible) {
  const taken = {};
  const turn = [];
  const order = ordered().filter(eligible);
  for (const index of order) {
    const layer = data.nodes[data.links[index].target].layer;
    turn[index] = taken[layer] = (taken[layer] ?? -1) + 1;
  }
  return order.sort((a, b) => turn[a] - turn[b]);
}

// A node's strongest links in one direction; `end` is the node's own end of them.
function strongest(node, end) {
  const own = ends[end][node].filter((index) => data.links[index].weight[state.mode] !== 0);
  own.sort((a, b) => size(b) - size(a) || a - b);
  return { total: own.length, listed: own.slice(0, LISTED) };
}

// The strongest paths from one node up to another, by the product of their links' strengths, and each one's share of
// the sizes of all paths between the two. Nodes stand from the classes down, so links of later nodes come first.
const upward = [...data.links.keys()].sort((a, b) => data.links[b].source - data.links[a].source || a - b);

function strongestPaths(one, other) {
  const [to, from] = [one, other].sort((a, b) => a - b);
  const best = new Map([[from, [{ product: 1, links: [] }]]]);
  const whole = new Map([[from, 1]]);
  for (const index of upward) {
    const { source, target } = data.links[index];
    if (!whole.has(source) || size(index) === 0 || target < to) continue;
    const longer = best.get(source).map(({ product, links }) => ({ product: product * strength(index), links: [...links, index] }));
    const all = [...(best.get(target) ?? []), ...longer];
    all.sort((a, b) => Math.abs(b.product) - Math.abs(a.product));
    best.set(target, all.slice(0, PATHS));
    whole.set(target, (whole.get(target) ?? 0) + whole.get(source) * size(index));
  }
  const found = from === to ? [] : (best.get(to) ?? []);
  return { from, to, found: found.map((path) => ({ ...path, share: Math.abs(path.product) / whole.get(to) })) };
}
