// The adapters, newest first: what each was measured at, what was done to it, and the levers that move it.

const section = h("h2.hone-section", {}, "Adapters");
const adapterList = h("ul.hone-adapters");

function levers(adapter, live) {
  const name = adapter.name;
  const items = [];
  const add = (lever, label, dialog, extra) => items.push(h(`button.hone-plain${extra || ""}`, { type: "button", "data-lever": lever,
    onclick: () => ask({ ...dialog, label }, (filled) => tell(lever, { adapter: name, ...filled })) }, `${label}…`));
  if (["candidate", "canary", "retired"].includes(adapter.state) && name !== live)
    add("promote", "Promote", { title: `Promote ${name}`, about: "The engine loads it, proves that it serves what was trained, and then it answers. Replies under way are not interrupted." });
  if (["candidate", "retired"].includes(adapter.state)) add("canary", "Canary", { button: "Start canary", title: `${name} as canary`, about: "It answers some of the new conversations; the others stay with what is live.", share: true });
  if (["candidate", "canary", "retired"].includes(adapter.state)) add("reject", "Reject", { title: `Reject ${name}`, about: "It is out, for ever. What it learned from stays, and the next run learns from it again.", danger: true });
  return items.length ? h("div.hone-row", {}, items) : null;
}

function adapterRow(adapter, live) {
  const open = h("button.hone-open", { type: "button", "aria-expanded": String(adapter.open), onclick: () => tell("open_adapter", { adapter: adapter.name }) },
    icon("right"), h("span.hone-name.small", {}, adapter.name), tag(adapter.state), adapter.requested ? h("span.hone-tag.warm", {}, "rolling out") : null,
    h("span.hone-fill"), keyFigure(adapter), when(adapter.created_at));
  return h(`li.hone-adapter.${adapter.state}`, { "data-adapter": adapter.name, "data-state": adapter.state }, open,
    h("p.hone-lineage", {}, "from ", version(adapter.parent || "base"), adapter.loaded ? h("span.hone-quiet", { title: "The engine holds it now" }, "· loaded") : null),
    adapter.reason ? h("p.hone-message", {}, adapter.reason) : null,
    levers(adapter, live), adapter.open ? [verdicts(adapter), ...figuresOf(adapter), chronicle(adapter)] : null);
}

function keyFigure(adapter) {
  const won = adapter.figures.find((figure) => figure.name === "share_won");
  return won ? h("span.hone-quiet", { title: won.meaning }, `preferred ${won.value}`) : null;
}

function verdicts(adapter) {
  if (!adapter.gates.length) return null;
  return h("ul.hone-gates", { "aria-label": "Gates" }, adapter.gates.map((gate) => h(`li.${gate.passed ? "passed" : "stopped"}`, {}, icon(gate.passed ? "check" : "close"),
    h("div", {}, h("b", {}, gate.label), h("span.hone-sr", {}, gate.passed ? "passed" : "not passed"), gate.reason ? h("span", {}, gate.reason) : null, gate.meaning ? h("small", {}, gate.meaning) : null))));
}

/** What it was trained for comes first. */
function figuresOf(adapter) {
  const both = [measured(adapter), byConstitution(adapter.by_constitution)];
  return adapter.by_constitution?.trained_by_it ? both.reverse() : both;
}

function measured(adapter) {
  if (!adapter.figures.length) return null;
  const beside = adapter.figures.some((figure) => figure.base);
  return h("table.hone-figures", {}, beside ? h("thead", {}, h("tr", {}, h("th", {}), h("th", { scope: "col" }, adapter.name), h("th", { scope: "col" }, "base"))) : null,
    h("tbody", {}, adapter.figures.map((figure) => h("tr", { "data-figure": figure.name }, h("th", { scope: "row" }, figure.label, figure.meaning ? h("small", {}, figure.meaning) : null),
      h("td", {}, figure.value, figure.interval ? h("small", {}, figure.interval) : null), beside ? h("td", {}, figure.base) : null))));
}

function chronicle(adapter) {
  if (!(adapter.history || []).length) return null;
  return h("ol.hone-history", {}, adapter.history.map((event) => h("li", {}, h("b", {}, event.action), ` by ${event.actor} `, when(event.at), event.reason ? h("p", {}, event.reason) : null)));
}

function baseRow(live) {
  return h("li.hone-adapter", { class: `hone-adapter${live ? " live" : ""}` }, h("div.hone-open", {}, h("span.hone-name.small", {}, "base"), live ? tag("live") : null),
    h("p.hone-lineage", {}, "the frozen model that every adapter starts from"));
}

function drawPart(board) {
  if (board.hidden) return [];
  const rows = board.adapters.map((adapter) => keep(adapter.name, [adapter, board.live], () => adapterRow(adapter, board.live)));
  place(adapterList, [...rows, keep("base", board.live === "base", () => baseRow(board.live === "base"))]);
  return [section, adapterList];
}
