// Small helpers. Text reaches the document as text nodes and attributes only: nothing here or elsewhere parses HTML.

const SVG = "http://www.w3.org/2000/svg";

/** element("button", {class: "x", onclick: f, "aria-label": "Go"}, child, "text") */
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** One of the symbols in index.html. */
function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** A button that shows an icon; its label is for screen readers and the tooltip. */
function iconButton(name, label, onclick, attributes = {}) {
  return element("button", {type: "button", class: "icon-button", "aria-label": label, title: label, onclick, ...attributes},
                 icon(name));
}

const byId = (id) => document.getElementById(id);

/** Said by screen readers when they have finished what they are saying. */
function announce(text) {
  byId("announcer").textContent = text;
}

/** Copies, and shows on the button that it has. */
async function copyFrom(button, text) {
  const shown = button.querySelector(".copy-word");
  let said = "Copied";
  try {
    await copyText(text);
  } catch {
    said = "Not allowed";
  }
  announce(said);
  if (shown) shown.textContent = said;
  else button.replaceChildren(icon(said === "Copied" ? "check" : "close"));
  setTimeout(() => {
    if (shown) shown.textContent = "Copy";
    else button.replaceChildren(icon("copy"));
  }, 1500);
}

/** Without HTTPS, away from localhost, browsers have no navigator.clipboard. */
async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = element("textarea", {class: "visually-hidden", readonly: true});
  field.value = text;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  if (!done) throw new Error("copying is not allowed");
}

function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], {type}));
  element("a", {href: url, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
