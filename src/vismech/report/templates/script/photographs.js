// Where a concept is in the photographs: dark where it is not, and its edge to the class in that photograph.
const DARK = 0.8;
const figures = [...document.querySelectorAll("[data-photo]")];

function shade(canvas, packed) {
  const bytes = atob(packed);
  const side = Math.round(Math.sqrt(2 * bytes.length));
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(side, side);
  let here = 0;
  for (let cell = 0; cell < side * side; cell += 1) {
    const byte = bytes.charCodeAt(cell >> 1);
    const level = cell % 2 ? byte & 15 : byte >> 4;
    here = Math.max(here, level);
    pixels.data.set([16, 20, 30, Math.round(255 * DARK * (1 - level / 15))], 4 * cell);
  }
  context.putImageData(pixels, 0, 0);
  return here > 0;
}

// Lights one photograph by one concept.
function lightUp(photo, [packed, edge]) {
  const canvas = photo.querySelector("canvas") ?? photo.appendChild(make("canvas"));
  const told = photo.querySelector("b") ?? photo.appendChild(make("b"));
  canvas.ariaHidden = true;
  const present = shade(canvas, packed);
  told.textContent = present ? write(edge) : `${write(edge)}, not here`;
  told.className = edge < 0 ? "negative" : "";
}

// All photographs at the top, as the concept that is pointed at or open has it.
function lightPhotographs() {
  const where = chosen === null ? undefined : data.nodes[chosen].where;
  figures.forEach((figure, index) => {
    const photo = figure.querySelector(".photo");
    if (where?.[index]) lightUp(photo, where[index]);
    else photo.querySelectorAll("canvas, b").forEach((part) => part.remove());
  });
}

// The same photographs small, for a concept's card.
function photographsOf(index) {
  const { where } = data.nodes[index];
  if (!where) return [];
  const part = make("div", "within");
  const heading = part.appendChild(make("h5", "", "In the photographs"));
  heading.title = "Lit where the concept’s code, carried down to the pixels, is largest; the number is its edge to the class in this photograph";
  const strip = part.appendChild(make("div", "strip"));
  figures.forEach((figure, photo) => {
    if (!where[photo] || figure.hidden) return;
    const copy = strip.appendChild(figure.querySelector(".photo").cloneNode(true));
    copy.querySelectorAll("canvas, b").forEach((old) => old.remove());
    lightUp(copy, where[photo]);
  });
  return [part];
}

document.getElementById("judged")?.addEventListener("input", ({ target }) => {
  for (const figure of figures) {
    figure.hidden = target.value !== "" && figure.classList.contains("wrong") !== (target.value === "wrong");
  }
  if (chosen !== null) fill();
});
