// Pinned nodes: chips, what they leave of the graph, and the strongest paths between the two pinned last.
const bar = document.getElementById("pins");
const chips = document.getElementById("chips");
const between = document.getElementById("between");

function pin(index) {
  state.pins = state.pins.includes(index) ? state.pins.filter((each) => each !== index) : [...state.pins, index];
  if (!state.pins.length) state.only = false;
  show();
  tellPins();
  commit();
}

function tellPins() {
  const pinned = new Set(state.pins);
  nodes.forEach((node, index) => {
    node.classList.toggle("pinned", pinned.has(index));
    if (pinned.has(index)) node.setAttribute("aria-description", "pinned");
    else node.removeAttribute("aria-description");
  });
  bar.hidden = !pinned.size;
  bar.querySelector("[name=only]").checked = state.only;
  bar.querySelector("[name=paths]").checked = state.paths;
  bar.querySelector("[name=paths]").disabled = state.pins.length < 2;
  chips.replaceChildren(...state.pins.map(chip));
  tellPaths();
  if (chosen !== null) tellPinned();
}

function chip(index) {
  const item = make("li");
  const shown = item.appendChild(make("button", "node-chip"));
  shown.append(picture(data.nodes[index].picture), make("bdi", "", short(index)));
  shown.title = full(index);
  shown.addEventListener("click", () => go(index));
  const off = item.appendChild(make("button", "unpin", "×"));
  off.ariaLabel = `Unpin ${full(index)}`;
  off.addEventListener("click", () => {
    pin(index);
    stay();
  });
  return item;
}

// Keeps the focus of whoever works by keyboard when the button in focus is gone.
function stay() {
  (bar.querySelector(".unpin") ?? box).focus({ preventScroll: true });
}

function tellPaths() {
  between.replaceChildren();
  if (traced.from === null) return;
  const [from, to] = [traced.from, traced.to].map(full);
  if (!traced.found.length) {
    between.append(make("p", "quiet", `No path leads from ${from} up to ${to}.`));
    return;
  }
  between.append(make("p", "quiet", `Strongest paths from ${from} up to ${to}, by the product of their links’ strengths, and their shares of all paths between the two:`));
  const list = between.appendChild(make("ol"));
  for (const path of traced.found) {
    const item = list.appendChild(make("li"));
    const stops = [data.links[path.links[0]].source, ...path.links.map((index) => data.links[index].target)];
    stops.forEach((stop, position) => item.append(position ? " → " : "", make("bdi", "", short(stop))));
    item.append(` ${percent(path.share)}${path.product < 0 ? ", against it" : ""}`);
  }
}

bar.addEventListener("change", (event) => {
  state[event.target.name] = event.target.checked;
  show();
  tellPins();
  commit();
});
document.getElementById("unpin-all").addEventListener("click", () => {
  state.pins = [];
  state.only = false;
  show();
  tellPins();
  commit();
  stay();
});
