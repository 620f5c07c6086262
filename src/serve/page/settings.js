// The dialogs, and how the page looks.

const FIELDS = ["system", "temperature", "topP", "maxTokens", "apiKey"];

const settings = {
  values: store.settings(),
  /** Called when they were changed. */
  onChange: () => {},

  setUp() {
    byId("open-settings").addEventListener("click", () => this.open());
    byId("toggle-theme").addEventListener("click", () => this.toggleTheme());
    byId("show-keys").addEventListener("click", () => byId("keys").showModal());
    const dialog = byId("settings");
    dialog.addEventListener("close", () => {
      if (dialog.returnValue === "save") this.keep();
    });
    for (const each of document.querySelectorAll("dialog"))
      each.addEventListener("click", (event) => {
        if (event.target === each) each.close("cancel");  // beside it
      });
    this.applyTheme();
  },

  open(field = "system") {
    for (const name of FIELDS) byId(`set-${name}`).value = this.values[name];
    document.querySelector(`input[name=theme][value=${this.values.theme}]`).checked = true;
    byId("settings").returnValue = "";
    byId("settings").showModal();
    byId(`set-${field}`).focus();
  },

  keep() {
    for (const name of FIELDS) this.values[name] = byId(`set-${name}`).value.trim();
    this.values.theme = document.querySelector("input[name=theme]:checked").value;
    store.saveSettings(this.values);
    this.applyTheme();
    this.onChange();
  },

  toggleTheme() {
    const dark = this.values.theme === "system" ? matchMedia("(prefers-color-scheme: dark)").matches :
                                                  this.values.theme === "dark";
    this.values.theme = dark ? "light" : "dark";
    store.saveSettings(this.values);
    this.applyTheme();
    announce(dark ? "Light" : "Dark");
  },

  applyTheme() {
    if (!["system", "light", "dark"].includes(this.values.theme)) this.values.theme = "system";
    document.documentElement.dataset.theme = this.values.theme;
  },

  /** What a request takes from them. */
  forRequest() {
    const {temperature, topP, maxTokens} = this.values;
    const chosen = {temperature, top_p: topP, max_tokens: maxTokens};
    return Object.fromEntries(
        Object.entries(chosen).filter(([, value]) => value !== "" && Number.isFinite(Number(value)))
            .map(([name, value]) => [name, Number(value)]));
  },
};
