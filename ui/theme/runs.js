// The runs of the learner, and the lever that starts one.

const PHASES = { snapshot: "The feedback so far is gathered and frozen", curate: "Duplicates and outliers are set aside, and some of it is kept back to measure with",
  train: "The adapter learns from the rest", evaluate: "Its replies are measured on what was kept back", publish: "It is stored, and promoted if it may be" };

const TRIGGERS = { command: "learn now", time: "by schedule", count: "enough feedback" };

const NEWEST = 5; // runs that are listed until the others are asked for
const more = h("button.hone-plain", { type: "button", onclick: () => { allRuns = true; place(root, drawPart(props.value)); } });
let allRuns = false;

const METHODS = new Map(props.methods.flatMap((group) => group.methods.map((one) => [one.name, { ...one, by_constitution: group.by_constitution }])));
const groups = props.methods.map((group) => h("optgroup", { label: group.label }, group.methods.map((one) => h("option", { value: one.name }, one.label))));
const stages = groups[props.methods.findIndex((group) => group.by_constitution)];
const method = h("select", { id: "learn-method", onchange: () => tellOfMethod() }, h("option", { value: "" }, "As the settings say"), groups);
const aboutMethod = h("p.hone-quiet", { hidden: true });
let unusable = ""; // why no run can go by the constitution in effect
const promotion = h("select", { id: "learn-promotion" }, [["", "Promote as the settings say"], ["yes", "Promote if every gate passes"], ["no", "Keep as a candidate"]].map(([value, text]) => h("option", { value }, text)));
const options = h("details.hone-options", {}, h("summary", {}, "Options"), h("div.hone-menu", {}, h("label", { for: "learn-method" }, "Learn from"), method, aboutMethod, h("label", { for: "learn-promotion" }, "Afterwards"), promotion));
document.addEventListener("click", (event) => { if (!options.contains(event.target)) options.open = false; });
options.addEventListener("keydown", (event) => { if (event.key === "Escape") { options.open = false; options.firstChild.focus(); } });

const learn = () => tell("learn", { method: method.value, promote: promotion.value === "" ? null : promotion.value === "yes" });
const waiting = h("span.hone-quiet");
const learnBar = h("div.hone-row.hone-learn", {}, h("h2", {}, "Runs"), waiting, h("span.hone-fill"),
  h("div.hone-row.hone-levers", {}, options, h("button.hone-main", { type: "button", onclick: learn, "data-lever": "learn" }, "Learn now")));
const runList = h("ul.hone-runs");

/** What the chosen method does, and why none of the constitution's stages can be chosen. */
function tellOfMethod() {
  stages.disabled = Boolean(unusable);
  stages.title = unusable;
  if (unusable && METHODS.get(method.value)?.by_constitution) method.value = "";
  const said = [METHODS.get(method.value)?.about, unusable && `The constitution's stages can't be run. ${unusable}`];
  aboutMethod.textContent = said.filter(Boolean).join(" ");
  aboutMethod.hidden = !aboutMethod.textContent;
}

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

function progress(run) {
  const names = Object.keys(PHASES), at = names.indexOf(run.phase);
  return h("div.hone-progress", {},
    h("ol", { "aria-label": `Phase: ${run.phase || "waiting"}` }, names.map((phase, i) => h(`li${i < at ? ".done" : i === at ? ".now" : ""}`, { title: PHASES[phase] },
      phase, i === at && run.stage ? h("span.hone-quiet", {}, ` ${run.stage}`) : null)),
      at < 0 && run.phase ? h("li.now", {}, run.phase) : null), // what it waits for
    h("div.hone-row", {}, meter(run.steps ? run.step / run.steps : 0), h("span.hone-quiet.hone-steps", {}, run.steps > 1 ? `${run.step} / ${run.steps}` : "…")));
}

function runRow(run, shown) {
  const active = run.state === "running" || run.state === "queued";
  const choose = () => tell("choose_run", { run: run.id });
  return h(`li.hone-run${shown ? ".shown" : ""}`, { "data-run": run.id, "data-state": run.state },
    h("div.hone-row", {}, tag(run.state), h("button.hone-link.hone-runname", { type: "button", onclick: choose, title: `Show the curves of ${run.id}` }, shortly(run.id)),
      run.parent || run.adapter ? h("span.hone-quiet.hone-arrow", {}, run.parent ? version(run.parent) : null, run.adapter ? [" → ", version(run.adapter)] : null) : null,
      h("span.hone-fill"), h("span.hone-quiet.hone-facts", {}, [METHODS.has(run.method) ? METHODS.get(run.method).short : run.method, TRIGGERS[run.trigger] || run.trigger, run.attempt > 1 ? `attempt ${run.attempt}` : null,
        run.started_at ? duration(run.started_at, run.finished_at) : null, active && run.started_at ? null : when(run.finished_at || run.created_at)].filter(Boolean).flatMap((fact, i) => [i ? " · " : null, h("span", {}, fact)]))),
    run.state === "running" ? progress(run) : null,
    run.message ? h("p.hone-message", {}, run.message) : null,
    active ? h("div.hone-row", {}, h("span.hone-fill"), h("button.hone-link", { type: "button", onclick: () => tell("cancel_run", { run: run.id }) }, "Cancel")) : null);
}

function drawPart(board) {
  if (board.hidden) return [];
  unusable = board.unusable;
  tellOfMethod();
  waiting.textContent = board.waiting ? `${board.waiting} new${board.runs.length ? " since the last one" : ""}` : "no new feedback";
  const none = () => h("li.hone-empty", {}, "No run yet. Give some feedback in the chat, then press “Learn now”.");
  const listed = board.runs.filter((run, i) => allRuns || i < NEWEST || run.id === board.run);
  const hidden = board.runs.length - listed.length;
  more.textContent = `Show ${hidden} earlier ${hidden === 1 ? "run" : "runs"}`;
  place(runList, listed.length ? listed.map((run) => keep(run.id, [run, run.id === board.run], () => runRow(run, run.id === board.run))) : [keep("none", 0, none)]);
  return hidden ? [learnBar, runList, more] : [learnBar, runList];
}

setInterval(() => root.querySelectorAll(".hone-clock").forEach((clock) => { clock.textContent = seconds(clock.dataset.since); }), 1000);
