// Pointer and keyboard on the graph and its controls; then the page is drawn as its address says.
const TYPED = "input:is([type=text], [type=search]), textarea";

// Whether the focus comes back to a node whose card was closed, which opens none.
let returning = false;

// The next drawn node in the direction of an arrow key: along the row, or the nearest of the next row.
function step(index, key) {
  if (key === "ArrowLeft" || key === "ArrowRight") {
    const sign = key === "ArrowRight" ? 1 : -1;
    let next = index + sign;
    while (nodes[next] && !drawn.has(next)) next += sign;
    return nodes[next];
  }
  const from = nodes[index].getBoundingClientRect();
  const sign = key === "ArrowDown" ? 1 : -1;
  const far = [...drawn]
    .map((other) => ({ node: nodes[other], box: nodes[other].getBoundingClientRect() }))
    .filter(({ box }) => (sign > 0 ? box.top > from.bottom : box.bottom < from.top))
    .map(({ node, box }) => [Math.abs(box.top - from.top) * 100 + Math.abs(box.left - from.left), node]);
  return far.length ? far.reduce((a, b) => (b[0] < a[0] ? b : a))[1] : undefined;
}

function shut() {
  const kept = state.open !== null;
  close();
  if (kept) commit();
}

nodes.forEach((node, index) => {
  node.addEventListener("pointerenter", (event) => {
    if (event.pointerType !== "touch" && state.open === null) open(index, false);
  });
  node.addEventListener("pointerleave", leave);
  node.addEventListener("focus", () => {
    if (node.matches(":focus-visible") && state.open === null && !returning) open(index, false);
  });
  node.addEventListener("blur", leave);
  node.addEventListener("click", () => {
    open(index, true);
    commit();
  });
  node.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      open(index, true);
      card.focus({ preventScroll: true });
      commit();
    } else if (event.key.startsWith("Arrow")) {
      event.preventDefault();
      state.open = null;
      step(index, event.key)?.focus();
    }
  });
});
card.addEventListener("pointerenter", () => clearTimeout(leaving));
card.addEventListener("pointerleave", leave);
// Whoever works in the card keeps it.
card.addEventListener("focusin", () => {
  if (chosen !== null && state.open === null) {
    open(chosen, true);
    commit();
  }
});
document.getElementById("close").addEventListener("click", shut);
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches?.(TYPED);
  if (event.key === "Escape" && !card.hidden) {
    const node = nodes[chosen];
    const inside = card.contains(document.activeElement);
    shut();
    if (inside) {
      returning = true;
      node.focus();
      returning = false;
    }
  } else if (typing || event.ctrlKey || event.metaKey || event.altKey) {
    return;
  } else if (event.key === "/") {
    event.preventDefault();
    box.focus();
    box.select();
  } else if (event.key === "p") {
    const focused = nodes.indexOf(document.activeElement);
    const index = focused >= 0 ? focused : chosen;
    if (index !== null) pin(index);
  }
});
document.addEventListener("click", (event) => {
  // The path, not the target: a button of the card is gone by now if it opened another node.
  const path = event.composedPath();
  if (!card.hidden && ![card, graph, bar, controls, all].some((part) => path.includes(part))) shut();
});
graph.addEventListener("click", (event) => {
  if (!event.target.closest(".node")) shut();
});
controls.addEventListener("submit", (event) => event.preventDefault());
controls.addEventListener("input", (event) => {
  if (event.target.name === "mode") {
    state.mode = event.target.value;
    weigh();
    show();
    tellPins();
    if (chosen !== null) fill();
    commit();
  } else if (event.target === count || event.target === least) {
    state.links = count ? Number(count.value) : 0;
    state.least = least ? Number(least.value) : 0;
    show();
    commitSoon();
  }
});
document.getElementById("save").addEventListener("click", saveNames);
document.getElementById("load").addEventListener("change", ({ target }) => {
  if (target.files.length) loadNames(target.files[0]);
  target.value = "";
});
window.addEventListener("resize", () => { if (chosen !== null) place(); });
window.addEventListener("popstate", restore);
window.addEventListener("storage", (event) => {
  if (!event.key?.startsWith(PREFIX)) return;
  given = stored();
  tellNames();
});

weigh();
tellNames();
restore();
if (state.open !== null) nodes[state.open].scrollIntoView({ block: "center", inline: "center" });
if (chosen !== null) place();
