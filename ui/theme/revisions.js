// How a reply by principles is made: what goes on while it is, and the draft, critiques and revisions afterwards.

const STAGES = { draft: "Drafting", critique: "Looking at it", revision: "Revising", verdict: "Comparing", decided: "Answering" };
const ENDED = { "no better": "Looked at: no revision was better", "nothing wrong": "Looked at: nothing wrong", "out of time": "Time was over before it was looked at to the end", failed: "Could not be looked at to the end" };
const principle = (name) => h("span.hone-badge.base", {}, name);

/** What goes on, with what was written of it so far. */
function making(stage) {
  return h("div.hone-making", {}, h("p.hone-stage", { role: "status" }, STAGES[stage.name] || stage.name, stage.principle ? [" ", principle(stage.principle)] : null),
    stage.text ? h("div.hone-text.hone-unsettled", {}, markdown(stage.text)) : h("span.hone-wait", { "aria-hidden": "true" }, h("i"), h("i"), h("i")));
}

/** Draft, critiques and revisions, for who wants to see them. */
function made(reply) {
  const steps = reply.revisions;
  if (!steps.length) return null;
  const last = steps.at(-1), revised = steps.some((step) => step.ended === "revised");
  const part = (title, name, text) => [h("dt", {}, title, name ? [" ", principle(name)] : null), h("dd.hone-text", {}, markdown(text))];
  return h("details.hone-made", {}, h("summary", {}, revised ? "Revised" : ENDED[last.ended], h("span.hone-quiet", {}, ` · constitution ${last.constitution}`)),
    h("dl", {}, part("Draft", "", steps[0].before || "(an empty draft)"),
      steps.map((step) => [step.critique ? part("Critique", step.principle, step.critique) : null, step.after !== null ? part("Revision", "", step.after) : null,
        step.ended === "revised" || step.ended === "nothing wrong" ? null : h("dd.hone-quiet", {}, step.problem ? `${ENDED[step.ended]}: ${step.problem}` : `${ENDED[step.ended]}.`)])));
}
