import { Ollama } from "ollama"
import { base, each, gather, key, run, shed, silent } from "./lib.mjs"

const client = fetch => new Ollama({ host: base, fetch, headers: { Authorization: `Bearer ${key}` } })
const messages = [{ role: "user", content: "Say hello." }]
const tools = [{ type: "function", function: { name: "weather", description: "", parameters: { type: "object", properties: { city: { type: "string" } } } } }]

const chat = (fetch, more) => client(fetch).chat({ model: "m", messages, ...more })
const chatStream = async (fetch, line, more, options) => gather(await chat(fetch, { stream: true, ...more }), line, options)
const generate = (fetch, more) => client(fetch).generate({ model: "m", prompt: "Say hello.", ...more })
const generateStream = async (fetch, line, more) => gather(await generate(fetch, { stream: true, ...more }), line)

// What waits in a queue.
const streams = {
	"chat stream": (f, line) => chatStream(f, line),
	"generate stream": (f, line) => generateStream(f, line),
}

await run({
	direct: streams,
	queued: each(streams, silent("/api/chat")),
	shed: each(streams, shed("/api/chat")),
	answers: {
		"models": f => client(f).list(),
		"chat": f => chat(f),
		"chat with tools": f => chat(f, { tools }),
		"chat stream": (f, line) => chatStream(f, line),
		"chat stream with tools": (f, line) => chatStream(f, line, { tools }),
		"chat stream byte by byte": (f, line) => chatStream(f, line, { model: "bytes" }),
		"chat stream event by event": (f, line) => chatStream(f, line, { model: "held-after-2" }, { tellAt: 2 }),
		"chat stream with CR and LF": (f, line) => chatStream(f, line, { model: "crlf" }),
		"chat stream in one piece": (f, line) => chatStream(f, line, { model: "together" }),
		"chat stream with a long event": (f, line) => chatStream(f, line, { model: "long" }),
		"generate": f => generate(f),
		"generate stream": (f, line) => generateStream(f, line),
		"embed": f => client(f).embed({ model: "m", input: ["one", "two"] }),
	},
	failures: {
		"the model's 400": f => chat(f, { model: "status-400" }),
		"the model's 404": f => chat(f, { model: "status-404" }),
		"the model's 503": f => chat(f, { model: "status-503" }),
		"an error event": (f, line) => chatStream(f, line, { model: "error-after-3" }),
	},
	cut: {
		"chat after 3 events": (f, line) => chatStream(f, line, { model: "cut-after-3" }),
		"chat within event 4": (f, line) => chatStream(f, line, { model: "cut-within-3" }),
		"generate after 2 events": (f, line) => generateStream(f, line, { model: "cut-after-2" }),
	},
	ended: {
		"chat after 3 events": (f, line) => chatStream(f, line, { model: "ended-after-3" }),
		"generate after 2 events": (f, line) => generateStream(f, line, { model: "ended-after-2" }),
	},
	refused: {
		"first": f => chat(f),
		"without retries": f => chat(f),
		"a stream without retries": (f, line) => chatStream(f, line),
	},
	long: {
		"first": f => chat(f),
		"with retries": f => chat(f),
	},
	calls: {
		"a call": f => chat(f),
		"a stream": (f, line) => chatStream(f, line),
	},
})
