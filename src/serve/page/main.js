// What happens: conversations are opened, messages sent, answers shown as they come.

const app = {
  conversations: store.conversations(),
  current: newConversation(),
  models: [],
};
const runs = new Map();  // by conversation: the answer that is being written, {controller, message, ...}

// ---------------------------------------------------------------- conversations
function open(conversation) {
  app.current = conversation;
  thread.show(conversation.messages);
  showAll();
  if (!drawer.phone.matches) byId("input").focus();
  else if (drawer.isOpen()) drawer.set(false);
}

function startConversation() {
  if (app.current.messages.length > 0) open(newConversation());
  if (drawer.isOpen()) drawer.set(false);
  byId("input").focus();
}

/** Keeps a conversation; the first message makes it one, and names it. */
function keep(conversation) {
  if (!conversation.named && conversation.messages.length > 0) {
    const words = conversation.messages[0].content.trim().replace(/\s+/g, " ");
    conversation.title = words.length > 48 ? `${words.slice(0, 47)}…` : words;
  }
  conversation.changed = Date.now();
  app.conversations = [conversation, ...app.conversations.filter((other) => other !== conversation)];
  store.save(conversation);
}

function remove(conversation) {
  stop(conversation);
  store.remove(conversation);
  app.conversations = app.conversations.filter((other) => other !== conversation);
  if (conversation === app.current) open(newConversation());
  else showAll();
  toast(`“${conversation.title}” was deleted.`, "Undo", () => {
    keep(conversation);
    open(conversation);
  });
}

// ---------------------------------------------------------------- answers
function send(text) {
  const conversation = app.current;
  if (runs.has(conversation) || !text.trim()) return;
  dropEmptyAnswer(conversation);
  const message = {role: "user", content: text.trim()};
  conversation.messages.push(message);
  keep(conversation);
  thread.append(message);
  answer(conversation);
  thread.scrollToEnd();
}

/** Writes the last answer again, or the one that failed. */
function answerAgain() {
  const conversation = app.current;
  if (runs.has(conversation)) return;
  if (conversation.messages.at(-1)?.role === "assistant") conversation.messages.pop();
  if (conversation.messages.length === 0) return;
  thread.show(conversation.messages);
  answer(conversation);
  byId("input").focus();
}

function editMessage(message, text) {
  const conversation = app.current;
  stop(conversation);
  conversation.messages.length = conversation.messages.indexOf(message);
  thread.show(conversation.messages);
  send(text);
}

function stop(conversation) {
  clearFailure(conversation);
  runs.get(conversation)?.controller.abort();
  runs.delete(conversation);
}

async function answer(conversation, retries = 0) {
  clearFailure(conversation);
  const message = {role: "assistant", content: "", reasoning: "", writing: true};
  const run = {controller: new AbortController(), message, pieces: 0, start: performance.now()};
  const prompt = requestBody(conversation);
  conversation.messages.push(message);
  runs.set(conversation, run);
  if (conversation === app.current) thread.append(message);
  showAll();
  try {
    if (app.models.length === 0) await loadModels();
    prompt.model = modelId();
    for await (const piece of streamAnswer(prompt, settings.values.apiKey, run.controller.signal))
      addPiece(conversation, run, piece);
    announce(spoken(conversation, message));
  } catch (error) {
    if (error.name === "AbortError") message.finish = "stopped";
    else fail(conversation, error, retries);
  } finally {
    finish(conversation, run);
  }
}

/** Without the thoughts: models are not meant to read those again. */
function requestBody(conversation) {
  const messages = conversation.messages.map(({role, content}) => ({role, content}));
  const {system} = settings.values;
  if (system) messages.unshift({role: "system", content: system});
  return {messages, ...settings.forRequest()};
}

function addPiece(conversation, run, {content, reasoning, finish: reason, usage}) {
  const {message} = run;
  const now = performance.now();
  if (content || reasoning) {
    run.first ??= now;
    run.last = now;
    run.pieces += 1;
  }
  if (content && !message.content && message.reasoning) message.thinkingSeconds = (now - run.first) / 1000;
  message.content += content;
  message.reasoning += reasoning;
  message.finish = reason ?? message.finish;
  if (usage) run.usage = usage;
  if (now - (run.saved ?? run.start) > 2000) {
    run.saved = now;
    store.save(conversation);
  }
  if (conversation !== app.current) return;
  thread.viewOf(message)?.changed();
  showSpeed();
}

function finish(conversation, run) {
  const {message} = run;
  delete message.writing;
  if (run.first !== undefined)
    message.stats = {usage: run.usage, firstSeconds: (run.first - run.start) / 1000,
                     writingSeconds: (run.last - run.first) / 1000};
  if (runs.get(conversation) === run) runs.delete(conversation);
  dropEmptyAnswer(conversation);
  if (app.conversations.includes(conversation)) keep(conversation);
  if (conversation !== app.current) return showAll();
  thread.keepingEnd(() => {
    if (conversation.messages.includes(message)) thread.viewOf(message)?.update();
    else thread.viewOf(message)?.root.remove();
    showAll();
  });
}

/** An answer of which nothing came is none. */
function dropEmptyAnswer(conversation) {
  const last = conversation.messages.at(-1);
  if (last?.role === "assistant" && !last.writing && !last.content && !last.reasoning) conversation.messages.pop();
}

/** What a screen reader says of a finished answer: all of it, if that is short. */
function spoken(conversation, message) {
  if (conversation !== app.current) return `The answer in “${conversation.title}” is finished.`;
  const view = thread.viewOf(message);
  view.update();
  const text = view.body.textContent;
  return text.length < 400 ? `Answer: ${text}` : `The answer is finished: ${text.split(/\s+/).length} words.`;
}

// ---------------------------------------------------------------- model
async function loadModels() {
  app.models = await fetchModels(settings.values.apiKey);
  const choice = byId("model");
  choice.replaceChildren(...app.models.map(({id}) => element("option", {value: id}, id)));
  choice.hidden = app.models.length < 2;
  byId("model-name").textContent = app.models.length === 1 ? app.models[0].id : "";
  byId("model-name").title = byId("model-name").textContent;
  showContext();
}

function modelId() {
  return byId("model").value || app.models[0]?.id || "default";
}

/** At the start, and after a change of the key: says at once if there is no server to talk to. */
async function findModels() {
  try {
    await loadModels();
    clearFailure(app.current);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    fail(app.current, error, MOST_RETRIES);
    failures.get(app.current).buttons.at(-1).run = findModels;
  }
  showFailure();
}

// ---------------------------------------------------------------- what is shown around the messages
function showAll() {
  const writing = runs.has(app.current);
  byId("send").hidden = writing;
  byId("stop").hidden = !writing;
  byId("title").textContent = app.current.title;
  document.title = app.current.messages.length ? `${app.current.title} – TurboQuant` : "TurboQuant";
  byId("export").disabled = app.current.messages.length === 0;
  thread.mark(app.current.messages);
  sidebar.show(app.conversations, app.current);
  showFailure();
  showSpeed();
  showContext();
  thread.offerEnd();
}

/** While it writes: a piece is a token, nearly always. */
function showSpeed() {
  const run = runs.get(app.current);
  const time = run?.first !== undefined ? (run.last - run.first) / 1000 : 0;
  byId("speed").textContent = time > 0.3 ? `${((run.pieces - 1) / time).toFixed(1)} tokens/s` : "";
}

function showContext() {
  const usage = app.current.messages.findLast((message) => message.stats?.usage)?.stats.usage;
  const most = app.models.find(({id}) => id === modelId())?.context ?? 0;
  const used = usage ? usage.prompt_tokens + usage.completion_tokens : 0;
  byId("context").hidden = used === 0;
  const share = most ? Math.min(1, used / most) : 0;
  byId("context-words").textContent = most ? `${count(used)} of ${count(most)} tokens` : `${count(used)} tokens`;
  const meter = byId("context-meter");
  meter.hidden = most === 0;
  meter.setAttribute("aria-valuemax", most);
  meter.setAttribute("aria-valuenow", used);
  meter.classList.toggle("nearly-full", share > 0.85);
  byId("context-bar").style.width = `${Math.max(2, share * 100)}%`;
}

const count = (number) => number.toLocaleString("en");

// ---------------------------------------------------------------- start
function setUpComposer() {
  const input = byId("input");
  const changed = () => {
    fitHeight(input);
    byId("send").disabled = !input.value.trim();
  };
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    if (runs.has(app.current) || !input.value.trim()) return;
    send(input.value);
    input.value = "";
    changed();
  });
  input.addEventListener("input", changed);
  input.addEventListener("keydown", (event) => {
    if (isSendKey(event)) {
      event.preventDefault();
      byId("composer").requestSubmit();
    } else if (event.key === "ArrowUp" && !input.value) {
      const last = app.current.messages.findLast(({role}) => role === "user");
      if (last) {
        event.preventDefault();
        thread.viewOf(last).edit();
      }
    }
  });
  byId("stop").addEventListener("click", stopCurrent);
}

function stopCurrent() {
  runs.get(app.current)?.controller.abort();
  if (failures.get(app.current)?.wait) stopWaiting(app.current);
  byId("input").focus();
}

function onKey(event) {
  const keys = {KeyN: startConversation, KeyR: answerAgain, KeyI: () => byId("input").focus()};
  if (document.querySelector("dialog[open]")) return;  // has its own
  if (event.altKey && !event.ctrlKey && !event.metaKey && keys[event.code]) keys[event.code]();
  else if ((event.ctrlKey || event.metaKey) && event.key === "/") byId("keys").showModal();
  else if (event.key === "Escape" && drawer.isOpen()) drawer.set(false);
  else if (event.key === "Escape") stopCurrent();
  else return;
  event.preventDefault();
}

function exportCurrent() {
  const name = app.current.title.replace(/[^\p{L}\p{N} -]/gu, "").trim().slice(0, 60) || "conversation";
  download(`${name}.md`, "text/markdown", asMarkdown(app.current));
}

thread.actions = {again: answerAgain, edit: editMessage};
sidebar.actions = {
  open,
  remove,
  changed: (conversation) => {
    store.save(conversation);
    showAll();
  },
};
settings.onChange = findModels;
store.onProblem = toast;
settings.setUp();
drawer.setUp();
setUpComposer();
byId("new-conversation").addEventListener("click", startConversation);
byId("export").addEventListener("click", exportCurrent);
byId("model").addEventListener("change", showContext);
byId("to-end").addEventListener("click", () => thread.scrollToEnd());
byId("thread").addEventListener("scroll", () => thread.offerEnd(), {passive: true});
document.addEventListener("keydown", onKey);
open(app.current);
findModels();
