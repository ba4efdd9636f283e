package builtin

import (
	"fmt"
	"net/http"
	"strings"
)

// Where the OpenAI endpoints are.
const (
	chatPath       = "/v1/chat/completions"
	embeddingsPath = "/v1/embeddings"
	modelsPath     = "/v1/models"
)

// modelsCreated is the time that clients are told the models are from, in Unix
// seconds: the day on which Weir first had them, the same after every start.
const modelsCreated = 1795305600

// modelCard is what a client is told about a model.
type modelCard struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
}

type modelList struct {
	Object string      `json:"object"`
	Data   []modelCard `json:"data"`
}

// isOpenAI tells whether a path is under /v1, where answers and refusals have
// OpenAI's form.
func isOpenAI(path string) bool {
	return path == "/v1" || strings.HasPrefix(path, "/v1/")
}

func (m *Models) serveOpenAI(w http.ResponseWriter, r *http.Request) {
	id, one := strings.CutPrefix(r.URL.Path, modelsPath+"/")
	switch {
	case r.URL.Path == chatPath:
		m.serveChat(w, r)
	case r.URL.Path == embeddingsPath:
		m.serveEmbeddings(w, r)
	case r.URL.Path == modelsPath:
		serveModels(w, r, "")
	case one && id != "":
		serveModels(w, r, id)
	default:
		(&apiError{status: http.StatusNotFound, message: fmt.Sprintf("%s %s: want %s, %s, %s or %s/{model}",
			quote(r.Method), quote(r.URL.Path), chatPath, embeddingsPath, modelsPath, modelsPath)}).write(w)
	}
}

// serveModels answers with the model id, or with all for "".
func serveModels(w http.ResponseWriter, r *http.Request, id string) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		refuseMethod(w, r.Method, "GET, HEAD")
		return
	}
	list := modelList{Object: "list"}
	for _, name := range []string{embedModel, storyModel} {
		card := modelCard{ID: name, Object: "model", Created: modelsCreated, OwnedBy: "weir"}
		if id == name {
			writeJSON(w, r, card)
			return
		}
		list.Data = append(list.Data, card)
	}
	if id != "" {
		noModel(id, fmt.Sprintf("%q or %q", embedModel, storyModel)).write(w)
		return
	}
	writeJSON(w, r, list)
}
