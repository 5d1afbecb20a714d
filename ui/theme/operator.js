// The operator's page, in four parts (`props.part`): "top" (what is live, the feedback), "runs", "curves" and "adapters".
// `props.value` is that part's view; every lever goes to the server as a named event.

const root = element.querySelector(".hone-board");
const EVENTS = ["learn", "cancel_run", "promote", "canary", "end_canary", "rollback", "reject", "choose_run", "open_adapter", "look_again"];
const tell = (name, data) => { if (EVENTS.includes(name)) trigger(name, data || {}); };

const PHASES = { snapshot: "The feedback so far is gathered and frozen", curate: "Duplicates and outliers are set aside, and some of it is kept back to measure with",
  train: "The adapter learns from the rest", evaluate: "Its replies are measured on what was kept back", publish: "It is stored, and promoted if it may be" };
const STATES = { live: "It answers", candidate: "Measured, and waiting to be promoted", canary: "It answers some of the conversations", rejected: "It did not pass, or was refused", retired: "It was in use before",
  queued: "Waits for the learner", running: "Under way", succeeded: "An adapter came of it", nothing_to_learn: "The feedback held nothing to learn from", failed: "It broke off", cancelled: "An operator ended it" };
const TONE = { live: "live", succeeded: "live", canary: "warm", running: "warm", queued: "warm", publishing: "warm", rejected: "bad", failed: "bad" };
const WORDS = { nothing_to_learn: "nothing to learn", rejected: "rejected" };
const METHODS = { sft: "corrections only", dpo: "preferences only", kto: "thumbs, and pairs as such" };
const TRIGGERS = { command: "learn now", time: "by schedule", count: "enough feedback" };

function tag(state) { return h(`span.hone-tag.${TONE[state] || "quiet"}`, { title: STATES[state] }, WORDS[state] || state); }
function version(name) { return h(`span.hone-badge.${name === "base" ? "base" : "tuned"}`, {}, name); }
function when(iso) { return iso ? h("time", { datetime: iso, title: new Date(iso).toLocaleString() }, ago(iso)) : null; }
function shortly(id) { return id.length > 12 ? `run …${id.slice(-6)}` : id; }
function seconds(from, to) {
  const total = Math.max(0, Math.round(((to ? new Date(to) : new Date()) - new Date(from)) / 1000));
  const minutes = Math.floor(total / 60);
  if (minutes >= 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return minutes ? `${minutes} min ${total % 60} s` : `${total} s`;
}

/** How long it took; of what still goes on, so far: it ticks. */
function duration(from, to) {
  return to ? seconds(from, to) : h("span.hone-clock", { "data-since": from, role: "timer", "aria-label": "Time so far" }, seconds(from));
}

const kept = new Map(); // piece of the page → {shape, node}

/** The node that `draw` made for the same `data` before, or a new one: what did not change is not touched. */
function keep(key, data, draw) {
  const shape = JSON.stringify(data);
  const known = kept.get(key);
  if (known && known.shape === shape) return known.node;
  const node = draw();
  kept.set(key, { shape, node });
  return node;
}

// ---- asking before a lever is pulled --------------------------------------------------------------------------------

/** A dialog with a reason and, for a canary, a share; `act` gets what was filled in. */
function ask({ title, about, label, button, danger, share, targets }, act) {
  const reason = h("textarea", { rows: 2, placeholder: "Why? It is kept in the history. (optional)", "aria-label": "Reason", maxlength: 2000 });
  const percent = h("input", { type: "range", min: 1, max: 90, value: 10, "aria-label": "Share of conversations, in percent" });
  const shown = h("output", {}, "10 %");
  percent.addEventListener("input", () => { shown.textContent = `${percent.value} %`; });
  const target = targets ? h("select", { "aria-label": "Roll back to" }, targets.map(([value, text]) => h("option", { value }, text))) : null;
  const dialog = h("dialog.hone-dialog", { "aria-label": title });
  const go = (event) => {
    event.preventDefault();
    act({ reason: reason.value, share: Number(percent.value) / 100, to: target ? target.value : "" });
    dialog.close();
  };
  dialog.append(h("form", { method: "dialog", onsubmit: go }, h("h2", {}, title), about ? h("p", {}, about) : null,
    share ? h("label.hone-share", {}, h("span", {}, "Share of conversations"), percent, shown) : null, target, reason,
    h("div.hone-row", {}, h("span.hone-fill"), h("button.hone-plain", { type: "button", onclick: () => dialog.close() }, "Cancel"),
      h(`button.hone-main${danger ? ".danger" : ""}`, { type: "submit" }, button || label))));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

// ---- what is live, the feedback, the runs -----------------------------------------------------------------------------

function servingCard(board) {
  const { live, previous, canary, canary_share } = board.serving;
  const requested = board.serving.requested;
  const back = () => ask({ title: "Roll back", about: "New replies come from there at once. Replies under way finish on what they began with.", label: "Roll back", danger: true,
    targets: [["", previous ? `To what was live before (${previous})` : "To what was live before"], ["base", "To the base model"]] }, ({ reason, to }) => tell("rollback", { reason, to }));
  return h("section.hone-card.hone-live", { "data-live": live }, h("h2", {}, "Live"),
    h("div.hone-row", {}, h("span.hone-name", {}, live), board.since ? h("span.hone-quiet", {}, "since ", when(board.since)) : null, requested && requested !== live ? h("span.hone-tag.warm", {}, `${requested} is being rolled out`) : null),
    h("p.hone-why", {}, board.why),
    canary ? h("div.hone-canary", {}, h("div.hone-row", {}, tag("canary"), version(canary), h("span", {}, `answers ${Math.round(canary_share * 100)} % of conversations`), h("span.hone-fill"),
      h("button.hone-link", { type: "button", onclick: () => tell("end_canary") }, "End it")), meter(canary_share, "warm")) : null,
    live === "base" ? null : h("div.hone-row.hone-foot-row", {}, previous && previous !== live ? h("span.hone-quiet", {}, "Before: ", version(previous)) : null, h("span.hone-fill"),
      h("button.hone-plain", { type: "button", onclick: back, "data-lever": "rollback" }, "Roll back…")));
}

function feedbackCard(board) {
  const stats = board.stats;
  const kinds = Object.entries(stats.by_kind || {}).filter(([, count]) => count).sort((a, b) => b[1] - a[1]);
  const most = Math.max(1, ...kinds.map(([, count]) => count));
  return h("section.hone-card", {}, h("h2", {}, "Feedback"),
    h("div.hone-numbers", {}, [["new", stats.since_last_run], ["in all", stats.total], [stats.people === 1 ? "person" : "people", stats.people], ["withdrawn", stats.withdrawn]]
      .map(([label, value]) => h("div", {}, h("b", {}, String(value ?? 0)), h("span", {}, label)))),
    h("div.hone-kinds", {}, kinds.map(([kind, count]) => h("div", {}, h("span", {}, kind), meter(count / most), h("b", {}, String(count))))));
}

const method = h("select", { id: "learn-method" }, [["auto", "All feedback that it can use"], ["sft", "Corrections only (SFT)"], ["dpo", "Preferences only (DPO)"], ["kto", "Thumbs, and pairs as such (KTO)"]].map(([value, text]) => h("option", { value }, text)));
const promotion = h("select", { id: "learn-promotion" }, [["", "Promote as the settings say"], ["yes", "Promote if every gate passes"], ["no", "Keep as a candidate"]].map(([value, text]) => h("option", { value }, text)));
const options = h("details.hone-options", {}, h("summary", {}, "Options"), h("div.hone-menu", {}, h("label", { for: "learn-method" }, "Learn from"), method, h("label", { for: "learn-promotion" }, "Afterwards"), promotion));
document.addEventListener("click", (event) => { if (!options.contains(event.target)) options.open = false; });
options.addEventListener("keydown", (event) => { if (event.key === "Escape") { options.open = false; options.firstChild.focus(); } });

const learn = () => tell("learn", { method: method.value, promote: promotion.value === "" ? null : promotion.value === "yes" });
const waiting = h("span.hone-quiet");
const learnBar = h("div.hone-row.hone-learn", {}, h("h2", {}, "Runs"), waiting, h("span.hone-fill"),
  h("div.hone-row.hone-levers", {}, options, h("button.hone-main", { type: "button", onclick: learn, "data-lever": "learn" }, "Learn now")));
const runList = h("ul.hone-runs");
const adapterList = h("ul.hone-adapters");
const header = h("header.hone-header", {}, h("div.hone-row", {}, brand("../"), h("span.hone-tag.quiet", {}, "operator")), h("nav", {}, h("a.hone-navlink", { href: "../" }, "Chat")));
const grid = h("div.hone-grid");
const section = h("h2.hone-section", {}, "Adapters");

function meter(share, tone) {
  const bar = h("i", {});
  bar.style.width = `${Math.round(Math.min(1, Math.max(0, share)) * 1000) / 10}%`;
  return h(`div.hone-meter${tone ? `.${tone}` : ""}`, {}, bar);
}

function progress(run) {
  const names = Object.keys(PHASES), at = names.indexOf(run.phase);
  return h("div.hone-progress", {},
    h("ol", { "aria-label": `Phase: ${run.phase || "waiting"}` }, names.map((phase, i) => h(`li${i < at ? ".done" : i === at ? ".now" : ""}`, { title: PHASES[phase] },
      phase, i === at && run.stage ? h("span.hone-quiet", {}, ` ${run.stage}`) : null))),
    h("div.hone-row", {}, meter(run.steps ? run.step / run.steps : 0), h("span.hone-quiet.hone-steps", {}, run.steps > 1 ? `${run.step} / ${run.steps}` : "…")));
}

function runRow(run, shown) {
  const active = run.state === "running" || run.state === "queued";
  const choose = () => tell("choose_run", { run: run.id });
  return h(`li.hone-run${shown ? ".shown" : ""}`, { "data-run": run.id, "data-state": run.state },
    h("div.hone-row", {}, tag(run.state), h("button.hone-link.hone-runname", { type: "button", onclick: choose, title: `Show the curves of ${run.id}` }, shortly(run.id)),
      run.parent || run.adapter ? h("span.hone-quiet.hone-arrow", {}, run.parent ? version(run.parent) : null, run.adapter ? [" → ", version(run.adapter)] : null) : null,
      h("span.hone-fill"), h("span.hone-quiet.hone-facts", {}, [run.method === "auto" ? null : METHODS[run.method] || run.method, TRIGGERS[run.trigger] || run.trigger, run.attempt > 1 ? `attempt ${run.attempt}` : null,
        run.started_at ? duration(run.started_at, run.finished_at) : null, active && run.started_at ? null : when(run.finished_at || run.created_at)].filter(Boolean).flatMap((fact, i) => [i ? " · " : null, h("span", {}, fact)]))),
    run.state === "running" ? progress(run) : null,
    run.message ? h("p.hone-message", {}, run.message) : null,
    active ? h("div.hone-row", {}, h("span.hone-fill"), h("button.hone-link", { type: "button", onclick: () => tell("cancel_run", { run: run.id }) }, "Cancel")) : null);
}

function refusal(board) {
  const again = h("button.hone-plain", { type: "button", onclick: () => tell("look_again") }, "Look again");
  if (board.refused) return h("div.hone-refused", { role: "alert" }, h("h1", {}, "Operators only"), h("p", {}, board.refused),
    h("p.hone-quiet", {}, "The operator link is printed in the terminal when Hone starts for the first time. Chatting needs none of this."), h("a.hone-navlink", { href: "../" }, "Go to the chat"));
  return h("div.hone-refused", { role: "alert" }, h("h1", {}, "The service is away"), h("p", {}, board.away), h("p.hone-quiet", {}, "This page looks again by itself."), again);
}

function drawTop(board) {
  if (board.refused || board.away) return [header, keep("refusal", [board.refused, board.away], () => refusal(board))];
  const { serving, why, since, stats } = board;
  place(grid, [keep("serving", [serving, why, since], () => servingCard(board)), keep("feedback", stats, () => feedbackCard(board))]);
  return [header, grid];
}

const NEWEST = 5; // runs that are listed until the others are asked for
const more = h("button.hone-plain", { type: "button", onclick: () => { allRuns = true; place(root, drawRuns(props.value)); } });
let allRuns = false;

function drawRuns(board) {
  if (board.hidden) return [];
  waiting.textContent = board.waiting ? `${board.waiting} new${board.runs.length ? " since the last one" : ""}` : "no new feedback";
  const none = () => h("li.hone-empty", {}, "No run yet. Give some feedback in the chat, then press “Learn now”.");
  const listed = board.runs.filter((run, i) => allRuns || i < NEWEST || run.id === board.run);
  const hidden = board.runs.length - listed.length;
  more.textContent = `Show ${hidden} earlier ${hidden === 1 ? "run" : "runs"}`;
  place(runList, listed.length ? listed.map((run) => keep(run.id, [run, run.id === board.run], () => runRow(run, run.id === board.run))) : [keep("none", 0, none)]);
  return hidden ? [learnBar, runList, more] : [learnBar, runList];
}

// ---- curves ------------------------------------------------------------------------------------------------------------

const charts = h("section.hone-card.hone-curves", { "aria-label": "Curves" });
const WIDTH = 240, HEIGHT = 84; // of a chart, in units that the style sheet stretches

function short(value) {
  const size = Math.abs(value);
  return value === 0 ? "0" : size >= 1000 || size < 0.001 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}

function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function chart({ name, label, meaning, lines }) {
  const points = lines.flatMap((line) => line.points);
  const steps = points.map(([step]) => step), values = points.map(([, value]) => value);
  const [first, last, low, high] = [Math.min(...steps), Math.max(...steps), Math.min(...values), Math.max(...values)];
  const x = (step) => (last > first ? ((step - first) / (last - first)) * WIDTH : WIDTH / 2);
  const y = (value) => (high > low ? (1 - (value - low) / (high - low)) * HEIGHT : HEIGHT / 2);
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
    h("div.hone-plot", {}, h("div.hone-scale-y", { "aria-hidden": "true" }, h("span", {}, short(high)), h("span", {}, high > low ? short(low) : "")), drawing,
      h("div.hone-scale-x", { "aria-hidden": "true" }, h("span", {}, `step ${first}`), h("span", {}, last > first ? String(last) : ""))),
    meaning ? h("small", {}, meaning) : null);
}

function drawCurves(board) {
  if (board.hidden || !board.charts?.length) return [];
  const phases = new Map(board.charts.flatMap((one) => one.lines.map((line) => [line.phase, line.label])));
  const legend = h("div.hone-legend", {}, [...phases].map(([phase, label]) => h("span", {}, h(`i.${phase || "other"}`), label)));
  charts.replaceChildren(h("div.hone-row", {}, h("h2", {}, `How ${shortly(board.run)} learned`), h("span.hone-fill"), legend),
    h("div.hone-charts", {}, board.charts.map(chart)));
  return [charts];
}

// ---- adapters ----------------------------------------------------------------------------------------------------------

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
    levers(adapter, live), adapter.open ? [verdicts(adapter), measured(adapter), chronicle(adapter)] : null);
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

function drawAdapters(board) {
  if (board.hidden) return [];
  const rows = board.adapters.map((adapter) => keep(adapter.name, [adapter, board.live], () => adapterRow(adapter, board.live)));
  place(adapterList, [...rows, keep("base", board.live === "base", () => baseRow(board.live === "base"))]);
  return [section, adapterList];
}

// ---- keeping the page in step -----------------------------------------------------------------------------------------

let notices = 0;
let drawn = 0; // the number of the view that is drawn

function redraw() {
  const board = props.value || {};
  if (!(board.version > drawn)) return; // nothing yet, or overtaken by a later one
  drawn = board.version;
  place(root, { top: drawTop, runs: drawRuns, curves: drawCurves, adapters: drawAdapters }[props.part](board));
  if (board.notice?.text && board.notice.serial > notices) toast(board.notice.text, board.notice.tone);
  notices = Math.max(notices, board.notice?.serial || 0);
}

setInterval(() => root.querySelectorAll("time").forEach((time) => { time.textContent = ago(time.dateTime); }), 15000);
setInterval(() => root.querySelectorAll(".hone-clock").forEach((clock) => { clock.textContent = seconds(clock.dataset.since); }), 1000);
watch("value", redraw);
redraw();
