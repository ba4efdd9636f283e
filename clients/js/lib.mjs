// What the clients' scripts share. A script is started as
//
//	node CLIENT.mjs URL KEY GROUP...
//
// and runs groups of its scenarios against URL. It prints a line of JSON for
// each: what the client gave (value) or threw (error), and what went over the
// wire meanwhile (attempts).

const [base, key, ...chosen] = process.argv.slice(2)
export { base, key }

// Some clients print what only their authors want to know. Standard output is for
// the lines that are read.
console.log = console.error

// run runs the chosen groups. A scenario gets a fetch for its client and the line
// that will be printed, to note what came before an error.
export async function run(groups) {
	for (const group of chosen) {
		for (const [name, scenario] of Object.entries(groups[group] ?? {})) {
			const line = { group, name, attempts: [] }
			try {
				// Those of "forms" ask for the same in several forms.
				line.value = await scenario(watched(line.attempts, group === "forms" ? group : group + ": " + name), line)
			} catch (error) {
				line.error = describe(error)
			}
			process.stdout.write(JSON.stringify(line) + "\n")
		}
	}
}

// watched is fetch, and writes down what comes back and when, in milliseconds.
// Every client takes such a function: none is changed for the tests. The field with
// the scenario keeps a cache from answering one scenario with what another brought:
// a stream with the parts that its model made is compared with nothing else.
function watched(attempts, scenario) {
	return async (url, init) => {
		const attempt = { began: performance.now() }
		attempts.push(attempt)
		const headers = new Headers(init?.headers ?? url.headers)
		headers.set("X-Scenario", encodeURIComponent(scenario))
		attempt.sent = Object.fromEntries(headers)
		const response = await fetch(url, { ...init, headers })
		attempt.answered = performance.now()
		attempt.status = response.status
		attempt.headers = Object.fromEntries(response.headers)
		return response
	}
}

// describe gives of an error what a program can decide by. Clients name the
// status in three ways, and some wrap the error of their last attempt.
function describe(error) {
	return {
		class: error?.constructor?.name,
		status: error?.status ?? error?.statusCode ?? error?.status_code,
		message: error?.message ?? String(error),
		code: error?.code ?? undefined,
		type: error?.type ?? undefined,
		retryable: error?.isRetryable,
		last: error?.lastError && describe(error.lastError),
	}
}

// gather reads a stream to its end. What has come is noted at once, so that it
// is known when the stream throws. A model may wait to be told that the client
// has so many parts (tellAt), and a client may leave when it has them (leaveAt).
export async function gather(stream, line, { pick = part => part, tellAt, leaveAt } = {}) {
	line.before = 0
	const parts = []
	for await (const part of stream) {
		line.before++
		parts.push(pick(part))
		if (line.before === leaveAt) break
		if (line.before === tellAt) await fetch(base + "/v1/models/go-on", { headers: { Authorization: "Bearer " + key } })
	}
	return parts
}

// What follows is for queues. The tests give an upstream one place, so that it is
// known who waits; Weir's routes /free/* and /metrics have room for everybody.

// busy takes the place of the upstream behind path. What it returns gives it back.
export async function busy(path, prompt = "Hold on. ".repeat(1000)) {
	const response = await fetch(base + path, {
		method: "POST",
		headers: { Authorization: "Bearer " + key, "X-Api-Key": key, "Content-Type": "application/json" },
		body: JSON.stringify({ model: "held-after-1", stream: true, max_tokens: 4, messages: [{ role: "user", content: prompt }] }),
	})
	if (!response.ok) throw new Error("the place was not free: " + await response.text())
	const reader = response.body.getReader()
	await reader.read() // it is at the model
	return async () => {
		await fetch(base + "/free/v1/models/go-on", { headers: { "X-Api-Key": key } })
		while (!(await reader.read()).done);
	}
}

// each makes of a group's scenarios those of another.
export const each = (scenarios, change) => Object.fromEntries(Object.entries(scenarios).map(([name, scenario]) => [name, change(scenario)]))

// queued has a stream wait until three comments have come.
export const queued = path => scenario => async (fetch, line) => {
	const free = await busy(path)
	return scenario(overheard(fetch, line, 3, free), line)
}

// silent has a stream wait in which no comments may stand.
export const silent = path => scenario => async (fetch, line) => {
	const free = await busy(path)
	const value = scenario(overheard(fetch, line), line)
	await until(async () => await metric("weir_admission_waiting") > 0)
	await free()
	return value
}

// shed has a request wait until it is refused.
export const shed = path => scenario => async (fetch, line) => {
	const free = await busy(path)
	try {
		return await scenario(overheard(fetch, line), line)
	} finally {
		await free()
	}
}

// returns has a client's first request refused, and then room for it.
export const returns = path => scenario => async (fetch, line) => {
	let free = await busy(path)
	return scenario(async (url, init) => {
		try {
			return await fetch(url, init)
		} finally {
			await free?.()
			free = undefined
		}
	}, line)
}

// leaving has a client leave the queue, at once or when it was told that it is in
// it; next is what comes after it.
export const leaving = (path, next, { told = false } = {}) => scenario => async (fetch, line) => {
	const free = await busy(path)
	const left = await metric("weir_admission_left_total")
	const user = new AbortController()
	const value = scenario(fetch, line, user.signal)
	value.catch(() => {}) // it is looked at below
	await until(async () => await metric("weir_admission_waiting") > 0 && (!told || line.attempts[0].answered))
	user.abort()
	try {
		return await value
	} finally {
		await until(async () => await metric("weir_admission_left_total") > left)
		await free()
		await next(fetch)
	}
}

async function until(condition) {
	while (!(await condition()));
}

// metric is one of Weir's, over all its labels.
async function metric(name) {
	const text = await (await fetch(base + "/metrics")).text()
	return [...text.matchAll(new RegExp(`^${name}{.*} (.*)$`, "gm"))].reduce((sum, [, value]) => sum + Number(value), 0)
}

// overheard is fetch, and notes what of a stream comes before its first event. It
// calls then when so many comments have come.
function overheard(fetch, line, comments, then) {
	return async (url, init) => {
		const response = await fetch(url, init)
		const decoder = new TextDecoder()
		let text = ""
		const ear = new TransformStream({
			transform(piece, stream) {
				text += decoder.decode(piece, { stream: true })
				const event = text.search(/^(data|event):|^{/m)
				line.heard = event < 0 ? text : text.slice(0, event)
				if (line.heard.split(": queued\n\n").length > comments) {
					comments = undefined
					then()
				}
				stream.enqueue(piece)
			},
		})
		return new Response(response.body.pipeThrough(ear), response)
	}
}
