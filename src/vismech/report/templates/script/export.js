// The graph as it is seen, as a file: a drawing that needs nothing beside it, its picture, or the links in rows.
const LOOK = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-opacity", "opacity", "font-family", "font-size", "font-weight", "text-anchor"];
const MARGIN = 120;

function saveAs(name, blob) {
  const link = make("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const svgElement = (tag, attributes) => {
  const element = document.createElementNS(graph.namespaceURI, tag);
  Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
  return element;
};

// The drawing with its look written into it, the pictures that it shows, and the names of its layers.
function asDrawing() {
  const { width, height } = graph.viewBox.baseVal;
  const copy = svgElement("svg", { viewBox: `${-MARGIN} 0 ${width + MARGIN} ${height}`, width: width + MARGIN, height });
  const pairs = [...graph.childNodes].map((part) => [part, copy.appendChild(part.cloneNode(true))]);
  const hidden = [];
  const used = new Set();
  for (const [root, twin] of pairs) {
    if (root.nodeType !== Node.ELEMENT_NODE) continue;
    const own = [root, ...root.querySelectorAll("*")];
    [twin, ...twin.querySelectorAll("*")].forEach((element, index) => {
      const style = getComputedStyle(own[index]);
      if (style.display === "none") {
        hidden.push(element);
        return;
      }
      LOOK.forEach((name) => element.setAttribute(name, style.getPropertyValue(name)));
      for (const name of ["class", "style", "tabindex", "role", "aria-label", "data-spoken", "data-number"]) element.removeAttribute(name);
      if (element.tagName === "use") used.add(element.getAttribute("href"));
    });
  }
  hidden.forEach((element) => element.remove());
  const store = svgElement("defs", {});
  for (const href of used) store.append(document.querySelector(href).cloneNode(true));
  const ground = getComputedStyle(document.body);
  copy.prepend(store, svgElement("rect", { x: -MARGIN, width: width + MARGIN, height, fill: ground.backgroundColor }));
  for (const label of document.querySelectorAll(".layers span")) {
    const middle = ((parseFloat(label.style.top) + parseFloat(label.style.height) / 2) / 100) * height;
    const look = { x: 14 - MARGIN, y: middle + 4, fill: getComputedStyle(label).color, "font-family": ground.fontFamily, "font-size": 13, "font-weight": 600 };
    copy.appendChild(svgElement("text", look)).textContent = label.title;
  }
  return { text: new XMLSerializer().serializeToString(copy), width: width + MARGIN, height };
}

function saveDrawing() {
  saveAs("graph.svg", new Blob([asDrawing().text], { type: "image/svg+xml" }));
}

// Twice as large as drawn, as far as browsers draw.
async function savePicture() {
  const { text, width, height } = asDrawing();
  const scale = Math.min(2, 16000 / width, 16000 / height);
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  await image.decode();
  const picture = make("canvas");
  picture.width = width * scale;
  picture.height = height * scale;
  picture.getContext("2d").drawImage(image, 0, 0, picture.width, picture.height);
  picture.toBlob((blob) => saveAs("graph.png", blob), "image/png");
}

// The links that are drawn, strongest first, in the weights that are chosen; what was measured beside them.
function saveLinks() {
  const cell = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const rows = [["source", "source_name", "target", "target_name", "weights", "weight", "tested", "contradicted"]];
  for (const index of ordered()) {
    if (paths.get(index).matches(".gone, .out:not(.listed, .traced)")) continue;
    const { source, target, weight, effect, contradicted } = data.links[index];
    const names = [source, target].flatMap((end) => [data.nodes[end].id, given.get(data.nodes[end].id) ?? data.nodes[end].label]);
    rows.push([...names, state.mode, String(weight[state.mode]), String(effect?.[state.mode] ?? ""), effect ? String(contradicted) : ""]);
  }
  const text = rows.map((row) => row.map(cell).join(",")).join("\r\n");
  saveAs("links.csv", new Blob([`${text}\r\n`], { type: "text/csv" }));
}

document.getElementById("save-svg").addEventListener("click", saveDrawing);
document.getElementById("save-png").addEventListener("click", savePicture);
document.getElementById("save-csv").addEventListener("click", saveLinks);
