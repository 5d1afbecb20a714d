// The constitution, on the operator's page. `props.value` is Desk.view(); what an operator types lives here alone.

const root = element.querySelector(".hone-board");
const EVENTS = ["check_text", "try_text", "put_text", "open_version", "look_anew"];
const tell = (name, data) => { if (EVENTS.includes(name)) trigger(name, data); };

const SERVE = { never: "no chat is answered by it", asked: "chats that ask for it are answered by it", always: "every chat is answered by it" };
const VERDICTS = { draft: "the draft is better", revision: "the revision is better", undecided: "neither: a chat keeps the draft" };

const editor = h("textarea.hone-source", { rows: 16, spellcheck: "false", "aria-label": "Constitution (TOML)", oninput: () => { said.replaceChildren(); trial.replaceChildren(); offer(); } });
const prompt = h("input", { type: "text", placeholder: "What a person might ask", "aria-label": "Prompt to try it on" });
const only = h("select", { "aria-label": "Principle" });
const said = h("div", { role: "status" });
const trial = h("div.hone-trial");
const versions = h("ol.hone-history", { "aria-label": "Versions" });
const principles = h("ul.hone-principles");
const act = (name, label) => h("button.hone-plain", { type: "button", "data-lever": name, onclick: () =>
  tell(name, { text: editor.value, prompt: prompt.value, principle: only.value }) }, label);
const putting = { title: "Put it in effect", label: "Put in effect", about: "Every chat by principles, and every run that begins, goes by it from now on. To go back, open the version before." };
const putButton = h("button.hone-main", { type: "button", "data-lever": "put_text", onclick: () => {
  const text = editor.value;
  ask(putting, ({ reason }) => tell("put_text", { text, note: reason }));
} }, "Put in effect…");
const tryButton = act("try_text", "Try");
const heading = h("summary", {});
const fold = h("details.hone-card", {}, heading, principles,
  h("details.hone-edit", {}, h("summary", {}, "Edit, try, and put in effect"), editor,
    h("div.hone-row", {}, act("check_text", "Check"), h("span.hone-fill"), putButton),
    h("div.hone-row", {}, prompt, only, tryButton), said, trial),
  h("details", {}, h("summary", {}, "Versions"), versions));
fold.addEventListener("toggle", () => { if (fold.open) tell("look_anew"); });
prompt.addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.isComposing) tryButton.click(); });

let drawn = 0; // the number of the view that is drawn
let given = ""; // the text that the editor was given
let inEffect = ""; // the text that was in effect when this was drawn
let opened = ""; // the version that was put into it

/** What is typed stays: only an editor that nobody wrote in gets another text. */
function fill(text) {
  if (editor.value !== given && editor.value !== text) return;
  editor.value = given = text;
}

/** A trial may be under one of the principles that the editor's text names. */
function offer() {
  const chosen = only.value, names = [...editor.value.matchAll(/^\s*name\s*=\s*["']([^"']+)["']/gm)].map(([, name]) => name);
  only.replaceChildren(h("option", { value: "" }, "every principle"), ...names.map((name) => h("option", { value: name }, name)));
  only.value = names.includes(chosen) ? chosen : "";
}

function tried(found) {
  const part = (title, text) => text ? [h("dt", {}, title), h("dd.hone-text", {}, markdown(text))] : null;
  return [h("dl", {}, part(`Draft (${found.adapter})`, found.draft || "(an empty draft)")),
    found.trials.map((one) => h("section", { "data-principle": one.principle }, h("h3", {}, one.principle),
      h("dl", {}, part("Critique", one.critique), part("Revision", one.revision), part("Verdict", VERDICTS[one.verdict]), part("Problem", one.problem))))];
}

function redraw() {
  const desk = props.value || {};
  if (!(desk.version > drawn)) return; // nothing yet, or overtaken by a later one
  drawn = desk.version;
  if (desk.hidden) return root.replaceChildren();
  const current = desk.current, known = current.principles || [];
  heading.replaceChildren(icon("right"), h("h2", {}, "Constitution"), h("span.hone-badge.base", {}, current.name || "none"), h("span", {}, current.title || ""),
    current.serve ? h("span.hone-quiet", {}, SERVE[current.serve]) : "");
  principles.replaceChildren(...(desk.problem ? [h("li.hone-error", { role: "alert" }, h("p", {}, desk.problem))] : []),
    ...known.map((one) => h("li", {}, h("b", {}, one.name), h("span", {}, one.rule), h("span.hone-quiet", {}, [...one.tags, `weight ${one.weight}`].join(" · ")))));
  if (desk.opened.name && desk.opened.name !== opened) { given = editor.value; fill(desk.opened.text); opened = desk.opened.name; }
  else if (current.text && current.text !== inEffect) fill(current.text);
  inEffect = current.text || "";
  offer();
  tryButton.disabled = desk.trying;
  tryButton.textContent = desk.trying ? "Trying…" : "Try";
  said.replaceChildren(...(desk.said ? [h(desk.tone === "error" ? "div.hone-error" : "p.hone-quiet", {}, desk.said)] : []));
  trial.replaceChildren(...(desk.trial ? tried(desk.trial).flat() : []));
  const edit = (name) => h("button.hone-link", { type: "button", onclick: () => { opened = ""; tell("open_version", { name }); } }, "Edit this one");
  versions.replaceChildren(...desk.versions.map((one) => h("li", {}, h("b", {}, one.name), ` by ${one.created_by} `, h("time", { datetime: one.created_at }, ago(one.created_at)), " ",
    edit(one.name), one.note ? h("p", {}, one.note) : null)),
  h("li", {}, h("b", {}, "c0"), " comes with Hone ", edit("c0")));
  place(root, [fold]);
}

watch("value", redraw);
redraw();
