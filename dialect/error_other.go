package dialect

// textBody is the body of an error in the APIs of Ollama, KServe, Triton and
// TensorFlow Serving: a text and nothing else. What clients do depends on the
// status and the fields alone.
type textBody struct {
	Error string `json:"error"`
}
