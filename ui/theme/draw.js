// Drawing tools for the pages' scripts. Text goes into the page as text nodes only, never as HTML.

/** An element: h("p.note", {onclick}, "text", child, …). Attributes that are false, null or undefined are left out. */
function h(spec, attributes, ...children) {
  const [tag, ...classes] = spec.split(".");
  const node = document.createElement(tag || "div");
  if (classes.length) node.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** The same in a drawing. */
function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const ICONS = {
  up: "M7 10v10H4V10zM7 10l4-7c1.7 0 2.6 1.1 2.3 2.7L12.6 9H18a2 2 0 0 1 2 2.3l-1.2 7A2 2 0 0 1 16.8 20H7",
  down: "M17 14V4h3v10zM17 14l-4 7c-1.7 0-2.6-1.1-2.3-2.7l.7-3.3H6a2 2 0 0 1-2-2.3l1.2-7A2 2 0 0 1 7.2 4H17",
  pen: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4",
  note: "M5 4h14a1 1 0 0 1 1 1v10a1 1 0 0 1-1 1h-7l-5 4v-4H5a1 1 0 0 1-1-1V5a1 1 0 0 1 1-1zM8 8.5h8M8 12h5",
  again: "M20 5v5h-5M4 19v-5h5M5.5 9A7 7 0 0 1 18 7.5l2 2.5M18.5 15A7 7 0 0 1 6 16.500l-2-2.500",
  copy: "M9 9h10v11H9zM15 9V4H5v11h4",
  send: "M12 20V5M5.500 11.500 12 5l6.500 6.500",
  stop: "M7 7h10v10H7z",
  plus: "M12 5v14M5 12h14",
  list: "M9 6h11M9 12h11M9 18h11M4.500 6h.01M4.500 12h.01M4.500 18h.01",
  close: "M6 6l12 12M18 6 6 18",
  check: "M5 12.500l4.500 4.500L19 7",
  two: "M4 5h7v14H4zM13 5h7v14h-7z",
  scales: "M12 4v16M8 20h8M5 7h14M5 7l-2.500 6a2.700 2.700 0 0 0 5 0zM19 7l-2.500 6a2.700 2.700 0 0 0 5 0z",
  right: "M9.500 6l6 6-6 6",
};

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", class: "hone-icon", "aria-hidden": "true" }))
    svg.setAttribute(key, value);
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** The mark: an edge catching the light. */
function brand(href) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "hone-mark");
  svg.setAttribute("aria-hidden", "true");
  for (const [shape, d] of [["stone", "M3 20 12 3l9 17z"], ["edge", "M12 3l9 17h-6.500z"]]) {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", d);
    path.setAttribute("class", shape);
    svg.append(path);
  }
  return h("a.hone-brand", { href, "aria-label": "Hone" }, svg, h("span", {}, "Hone"));
}

function ago(iso) {
  if (!iso) return "";
  const seconds = Math.max(0, (Date.now() - new Date(iso)) / 1000);
  if (seconds < 45) return "just now";
  for (const [unit, size] of [["day", 86400], ["hour", 3600], ["minute", 60]])
    if (seconds >= size || unit === "minute")
      return new Intl.RelativeTimeFormat("en", { numeric: "always" }).format(-Math.max(1, Math.round(seconds / size)), unit);
}

/** Make `nodes` the children of `parent`, touching only those that changed: a click or a focus under way survives. */
function place(parent, nodes) {
  nodes.forEach((node, i) => { if (parent.children[i] !== node) parent.insertBefore(node, parent.children[i] || null); });
  while (parent.children.length > nodes.length) parent.lastChild.remove();
}

/** Show a sentence for a moment, over the page's header, which covers nothing that is read; screen readers hear it. It can be sent away before. */
function toast(text, tone) {
  let stack = document.querySelector(".hone-toasts");
  if (!stack) document.body.append((stack = h("div.hone-toasts", { role: "status", "aria-live": "polite" })));
  const close = h("button.hone-act", { type: "button", "aria-label": "Dismiss", onclick: () => note.remove() }, icon("close"));
  const note = h(`div.hone-toast.${tone || "info"}`, {}, h("span", {}, text), close);
  stack.append(note);
  const shown = (tone === "error" ? 4000 : 2500) + 45 * text.length; // milliseconds: as long as it takes to read
  setTimeout(() => note.classList.add("leaving"), shown);
  setTimeout(() => note.remove(), shown + 400);
}

// ---- Markdown: the part of it that chat replies use -------------------------------------------------------------

const INLINE = /(`+)(.+?)\1|\*\*(.+?)\*\*|__(.+?)__|\*(?!\s)(.+?)\*|\b_(?!\s)(.+?)_\b|\[([^\]]+)\]\(((?:https?:|mailto:)[^\s)]+)\)/s;

function inline(text) {
  const nodes = [];
  for (let rest = text; rest; ) {
    const found = INLINE.exec(rest);
    if (!found) return [...nodes, ...lines(rest)];
    const [whole, , code, strong, strong2, emphasis, emphasis2, label, href] = found;
    nodes.push(...lines(rest.slice(0, found.index)));
    if (code !== undefined) nodes.push(h("code", {}, code));
    else if (strong || strong2) nodes.push(h("strong", {}, inline(strong || strong2)));
    else if (emphasis || emphasis2) nodes.push(h("em", {}, inline(emphasis || emphasis2)));
    else nodes.push(h("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, inline(label)));
    rest = rest.slice(found.index + whole.length);
  }
  return nodes;
}

function lines(text) {
  return text.split("\n").flatMap((line, i) => (i ? [h("br"), line] : [line])).filter((part) => part !== "");
}

const BLOCKS = [
  { begins: /^(#{1,4})\s+(.*)$/, draw: ([, marks, title]) => h(`h${marks.length + 2}`, {}, inline(title)) },
  { begins: /^\s*([-*_])(\s*\1){2,}\s*$/, draw: () => h("hr") },
];
const BULLET = /^\s*[-*•]\s+(.*)$/;
const NUMBERED = /^\s*(\d{1,9})[.)]\s+(.*)$/;
const QUOTE = /^>\s?(.*)$/;

/** `text` as a list of block elements. What is not understood stays plain text. */
function markdown(text) {
  const blocks = [];
  const rows = text.replace(/\r\n?/g, "\n").split("\n");
  const takeWhile = (pattern, pick) => {
    const taken = [];
    while (rows.length && pattern.test(rows[0])) taken.push(pick(pattern.exec(rows.shift())));
    return taken;
  };
  while (rows.length) {
    const row = rows[0];
    const fence = /^\s*(`{3,}|~{3,})/.exec(row);
    const known = BLOCKS.find((block) => block.begins.test(row));
    if (!row.trim()) rows.shift();
    else if (fence) {
      rows.shift();
      const code = [];
      while (rows.length && !rows[0].trim().startsWith(fence[1])) code.push(rows.shift());
      rows.shift();
      blocks.push(h("pre", {}, h("code", {}, code.join("\n"))));
    } else if (known) blocks.push(known.draw(known.begins.exec(rows.shift())));
    else if (BULLET.test(row)) blocks.push(h("ul", {}, takeWhile(BULLET, (m) => h("li", {}, inline(m[1])))));
    else if (NUMBERED.test(row)) {
      const start = NUMBERED.exec(row)[1];
      blocks.push(h("ol", { start }, takeWhile(NUMBERED, (m) => h("li", {}, inline(m[2])))));
    } else if (QUOTE.test(row)) blocks.push(h("blockquote", {}, inline(takeWhile(QUOTE, (m) => m[1]).join("\n"))));
    else {
      const paragraph = [];
      const other = (line) =>
        !line.trim() || /^\s*(`{3,}|~{3,})/.test(line) || BULLET.test(line) || NUMBERED.test(line) || QUOTE.test(line)
        || BLOCKS.some((block) => block.begins.test(line));
      do paragraph.push(rows.shift());
      while (rows.length && !other(rows[0]));
      blocks.push(h("p", {}, inline(paragraph.join("\n"))));
    }
  }
  return blocks;
}
