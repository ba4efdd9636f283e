// Package dialect knows what model APIs look like on the wire: OpenAI,
// Anthropic, Ollama, KServe (v1 and v2, with Triton's extensions), TensorFlow
// Serving, and plain HTTP.
//
// A Dialect is one family of APIs. Read tells what a request asks for: the model,
// a stream or not, an estimate of its tokens, whether the same request may rightly
// have another answer. Call.Answer follows the answer while it passes: usage,
// finish reason, errors, and a stream that ends before its end. Refuse, Limits and
// SetLimits speak to the client and hear the upstream in the API's own words, and
// Join and Split put several requests into one.
//
// Nothing here does I/O, keeps state between requests or reads the clock. What a
// body says is never trusted: what cannot be read is passed on unread, and Call.Err
// says so.
package dialect
