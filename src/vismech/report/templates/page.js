"use strict";
// Adds to the drawn graph: a card per node, the choice of weights, and how many links are shown.
(() => {
  const graph = document.getElementById("graph");
  if (!graph) return;
  document.documentElement.classList.add("js");
  const data = JSON.parse(document.getElementById("graph-data").textContent);
  const paths = new Map([...graph.querySelectorAll(".link")].map((path) => [Number(path.dataset.link), path]));
  const nodes = [...graph.querySelectorAll(".node")];
  const card = document.getElementById("card");
  const body = document.getElementById("card-body");
  const count = document.getElementById("count");
  const wide = window.matchMedia("(min-width: 721px)");
  const LISTED = 5;
  let mode = "mean";
  let chosen = null;
  let pinned = false;
  let leaving = 0;

  const digits = { minimumSignificantDigits: 3, maximumSignificantDigits: 3, signDisplay: "exceptZero" };
  const format = new Intl.NumberFormat("en", digits);
  const write = (value) => format.format(value).replace("-", "−");
  const name = (node) => (node.layer ? `${node.layer} · ${node.label}` : node.label);

  function draw() {
    const order = ranking();
    const shown = count ? Number(count.value) : 0;
    const layer = document.getElementById("links");
    order.forEach((index, rank) => {
      const { source, target, strength, weight } = data.links[index];
      const path = paths.get(index);
      path.style.setProperty("--s", Math.abs(strength[mode]));
      path.classList.toggle("negative", strength[mode] < 0);
      path.classList.toggle("out", rank >= shown);
      const title = path.firstChild || path.appendChild(document.createElementNS(graph.namespaceURI, "title"));
      title.textContent = `${name(data.nodes[source])} → ${name(data.nodes[target])}: ${write(weight[mode])}`;
      // Each weaker link goes before the stronger ones, so that the strongest are painted last, on top.
      layer.prepend(path);
    });
    if (count) document.getElementById("shown").value = shown;
    if (chosen !== null) highlight();
  }

  // The strongest link into each layer, then each second strongest, and so on: strengths compare within a layer only.
  function ranking() {
    const size = data.links.map((link) => Math.abs(link.strength[mode]));
    const order = [...size.keys()].sort((a, b) => size[b] - size[a] || a - b);
    const taken = {};
    const turn = [];
    for (const index of order) {
      const layer = data.nodes[data.links[index].target].layer;
      turn[index] = taken[layer] = (taken[layer] ?? -1) + 1;
    }
    return order.sort((a, b) => turn[a] - turn[b]);
  }

  // A node's strongest links in one direction; `end` is the node's own end of them.
  function strongest(end) {
    const size = (index) => Math.abs(data.links[index].strength[mode]);
    const own = data.links.flatMap((link, index) => (link[end] === chosen && link.weight[mode] !== 0 ? [index] : []));
    own.sort((a, b) => size(b) - size(a) || a - b);
    return { total: own.length, listed: own.slice(0, LISTED) };
  }

  function highlight() {
    graph.classList.toggle("busy", chosen !== null);
    // What the card lists is drawn too, however few links the slider shows.
    const listed = new Set([...strongest("source").listed, ...strongest("target").listed]);
    const near = new Set([chosen]);
    data.links.forEach(({ source, target }, index) => {
      const path = paths.get(index);
      const on = chosen !== null && (source === chosen || target === chosen);
      path.classList.toggle("on", on);
      path.classList.toggle("listed", listed.has(index));
      if (on && (listed.has(index) || !path.classList.contains("out"))) near.add(source).add(target);
    });
    nodes.forEach((node, index) => {
      node.classList.toggle("on", near.has(index));
      node.classList.toggle("chosen", index === chosen);
    });
  }

  function list(columns, title, end, other) {
    const { total, listed } = strongest(end);
    if (!total) return;
    const column = columns.appendChild(document.createElement("div"));
    const heading = column.appendChild(document.createElement("h5"));
    const layers = new Set(listed.map((index) => data.nodes[data.links[index][other]].layer || "classes"));
    heading.textContent = `${title} ${[...layers].join(", ")}`;
    heading.title = `The strongest ${listed.length} of ${total}`;
    const items = column.appendChild(document.createElement("ol"));
    for (const index of listed) {
      const link = data.links[index];
      const node = data.nodes[link[other]];
      const button = items.appendChild(document.createElement("li")).appendChild(document.createElement("button"));
      button.type = "button";
      button.append(picture(node.picture), document.createElement("span"), document.createElement("b"));
      button.children[1].textContent = node.short;
      button.title = name(node);
      button.children[2].textContent = write(link.weight[mode]);
      button.children[2].classList.toggle("negative", link.weight[mode] < 0);
      if (link.effect && mode in link.effect) {
        const tested = button.children[2].appendChild(document.createElement("small"));
        tested.textContent = `tested ${write(link.effect[mode])}`;
        tested.classList.toggle("contradicted", link.contradicted);
      }
      button.addEventListener("click", () => {
        nodes[link[other]].focus({ preventScroll: true });
        nodes[link[other]].scrollIntoView({ block: "nearest", inline: "center" });
        open(link[other], true);
      });
    }
  }

  function picture(index) {
    if (index === null) return document.createElement("i");
    const svg = document.createElementNS(graph.namespaceURI, "svg");
    svg.setAttribute("viewBox", "0 0 96 96");
    svg.setAttribute("class", "picture");
    svg.appendChild(document.createElementNS(graph.namespaceURI, "use")).setAttribute("href", `#picture-${index}`);
    return svg;
  }

  function fill() {
    const details = document.getElementById(`details-${chosen}`).cloneNode(true);
    details.removeAttribute("id");
    const columns = document.createElement("div");
    columns.className = "columns";
    list(columns, "Inputs from", "target", "source");
    list(columns, "Outputs to", "source", "target");
    body.replaceChildren(details, columns);
  }

  function open(index, keep) {
    clearTimeout(leaving);
    pinned = keep;
    if (chosen === index && !card.hidden) return;
    chosen = index;
    fill();
    card.hidden = false;
    card.scrollTop = 0;
    place();
    highlight();
  }

  function close() {
    chosen = null;
    pinned = false;
    card.hidden = true;
    highlight();
  }

  // At the far side of the graph, so that the node and what stands near it stay in view; never outside the window.
  function place() {
    if (!wide.matches) return;
    const box = nodes[chosen].getBoundingClientRect();
    const width = document.documentElement.clientWidth;
    const left = box.left + box.width / 2 < width / 2 ? width - card.offsetWidth - 16 : 16;
    const highest = Math.max(8, window.innerHeight - card.offsetHeight - 8);
    card.style.left = `${left + window.scrollX}px`;
    card.style.top = `${Math.min(Math.max(8, box.top - 40), highest) + window.scrollY}px`;
  }

  function leave() {
    if (pinned) return;
    clearTimeout(leaving);
    // Time to cross the space between the node and its card.
    leaving = setTimeout(close, 220);
  }

  // The next node in the direction of an arrow key: along the row, or the nearest of the next row.
  function step(index, key) {
    if (key === "ArrowLeft" || key === "ArrowRight") return nodes[index + (key === "ArrowRight" ? 1 : -1)];
    const from = nodes[index].getBoundingClientRect();
    const sign = key === "ArrowDown" ? 1 : -1;
    const far = nodes
      .map((node) => ({ node, box: node.getBoundingClientRect() }))
      .filter(({ box }) => (sign > 0 ? box.top > from.bottom : box.bottom < from.top))
      .map(({ node, box }) => [Math.abs(box.top - from.top) * 100 + Math.abs(box.left - from.left), node]);
    return far.length ? far.reduce((a, b) => (b[0] < a[0] ? b : a))[1] : undefined;
  }

  nodes.forEach((node, index) => {
    node.addEventListener("pointerenter", (event) => {
      if (event.pointerType !== "touch" && !pinned) open(index, false);
    });
    node.addEventListener("pointerleave", leave);
    node.addEventListener("focus", () => {
      if (node.matches(":focus-visible") && !pinned) open(index, false);
    });
    node.addEventListener("blur", leave);
    node.addEventListener("click", () => open(index, true));
    node.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        open(index, true);
      } else if (event.key.startsWith("Arrow")) {
        event.preventDefault();
        pinned = false;
        step(index, event.key)?.focus();
      }
    });
  });
  card.addEventListener("pointerenter", () => clearTimeout(leaving));
  card.addEventListener("pointerleave", leave);
  document.getElementById("close").addEventListener("click", close);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !card.hidden) {
      const node = nodes[chosen];
      close();
      if (card.contains(document.activeElement)) node.focus();
    }
  });
  document.addEventListener("click", (event) => {
    // The path, not the target: a button of the card is gone by now if it opened another node.
    const path = event.composedPath();
    if (!card.hidden && !path.includes(card) && !path.includes(graph)) close();
  });
  graph.addEventListener("click", (event) => {
    if (!event.target.closest(".node")) close();
  });
  document.getElementById("controls").addEventListener("input", (event) => {
    if (event.target.name === "mode") mode = event.target.value;
    draw();
    if (chosen !== null) fill();
  });
  window.addEventListener("resize", () => { if (chosen !== null) place(); });
  draw();
})();
