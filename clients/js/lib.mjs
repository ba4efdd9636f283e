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
