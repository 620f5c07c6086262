// Markdown's blocks: headings, lists, quotes, code, tables. After CommonMark and GFM, a little more forgiving where
// models are careless (lists nested by two spaces). HTML is text.
//
// A block is {type, first, end, ...}: lines [first, end) of the text that it was read from.

const MAX_DEPTH = 10;  // of lists and quotes in each other
const RULE = /^ {0,3}(?:(?:\* *){3,}|(?:- *){3,}|(?:_ *){3,})$/;
const FENCE = /^ {0,3}(`{3,}|~{3,}) *([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?: +(.*?))?(?: +#+)? *$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])( +|$)/;
const DELIMITER_ROW = /^ *\|? *:?-+:? *(?:\| *:?-+:? *)*\|? *$/;

function parseBlocks(lines, depth = 0) {
  const blocks = [];
  const readers = [readFence, readHeading, readRule, readIndentedCode];
  if (depth < MAX_DEPTH) readers.push(readQuote, readList);
  readers.push(readTable, readParagraph);
  for (let i = 0; i < lines.length;) {
    if (isBlank(lines[i])) {
      i += 1;
      continue;
    }
    for (const read of readers) {
      const block = read(lines, i, depth);
      if (!block) continue;
      blocks.push({...block, first: i});
      i = block.end;
      break;
    }
  }
  return blocks;
}

const isBlank = (line) => line.trim() === "";

function indentOf(line) {
  let columns = 0;
  for (const c of line) {
    if (c === " ") columns += 1;
    else if (c === "\t") columns += 4 - columns % 4;
    else break;
  }
  return columns;
}

/** The line without its first `columns` columns of white space. */
function dedent(line, columns) {
  const indent = indentOf(line);
  return " ".repeat(Math.max(0, indent - columns)) + line.trimStart();
}

/** Whether a line ends a paragraph before it. */
function interrupts(lines, i) {
  const item = ITEM.exec(lines[i]);
  return FENCE.test(lines[i]) || HEADING.test(lines[i]) || QUOTE.test(lines[i]) || RULE.test(lines[i]) ||
      (item && item[3] !== "" && /^(?:[-*+]|1[.)])$/.test(item[2])) || isTable(lines, i);
}

function readFence(lines, i) {
  const fence = FENCE.exec(lines[i]);
  if (!fence) return null;
  const closing = new RegExp(`^ {0,3}${fence[1][0]}{${fence[1].length},} *$`);
  const indent = indentOf(lines[i]);
  let end = i + 1;
  while (end < lines.length && !closing.test(lines[end])) end += 1;  // while it is written, there is no end yet
  const code = lines.slice(i + 1, end).map((line) => indent ? dedent(line, indent) : line).join("\n");
  return {type: "code", language: fence[2].trim().split(/\s/)[0], code, end: Math.min(end + 1, lines.length)};
}

function readIndentedCode(lines, i) {
  let end = i;
  while (end < lines.length && (isBlank(lines[end]) || indentOf(lines[end]) >= 4)) end += 1;
  if (end === i) return null;
  while (isBlank(lines[end - 1])) end -= 1;
  return {type: "code", language: "", code: lines.slice(i, end).map((line) => dedent(line, 4)).join("\n"), end};
}

function readHeading(lines, i) {
  const heading = HEADING.exec(lines[i]);
  return heading && {type: "heading", level: heading[1].length, text: heading[2] ?? "", end: i + 1};
}

function readRule(lines, i) {
  return RULE.test(lines[i]) ? {type: "rule", end: i + 1} : null;
}

function readQuote(lines, i, depth) {
  let end = i;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  if (end === i) return null;
  return {type: "quote", blocks: parseBlocks(lines.slice(i, end).map((line) => line.replace(QUOTE, "")), depth + 1), end};
}

function readList(lines, i, depth) {
  const kindOf = (item) => item[2].at(-1);  // "-", "*", "+", "." or ")"
  let item = ITEM.exec(lines[i]);
  if (!item) return null;
  const kind = kindOf(item);
  const list = {type: "list", ordered: kind === "." || kind === ")", start: parseInt(item[2], 10), items: [], tight: true};
  while (item && kindOf(item) === kind && !RULE.test(lines[i])) {
    const {content, end} = readItem(lines, i, item);
    const blocks = parseBlocks(content, depth + 1);
    list.items.push(blocks);
    if (blocks.some((block, at) => at > 0 && block.first > blocks[at - 1].end)) list.tight = false;
    list.end = end;
    i = end;
    while (i < lines.length && isBlank(lines[i])) i += 1;
    item = i < lines.length ? ITEM.exec(lines[i]) : null;
    if (item && i > end && kindOf(item) === kind) list.tight = false;
  }
  return list;
}

/** The lines of one item, without its indentation. */
function readItem(lines, first, item) {
  const inner = item[1].length + 2;  // enough to belong to the item
  const width = item[0].length - (item[3].length > 4 ? item[3].length - 1 : 0);
  const content = [lines[first].slice(width)];
  let end = first + 1;
  for (; end < lines.length; ++end) {
    const line = lines[end];
    if (isBlank(line)) content.push("");
    else if (indentOf(line) >= inner) content.push(dedent(line, Math.min(width, indentOf(line))));
    else if (content.at(-1) !== "" && !ITEM.test(line) && !interrupts(lines, end)) content.push(line.trim());
    else break;
  }
  while (content.length > 1 && content.at(-1) === "") {
    content.pop();
    end -= 1;
  }
  return {content, end};
}

function splitRow(line) {
  return line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "").split(/(?<!\\)\|/)
      .map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function isTable(lines, i) {
  return i + 1 < lines.length && lines[i].includes("|") && DELIMITER_ROW.test(lines[i + 1]) &&
      splitRow(lines[i]).length === splitRow(lines[i + 1]).length;
}

function readTable(lines, i) {
  if (!isTable(lines, i)) return null;
  const align = splitRow(lines[i + 1]).map(
      (cell) => cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : "left");
  let end = i + 2;
  while (end < lines.length && !isBlank(lines[end]) && lines[end].includes("|")) end += 1;
  return {type: "table", align, head: splitRow(lines[i]), rows: lines.slice(i + 2, end).map(splitRow), end};
}

function readParagraph(lines, i) {
  let end = i + 1;
  while (end < lines.length && !isBlank(lines[end]) && !interrupts(lines, end)) end += 1;
  return {type: "paragraph", text: lines.slice(i, end).map((line) => line.trimStart()).join("\n").trimEnd(), end};
}
