// The list of conversations: choose, rename, delete (which can be undone), and on phones the drawer that it lies in.

const sidebar = {
  /** {open, remove, changed}: set by main.js. */
  actions: {},

  show(conversations, current) {
    const focused = document.activeElement?.closest?.("#conversations li")?.dataset.id;
    byId("conversations").replaceChildren(
        ...conversations.map((conversation) => this.row(conversation, conversation.id === current.id)));
    if (focused) byId("conversations").querySelector(`[data-id="${CSS.escape(focused)}"] .open`)?.focus();
  },

  row(conversation, isCurrent) {
    const {title} = conversation;
    const row = element(
        "li", {class: isCurrent ? "current" : undefined},
        element("button", {type: "button", class: "open", "aria-current": isCurrent ? "page" : undefined,
                           onclick: () => this.actions.open(conversation),
                           ondblclick: () => this.rename(conversation, row)}, title),
        iconButton("edit", `Rename ${title}`, () => this.rename(conversation, row)),
        iconButton("trash", `Delete ${title}`, () => this.actions.remove(conversation)));
    row.dataset.id = conversation.id;
    return row;
  },

  rename(conversation, row) {
    const field = element("input", {type: "text", "aria-label": "Name of the conversation", maxlength: 120});
    field.value = conversation.title;
    let done = false;
    const leave = (keep) => {
      if (done) return;
      done = true;
      const title = field.value.trim();
      if (keep && title) Object.assign(conversation, {title, named: true});
      this.actions.changed(conversation);
      byId("conversations").querySelector(`[data-id="${CSS.escape(conversation.id)}"] .open`)?.focus();
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter") leave(true);
      if (event.key === "Escape") {
        event.stopPropagation();
        leave(false);
      }
    });
    field.addEventListener("blur", () => leave(true));
    row.replaceChildren(field);
    field.focus();
    field.select();
  },
};

const drawer = {
  phone: matchMedia("(max-width: 799px)"),

  setUp() {
    byId("open-drawer").addEventListener("click", () => this.set(true));
    byId("close-drawer").addEventListener("click", () => this.set(false));
    byId("backdrop").addEventListener("click", () => this.set(false));
    this.phone.addEventListener("change", () => this.set(false, false));
    this.set(false, false);
  },

  isOpen: () => document.body.classList.contains("drawer-open"),

  /** On phones the page behind it takes no part while it is open. */
  set(open, moveFocus = true) {
    document.body.classList.toggle("drawer-open", open);
    byId("open-drawer").setAttribute("aria-expanded", String(open));
    byId("drawer").inert = this.phone.matches && !open;
    byId("page").inert = this.phone.matches && open;
    if (moveFocus && this.phone.matches) byId(open ? "new-conversation" : "open-drawer").focus();
  },
};
