// What the four parts of the operator's page share: "top", "runs", "curves" and "adapters". It comes after the part's own
// script, whose `drawPart` it calls. `props.value` is the part's view; every lever goes to the server as a named event.

const root = element.querySelector(".hone-board");
const EVENTS = ["learn", "cancel_run", "promote", "canary", "end_canary", "rollback", "reject", "choose_run", "open_adapter", "look_again"];
const tell = (name, data) => { if (EVENTS.includes(name)) trigger(name, data || {}); };

const STATES = { live: "It answers", candidate: "Measured, and waiting to be promoted", canary: "It answers some of the conversations", rejected: "It did not pass, or was refused", retired: "It was in use before",
  queued: "Waits for the learner", running: "Under way", succeeded: "An adapter came of it", nothing_to_learn: "The feedback held nothing to learn from", failed: "It broke off", cancelled: "An operator ended it" };
const TONE = { live: "live", succeeded: "live", canary: "warm", running: "warm", queued: "warm", publishing: "warm", rejected: "bad", failed: "bad" };
const WORDS = { nothing_to_learn: "nothing to learn" };

function tag(state) { return h(`span.hone-tag.${TONE[state] || "quiet"}`, { title: STATES[state] }, WORDS[state] || state); }
function version(name) { return h(`span.hone-badge.${name === "base" ? "base" : "tuned"}`, {}, name); }
function when(iso) { return iso ? h("time", { datetime: iso, title: new Date(iso).toLocaleString() }, ago(iso)) : null; }
function shortly(id) { return id.length > 12 ? `run …${id.slice(-6)}` : id; }

function meter(share, tone) {
  const bar = h("i", {});
  bar.style.width = `${Math.round(Math.min(1, Math.max(0, share)) * 1000) / 10}%`;
  return h(`div.hone-meter${tone ? `.${tone}` : ""}`, {}, bar);
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

let notices = 0;
let drawn = 0; // the number of the view that is drawn

function redraw() {
  const board = props.value || {};
  if (!(board.version > drawn)) return; // nothing yet, or overtaken by a later one
  drawn = board.version;
  place(root, drawPart(board));
  if (board.notice?.text && board.notice.serial > notices) toast(board.notice.text, board.notice.tone);
  notices = Math.max(notices, board.notice?.serial || 0);
}

setInterval(() => root.querySelectorAll("time").forEach((time) => { time.textContent = ago(time.dateTime); }), 15000);
watch("value", redraw);
redraw();
