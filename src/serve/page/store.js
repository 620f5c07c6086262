// What the browser keeps: conversations, settings. A key for each conversation, so that two tabs do not overwrite each
// other's. Where the browser keeps nothing (private windows), the page forgets when it is closed.

const PREFIX = "turboquant.";
const CONVERSATION = PREFIX + "conversation.";

const store = {
  /** Says why if something cannot be kept. */
  onProblem: () => {},

  read(key) {
    try {
      return JSON.parse(localStorage.getItem(key));
    } catch {
      return null;
    }
  },

  write(key, value) {
    try {
      localStorage.setItem(key, JSON.stringify(value));
    } catch {
      this.onProblem("The browser could not keep this conversation: its storage is full or turned off. " +
                     "Delete old conversations to make room.");
    }
  },

  /** All conversations, the newest first. */
  conversations() {
    let keys = [];
    try {
      keys = Object.keys(localStorage).filter((key) => key.startsWith(CONVERSATION));
    } catch {
      // no storage
    }
    const found = keys.map((key) => this.read(key)).filter(isConversation);
    for (const message of found.flatMap(({messages}) => messages).filter(({writing}) => writing)) {
      delete message.writing;  // the page was closed before the answer was finished
      message.finish = "stopped";
    }
    return found.sort((a, b) => b.changed - a.changed);
  },

  save(conversation) {
    this.write(CONVERSATION + conversation.id, conversation);
  },

  remove(conversation) {
    try {
      localStorage.removeItem(CONVERSATION + conversation.id);
    } catch {
      // no storage
    }
  },

  settings() {
    const kept = this.read(PREFIX + "settings");
    return {system: "", temperature: "", topP: "", maxTokens: "", apiKey: "", theme: "system",
            ...(kept && typeof kept === "object" ? kept : {})};
  },

  saveSettings(settings) {
    this.write(PREFIX + "settings", settings);
  },
};

/** Another program may have written there. */
function isConversation(value) {
  return typeof value?.id === "string" && typeof value.title === "string" && Number.isFinite(value.changed) &&
      Array.isArray(value.messages) && value.messages.every(isMessage);
}

function isMessage(value) {
  return ["user", "assistant"].includes(value?.role) && typeof value.content === "string" &&
      ["undefined", "string"].includes(typeof value.reasoning);
}

function newConversation() {
  // Not crypto.randomUUID(): browsers have it on HTTPS and localhost only.
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  const id = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return {id, title: "New conversation", named: false, changed: Date.now(), messages: []};
}

/** The conversation as a Markdown file. */
function asMarkdown(conversation) {
  const parts = conversation.messages.map(
      ({role, content}) => `## ${role === "user" ? "You" : "Model"}\n\n${content.trim()}\n`);
  return `# ${conversation.title}\n\n${parts.join("\n")}`;
}
