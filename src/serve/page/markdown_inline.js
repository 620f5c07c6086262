// Markdown within a line: code, emphasis, links. After CommonMark 0.31 (delimiter runs) and GFM (~~, bare links).
// The text is hostile: every step is bounded, so that no text takes time that grows with its square.

const MAX_NESTING = 12;
const ENTITIES = {amp: "&", lt: "<", gt: ">", quot: '"', "#39": "'", nbsp: "\u00a0"};
const EMPHASIS = {"*": ["em", "strong"], _: ["em", "strong"], "~": [null, "del"]};

/** DOM nodes of a text. */
function inlineNodes(text) {
  return new InlineParser(text, 0).parse();
}

/** The address if a click on it can do no harm, else null. */
function safeUrl(address) {
  try {
    const url = new URL(address);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;  // relative addresses, too: they would lead into this server
  }
}

class InlineParser {
  /** `links`: how many links this text is inside of. */
  constructor(text, links) {
    this.text = text;
    this.links = links;
    this.at = 0;
    this.nodes = [];
    this.plain = "";
    this.openers = {"*": [], _: [], "~": []};
    this.unclosed = new Set();  // lengths of backtick runs that have no partner further on
  }

  parse() {
    const steps = {
      "\\": this.escape, "`": this.code, "*": this.emphasis, _: this.emphasis, "~": this.emphasis, "[": this.link,
      "!": this.image, "<": this.angle, "&": this.entity, h: this.bareLink, "\n": this.lineBreak,
    };
    while (this.at < this.text.length) {
      const step = steps[this.text[this.at]];
      if (!step || !step.call(this)) this.plain += this.text[this.at++];
    }
    this.flush();
    return this.nodes;
  }

  flush() {
    if (this.plain) this.nodes.push(document.createTextNode(this.plain));
    this.plain = "";
  }

  push(node) {
    this.flush();
    this.nodes.push(node);
    return true;
  }

  /** What `pattern`, a sticky one, matches here; moves behind it. */
  take(pattern) {
    pattern.lastIndex = this.at;
    const match = pattern.exec(this.text);
    if (match) this.at = pattern.lastIndex;
    return match;
  }

  escape() {
    const match = this.take(/\\([!-/:-@[-`{-~\n])/y);
    if (!match) return false;
    if (match[1] === "\n") return this.push(element("br"));
    this.plain += match[1];
    return true;
  }

  entity() {
    const match = this.take(/&(amp|lt|gt|quot|#39|nbsp);/y);
    if (match) this.plain += ENTITIES[match[1]];
    return Boolean(match);
  }

  lineBreak() {
    const hard = this.plain.endsWith("  ");
    this.plain = this.plain.trimEnd();
    this.at += 1;
    if (hard) return this.push(element("br"));
    this.plain += "\n";
    return true;
  }

  code() {
    const fence = this.take(/`+/y)[0];
    let end = this.unclosed.has(fence.length) ? -1 : this.at;
    while (end >= 0) {
      end = this.text.indexOf(fence, end);
      if (end < 0) break;
      let after = end;
      while (this.text[after] === "`") after += 1;
      if (after - end === fence.length) {
        const code = this.text.slice(this.at, end).replaceAll("\n", " ");
        this.at = after;
        return this.push(element("code", {}, /^ .*[^ ].* $/.test(code) ? code.slice(1, -1) : code));
      }
      end = after;
    }
    this.unclosed.add(fence.length);
    this.plain += fence;
    return true;
  }

  angle() {
    if (this.take(/<br ?\/?>/iy)) return this.push(element("br"));
    const match = this.take(/<((?:https?:\/\/|mailto:)[^\s<>]{1,2000})>/y);
    return match ? this.pushLink(match[1], [document.createTextNode(match[1])]) : false;
  }

  bareLink() {
    if (this.links || /\w/.test(this.text[this.at - 1] ?? " ")) return false;
    const match = this.take(/https?:\/\/[^\s<>"'`\])*]{1,2000}/y);
    if (!match) return false;
    const address = match[0].replace(/[.,;:!?_~]+$/, "");
    this.at -= match[0].length - address.length;
    return this.pushLink(address, [document.createTextNode(address)]);
  }

  image() {
    if (this.text[this.at + 1] !== "[") return false;
    this.at += 1;
    if (this.link()) return true;  // an image from elsewhere is not fetched: its link is shown
    this.at -= 1;
    return false;
  }

  link() {
    const end = this.closingBracket(this.at);
    if (this.links || end === undefined || this.text[end + 1] !== "(") return false;
    const start = this.at;
    this.at = end + 1;
    const match = this.take(
        /\(\s{0,9}(<[^<>\n]{0,2000}>|(?:[^\s()<>]|\([^\s()]{0,500}\)){0,2000})(?:\s{1,9}(?:"[^"]{0,500}"|'[^']{0,500}'))?\s{0,9}\)/y);
    if (!match) {
      this.at = start;
      return false;
    }
    const label = this.text.slice(start + 1, end);
    return this.pushLink(match[1].replace(/^<|>$/g, ""), new InlineParser(label || match[1], 1).parse());
  }

  /** Without its address, what it says, if that address is not safe. */
  pushLink(address, children) {
    const href = this.links ? null : safeUrl(address);
    if (!href) return this.push(element("span", {title: address.slice(0, 200)}, ...children));
    return this.push(element("a", {href, target: "_blank", rel: "noopener noreferrer nofollow"}, ...children));
  }

  /** Where the bracket that opens at `open` closes; all pairs are found in one go. */
  closingBracket(open) {
    if (!this.brackets) {
      this.brackets = new Map();
      const opened = [];
      for (let i = 0; i < this.text.length; ++i) {
        if (this.text[i] === "\\") i += 1;
        else if (this.text[i] === "[") opened.push(i);
        else if (this.text[i] === "]" && opened.length) this.brackets.set(opened.pop(), i);
      }
    }
    return this.brackets.get(open);
  }

  emphasis() {
    const mark = this.text[this.at];
    const start = this.at;
    while (this.text[this.at] === mark) this.at += 1;
    const count = this.at - start;
    const before = this.text[start - 1] ?? " ", after = this.text[this.at] ?? " ";
    const isSpace = (c) => /\s/.test(c), isPunctuation = (c) => /[\p{P}\p{S}]/u.test(c);
    const left = !isSpace(after) && (!isPunctuation(after) || isSpace(before) || isPunctuation(before));
    const right = !isSpace(before) && (!isPunctuation(before) || isSpace(after) || isPunctuation(after));
    const opens = left && (mark !== "_" || !right || isPunctuation(before));
    const closes = right && (mark !== "_" || !left || isPunctuation(after));
    const known = mark !== "~" || count === 2;
    this.flush();
    const rest = known && closes ? this.close(mark, count) : count;
    if (rest > 0 && known && opens) {
      const node = document.createTextNode(mark.repeat(rest));  // stays what it is, if nothing closes it
      this.openers[mark].push({node, count: rest, index: this.nodes.length});
      this.nodes.push(node);
    } else {
      this.plain += mark.repeat(rest);
    }
    return true;
  }

  /** Wraps what stands between the last openers and here; returns how many marks are left. */
  close(mark, count) {
    const openers = this.openers[mark];
    while (count > 0 && openers.length) {
      const opener = openers.at(-1);
      const used = Math.min(2, opener.count, count);
      const children = this.nodes.slice(opener.index + 1);
      const nesting = 1 + children.reduce((most, node) => Math.max(most, node.nesting ?? 0), 0);
      if (nesting > MAX_NESTING) return count;
      this.nodes.length = opener.index + 1;
      for (const others of Object.values(this.openers))
        while (others.length && others.at(-1).index > opener.index) others.pop();
      const wrapped = element(EMPHASIS[mark][used - 1], {}, ...children);
      wrapped.nesting = nesting;
      this.nodes.push(wrapped);
      opener.count -= used;
      opener.node.data = mark.repeat(opener.count);
      if (opener.count === 0) openers.pop();
      count -= used;
    }
    return count;
  }
}
