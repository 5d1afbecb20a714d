// One turn: a prompt with its reply, or with two to choose from; and what is there before the first.

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
