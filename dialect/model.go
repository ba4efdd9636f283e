package dialect

import (
	"fmt"
	"net/url"
	"strings"
)

// oneModel returns the model that query and body name. Which of two counts is not
// the same on all servers, so there the model is "".
func oneModel(query, body string) (string, error) {
	switch {
	case query == "" || query == body:
		return body, nil
	case body == "":
		return query, nil
	}
	return "", fmt.Errorf("model: %.100q in the query, %.100q in the body: want one model", query, body)
}

// queryModel is the value of the parameter model, which LiteLLM obeys before the
// body. Of several, servers read the first or the last.
func queryModel(query string) (model string, err error) {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		name, value, _ := strings.Cut(pair, "=")
		if unescaped(name) != "model" {
			continue
		}
		switch value = unescaped(value); {
		case value == "" || value == model:
		case model == "":
			model = value
		default:
			return "", fmt.Errorf("model: %.100q in the query, and %.100q: want one model", model, value)
		}
	}
	return model, nil
}

// unescaped is a part of a query without escapes; as it is, if they are wrong.
func unescaped(s string) string {
	if text, err := url.QueryUnescape(s); err == nil {
		return text
	}
	return s
}

// modelOf is the model that stands in a path before its endpoint, with slashes or
// without: behind /deployments/ in Azure's paths, behind /engines/ in older ones of
// OpenAI; LiteLLM has both. Docker Model Runner has its backends there instead,
// /engines/llama.cpp/v1/..., and the API's version is no model.
func modelOf(before string) string {
	const deployments, engines = "/deployments/", "/engines/"
	d, e := strings.Index(before, deployments), strings.Index(before, engines)
	if d >= 0 && (e < 0 || d < e) {
		return before[d+len(deployments):]
	}
	if e < 0 {
		return ""
	}
	model := before[e+len(engines):]
	backend, version, _ := strings.Cut(model, "/")
	if backend == "v1" && version == "" || version == "v1" {
		return ""
	}
	return model
}
