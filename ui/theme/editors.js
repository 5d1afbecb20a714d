// The editors under replies: how one should have been, or what was wrong, with a score and labels. What a person types in
// them lives here alone and survives every redraw.

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
