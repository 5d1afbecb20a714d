// What an adapter's report says by the constitution: a table beside its parent and the base, and the frontier.

// Rings of their own size and colour, the candidate a dot: each is seen where several are at one place.
const PLACES = { base: 9, parent: 6, candidate: 3 }; // radius, in the picture's units
const FRONTIER = { width: 340, height: 220, left: 48, right: 16, top: 16, bottom: 40 }; // the picture, in its own units

function byConstitution(found) {
  if (!found) return null;
  return h("section.hone-principled", { "aria-label": "By the constitution" },
    h("h3", {}, "By the constitution", found.constitution ? [" ", h("span.hone-badge.base", {}, found.constitution)] : null),
    sideBySide(found.compared, found.sides), sideBySide(found.alone, []), frontier(found.frontier));
}

function sideBySide(rows, sides) {
  if (!rows.length) return null;
  const head = (row) => h("th", { scope: "row" }, row.label, row.meaning ? h("small", {}, row.meaning) : null);
  return h(`table.hone-figures${sides.length ? ".hone-sides" : ""}`, {}, sides.length ? h("thead", {}, h("tr", {}, h("th", {}), sides.map((side) => h("th", { scope: "col" }, side)))) : null,
    h("tbody", {}, rows.map((row) => h(`tr${row.principle ? ".principle" : ""}`, { "data-figure": row.principle ? `${row.name} ${row.principle}` : row.name }, head(row),
      row.values.map((value, i) => h("td", {}, value, row.intervals[i] ? h("small", {}, row.intervals[i]) : null))))));
}

/** Harmlessness upwards, helpfulness to the right: from the base over the parent to the adapter, with 95 % intervals. */
function frontier(places) {
  if (!places.length) return null;
  const { width, height, left, right, top, bottom } = FRONTIER;
  // As good as the base is in the middle, no harm at the top, and the axes are long enough that chance looks like no trend.
  const aside = Math.max(0.05, ...places.flatMap((one) => one.helpful.map((share) => 1.15 * Math.abs(share - 0.5))));
  const down = Math.max(0.1, ...places.flatMap((one) => one.harmless.map((share) => 1.15 * (1 - share))));
  const x = (share) => left + ((share - 0.5) / aside + 1) * (width - left - right) / 2;
  const y = (share) => top + ((1 - share) / down) * (height - top - bottom);
  const percent = (share) => `${Math.round(share * 100)}\u00a0%`;
  const line = (kind, ...ends) => svg("polyline", { class: kind, points: ends.map(([a, b]) => `${a.toFixed(1)},${b.toFixed(1)}`).join(" ") });
  const word = (text, kind, anchor, at) => svg("text", { class: kind, "text-anchor": anchor, x: at[0], y: at[1] }, text);
  const said = (one) => `${percent(one.harmless[0])} harmless, ${percent(one.helpful[0])} won against the base`;
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Harmlessness against helpfulness. ${places.map((one) => `${one.name}: ${said(one)}`).join("; ")}.` });
  const foot = height - bottom, middle = x(0.5);
  drawing.append(line("frame", [left, top], [left, foot], [width - right, foot]), line("frame", [middle, top], [middle, foot]),
    word(percent(0.5 - aside), "scale", "start", [left, foot + 16]), word(percent(0.5), "scale", "middle", [middle, foot + 16]),
    word(percent(0.5 + aside), "scale", "end", [width - right, foot + 16]), word(percent(1), "scale", "end", [left - 6, top + 4]),
    word(percent(1 - down), "scale", "end", [left - 6, foot]), word("more helpful →", "axis", "middle", [middle, height - 5]),
    svg("text", { class: "axis", "text-anchor": "middle", transform: `translate(11 ${(top + foot) / 2}) rotate(-90)` }, "more harmless →"),
    line("way", ...places.map((one) => [x(one.helpful[0]), y(one.harmless[0])])));
  places.forEach((one) => {
    const [[across, west, east], [up, south, north]] = [one.helpful.map(x), one.harmless.map(y)];
    drawing.append(mark(one.side, across, up, line("reach", [west, up], [east, up]), line("reach", [across, south], [across, north])));
  });
  return h("figure.hone-frontier", {}, drawing,
    h("ul.hone-places", {}, places.map((one) => h("li", {}, svg("svg", { viewBox: "0 0 20 20", "aria-hidden": "true" }, mark(one.side, 10, 10)),
      h("span", {}, h("b", {}, one.name), " ", said(one))))),
    h("figcaption", {}, "Up: replies to red-team prompts that do no harm. To the right: share won against the base on everyday questions. Lines: 95\u00a0% intervals."));
}

function mark(side, across, up, ...reach) {
  return svg("g", { class: `hone-place ${side}` }, ...reach, svg("circle", { cx: across, cy: up, r: PLACES[side] }));
}
