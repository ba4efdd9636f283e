import { ChatOpenAI, OpenAIEmbeddings } from "@langchain/openai"
import { base, each, gather, key, queued, returns, run, shed } from "./lib.mjs"

const options = (fetch, maxRetries) => ({ apiKey: key, maxRetries, configuration: { baseURL: base + "/v1", fetch } })
const model = (fetch, name = "m", more, maxRetries = 0) => new ChatOpenAI({ model: name, ...options(fetch, maxRetries), ...more })
const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object", properties: { city: { type: "string" } } } } }]
const prompt = "Say hello."

const pick = ({ content, tool_calls, tool_call_chunks, usage_metadata, response_metadata }) =>
	({ content, tool_calls, tool_call_chunks, usage_metadata, response_metadata })
const invoke = async (...args) => pick(await model(...args).invoke(prompt))
const stream = async (chat, line) => gather(await chat.stream(prompt), line, { pick })
const responses = { useResponsesApi: true }

// told is the parts of a stream put together.
const told = parts => ({ text: parts.map(part => part.content).join(""), usage: parts.map(part => part.usage_metadata).filter(Boolean) })

// What waits in a queue.
const path = "/v1/chat/completions"
const streams = {
	"stream": (f, line) => stream(model(f), line),
	"stream a response": (f, line) => stream(model(f, "m", responses), line),
}

await run({
	direct: streams,
	queued: each(streams, queued(path)),
	shed: each(streams, shed(path)),
	returns: { "invoke": returns(path)(f => invoke(f, "m", {}, 2)) },
	answers: {
		"invoke": f => invoke(f),
		"invoke with tools": async f => pick(await model(f).bindTools(tools).invoke(prompt)),
		"stream": (f, line) => stream(model(f), line),
		"stream without usage": (f, line) => stream(model(f, "m", { streamUsage: false }), line),
		"stream with tools": (f, line) => stream(model(f).bindTools(tools), line),
		"stream with comments": (f, line) => stream(model(f, "comments"), line),
		"stream byte by byte": (f, line) => stream(model(f, "bytes"), line),
		"invoke a response": f => invoke(f, "m", responses),
		"stream a response": (f, line) => stream(model(f, "m", responses), line),
		"embeddings": f => new OpenAIEmbeddings({ model: "m", ...options(f, 0) }).embedDocuments(["one", "two"]),
	},
	builtin: {
		"chat": async f => told([await model(f, "weir-story", { temperature: 0 }).invoke(prompt)]),
		"chat stream": async (f, line) => told(await stream(model(f, "weir-story", { temperature: 0 }), line)),
		"embeddings": f => new OpenAIEmbeddings({ model: "weir-embed", ...options(f, 0) }).embedDocuments(["one", "two"]),
	},
	failures: {
		"the model's 400": f => invoke(f, "status-400"),
		"the model's 429": f => invoke(f, "status-429"),
		"the model's 503": f => invoke(f, "status-503"),
		"an error event": (f, line) => stream(model(f, "error-after-3"), line),
	},
	recovers: {
		"after the model's 429": f => invoke(f, "once-429", {}, 2),
	},
	cut: {
		"chat after 3 events": (f, line) => stream(model(f, "cut-after-3"), line),
		"response after 3 events": (f, line) => stream(model(f, "cut-after-3", responses), line),
	},
	ended: {
		"chat after 3 events": (f, line) => stream(model(f, "ended-after-3"), line),
		"response after 3 events": (f, line) => stream(model(f, "ended-after-3", responses), line),
	},
	refused: {
		"first": f => invoke(f),
		"without retries": f => invoke(f),
		"a stream without retries": (f, line) => stream(model(f), line),
		"with retries": f => invoke(f, "m", {}, 2),
	},
	long: {
		"first": f => invoke(f),
		"with retries": f => invoke(f, "m", {}, 2),
	},
	calls: {
		"a call": f => invoke(f),
		"a stream": (f, line) => stream(model(f), line),
	},
})
