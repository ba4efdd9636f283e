import { embedMany, generateText, jsonSchema, streamText, tool } from "ai"
import { createAnthropic } from "@ai-sdk/anthropic"
import { createOpenAI } from "@ai-sdk/openai"
import { base, each, key, queued, returns, run, shed } from "./lib.mjs"

const openai = fetch => createOpenAI({ baseURL: base + "/v1", apiKey: key, fetch })
const chat = (fetch, name = "m") => openai(fetch).chat(name)
const responses = (fetch, name = "m") => openai(fetch).responses(name)
const claude = (fetch, name = "m") => createAnthropic({ baseURL: base + "/v1", apiKey: key, fetch })(name)
const tools = { weather: tool({ inputSchema: jsonSchema({ type: "object", properties: { city: { type: "string" } } }) }) }

const prompt = "Say hello."
const generate = async (model, more) => {
	const { text, finishReason, usage, toolCalls } = await generateText({ model, prompt, maxRetries: 0, ...more })
	return { text, finishReason, usage, toolCalls: calls(toolCalls) }
}
const calls = all => all.map(({ toolCallId, toolName, input }) => ({ toolCallId, toolName, input }))

// stream throws what the client only reports as a part of the stream: its
// iterator ends well whatever happens, and its onError prints unless it is given.
const stream = async (model, line, more) => {
	const result = streamText({ model, prompt, maxRetries: 0, onError() {}, ...more })
	const kinds = ["text-delta", "tool-input-delta", "tool-call", "finish", "error"]
	const parts = []
	line.before = 0
	for await (const part of result.fullStream) {
		if (part.type === "error") throw part.error
		if (!kinds.includes(part.type)) continue
		if (part.type !== "finish") line.before++ // comes after an interruption, too
		const { type, text, delta, toolName, input, finishReason, totalUsage } = part
		parts.push({ type, text, delta, toolName, input, finishReason, totalUsage })
	}
	return parts
}

// told is a stream in the form that generate gives.
const told = parts => {
	const { finishReason, totalUsage: usage } = parts.at(-1)
	return { text: parts.map(part => part.text ?? "").join(""), finishReason, usage, toolCalls: [] }
}

// What waits in a queue, by the path of its upstream.
const streams = {
	"/v1/chat/completions": {
		"chat stream": (f, line) => stream(chat(f), line),
		"response stream": (f, line) => stream(responses(f), line),
	},
	"/v1/messages": { "message stream": (f, line) => stream(claude(f), line) },
}
const behind = change => Object.assign({}, ...Object.entries(streams).map(([path, scenarios]) => each(scenarios, change(path))))

await run({
	direct: Object.assign({}, ...Object.values(streams)),
	queued: behind(queued),
	shed: behind(shed),
	returns: {
		"chat": returns("/v1/chat/completions")(f => generate(chat(f), { maxRetries: 2 })),
		"message": returns("/v1/messages")(f => generate(claude(f), { maxRetries: 2 })),
	},
	answers: {
		"chat": f => generate(chat(f)),
		"chat with tools": f => generate(chat(f), { tools }),
		"chat stream": (f, line) => stream(chat(f), line),
		"chat stream with tools": (f, line) => stream(chat(f), line, { tools }),
		"chat stream with comments": (f, line) => stream(chat(f, "comments"), line),
		"chat stream byte by byte": (f, line) => stream(chat(f, "bytes"), line),
		"response": f => generate(responses(f)),
		"response with tools": f => generate(responses(f), { tools }),
		"response stream": (f, line) => stream(responses(f), line),
		"response stream with tools": (f, line) => stream(responses(f), line, { tools }),
		"message": f => generate(claude(f)),
		"message stream": (f, line) => stream(claude(f), line),
		"message stream with tools": (f, line) => stream(claude(f), line, { tools }),
		"embeddings": async f => (await embedMany({ model: openai(f).textEmbeddingModel("m"), values: ["one", "two"], maxRetries: 0 })).embeddings,
	},
	builtin: {
		"chat": f => generate(chat(f, "weir-story"), { temperature: 0 }),
		"chat stream": async (f, line) => told(await stream(chat(f, "weir-story"), line, { temperature: 0 })),
		"embeddings": async f => (await embedMany({ model: openai(f).textEmbeddingModel("weir-embed"), values: ["one", "two"], maxRetries: 0 })).embeddings,
	},
	failures: {
		"the model's 400": f => generate(chat(f, "status-400")),
		"the model's 429": f => generate(chat(f, "status-429")),
		"the model's 503": f => generate(chat(f, "status-503")),
		"a message's 529": f => generate(claude(f, "status-529")),
	},
	recovers: {
		"after the model's 429": f => generate(chat(f, "once-429"), { maxRetries: 2 }),
	},
	cut: {
		"chat after 3 events": (f, line) => stream(chat(f, "cut-after-3"), line),
		"response after 5 events": (f, line) => stream(responses(f, "cut-after-5"), line),
		"message after 3 events": (f, line) => stream(claude(f, "cut-after-3"), line),
	},
	ended: {
		"chat after 3 events": (f, line) => stream(chat(f, "ended-after-3"), line),
		"response after 5 events": (f, line) => stream(responses(f, "ended-after-5"), line),
		"message after 3 events": (f, line) => stream(claude(f, "ended-after-3"), line),
	},
	refused: {
		"first": f => generate(chat(f)),
		"without retries": f => generate(chat(f)),
		"a stream without retries": (f, line) => stream(chat(f), line),
		"with retries": f => generate(chat(f), { maxRetries: 2 }),
	},
	long: {
		"first": f => generate(chat(f)),
		"with retries": f => generate(chat(f), { maxRetries: 1 }),
	},
	calls: {
		"a call": f => generate(chat(f)),
		"a stream": (f, line) => stream(chat(f), line),
	},
})
