// What went wrong, shown under the messages of its conversation, with what can be done about it.

const failures = new Map();  // by conversation: {text, buttons, wait, timer}
const MOST_RETRIES = 5;      // without being asked

function fail(conversation, error, retries) {
  const known = error instanceof ApiError;
  if (!known) console.error(error);
  const failure = {text: known ? error.message : `The page has a fault: ${error.message}`, buttons: []};
  const again = {text: "Try again", run: answerAgain};
  if (error.status === 401) failure.buttons.push({text: "Open settings", run: () => settings.open("apiKey")});
  failure.buttons.push(again);
  failures.set(conversation, failure);
  const nothingCame = !runs.get(conversation)?.message.content;
  if (known && error.retryAfter && retries < MOST_RETRIES && nothingCame)
    countDown(conversation, failure, error.retryAfter, retries);
}

function countDown(conversation, failure, left, retries) {
  failure.wait = Math.ceil(left);
  failure.buttons = [{text: "Try now", run: answerAgain}, {text: "Cancel", run: () => stopWaiting(conversation)}];
  failure.timer = setInterval(() => {
    failure.wait -= 1;
    if (failure.wait <= 0) answer(conversation, retries + 1);
    else if (conversation === app.current) showWait(failure);
  }, 1000);
}

function stopWaiting(conversation) {
  const failure = failures.get(conversation);
  clearInterval(failure.timer);
  Object.assign(failure, {wait: 0, buttons: [{text: "Try again", run: answerAgain}]});
  showFailure();
}

function clearFailure(conversation) {
  clearInterval(failures.get(conversation)?.timer);
  failures.delete(conversation);
}

function showFailure() {
  const failure = failures.get(app.current);
  const box = byId("failure");
  if (box.shown === failure && failure?.buttons === box.buttons) return;
  Object.assign(box, {shown: failure, buttons: failure?.buttons});
  box.replaceChildren();
  if (!failure) return;
  box.append(element("p", {}, failure.text), element("p", {class: "wait", "aria-live": "off"}),
             element("div", {class: "buttons"}, ...failure.buttons.map(
                 ({text, run}) => element("button", {type: "button", class: "plain-button", onclick: run}, text))));
  showWait(failure);
}

function showWait(failure) {
  const line = byId("failure").querySelector(".wait");
  line.hidden = !failure.wait;
  line.textContent = failure.wait ? `Trying again in ${failure.wait} s` : "";
}

function toast(text, button, onclick) {
  const box = byId("toast");
  clearTimeout(box.timer);
  const hide = () => box.replaceChildren();
  box.replaceChildren(element("span", {}, text));
  if (button)
    box.append(element("button", {type: "button", class: "plain-button", onclick: () => { hide(); onclick(); }}, button));
  box.timer = setTimeout(hide, 8000);
}
