// Tables: a click on a heading sorts by its column; an interval in two columns is drawn as a bar in a third.
const missing = (text) => text === "" || text === "—";
const asNumber = (text) => {
  const plain = text.replaceAll("−", "-").replaceAll(",", "").replace(/^<\s*/, "").replace(/\s*%$/, "");
  return /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(plain) ? Number(plain) : NaN;
};
const textOf = (row, column) => row.cells[column].textContent.trim();

function sortable(table) {
  if (table.tHead?.rows.length !== 1 || table.tBodies.length !== 1) return;
  const headings = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const rows = [...body.rows];
  if (rows.length < 2 || rows.some((row) => row.cells.length !== headings.length)) return;
  drawIntervals(table, headings, rows);
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const turn = { ascending: "descending", descending: "none" }[heading.ariaSort] ?? "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      if (turn !== "none") heading.ariaSort = turn;
      body.append(...(turn === "none" ? rows : sorted(rows, column, turn === "ascending" ? 1 : -1)));
    });
  });
}

// Numbers as numbers where all are; what is missing comes last in both directions.
function sorted(rows, column, sign) {
  const told = rows.map((row) => ({ row, text: textOf(row, column) }));
  const known = told.filter(({ text }) => !missing(text));
  const numeric = known.every(({ text }) => !Number.isNaN(asNumber(text)));
  const compare = numeric
    ? (a, b) => asNumber(a.text) - asNumber(b.text)
    : (a, b) => a.text.localeCompare(b.text, undefined, { numeric: true });
  known.sort((a, b) => sign * compare(a, b));
  return [...known, ...told.filter(({ text }) => missing(text))].map(({ row }) => row);
}

function drawIntervals(table, headings, rows) {
  const [low, high] = ["ci_low", "ci_high"].map((name) => headings.findIndex((cell) => cell.textContent.trim() === name));
  if (low < 0 || high < 0) return;
  const ends = rows.map((row) => [asNumber(textOf(row, low)), asNumber(textOf(row, high))]);
  // Numbers of one unit share a scale.
  const unit = headings.findIndex((cell) => cell.textContent.trim() === "Unit");
  const units = rows.map((row) => (unit < 0 ? "" : textOf(row, unit)));
  const scales = new Map();
  for (const name of new Set(units)) {
    const known = ends.filter((_, index) => units[index] === name).flat().filter(Number.isFinite);
    const least = Math.min(0, ...known);
    scales.set(name, { least, range: Math.max(0, ...known) - least });
  }
  if (![...scales.values()].some(({ range }) => range > 0)) return;
  const heading = table.tHead.rows[0].appendChild(document.createElement("th"));
  heading.scope = "col";
  heading.textContent = "Interval";
  rows.forEach((row, index) => {
    const [from, to] = ends[index];
    const cell = row.insertCell();
    const { least, range } = scales.get(units[index]);
    if (Number.isNaN(from) || Number.isNaN(to) || !range) return;
    const share = (value) => `${(100 * (value - least)) / range}%`;
    const track = cell.appendChild(document.createElement("span"));
    track.className = "interval";
    track.role = "img";
    track.ariaLabel = `from ${textOf(row, low)} to ${textOf(row, high)}`;
    const zero = track.appendChild(document.createElement("i"));
    zero.style.left = share(0);
    const bar = track.appendChild(document.createElement("b"));
    bar.style.left = share(from);
    bar.style.right = `calc(100% - ${share(to)})`;
  });
}

document.querySelectorAll("table").forEach(sortable);
