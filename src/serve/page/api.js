// The server's API: the list of models, and answers as they come (server-sent events).

/** What went wrong, for people; `status` is 0 if there was no answer at all. `retryAfter`: seconds, if it makes sense. */
class ApiError extends Error {
  constructor(message, status, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

async function request(path, apiKey, options = {}) {
  const headers = {...options.headers};
  if (apiKey) headers.Authorization = `Bearer ${apiKey}`;
  let response;
  try {
    response = await fetch(path, {...options, headers});
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error.name === "TypeError" && /header|Latin|ByteString|ISO-8859/i.test(error.message))
      throw new ApiError("The API key has characters that no key can have. Check it in the settings.", 401);
    throw new ApiError("The server cannot be reached. Is turboquant serve still running?", 0);
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function errorOf(response) {
  let detail = "";
  try {
    const error = (await response.json()).error;
    detail = String(error?.message ?? error ?? "");
  } catch {
    // not JSON: the status has to do
  }
  const after = Number(response.headers.get("Retry-After"));
  const {status} = response;
  if (status === 401 || status === 403)
    return new ApiError("The server asks for an API key, and this one is missing or wrong. " +
                        "Enter it in the settings.", 401);
  if (status === 429 || status === 503)
    return new ApiError(detail || "The server is busy.", status, after > 0 ? Math.min(after, 600) : 5);
  return new ApiError(detail || `The server answered with status ${status}.`, status);
}

/** {id, context} of each model; a context of 0 is unknown. */
async function fetchModels(apiKey) {
  const list = await (await request("v1/models", apiKey)).json();
  const models = Array.isArray(list?.data) ? list.data : [];
  return models.filter((model) => typeof model?.id === "string").map(
      (model) => ({id: model.id, context: Number(model.max_model_len ?? model.meta?.n_ctx_train) || 0}));
}

/** Gives {content, reasoning, finish, usage}, each if there is one, as they come. */
async function* streamAnswer(body, apiKey, signal) {
  const response = await request("v1/chat/completions", apiKey, {
    method: "POST",
    headers: {"Content-Type": "application/json"},
    body: JSON.stringify({...body, stream: true, stream_options: {include_usage: true}}),
    signal,
  });
  let finished = false;
  for await (const data of serverEvents(response)) {
    if (data === "[DONE]") return;
    const chunk = parseChunk(data);
    const choice = chunk.choices?.[0];
    if (choice?.finish_reason) finished = true;
    yield {
      content: choice?.delta?.content || "",
      reasoning: choice?.delta?.reasoning_content || choice?.delta?.reasoning || "",
      finish: choice?.finish_reason ?? null,
      usage: chunk.usage ?? null,
    };
  }
  if (!finished) throw new ApiError("The connection ended before the answer did.", 0);
}

function parseChunk(data) {
  let chunk;
  try {
    chunk = JSON.parse(data);
  } catch {
    throw new ApiError("The server sent something that is not JSON.", 0);
  }
  if (chunk?.error) throw new ApiError(String(chunk.error.message ?? chunk.error), Number(chunk.error.code) || 500);
  return chunk ?? {};
}

/** The data of each event (WHATWG HTML, section 9.2.6); comments and other fields are left out. */
async function* serverEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "", data = [];
  try {
    while (true) {
      const {done, value} = await reader.read();
      if (done) return;
      const lines = (pending + value).split(/\r\n|\n|\r(?!$)/);
      pending = lines.pop();
      for (const line of lines) {
        if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        }
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The connection to the server broke off.", 0);
  } finally {
    reader.cancel().catch(() => {});
  }
}
