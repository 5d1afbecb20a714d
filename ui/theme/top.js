// What is live, the feedback, and, in place of everything, why nothing is to be seen: the top of the operator's page.

const header = h("header.hone-header", {}, h("div.hone-row", {}, brand("../"), h("span.hone-tag.quiet", {}, "operator")), h("nav", {}, h("a.hone-navlink", { href: "../" }, "Chat")));
const grid = h("div.hone-grid");

function servingCard(board) {
  const { live, previous, canary, canary_share } = board.serving;
  const requested = board.serving.requested;
  const back = () => ask({ title: "Roll back", about: "New replies come from there at once. Replies under way finish on what they began with.", label: "Roll back", danger: true,
    targets: [["", previous ? `To what was live before (${previous})` : "To what was live before"], ["base", "To the base model"]] }, ({ reason, to }) => tell("rollback", { reason, to }));
  return h("section.hone-card.hone-live", { "data-live": live }, h("h2", {}, "Live"),
    h("div.hone-row", {}, h("span.hone-name", {}, live), board.since ? h("span.hone-quiet", {}, "since ", when(board.since)) : null, requested && requested !== live ? h("span.hone-tag.warm", {}, `${requested} is being rolled out`) : null),
    h("p.hone-why", {}, board.why),
    canary ? h("div.hone-canary", {}, h("div.hone-row", {}, tag("canary"), version(canary), h("span", {}, `answers ${Math.round(canary_share * 100)}\u00a0% of conversations`), h("span.hone-fill"),
      h("button.hone-link", { type: "button", onclick: () => tell("end_canary") }, "End it")), meter(canary_share, "warm")) : null,
    live === "base" ? null : h("div.hone-row.hone-foot-row", {}, previous && previous !== live ? h("span.hone-quiet", {}, "Before: ", version(previous)) : null, h("span.hone-fill"),
      h("button.hone-plain", { type: "button", onclick: back, "data-lever": "rollback" }, "Roll back…")));
}

function feedbackCard(board) {
  const stats = board.stats;
  const kinds = Object.entries(stats.by_kind || {}).filter(([, count]) => count).sort((a, b) => b[1] - a[1]);
  const most = Math.max(1, ...kinds.map(([, count]) => count));
  return h("section.hone-card", {}, h("h2", {}, "Feedback"),
    h("div.hone-numbers", {}, [["new", stats.since_last_run], ["in all", stats.total], [stats.people === 1 ? "person" : "people", stats.people], ["withdrawn", stats.withdrawn]]
      .map(([label, value]) => h("div", {}, h("b", {}, String(value ?? 0)), h("span", {}, label)))),
    h("div.hone-kinds", {}, kinds.map(([kind, count]) => h("div", {}, h("span", {}, kind), meter(count / most), h("b", {}, String(count))))));
}

function refusal(board) {
  const again = h("button.hone-plain", { type: "button", onclick: () => tell("look_again") }, "Look again");
  if (board.refused) return h("div.hone-refused", { role: "alert" }, h("h1", {}, "Operators only"), h("p", {}, board.refused),
    h("p.hone-quiet", {}, "The operator link is printed in the terminal when Hone starts for the first time. Chatting needs none of this."), h("a.hone-navlink", { href: "../" }, "Go to the chat"));
  return h("div.hone-refused", { role: "alert" }, h("h1", {}, "The service is away"), h("p", {}, board.away), h("p.hone-quiet", {}, "This page looks again by itself."), again);
}

function drawPart(board) {
  if (board.refused || board.away) return [header, keep("refusal", [board.refused, board.away], () => refusal(board))];
  const { serving, why, since, stats } = board;
  place(grid, [keep("serving", [serving, why, since], () => servingCard(board)), keep("feedback", stats, () => feedbackCard(board))]);
  return [header, grid];
}
