import Anthropic from "@anthropic-ai/sdk"
import { base, each, gather, key, leaving, queued, returns, run, shed } from "./lib.mjs"

const client = (fetch, maxRetries = 0) => new Anthropic({ baseURL: base, apiKey: key, fetch, maxRetries })
const request = { model: "m", max_tokens: 100, messages: [{ role: "user", content: "Say hello." }] }
const tools = [{ name: "weather", input_schema: { type: "object", properties: { city: { type: "string" } } } }]

const message = (fetch, more, maxRetries) => client(fetch, maxRetries).messages.create({ ...request, ...more })
const stream = async (fetch, line, more, options) => gather(await message(fetch, { stream: true, ...more }), line, options)

// What waits in a queue.
const path = "/v1/messages"
const streams = {
	"message stream": (f, line) => stream(f, line),
	"message stream through the helper": async f => client(f).messages.stream(request).finalMessage(),
}
const asks = options => ({
	"message": f => client(f, 2).messages.create(request, options),
	"message stream": async (f, line) => gather(await client(f, 2).messages.create({ ...request, stream: true }, options), line),
})
const leaves = {
	"message": (f, line, signal) => client(f, 2).messages.create({ ...request, model: "left" }, { signal }),
	"message stream": async (f, line, signal) => gather(await client(f, 2).messages.create({ ...request, model: "left", stream: true }, { signal }), line),
}

await run({
	direct: streams,
	queued: each(streams, queued(path)),
	shed: each(streams, shed(path)),
	returns: each(asks(), returns(path)),
	"returns-once": { "message": returns(path)(asks()["message"]) },
	timeouts: each(asks({ timeout: 1000 }), returns(path)),
	leaving: each(leaves, leaving(path, f => message(f))),
	"leaving-told": each({ "message stream": leaves["message stream"] }, leaving(path, f => message(f), { told: true })),
	away: {
		"first": f => message(f, { model: "status-500" }),
		"with retries": f => message(f, {}, 2),
	},
	answers: {
		"message": f => message(f),
		"message with tools": f => message(f, { tools }),
		"stream": (f, line) => stream(f, line),
		"stream with tools": (f, line) => stream(f, line, { tools }),
		"stream through the helper": async f => client(f).messages.stream({ ...request, tools }).finalMessage(),
		"stream with comments": (f, line) => stream(f, line, { model: "comments" }),
		"stream byte by byte": (f, line) => stream(f, line, { model: "bytes" }),
		"stream event by event": (f, line) => stream(f, line, { model: "held-after-2" }, { tellAt: 2 }),
		"stream with CR and LF": (f, line) => stream(f, line, { model: "crlf" }),
		"stream in one piece": (f, line) => stream(f, line, { model: "together" }),
		"stream with a long event": (f, line) => stream(f, line, { model: "long" }),
		"tokens counted": f => client(f).messages.countTokens({ model: "m", messages: request.messages }),
	},
	forms: {
		"whole": f => message(f),
		// The helper puts a member of its own into what it makes.
		"made a stream": async f => (({ parsed_output, ...said }) => said)(await client(f).messages.stream(request).finalMessage()),
	},
	failures: {
		"the model's 400": f => message(f, { model: "status-400" }),
		"the model's 429": f => message(f, { model: "status-429" }),
		"the model's 529": f => message(f, { model: "status-529" }),
		"an error event": (f, line) => stream(f, line, { model: "error-after-3" }),
	},
	recovers: {
		"after the model's 429": f => message(f, { model: "once-429" }, 2),
	},
	cut: {
		"message after 3 events": (f, line) => stream(f, line, { model: "cut-after-3" }),
		"message within event 4": (f, line) => stream(f, line, { model: "cut-within-3" }),
		"the helper after 3 events": async f => client(f).messages.stream({ ...request, model: "cut-after-3" }).finalMessage(),
	},
	ended: {
		"message after 3 events": (f, line) => stream(f, line, { model: "ended-after-3" }),
		"the helper after 3 events": async f => client(f).messages.stream({ ...request, model: "ended-after-3" }).finalMessage(),
	},
	leaves: {
		"message after 2 events": (f, line) => stream(f, line, { model: "held-after-2" }, { leaveAt: 2 }),
	},
	refused: {
		"first": f => message(f),
		"without retries": f => message(f),
		"a stream without retries": (f, line) => stream(f, line),
		"with retries": f => message(f, {}, 2),
	},
	long: {
		"first": f => message(f),
		"with retries": f => message(f, {}, 2),
	},
	calls: {
		"a call": f => message(f),
		"a stream": (f, line) => stream(f, line),
	},
})
