import OpenAI from "openai"
import { base, each, gather, key, leaving, queued, returns, run, shed } from "./lib.mjs"

const client = (fetch, maxRetries = 0) => new OpenAI({ baseURL: base + "/v1", apiKey: key, fetch, maxRetries })
const messages = [{ role: "user", content: "Say hello." }]
const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object", properties: { city: { type: "string" } } } } }]
const responseTools = [{ type: "function", name: "weather", parameters: tools[0].function.parameters, strict: false }]

const chat = (fetch, more, maxRetries) => client(fetch, maxRetries).chat.completions.create({ model: "m", messages, ...more })
const chatStream = async (fetch, line, more, options) => gather(await chat(fetch, { stream: true, ...more }), line, options)
const complete = (fetch, more) => client(fetch).completions.create({ model: "m", prompt: "Say hello.", ...more })
const respond = (fetch, more) => client(fetch).responses.create({ model: "m", input: "Say hello.", ...more })
const respondStream = async (fetch, line, more, options) => gather(await respond(fetch, { stream: true, ...more }), line, options)
const embed = (fetch, more) => client(fetch).embeddings.create({ model: "m", input: ["one", "two"], ...more })

// What waits in a queue.
const path = "/v1/chat/completions"
const streams = {
	"chat stream": (f, line) => chatStream(f, line, { stream_options: { include_usage: true } }),
	"chat stream through the helper": f => client(f).chat.completions.stream({ model: "m", messages, stream_options: { include_usage: true } }).finalChatCompletion(),
	"response stream": (f, line) => respondStream(f, line),
	"response stream through the helper": f => client(f).responses.stream({ model: "m", input: "Say hello." }).finalResponse(),
}
// It tells its timeout only where that is given with the call.
const asks = options => ({
	"chat": f => client(f, 2).chat.completions.create({ model: "m", messages, max_completion_tokens: 8 }, options),
	"chat stream": async (f, line) => gather(await client(f, 2).chat.completions.create({ model: "m", messages, stream: true }, options), line),
})
const leaves = {
	"chat": (f, line, signal) => client(f, 2).chat.completions.create({ model: "left", messages }, { signal }),
	"chat stream": async (f, line, signal) => gather(await client(f, 2).chat.completions.create({ model: "left", messages, stream: true }, { signal }), line),
	"response stream": async (f, line, signal) => gather(await client(f, 2).responses.create({ model: "left", input: "Say hello.", stream: true }, { signal }), line),
}

await run({
	direct: streams,
	queued: each(streams, queued(path)),
	shed: each(streams, shed(path)),
	returns: { ...each(asks(), returns(path)), "response": returns(path)(f => client(f, 2).responses.create({ model: "m", input: "Say hello." })) },
	"returns-once": { "chat": returns(path)(asks()["chat"]) },
	timeouts: each(asks({ timeout: 1000 }), returns(path)),
	leaving: each(leaves, leaving(path, f => chat(f))),
	"leaving-told": each({ "chat stream": leaves["chat stream"], "response stream": leaves["response stream"] }, leaving(path, f => chat(f), { told: true })),
	away: {
		"first": f => chat(f, { model: "status-500" }),
		"with retries": f => chat(f, {}, 2),
	},
	answers: {
		"models": async f => (await client(f).models.list()).data,
		"a model": f => client(f).models.retrieve("m"),
		"chat": f => chat(f),
		"chat with tools": f => chat(f, { tools }),
		"chat stream": (f, line) => chatStream(f, line),
		"chat stream with usage": (f, line) => chatStream(f, line, { stream_options: { include_usage: true } }),
		"chat stream with tools": (f, line) => chatStream(f, line, { tools }),
		"chat stream through the helper": async f => client(f).chat.completions.stream({ model: "m", messages, tools }).finalChatCompletion(),
		"chat stream with comments": (f, line) => chatStream(f, line, { model: "comments" }),
		"chat stream byte by byte": (f, line) => chatStream(f, line, { model: "bytes" }),
		"chat stream event by event": (f, line) => chatStream(f, line, { model: "held-after-2" }, { tellAt: 2 }),
		"chat stream with CR and LF": (f, line) => chatStream(f, line, { model: "crlf" }),
		"chat stream in one piece": (f, line) => chatStream(f, line, { model: "together" }),
		"chat stream with a long event": (f, line) => chatStream(f, line, { model: "long" }),
		"chat with a long prompt": f => chat(f, { messages: [{ role: "user", content: "Say hello. ".repeat(300_000) }] }),
		"completion": f => complete(f),
		"completion stream": async (f, line) => gather(await complete(f, { stream: true }), line),
		"response": f => respond(f),
		"response with tools": f => respond(f, { tools: responseTools }),
		"response stream": (f, line) => respondStream(f, line),
		"response stream with tools": (f, line) => respondStream(f, line, { tools: responseTools }),
		"response stream with comments": (f, line) => respondStream(f, line, { model: "comments" }),
		"response stream byte by byte": (f, line) => respondStream(f, line, { model: "bytes" }),
		"response stream event by event": (f, line) => respondStream(f, line, { model: "held-after-2" }, { tellAt: 2 }),
		"response stream with CR and LF": (f, line) => respondStream(f, line, { model: "crlf" }),
		"response stream in one piece": (f, line) => respondStream(f, line, { model: "together" }),
		"embeddings": f => embed(f),
		"embeddings as floats": f => embed(f, { encoding_format: "float" }),
	},
	forms: {
		"whole": async f => (({ message, finish_reason }) => [message.role, message.content, finish_reason])((await chat(f)).choices[0]),
		"made a stream": async f => (({ message, finish_reason }) => [message.role, message.content, finish_reason])((await client(f).chat.completions.stream({ model: "m", messages }).finalChatCompletion()).choices[0]),
	},
	failures: {
		"the model's 400": f => chat(f, { model: "status-400" }),
		"the model's 404": f => chat(f, { model: "status-404" }),
		"the model's 429": f => chat(f, { model: "status-429" }),
		"the model's 503": f => chat(f, { model: "status-503" }),
		"the model's 429 to a stream": (f, line) => chatStream(f, line, { model: "status-429" }),
		"an error event": (f, line) => chatStream(f, line, { model: "error-after-3" }),
	},
	recovers: {
		"after the model's 429": f => chat(f, { model: "once-429" }, 2),
	},
	cut: {
		"chat after 3 events": (f, line) => chatStream(f, line, { model: "cut-after-3" }),
		"chat within event 4": (f, line) => chatStream(f, line, { model: "cut-within-3" }),
		"response after 3 events": (f, line) => respondStream(f, line, { model: "cut-after-3" }),
		"completion after 1 event": async (f, line) => gather(await complete(f, { stream: true, model: "cut-after-1" }), line),
	},
	ended: {
		"chat after 3 events": (f, line) => chatStream(f, line, { model: "ended-after-3" }),
		"response after 3 events": (f, line) => respondStream(f, line, { model: "ended-after-3" }),
		"completion after 1 event": async (f, line) => gather(await complete(f, { stream: true, model: "ended-after-1" }), line),
	},
	leaves: {
		"chat after 2 events": (f, line) => chatStream(f, line, { model: "held-after-2" }, { leaveAt: 2 }),
		"response after 2 events": (f, line) => respondStream(f, line, { model: "held-after-2" }, { leaveAt: 2 }),
	},
	refused: {
		"first": f => chat(f),
		"without retries": f => chat(f),
		"a stream without retries": (f, line) => chatStream(f, line),
		"with retries": f => chat(f, {}, 2),
	},
	long: {
		"first": f => chat(f),
		"with retries": f => chat(f, {}, 2),
	},
	calls: {
		"a call": f => chat(f),
		"a stream": (f, line) => chatStream(f, line),
	},
	builtin: {
		"models": async f => (await client(f).models.list()).data,
		"chat": f => chat(f, { model: "weir-story", temperature: 0, max_completion_tokens: 20 }),
		"chat stream with usage": (f, line) => chatStream(f, line, { model: "weir-story", temperature: 0, max_completion_tokens: 20, stream_options: { include_usage: true } }),
		"chat stream": (f, line) => chatStream(f, line, { model: "weir-story", temperature: 0, max_completion_tokens: 20 }),
		"embeddings": f => embed(f, { model: "weir-embed", input: ["The cat sleeps.", "A cat is asleep.", "Shares fell in Paris."] }),
		"embeddings as floats": f => embed(f, { model: "weir-embed", input: ["The cat sleeps."], encoding_format: "float" }),
		"an unknown model": f => chat(f, { model: "no-such-model" }),
	},
	"builtin-limit": {
		"six requests": async (f, line) => {
			for (line.before = 0; line.before < 6; line.before++) await embed(f, { model: "weir-embed", input: `number ${line.before}` })
		},
	},
})
