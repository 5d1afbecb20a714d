// What asks before something is done that everybody feels.

/** A dialog with a reason and, for a canary, a share; `act` gets what was filled in. */
function ask({ title, about, label, button, danger, share, targets }, act) {
  const reason = h("textarea", { rows: 2, placeholder: "Why? It is kept in the history. (optional)", "aria-label": "Reason", maxlength: 2000 });
  const percent = h("input", { type: "range", min: 1, max: 90, value: 10, "aria-label": "Share of conversations, in percent" });
  const shown = h("output", {}, "10\u00a0%");
  percent.addEventListener("input", () => { shown.textContent = `${percent.value}\u00a0%`; });
  const target = targets ? h("select", { "aria-label": "Roll back to" }, targets.map(([value, text]) => h("option", { value }, text))) : null;
  const dialog = h("dialog.hone-dialog", { "aria-label": title });
  const go = (event) => {
    event.preventDefault();
    act({ reason: reason.value, share: Number(percent.value) / 100, to: target ? target.value : "" });
    dialog.close();
  };
  dialog.append(h("form", { method: "dialog", onsubmit: go }, h("h2", {}, title), about ? h("p", {}, about) : null,
    share ? h("label.hone-share", {}, h("span", {}, "Share of conversations"), percent, shown) : null, target, reason,
    h("div.hone-row", {}, h("span.hone-fill"), h("button.hone-plain", { type: "button", onclick: () => dialog.close() }, "Cancel"),
      h(`button.hone-main${danger ? ".danger" : ""}`, { type: "submit" }, button || label))));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
