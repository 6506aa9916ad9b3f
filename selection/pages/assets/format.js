// Numbers and names as people read them, and elements that hold them as text.

const MISSING = "–";
const percent = (share) => (share === null || share === undefined ? MISSING : `${(100 * share).toFixed(1)}%`);
const inPoints = (share) => (share === null ? MISSING : `${share >= 0 ? "+" : "−"}${Math.abs(100 * share).toFixed(1)} points`);
const whole = (count) => count.toLocaleString("en");
const inSeconds = (s) => (s < 10 ? `${s.toFixed(1)} s` : s < 600 ? `${Math.round(s)} s` : `${Math.round(s / 60)} min`);
const short = (text, length = 26) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

// The charts read a little markup in their texts; a name must not become any.
const escaped = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function table(caption, columns, rows, texts = []) {
  const kind = (i) => (texts.includes(i) ? { class: "text" } : {});
  return element(
    "table",
    {},
    element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...columns.map((c, i) => element("th", { scope: "col", ...kind(i) }, c)))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((cell, i) => element("td", kind(i), cell))))),
  );
}
