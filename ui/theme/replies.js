// One reply: its text, the adapter that gave it, and what can be said and done about it.

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
  if (reply.kept && (!reply.corrected || reply.thumb !== null)) items.push( // under one's own version a thumb would be about what it replaced
    button("up", "Good reply", reply.thumb === true, () => thumb(true), ".up"),
    button("down", "Bad reply", reply.thumb === false, () => thumb(false), ".down"));
  if (reply.kept) items.push(
    button("pen", "How it should have been", reply.corrected, () => toggle(reply.key, "correct", reply.text), ".correct"),
    button("note", "What was wrong?", reply.critique !== null || reply.score !== null || reply.labels.length > 0, () => toggle(reply.key, "critique", reply.critique || ""), ".critique"));
  if (reply.text) items.push(button("copy", "Copy", undefined, copy));
  if (last && !busy) items.push(again());
  if (reply.corrected) items.push(h("span.hone-tag", {}, "your version"));
  if (reply.finish === "stopped") items.push(stopped());
  if (reply.finish === "length") items.push(h("span.hone-tag.quiet", { title: "The reply reached the longest length allowed" }, "cut short"));
  return h("div.hone-acts", {}, items);
}

function drawReply(reply, last, busy, title) {
  const streaming = reply.finish === null;
  const body = h(`div.hone-text${streaming ? ".streaming" : ""}`, { "aria-busy": String(streaming) },
    reply.text ? markdown(reply.text) : streaming && reply.stage ? making(reply.stage) : streaming ? h("span.hone-wait", { "aria-label": "Thinking" }, h("i"), h("i"), h("i")) : h("p.hone-empty", {}, "(an empty reply)"));
  return h("article.hone-reply", { "data-reply": reply.key }, title ? h("div.hone-letter", {}, title) : null, body,
    streaming ? h("div.hone-acts", {}, badge(reply)) : actions(reply, last, busy), streaming ? null : made(reply), panel(reply));
}
