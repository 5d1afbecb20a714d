// The chat page. `props.value` is Conversation.view(); every action goes to the server as a named event.
// What a person is typing (composer, editors) lives here alone and survives every redraw.

const root = element.querySelector(".hone-chat");
const EVENTS = ["send", "retry", "stop_reply", "new_chat", "restore", "pick", "thumb", "score", "mark", "critique", "correct", "open_shelf"];
/** `seen` tells a server that was restarted, and so knows nothing of this page, that it is not to act on what it says. */
const tell = (name, data) => {
  if (!EVENTS.includes(name)) return;
  if (name !== "restore" && name !== "open_shelf") keepInHistory({ honeUnanswered: true });
  trigger(name, { ...data, seen: talk.version });
};

/** In this tab's own entry of the history, which a reload leaves alone. */
function keepInHistory(what, url) {
  history.replaceState({ ...history.state, ...what }, "", url);
}

let talk = props.value; // the newest view that came

const thread = h("section.hone-thread", { "aria-label": "Conversation" });
const input = h("textarea", { rows: 1, placeholder: "Say something…", "aria-label": "Your message", maxlength: 20000 });
const pairBox = h("input", { type: "checkbox", role: "switch" });
const pairSwitch = h("label.hone-switch.two", { title: "Get two answers and pick the better one" },
  pairBox, icon("two"), h("span", {}, "Two answers"));
const RULES = "Each answer is looked at under the constitution's principles, and revised, before you get it";
const rulesBox = h("input", { type: "checkbox", role: "switch" });
const rulesSwitch = h("label.hone-switch", { title: RULES },
  rulesBox, icon("scales"), h("span", {}, "By principles"));
const sendButton = h("button.hone-send", { type: "submit", "aria-label": "Send" }, icon("send"));
const stopButton = h("button.hone-send.stop", { type: "button", "aria-label": "Stop", onclick: () => tell("stop_reply") }, icon("stop"));
const HINT = "Enter to send";
const hint = h("span.hone-hint", { role: "status" }, HINT);
const composer = h("form.hone-composer", {}, input, h("div.hone-tools", {}, h("div.hone-switches", {}, pairSwitch, rulesSwitch), hint, sendButton, stopButton));
const newChat = h("button.hone-ghost", { type: "button", "aria-label": "New chat", onclick: () => { panels.clear(); tell("new_chat"); input.focus(); } },
  icon("plus"), h("span", {}, "New chat"));
const shelfButton = h("button.hone-ghost", { type: "button", "aria-label": "Your feedback", onclick: () => tell("open_shelf") }, icon("list"), h("span", {}, "Your feedback"));

root.replaceChildren(
  h("header.hone-header", {}, brand("./"), h("nav", {}, shelfButton, newChat)),
  thread,
  h("footer.hone-foot", {}, composer, h("p.hone-small", {}, "What you say about a reply teaches the next version. You can take it back.")),
);

// ---- composing -------------------------------------------------------------------------------------------------

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
  const turn = sent && talk.turns[sent.after];
  if (!turn || turn.prompt !== sent.text) return;
  if (input.value.trim() === sent.text) write("");
  sent = null;
}

function write(text) {
  input.value = text;
  fit(input);
  remember();
}

/** What is typed, and which exchanges are shown, survive a reload. */
function remember() {
  const trail = talk.busy || restoring ? location.hash.slice(1) : talk.trail || "";
  const replies = talk.turns.flatMap((turn) => turn.replies);
  const honeEditors = restoring ? history.state?.honeEditors
    : replies.filter((reply) => reply.name && panels.has(reply.key)).map((reply) => ({ name: reply.name, ...panels.get(reply.key) }));
  const last = talk.turns.at(-1);
  const honeDraft = input.value || (last && !last.replies.some((reply) => reply.name) ? last.prompt : ""); // the trail leads to no reply to it
  keepInHistory({ honeDraft, honeEditors }, trail ? `#${trail}` : location.pathname + location.search);
}

/** The editors that were open before a reload, under the same replies. */
function reopenEditors() {
  const names = new Map(talk.turns.flatMap((turn) => turn.replies).map((reply) => [reply.name, reply.key]));
  for (const { name, ...open } of history.state?.honeEditors || []) if (names.has(name)) panels.set(names.get(name), open);
  endSending(true);
}

input.addEventListener("input", () => { fit(input); remember(); sendButton.disabled = !input.value.trim(); });
input.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !matchMedia("(pointer: coarse)").matches) {
    event.preventDefault();
    submit(input.value);
  }
});
/** A reply by principles is one: to have two compared is the other way to make them better. */
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
pairBox.addEventListener("change", () => { if (pairBox.checked) rulesBox.checked = false; });
rulesBox.addEventListener("change", () => { if (rulesBox.checked) pairBox.checked = false; });
composer.addEventListener("submit", (event) => { event.preventDefault(); submit(input.value); });
composer.addEventListener("click", (event) => { if (event.target === composer) input.focus(); });

// ---- one reply --------------------------------------------------------------------------------------------------

// reply key → {kind, text, given, sent, last}: the editor that is open under it, the text it opened with, the text on its
// way, and the last that was
const panels = new Map();

function toggle(key, kind, text) {
  const open = panels.get(key);
  if (isSending(open)) return;
  if (open && open.kind === kind) panels.delete(key);
  else panels.set(key, { kind, text, given: text });
  redraw(true);
  const editor = thread.querySelector(`[data-reply="${key}"] .hone-panel`);
  editor?.querySelector("textarea").focus({ preventScroll: true });
  editor?.scrollIntoView({ block: "nearest" });
}

/** Open an editor that nobody asked for, and so never in the place of one that is open. */
function invite(key, kind, text) {
  if (!panels.has(key)) toggle(key, kind, text);
}

/** Editors that nobody wrote in go when the conversation goes on. */
function closeUntouched() {
  for (const [key, open] of panels) if (open.text === open.given && !isSending(open)) panels.delete(key);
}

const isSending = (open) => typeof open?.sent === "string";

/** Editors close when what was sent from them is stored; if something `failed`, they are open to be written in again, as it
 * may have been that. Whether any changed. */
function endSending(failed) {
  let changed = false;
  for (const reply of talk.turns.flatMap((turn) => turn.replies)) {
    const open = panels.get(reply.key);
    if (typeof open?.last !== "string") continue;
    const stored = (open.kind === "critique" ? reply.critique : reply.corrected && reply.text) || "";
    if (stored.trim() === open.last && (isSending(open) || open.text.trim() === open.last)) panels.delete(reply.key);
    else if (failed && isSending(open)) open.sent = null;
    else continue;
    changed = true;
  }
  return changed;
}

function button(name, label, pressed, act, extra) {
  return h(`button.hone-act${extra || ""}`, { type: "button", title: label, "aria-label": label, "aria-pressed": pressed === undefined ? undefined : String(pressed),
    onclick: act }, icon(name));
}

function badge(reply) {
  if (!reply.adapter) return null;
  const about = reply.adapter === "base" ? "Answered by the base model, untouched by feedback" : `Answered by adapter ${reply.adapter}, trained from feedback`;
  return h("span.hone-badge", { title: about, class: `hone-badge ${reply.adapter === "base" ? "base" : "tuned"}` }, reply.adapter);
}

const again = () => button("again", "Try again", undefined, () => { following = true; tell("retry", { by_principles: byPrinciples() }); }, ".again");
const stopped = () => h("span.hone-tag.quiet", {}, "stopped");

function actions(reply, last, busy) {
  const thumb = (good) => { tell("thumb", { reply: reply.key, good: reply.thumb === good ? null : good });
    if (good === false && reply.thumb !== false && !reply.critique) invite(reply.key, "critique", ""); };
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(reply.text); // no page has a clipboard over plain HTTP, but for this machine's own
      toast("Copied.");
    } catch { toast("This browser doesn't let the page copy. Select the text and copy it yourself.", "error"); }
  };
  const items = [badge(reply)];
  if (reply.kept) items.push(
    button("up", "Good reply", reply.thumb === true, () => thumb(true), ".up"),
    button("down", "Bad reply", reply.thumb === false, () => thumb(false), ".down"),
    button("pen", "How it should have been", reply.corrected, () => toggle(reply.key, "correct", reply.text), ".correct"),
    button("note", "What was wrong?", reply.critique !== null || reply.score !== null || reply.labels.length > 0, () => toggle(reply.key, "critique", reply.critique || ""), ".critique"));
  if (reply.text) items.push(button("copy", "Copy", undefined, copy));
  if (last && !busy) items.push(again());
  if (reply.corrected) items.push(h("span.hone-tag", {}, "your version"));
  if (reply.finish === "stopped") items.push(stopped());
  if (reply.finish === "length") items.push(h("span.hone-tag.quiet", { title: "The reply reached the longest length allowed" }, "cut short"));
  return h("div.hone-acts", {}, items);
}

function panel(reply) {
  const open = panels.get(reply.key);
  if (!open) return null;
  const correcting = open.kind === "correct", sending = isSending(open);
  const area = h("textarea", { rows: 3, readonly: sending, "aria-label": correcting ? "How it should have been" : "What was wrong?",
    placeholder: correcting ? "Write the reply as it should have been." : "What was wrong, or what would have been better?" });
  area.value = open.text;
  area.addEventListener("input", () => { open.text = area.value; fit(area); remember(); });
  const leave = () => { // back to the button that opened it
    redraw(true);
    thread.querySelector(`[data-reply="${reply.key}"] .hone-act.${open.kind}`)?.focus({ preventScroll: true });
  };
  const close = () => { panels.delete(reply.key); leave(); };
  const send = (text) => { // it stays until the service has answered: nothing that was written is lost
    if (sending) return;
    open.sent = open.last = text;
    tell(open.kind, { reply: reply.key, text });
    leave();
  };
  const save = () => {
    if (!area.value.trim()) return area.focus();
    if (correcting && area.value.trim() === reply.text.trim()) return toast("That is the reply as it stands. Change something first, or press the thumb.", "error");
    send(area.value.trim());
  };
  area.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save();
  });
  const has = correcting ? reply.corrected : reply.critique !== null;
  const scale = correcting ? null : h("div.hone-scale", { role: "group", "aria-label": "Score from 1 to 10" }, h("span", {}, "Score"),
    Array.from({ length: 10 }, (_, i) => h("button", { type: "button", "aria-pressed": String(reply.score === i + 1),
      onclick: () => tell("score", { reply: reply.key, score: reply.score === i + 1 ? null : i + 1 }) }, String(i + 1))));
  const label = (name) => tell("mark", { reply: reply.key, labels: reply.labels.includes(name) ? reply.labels.filter((other) => other !== name) : [...reply.labels, name] });
  const labels = correcting ? null : h("div.hone-labels", { role: "group", "aria-label": "Labels" }, (props.labels || []).map((name) =>
    h("button.hone-chip", { type: "button", "aria-pressed": String(reply.labels.includes(name)), onclick: () => label(name) }, name)));
  queueMicrotask(() => fit(area));
  return h("div.hone-panel", { "aria-busy": String(sending) }, h("h4", {}, correcting ? "How it should have been" : "What was wrong?"), labels, area, scale,
    h("div.hone-row", {},
      has ? h("button.hone-link", { type: "button", disabled: sending, onclick: () => send("") }, "Take it back") : null,
      h("span.hone-fill"),
      h("button.hone-plain", { type: "button", onclick: close }, sending ? "Close" : "Cancel"),
      h("button.hone-main", { type: "button", disabled: sending, onclick: save }, correcting ? "Save correction" : "Save")));
}

// ---- how a reply by principles is made ------------------------------------------------------------------------------

const STAGES = { draft: "Drafting", critique: "Looking at it", revision: "Revising", decided: "Answering" };
const ENDED = { "nothing wrong": "Looked at: nothing wrong", "out of time": "Time was over before it was looked at to the end", failed: "Could not be looked at to the end" };
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

function drawReply(reply, last, busy, title) {
  const streaming = reply.finish === null;
  const body = h(`div.hone-text${streaming ? ".streaming" : ""}`, { "aria-busy": String(streaming) },
    reply.text ? markdown(reply.text) : streaming && reply.stage ? making(reply.stage) : streaming ? h("span.hone-wait", { "aria-label": "Thinking" }, h("i"), h("i"), h("i")) : h("p.hone-empty", {}, "(an empty reply)"));
  return h("article.hone-reply", { "data-reply": reply.key }, title ? h("div.hone-letter", {}, title) : null, body,
    streaming ? h("div.hone-acts", {}, badge(reply)) : actions(reply, last, busy), streaming ? null : made(reply), panel(reply));
}

// ---- one turn ----------------------------------------------------------------------------------------------------

function choices(turn, busy) {
  const pick = (verdict, label, extra) => h(`button.hone-pick${extra || ""}`, { type: "button", disabled: busy, "data-verdict": verdict,
    onclick: () => {
      tell("pick", { turn: turn.key, verdict });
      if (verdict === "both_bad") invite(turn.replies[0].key, "correct", turn.replies[0].text);
    } }, label);
  return h("div.hone-choices", { role: "group", "aria-label": "Which answer is better?" }, h("span.hone-question", {}, "Which is better?"),
    pick("a", "A", ".strong"), pick("b", "B", ".strong"), pick("tie", "A tie"), pick("both_bad", "Both bad"),
    h("button.hone-link", { type: "button", disabled: busy, onclick: () => tell("pick", { turn: turn.key, verdict: "skip" }) }, "Skip"));
}

const SAID = { a: "You preferred A.", b: "You preferred B.", tie: "You called it a tie.", both_bad: "You found both bad." };
const SAID_AGAIN = { a: "Better than the one before.", b: "Worse: the one before is back.", tie: "About the same as the one before." };

function verdictLine(turn, last, busy) {
  if (!turn.compared || busy) return null;
  const say = (verdict, label) => h("button.hone-chip", { type: "button", "data-verdict": verdict, onclick: () => tell("pick", { turn: turn.key, verdict }) }, label);
  const undo = h("button.hone-link", { type: "button", onclick: () => { closeUntouched(); tell("pick", { turn: turn.key, verdict: "undo" }); } }, "Change");
  if (turn.verdict) return h("div.hone-verdict", {}, icon("check"), (turn.side_by_side ? SAID : SAID_AGAIN)[turn.verdict], last ? undo : null);
  if (!turn.side_by_side && last && turn.replies.every((reply) => reply.kept))
    return h("div.hone-verdict", {}, "Is this one better than the one before?", say("a", "Better"), say("tie", "Same"), say("b", "Worse"));
  return null;
}

function drawTurn(turn, last, busy) {
  const open = turn.side_by_side && turn.chosen === null && !turn.error;
  const writing = turn.replies.some((reply) => reply.finish === null);
  let answer;
  if (open) {
    answer = [h("div.hone-pair", {}, turn.replies.map((reply, i) => drawReply(reply, false, busy, "AB"[i]))), writing ? null : choices(turn, busy)];
  } else {
    const chosen = turn.replies[turn.chosen ?? turn.replies.length - 1];
    const other = turn.side_by_side && turn.replies.find((reply) => reply !== chosen);
    const nothing = turn.error || (last && busy) ? null : h("div.hone-acts", {}, last ? again() : null, stopped()); // before it had a text
    answer = [chosen ? drawReply(chosen, last, busy) : nothing, verdictLine(turn, last, busy),
      other ? h("details.hone-other", {}, h("summary", {}, "The other answer"), drawReply(other, false, busy)) : null];
  }
  const error = turn.error ? h("div.hone-error", { role: "alert" }, h("p", {}, turn.error),
    last && !busy ? h("button.hone-plain", { type: "button", onclick: () => tell("retry", { by_principles: byPrinciples() }) }, icon("again"), "Try again") : null) : null;
  return h("section.hone-turn", { "data-turn": turn.key }, h("div.hone-prompt", {}, turn.prompt), answer, error);
}

function welcome() {
  return h("div.hone-welcome", {}, h("h1", {}, "A model that you teach"),
    h("p", {}, "Chat with it. Press a thumb, pick the better of two answers, or write the reply as it should have been. It learns in the background, and the next version answers."),
    h("div.hone-examples", {}, (props.examples || []).map((text) => h("button", { type: "button", onclick: () => submit(text) }, text))));
}

// ---- keeping the page in step --------------------------------------------------------------------------------------

const drawn = new Map(); // turn key → {shape, node}
let sent = null; // the message on its way: {text, after: turns before it}
let following = true; // the view stays at the end while a reply is written, unless the reader scrolled up
let notices = talk.notice.serial;
let restoring = location.hash.slice(1); // what to draw again, until the server has answered
let forgotten = null; // the line above which the model sees nothing

window.addEventListener("scroll", () => {
  following = window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 120;
}, { passive: true });

function redraw(forced) {
  clearSent();
  root.dataset.seen = talk.version; // for the drawer
  if (endSending(talk.notice.serial !== notices && talk.notice.tone === "error")) forced = true;
  const before = focused();
  const opened = new Set([...thread.querySelectorAll("details[open]")].map(detailName));
  const nodes = talk.turns.map((turn, i) => {
    const last = i === talk.turns.length - 1;
    const shape = JSON.stringify([turn, last, talk.busy]);
    const known = drawn.get(turn.key);
    if (known && known.shape === shape && !(forced && turn.replies.length)) return known.node;
    const node = drawTurn(turn, last, talk.busy);
    for (const detail of node.querySelectorAll("details")) detail.open = opened.has(detailName(detail));
    drawn.set(turn.key, { shape, node });
    return node;
  });
  const seenFrom = talk.turns.findIndex((turn) => turn.key === talk.seen_from);
  if (seenFrom > 0) nodes.splice(seenFrom, 0, (forgotten ||= h("p.hone-forgotten", { role: "note" },
    "The model no longer sees what is above: the conversation has grown longer than it can read at once.")));
  if (!nodes.length) { drawn.clear(); nodes.push(drawn.welcome ||= welcome()); }
  place(thread, nodes);
  root.classList.toggle("empty", !talk.turns.length);
  composer.classList.toggle("busy", talk.busy);
  sendButton.disabled = !input.value.trim();
  newChat.hidden = !talk.turns.length;
  refocus(before);
  if (following && talk.turns.length) window.scrollTo({ top: document.documentElement.scrollHeight });
  remember();
  if (talk.notice.serial !== notices) {
    notices = talk.notice.serial;
    if (talk.notice.text) toast(talk.notice.text, talk.notice.tone);
  }
}

/** What a fold holds: how one reply was made, or a turn's other answer. */
const detailName = (node) => node.closest(".hone-other, [data-reply]").dataset.reply || node.closest("[data-turn]").dataset.turn;
const named = (node) => node.getAttribute("aria-label") || node.textContent;

/** What in the thread has the focus: redrawing makes new nodes, and the keyboard is to stay where it was. */
function focused() {
  const node = document.activeElement;
  if (node === thread || !thread.contains(node)) return null;
  const reply = node.closest("[data-reply]"), turn = node.closest("[data-turn]");
  const within = reply ? `[data-reply="${reply.dataset.reply}"]` : turn ? `[data-turn="${turn.dataset.turn}"]` : "";
  return { node, within, selection: node.matches("textarea") ? [node.selectionStart, node.selectionEnd] : null };
}

/** The same thing where it is drawn anew; where it is gone (a verdict was given), what there is to press now. */
function refocus(before) {
  if (!before || before.node.isConnected) return;
  if (!before.within) return void (matchMedia("(pointer: coarse)").matches || input.focus({ preventScroll: true })); // an example was sent
  const there = [...thread.querySelectorAll(["textarea", "button", "summary"].map((tag) => `${before.within} ${tag}`).join())];
  const same = there.find((node) => node.tagName === before.node.tagName && named(node) === named(before.node));
  const node = same || there.find((other) => other.closest(".hone-verdict")) || there[0];
  node?.focus({ preventScroll: true });
  if (same && before.selection) same.setSelectionRange(...before.selection);
}

// ---- when the server was away ----------------------------------------------------------------------------------------

const RESTARTED = "Hone was restarted. Your conversation is still here.";
const UNANSWERED = "Hone did not get what you did last, and this page had to be loaded anew. Please do it once more.";
const AWAY = "Hone is away. This page goes on by itself.";
const LOOK_EVERY = 5000; // milliseconds

/** A server that was restarted knows nothing of this page: it is loaded anew, and what was said and typed comes back. */
function loadAnew() {
  if (loading) return;
  loading = true;
  if (sent && !input.value.trim()) input.value = sent.text; // an example that was pressed
  remember();
  keepInHistory({ honeNotice: RESTARTED });
  location.reload();
}

function sayHint(away) {
  hint.textContent = away ? AWAY : HINT;
  hint.classList.toggle("away", away);
}

/** Whether the server is there, and still the one that drew this page. */
async function lookForServer() {
  if (document.hidden || loading) return;
  const { root: url, api_prefix, app_id } = window.gradio_config;
  try {
    const response = await fetch(`${url}${api_prefix}/app_id`, { cache: "no-store", signal: AbortSignal.timeout(LOOK_EVERY) });
    if (!response.ok) throw new Error(response.statusText);
    if ((await response.json()).app_id !== app_id) return loadAnew();
    sayHint(false);
  } catch { // refused, or nothing answers
    sayHint(true);
    if (endSending(true)) redraw(true);
  }
}

setInterval(lookForServer, LOOK_EVERY);
document.addEventListener("visibilitychange", lookForServer);
window.addEventListener("online", lookForServer);

let loading = false;
watch("value", () => {
  if (props.value?.lost) return loadAnew();
  if (!props.value?.turns || props.value.version < talk.version) return; // overtaken by a later one
  keepInHistory({ honeUnanswered: false });
  if (props.value.by_principles !== talk.by_principles) rulesBox.checked = props.value.by_principles;
  talk = props.value;
  followPolicy();
  if (restoring) reopenEditors();
  if (talk.turns.length || talk.notice.tone !== "error") restoring = ""; // else the address keeps it for the next reload
  redraw(false);
});
input.value = history.state?.honeDraft || "";
fit(input);
followPolicy();
redraw(true);
const notice = history.state?.honeUnanswered ? UNANSWERED : history.state?.honeNotice;
if (notice) toast(notice);
keepInHistory({ honeNotice: null, honeUnanswered: false });
tell("restore", { trail: restoring });
if (!matchMedia("(pointer: coarse)").matches) input.focus();
