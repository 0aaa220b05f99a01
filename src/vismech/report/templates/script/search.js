// Search over layer, number, classes and given names.
const box = document.getElementById("search");
const folded = (text) => text.normalize("NFKC").toLowerCase();
let hits = [];

// All words must be found; a concept whose number or name it is comes first.
function search() {
  const wanted = folded(state.search).trim();
  const words = wanted.split(/\s+/).filter(Boolean);
  const exact = (index) => {
    const { concept, id } = data.nodes[index];
    return [String(concept), `#${concept}`, folded(given.get(id) ?? "")].includes(wanted);
  };
  const text = (index) => folded([full(index), data.nodes[index].short, ...data.nodes[index].found].join(" "));
  const every = [...nodes.keys()];
  const found = words.length ? every.filter((index) => words.every((word) => text(index).includes(word))) : [];
  hits = [...found.filter(exact), ...found.filter((index) => !exact(index))];
  graph.classList.toggle("searching", words.length > 0);
  const hit = new Set(hits);
  nodes.forEach((node, index) => node.classList.toggle("hit", hit.has(index)));
  const told = hits.length ? `${hits.length} hit${hits.length === 1 ? "" : "s"}` : "nothing found";
  document.getElementById("hits").value = words.length ? told : "";
}

box.addEventListener("input", () => {
  state.search = box.value;
  search();
  commitSoon();
});
box.addEventListener("keydown", (event) => {
  if (event.key === "Enter") {
    event.preventDefault();
    if (hits.length) go(hits[0]);
  } else if (event.key === "Escape") {
    // Here only: the card of a node stays.
    event.preventDefault();
    event.stopPropagation();
    if (box.value === "") box.blur();
    box.value = state.search = "";
    search();
    commit();
  }
});
