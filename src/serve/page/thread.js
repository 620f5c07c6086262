// The messages of a conversation, as the reader sees them.

const thread = {
  /** {again, edit}: what the buttons at a message do; set by main.js. */
  actions: {},
  views: new Map(),

  /** All messages of a conversation. */
  show(messages) {
    this.views.clear();
    byId("messages").replaceChildren();
    for (const message of messages) this.append(message);
    this.mark(messages);
    this.scrollToEnd();
  },

  append(message) {
    const view = message.role === "user" ? new UserView(message) : new AnswerView(message);
    this.views.set(message, view);
    byId("messages").append(view.root);
    return view;
  },

  viewOf(message) {
    return this.views.get(message);
  },

  /** What depends on the place of a message: only the last answer can be written again. */
  mark(messages) {
    byId("welcome").hidden = messages.length > 0;
    for (const [message, view] of this.views) view.root.classList.toggle("last", message === messages.at(-1));
  },

  atEnd() {
    const box = byId("thread");
    return box.scrollHeight - box.scrollTop - box.clientHeight < 60;
  },

  scrollToEnd() {
    const box = byId("thread");
    box.scrollTop = box.scrollHeight;
  },

  /** Runs `change`, and goes on showing the end if that was in sight. */
  keepingEnd(change) {
    const atEnd = this.atEnd();
    change();
    if (atEnd) this.scrollToEnd();
    this.offerEnd();
  },

  offerEnd() {
    byId("to-end").hidden = this.atEnd();
  },
};

class UserView {
  constructor(message) {
    this.message = message;
    this.body = element("div", {class: "bubble"}, message.content);
    this.root = element(
        "article", {class: "user", "aria-label": "You"}, this.body,
        element("div", {class: "actions"},
                iconButton("copy", "Copy", (event) => copyFrom(event.currentTarget, message.content)),
                iconButton("edit", "Edit and send again", () => this.edit())));
  }

  edit() {
    if (this.root.classList.contains("editing")) return;
    const field = element("textarea", {"aria-label": "Edit the message", rows: 1});
    field.value = this.message.content;
    const leave = () => {
      this.root.classList.remove("editing");
      form.replaceWith(this.body);
      byId("input").focus();
    };
    const send = (event) => {
      event.preventDefault();
      if (!field.value.trim()) return;
      leave();
      thread.actions.edit(this.message, field.value);
    };
    const form = element(
        "form", {class: "edit", onsubmit: send}, field,
        element("div", {class: "buttons"},
                element("button", {type: "button", class: "plain-button", onclick: leave}, "Cancel"),
                element("button", {type: "submit", class: "main-button"}, "Send")));
    field.addEventListener("input", () => fitHeight(field));
    field.addEventListener("keydown", (event) => {
      if (isSendKey(event)) send(event);
      if (event.key === "Escape") {
        event.stopPropagation();
        leave();
      }
    });
    this.root.classList.add("editing");
    this.body.replaceWith(form);
    fitHeight(field);
    field.focus();
  }
}

class AnswerView {
  constructor(message) {
    this.message = message;
    this.thought = element("details", {class: "reasoning", hidden: true}, element("summary", {}, "Thinking"),
                           element("div", {class: "prose"}));
    this.body = element("div", {class: "prose"});
    this.note = element("span", {class: "figures"});
    this.root = element(
        "article", {class: "answer", "aria-label": "Answer"}, this.thought, this.body,
        element("div", {class: "waiting", "aria-hidden": "true"}, element("i"), element("i"), element("i")),
        element("div", {class: "actions"},
                iconButton("copy", "Copy", (event) => copyFrom(event.currentTarget, message.content)),
                iconButton("again", "Answer again", () => thread.actions.again(), {class: "icon-button again"}), this.note));
    this.markdown = new MarkdownView(this.body);
    this.thoughtMarkdown = new MarkdownView(this.thought.querySelector(".prose"));
    this.update();
  }

  /** Once a frame at most, however fast tokens come. */
  changed() {
    this.frame ??= requestAnimationFrame(() => thread.keepingEnd(() => this.update()));
  }

  update() {
    cancelAnimationFrame(this.frame);
    this.frame = undefined;
    const {content, reasoning, writing, thinkingSeconds} = this.message;
    this.root.classList.toggle("writing", Boolean(writing));
    this.root.setAttribute("aria-busy", String(Boolean(writing)));
    this.markdown.update(content);
    this.thought.hidden = !reasoning;
    if (reasoning) {
      this.thoughtMarkdown.update(reasoning);
      const thinking = writing && !content;
      this.thought.classList.toggle("thinking", Boolean(thinking));
      this.thought.querySelector("summary").textContent = thinking ? "Thinking…" :
          thinkingSeconds > 0 ? `Thought for ${seconds(thinkingSeconds)}` : "Thoughts";
    }
    this.note.textContent = figures(this.message);
  }
}

function seconds(value) {
  return value < 10 ? `${value.toFixed(1)} s` : `${Math.round(value)} s`;
}

/** "52 tokens · 28.1 tokens/s · first after 0.4 s · prompt 39 tokens, 24 of them cached" */
function figures({writing, stats, finish}) {
  if (writing || !stats) return "";
  const parts = [];
  const {usage, firstSeconds, writingSeconds} = stats;
  if (usage) {
    parts.push(`${usage.completion_tokens} tokens`);
    const rate = (usage.completion_tokens - 1) / writingSeconds;
    if (rate > 0 && Number.isFinite(rate)) parts.push(`${rate.toFixed(1)} tokens/s`);
  }
  if (firstSeconds !== undefined) parts.push(`first after ${seconds(firstSeconds)}`);
  if (usage) {
    const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
    parts.push(`prompt ${usage.prompt_tokens}${cached > 0 ? `, ${cached} cached` : ""}`);
  }
  if (finish === "length") parts.push("cut: the longest that was allowed");
  if (finish === "stopped") parts.push("stopped");
  return parts.join(" · ");
}

/** The box grows with its text. */
function fitHeight(field) {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
}

/** Enter, but not the one that ends the input of a composed character. */
function isSendKey(event) {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;
}
