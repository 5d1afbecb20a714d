// What survives a reload, and what the page does while the server is away or after it was restarted.

/** In this tab's own entry of the history, which a reload leaves alone. */
function keepInHistory(what, url) {
  history.replaceState({ ...history.state, ...what }, "", url);
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

const RESTARTED = "Hone was restarted. Your conversation is still here.";
const UNANSWERED = "Hone did not get what you did last, and this page had to be loaded anew. Please do it once more.";
const AWAY = "Hone is away. This page goes on by itself.";
const LOOK_EVERY = 5000; // milliseconds
let loading = false;

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
