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
// OpenAI; LiteLLM has both. Where the API's version follows, a whole server stands
// there, and its model is the body's: /engines/llama.cpp/v1 of Docker Model Runner,
// /deployments/d123/v1 of SAP.
func modelOf(before string) string {
	const deployments, engines = "/deployments/", "/engines/"
	d, e := strings.Index(before, deployments), strings.Index(before, engines)
	var model string
	switch {
	case d >= 0 && (e < 0 || d < e):
		model = strings.TrimSuffix(before[d+len(deployments):], "/extensions") // of Azure's, formerly
	case e >= 0:
		model = before[e+len(engines):]
	}
	if model == "v1" || strings.HasSuffix(model, "/v1") {
		return ""
	}
	return model
}
