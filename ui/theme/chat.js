// The chat page. `props.value` is Conversation.view(); every action goes to the server as a named event.
// It comes last of the page's parts, which `ui/chat.py` names: what it does at once needs what they define.

const root = element.querySelector(".hone-chat");
const EVENTS = ["send", "retry", "stop_reply", "new_chat", "restore", "pick", "thumb", "score", "mark", "critique", "correct", "open_shelf"];
/** `seen` tells a server that was restarted, and so knows nothing of this page, that it is not to act on what it says. */
const tell = (name, data) => {
  if (!EVENTS.includes(name)) return;
  if (name !== "restore" && name !== "open_shelf") keepInHistory({ honeUnanswered: true });
  trigger(name, { ...data, seen: talk.version });
};

let talk = props.value; // the newest view that came

const thread = h("section.hone-thread", { "aria-label": "Conversation" });
const newChat = h("button.hone-ghost", { type: "button", "aria-label": "New chat", onclick: () => { panels.clear(); rulesWait = false; tell("new_chat"); input.focus(); } },
  icon("plus"), h("span", {}, "New chat"));
const shelfButton = h("button.hone-ghost", { type: "button", "aria-label": "Your feedback", onclick: () => tell("open_shelf") }, icon("list"), h("span", {}, "Your feedback"));

root.replaceChildren(
  h("header.hone-header", {}, brand("./"), h("nav", {}, shelfButton, newChat)),
  thread,
  h("footer.hone-foot", {}, composer, h("p.hone-small", {}, "What you say about a reply teaches the next version. You can take it back.")),
);

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
    takeBack(talk.notice.unsent);
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
