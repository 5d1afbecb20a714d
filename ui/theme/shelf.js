// "Your feedback": a drawer with everything this person said. `props.value` is Shelf.view().

const EVENTS = ["more", "withdraw", "close_shelf"];
const drawer = h("dialog.hone-drawer", { "aria-label": "Your feedback" });
element.querySelector(".hone-shelf").replaceChildren(drawer);
drawer.addEventListener("close", () => { if (props.value.shown) trigger("close_shelf", {}); });
drawer.addEventListener("click", (event) => { if (event.target === drawer) drawer.close(); });

const STRENGTH = { a: "A is better", b: "B is better", tie: "A tie", both_bad: "Both bad" };
const TITLES = {
  thumb: (f) => (f.good ? "Good reply" : "Bad reply"),
  score: (f) => `Score ${f.score} of 10`,
  label: (f) => `Labelled ${f.labels.join(", ")}`,
  critique: () => "What was wrong",
  correction: () => "How it should have been",
  comparison: (f) => `Two answers: ${STRENGTH[f.verdict]}`,
  ranking: () => "A ranking",
};
const MARKS = { thumb: (f) => (f.good ? "up" : "down"), correction: () => "pen", critique: () => "note", comparison: () => "two" };

function fate(item) {
  if (item.withdrawn) return h("span.hone-tag.quiet", {}, "withdrawn");
  const [first, newest] = item.learned_in;
  if (first) return h("span.hone-tag.shipped", { title: "Adapters that were trained on it" }, newest ? `learned in ${first}, last in ${newest}` : `learned in ${first}`);
  if (!item.teaches) return h("span.hone-tag.quiet", { title: "Nothing is learned from labels by themselves; those of harm name the prompts that the constitution's methods ask again" }, "kept; not learned from by itself");
  if (item.considered) return h("span.hone-tag.quiet", { title: "Of several words on one reply the newest counts; some conversations only measure; single thumbs wait until there are enough good and bad ones; what people disagree on or doesn't fit the model is left out, and what was learned may not have passed the gates. Every run looks again." }, "looked at, not learned from so far");
  return h("span.hone-tag.quiet", { title: "The next run of the learner will see it" }, "waiting to be learned");
}

/** As `tell` in chat.js does: it changes what the chat shows, and a server that was restarted is not to act on it. */
function withdraw(item) {
  history.replaceState({ ...history.state, honeUnanswered: true }, "");
  trigger("withdraw", { id: item.id, seen: Number(document.querySelector(".hone-chat").dataset.seen) });
}

function entry(item) {
  const feedback = item.feedback;
  return h("li.hone-entry", { "data-feedback": item.id, class: `hone-entry${item.withdrawn ? " withdrawn" : ""}` },
    h("div.hone-row", {}, icon((MARKS[feedback.kind] || (() => "list"))(feedback)), h("strong", {}, TITLES[feedback.kind](feedback)),
      h("span.hone-fill"), h("time", { datetime: item.at, title: new Date(item.at).toLocaleString() }, ago(item.at))),
    item.prompt ? h("p.hone-asked", {}, item.prompt) : null,
    item.replies.map((reply, i) => h("blockquote", {}, item.replies.length > 1 ? h("b", {}, `${"AB"[i]}  `) : null, reply || "(an empty reply)")),
    feedback.text ? h("p.hone-said", {}, feedback.text) : null,
    feedback.comment ? h("p.hone-said", {}, feedback.comment) : null,
    h("div.hone-row", {}, item.adapter ? h("span.hone-badge", { class: `hone-badge ${item.adapter === "base" ? "base" : "tuned"}` }, item.adapter) : null, fate(item), h("span.hone-fill"),
      item.withdrawn ? null : h("button.hone-link", { type: "button", onclick: () => withdraw(item) }, "Withdraw")));
}

function redraw() {
  const shelf = props.value;
  if (!shelf || !shelf.items) return;
  const close = h("button.hone-act", { type: "button", "aria-label": "Close", onclick: () => drawer.close() }, icon("close"));
  const top = drawer.querySelector(".hone-entries")?.scrollTop || 0;
  drawer.replaceChildren(
    h("header", {}, h("h2", {}, "Your feedback"), close),
    shelf.error ? h("div.hone-error", { role: "alert" }, h("p", {}, shelf.error)) : "",
    h("ul.hone-entries", {}, shelf.items.map(entry),
      shelf.more ? h("li", {}, h("button.hone-plain", { type: "button", onclick: () => trigger("more", {}) }, "Show more")) : null,
      !shelf.items.length && !shelf.error ? h("li.hone-empty", {}, "Nothing yet. Press a thumb under a reply, or write how it should have been.") : null));
  drawer.querySelector(".hone-entries").scrollTop = top;
  if (shelf.shown && !drawer.open) drawer.showModal();
  if (!shelf.shown && drawer.open) drawer.close();
}

watch("value", redraw);
redraw();
