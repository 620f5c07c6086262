// Shows Markdown while it is written: of the document only those blocks are built anew whose text has changed.

class MarkdownView {
  constructor(root) {
    this.root = root;
    this.shown = [];  // {source, block, node}
  }

  update(text) {
    const lines = text.replace(/\r\n?/g, "\n").split("\n");
    const blocks = parseBlocks(lines);
    blocks.forEach((block, i) => this.show(i, lines.slice(block.first, block.end).join("\n"), block));
    for (const {node} of this.shown.splice(blocks.length)) node.remove();
  }

  show(i, source, block) {
    const old = this.shown[i];
    if (old?.source === source && old.block.type === block.type) return;
    if (old?.block.type === "code" && block.type === "code" && old.block.language === block.language) {
      old.node.querySelector("code").textContent = block.code;  // keeps where the reader has scrolled to
      this.shown[i] = {source, block, node: old.node};
      return;
    }
    const node = blockNode(block);
    if (old) old.node.replaceWith(node);
    else this.root.append(node);
    this.shown[i] = {source, block, node};
  }
}

function blockNode(block) {
  switch (block.type) {
    case "heading":
      // The page's own heading is the first level, a message's the second.
      return element(`h${Math.min(6, block.level + 2)}`, {class: `level-${block.level}`}, ...inlineNodes(block.text));
    case "rule":
      return element("hr");
    case "quote":
      return element("blockquote", {}, ...block.blocks.map(blockNode));
    case "list":
      return listNode(block);
    case "code":
      return codeNode(block);
    case "table":
      return tableNode(block);
    default:
      return element("p", {}, ...inlineNodes(block.text));
  }
}

function listNode(list) {
  const start = list.ordered && list.start !== 1 ? list.start : undefined;
  return element(list.ordered ? "ol" : "ul", {start}, ...list.items.map((blocks) => itemNode(blocks, list.tight)));
}

function itemNode(blocks, tight) {
  const task = blocks[0]?.type === "paragraph" && /^\[([ xX])\] /.exec(blocks[0].text);
  const item = element("li", {class: task ? "task" : undefined});
  blocks.forEach((block, i) => {
    if (block.type !== "paragraph") return item.append(blockNode(block));
    const nodes = inlineNodes(task && i === 0 ? block.text.slice(4) : block.text);
    if (task && i === 0)
      nodes.unshift(element("input", {type: "checkbox", disabled: true, checked: task[1] !== " ", "aria-label": "Task"}));
    item.append(...(tight ? nodes : [element("p", {}, ...nodes)]));
  });
  return item;
}

function codeNode({language, code}) {
  const text = element("code", {}, code);
  const button = element("button", {type: "button", class: "copy", onclick: () => copyFrom(button, text.textContent)},
                         icon("copy"), element("span", {class: "copy-word"}, "Copy"));
  const name = language || "text";
  return element("div", {class: "code"},
                 element("div", {class: "code-head"}, element("span", {class: "language"}, name), button),
                 element("pre", {tabindex: 0, role: "region", "aria-label": `Code, ${name}`}, text));
}

function tableNode({align, head, rows}) {
  const cells = (tag, row) => align.map((side, i) => element(
      tag, {class: `align-${side}`, scope: tag === "th" ? "col" : undefined}, ...inlineNodes(row[i] ?? "")));
  return element("div", {class: "table", tabindex: 0, role: "region", "aria-label": "Table"},
                 element("table", {},
                         element("thead", {}, element("tr", {}, ...cells("th", head))),
                         element("tbody", {}, ...rows.map((row) => element("tr", {}, ...cells("td", row))))));
}
