// How the run that was chosen learned: a chart for each of its metrics.

const charts = h("section.hone-card.hone-curves", { "aria-label": "Curves" });
const WIDTH = 240, HEIGHT = 84; // of a chart, in units that the style sheet stretches
const FLAT = 0.001; // of its size, what a metric moves that the numbers beside the chart wouldn't tell

function short(value) {
  const size = Math.abs(value);
  return value === 0 ? "0" : size >= 1000 || size < 0.001 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}

function chart({ name, label, meaning, lines }) {
  const points = lines.flatMap((line) => line.points);
  const steps = points.map(([step]) => step), values = points.map(([, value]) => value);
  const [first, last, low, high] = [Math.min(...steps), Math.max(...steps), Math.min(...values), Math.max(...values)];
  const x = (step) => (last > first ? ((step - first) / (last - first)) * WIDTH : WIDTH / 2);
  const flat = high - low <= FLAT * Math.max(Math.abs(low), Math.abs(high)); // drawn in the middle, beside its one value
  const y = (value) => (flat ? HEIGHT / 2 : (1 - (value - low) / (high - low)) * HEIGHT);
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img",
    "aria-label": `${label}: from ${short(values[0])} at step ${first} to ${short(values.at(-1))} at step ${last}, between ${short(low)} and ${short(high)}.` });
  for (const line of lines) {
    const path = line.points.length > 1 ? line.points : [line.points[0], line.points[0]];
    drawing.append(svg("polyline", { class: `hone-line ${line.phase}`, points: path.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" ") }));
  }
  const cursor = svg("line", { class: "hone-cursor", y1: 0, y2: HEIGHT, visibility: "hidden" });
  drawing.append(cursor);
  const now = h("b", {}, short(values.at(-1)));
  const point = (event) => {
    const box = drawing.getBoundingClientRect();
    const at = first + ((event.clientX - box.left) / box.width) * (last - first);
    const [step, value] = points.reduce((best, one) => (Math.abs(one[0] - at) < Math.abs(best[0] - at) ? one : best));
    now.textContent = `step ${step}: ${short(value)}`;
    cursor.setAttribute("x1", x(step));
    cursor.setAttribute("x2", x(step));
    cursor.setAttribute("visibility", "visible");
  };
  drawing.addEventListener("pointermove", point);
  drawing.addEventListener("pointerdown", point);
  drawing.addEventListener("pointerleave", () => { now.textContent = short(values.at(-1)); cursor.setAttribute("visibility", "hidden"); });
  return h("figure.hone-chart", { "data-metric": name }, h("figcaption", {}, h("span", {}, label), now),
    h("div.hone-plot", {}, h(`div.hone-scale-y${flat ? ".flat" : ""}`, { "aria-hidden": "true" }, h("span", {}, short(high)), flat ? null : h("span", {}, short(low))), drawing,
      h("div.hone-scale-x", { "aria-hidden": "true" }, h("span", {}, `step ${first}`), h("span", {}, last > first ? String(last) : ""))),
    meaning ? h("small", {}, meaning) : null);
}

function drawPart(board) {
  if (board.hidden || !board.charts?.length) return [];
  const phases = new Map(board.charts.flatMap((one) => one.lines.map((line) => [line.phase, line.label])));
  const legend = h("div.hone-legend", {}, [...phases].map(([phase, label]) => h("span", {}, h(`i.${phase || "other"}`), label)));
  charts.replaceChildren(h("div.hone-row", {}, h("h2", {}, `How ${shortly(board.run)} learned`), h("span.hone-fill"), legend),
    h("div.hone-charts", {}, board.charts.map(chart)));
  return [charts];
}
