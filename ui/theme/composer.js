// The composer: what a person types and how they want it answered. It lives here alone and survives every redraw.

const input = h("textarea", { rows: 1, placeholder: "Say something…", "aria-label": "Your message" });
const pairBox = h("input", { type: "checkbox", role: "switch" });
const pairSwitch = h("label.hone-switch.two", { title: "Get two answers and pick the better one" },
  pairBox, icon("two"), h("span", {}, "Two answers"));
const rulesBox = h("input", { type: "checkbox", role: "switch" });
const RULES = "Each answer is looked at under the constitution's principles, and revised, before you get it";
const rulesSwitch = h("label.hone-switch", { title: RULES },
  rulesBox, icon("scales"), h("span", {}, "By principles"));
const sendButton = h("button.hone-send", { type: "submit", "aria-label": "Send" }, icon("send"));
const stopButton = h("button.hone-send.stop", { type: "button", "aria-label": "Stop", onclick: () => tell("stop_reply") }, icon("stop"));
const HINT = "Enter to send";
const hint = h("span.hone-hint", { role: "status" }, HINT);
const composer = h("form.hone-composer", {}, input, h("div.hone-tools", {}, h("div.hone-switches", {}, pairSwitch, rulesSwitch), hint, sendButton, stopButton));

function fit(area) {
  area.style.height = "auto";
  area.style.height = `${Math.min(area.scrollHeight + 2, window.innerHeight * 0.4)}px`;
}

function submit(text) {
  if (!text.trim() || talk.busy) return;
  following = true;
  closeUntouched();
  sent = { text: text.trim(), after: talk.turns.length };
  tell("send", { text, pair: pairBox.checked, by_principles: byPrinciples() });
}

/** The server has the message: only now does it leave the composer. */
function clearSent() {
  const turn = sent && talk.turns.length > sent.after && talk.turns.at(-1); // those before it may have been drawn again meanwhile
  if (!turn || turn.prompt !== sent.text) return;
  if (input.value.trim() === sent.text) write("");
  sent = null;
}

/** The server could not take it: it is here again, before what may have been typed since. */
function takeBack(text) {
  if (!text) return;
  sent = null;
  if (input.value.trim() !== text) write([text, input.value].filter(Boolean).join("\n\n"));
  sendButton.disabled = false;
}

function write(text) {
  input.value = text;
  fit(input);
  remember();
}

input.addEventListener("input", () => { fit(input); remember(); sendButton.disabled = !input.value.trim(); });
input.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !matchMedia("(pointer: coarse)").matches) {
    event.preventDefault();
    submit(input.value);
  }
});
const byPrinciples = () => talk.policy === "asked" && rulesBox.checked; // by a policy nobody needs to ask
/** What the service does for nobody, or for everybody, is no choice; and what comes by principles comes one by one. */
function followPolicy() {
  const always = talk.policy === "always";
  rulesSwitch.hidden = talk.policy === "never";
  pairSwitch.hidden = rulesBox.disabled = always;
  rulesSwitch.title = always ? `${RULES}: here that is so for everybody` : RULES;
  if (always) [pairBox.checked, rulesBox.checked] = [false, true];
  else if (rulesSwitch.hidden) rulesBox.checked = false;
}
let rulesWait = false; // "By principles" was on, and is on again once "Two answers" is off
/** A reply by principles is one: to have two compared is the other way to make them better. */
pairBox.addEventListener("change", () => {
  if (!pairBox.checked) rulesBox.checked ||= rulesWait;
  else if (rulesBox.checked) toast("Two answers are not made by principles. “By principles” is off until you switch “Two answers” off.");
  rulesWait = pairBox.checked && rulesBox.checked;
  if (pairBox.checked) rulesBox.checked = false;
});
rulesBox.addEventListener("change", () => {
  if (rulesBox.checked && pairBox.checked) toast("By principles there is one answer. “Two answers” is off.");
  if (rulesBox.checked) pairBox.checked = false;
  rulesWait = false;
});
composer.addEventListener("submit", (event) => { event.preventDefault(); submit(input.value); });
composer.addEventListener("click", (event) => { if (event.target === composer) input.focus(); });
