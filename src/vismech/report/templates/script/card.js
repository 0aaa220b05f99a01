// The card of a node: what is known of it, its strongest links, its pin and its name.
const card = document.getElementById("card");
const body = document.getElementById("card-body");
let leaving = 0;

function fill() {
  const details = document.getElementById(`details-${chosen}`).cloneNode(true);
  details.removeAttribute("id");
  details.querySelector("h4").after(tools());
  const columns = make("div", "columns");
  list(columns, "Inputs from", "target", "source");
  list(columns, "Outputs to", "source", "target");
  body.replaceChildren(details, ...photographsOf(chosen), columns);
  tellPinned();
}

function tools() {
  const row = make("div", "tools");
  const index = chosen;
  const button = row.appendChild(make("button", "pin"));
  button.addEventListener("click", () => pin(index));
  if (data.nodes[index].concept === null) return row;
  const label = row.appendChild(make("label", "naming", "Name "));
  const input = label.appendChild(make("input"));
  input.type = "text";
  input.dir = "auto";
  input.maxLength = LONGEST;
  input.placeholder = "what its patches share";
  input.value = given.get(data.nodes[index].id) ?? "";
  input.addEventListener("input", () => {
    nameConcept(index, input.value);
    const heading = body.querySelector("h4");
    heading.replaceChildren(...document.querySelector(`#details-${index} h4`).cloneNode(true).childNodes);
    tellPins();
    search();
  });
  return row;
}

function tellPinned() {
  const button = body.querySelector(".pin");
  const pinned = state.pins.includes(chosen);
  button.textContent = pinned ? "Pinned" : "Pin";
  button.ariaPressed = pinned;
  button.title = "Key p";
}

function list(columns, title, end, other) {
  const { total, listed } = strongest(chosen, end);
  if (!total) return;
  const column = columns.appendChild(make("div"));
  const layers = new Set(listed.map((index) => data.nodes[data.links[index][other]].layer || "classes"));
  const heading = column.appendChild(make("h5", "", `${title} ${[...layers].join(", ")}`));
  heading.title = `The strongest ${listed.length} of ${total}`;
  const items = column.appendChild(make("ol"));
  for (const index of listed) {
    const link = data.links[index];
    const button = items.appendChild(make("li")).appendChild(make("button"));
    const value = make("b", link.weight[state.mode] < 0 ? "negative" : "", write(link.weight[state.mode]));
    button.append(picture(data.nodes[link[other]].picture), make("span", "", short(link[other])), value);
    button.title = full(link[other]);
    if (link.effect && state.mode in link.effect) {
      value.append(make("small", link.contradicted ? "contradicted" : "", `tested ${write(link.effect[state.mode])}`));
    }
    button.addEventListener("click", () => go(link[other]));
  }
}

function open(index, keep) {
  clearTimeout(leaving);
  if (!keep && !drawn.has(index)) return;
  const before = state.open;
  state.open = keep ? index : null;
  const known = chosen === index && !card.hidden;
  chosen = index;
  if (!known) fill();
  card.hidden = false;
  // A node that is drawn only because its card is open comes and goes with it.
  if (!drawn.has(index) || (before !== null && !isDrawn(before))) show();
  if (known) return;
  card.scrollTop = 0;
  place();
  highlight();
  lightPhotographs();
}

// Opens a node wherever it is: drawn, in view and in focus.
function go(index) {
  open(index, true);
  nodes[index].focus({ preventScroll: true });
  nodes[index].scrollIntoView({ block: "nearest", inline: "center" });
  place();
  commit();
}

function close() {
  const was = state.open;
  chosen = null;
  state.open = null;
  card.hidden = true;
  lightPhotographs();
  if (was === null || isDrawn(was)) highlight();
  else show();
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
  if (state.open !== null) return;
  clearTimeout(leaving);
  // Time to cross the space between the node and its card.
  leaving = setTimeout(close, 220);
}
