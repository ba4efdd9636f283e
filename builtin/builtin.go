// Package builtin holds the models that ship with Weir, so that a gateway
// answers for real on a machine that has nothing else: the language of a text
// (fastText's lid.176, 176 languages), its sentiment (VADER, English), what it is
// about as a vector (GloVe), and a language model that tells very small stories
// (weir-story). They are small, run in process in pure Go, and read no file and
// no network.
//
// Models is an http.Handler with
//
//	POST /predict/language    {"instances": ["text", …]}
//	POST /predict/sentiment   {"instances": ["text", …]}
//	GET  /predict/language?text=…
//	GET  /predict/sentiment?text=…
//	POST /v1/chat/completions {"model": "weir-story", "messages": […]}
//	POST /v1/embeddings       {"model": "weir-embed", "input": …}
//	GET  /v1/models
//	GET  /v1/models/{model}
//
// and has the same as Go methods. Those under /v1 have the form of OpenAI's API,
// refusals too, so that its clients work with them. What each model is and is
// not, and what its answers mean, is said at Models.Language, Models.Sentiment,
// Models.Embed and Models.Story.
package builtin

import (
	"embed"
	"fmt"
	"math"

	"github.com/jonreiter/govader"
)

// languageModel is the place of fastText's model in files.
const languageModel = "models/lid176/lid.176.ftz"

//go:embed models/lid176
var files embed.FS

// Models are the built-in models, loaded. They are safe for concurrent use and
// hold about 2 MB, besides VADER's lexicon and what of the program's own file is
// in memory; a chat takes up to 1 MB more while it is answered. Use New: the zero
// value has no models in it.
type Models struct {
	language  *fastText
	sentiment *govader.SentimentIntensityAnalyzer
	embedding *embedding
	story     *story
	chat      *chatPaths
}

// Prediction is what a model says about one text.
type Prediction struct {
	// Label is the model's answer, such as "fr" or "positive".
	Label string `json:"label"`
	// Score says how much there is to the answer, from 0 to 1, rounded to four
	// decimals so that it is the same on every machine. It is never NaN.
	Score float64 `json:"score"`
}

// New loads the models, which takes some ten milliseconds, and checks them
// whole. An error means that the program was built from a damaged file.
func New() (*Models, error) {
	data, err := files.ReadFile(languageModel)
	if err != nil {
		return nil, fmt.Errorf("builtin: language model: %w", err)
	}
	language, err := loadFastText(data)
	if err != nil {
		return nil, fmt.Errorf("builtin: %s: %w", languageModel, err)
	}
	embedding, err := loadEmbedding(embedFile())
	if err != nil {
		return nil, fmt.Errorf("builtin: %s: %w", embedModelFile, err)
	}
	story, err := loadStory(storyData)
	if err != nil {
		return nil, fmt.Errorf("builtin: %s: %w", storyModelFile, err)
	}
	chat, err := newChatPaths()
	if err != nil {
		return nil, fmt.Errorf("builtin: the members of a chat: %w", err)
	}
	return &Models{
		language:  language,
		sentiment: govader.NewSentimentIntensityAnalyzer(),
		embedding: embedding,
		story:     story,
		chat:      chat,
	}, nil
}

// score brings p to what Prediction.Score promises.
func score(p float64) float64 {
	return math.Round(min(max(p, 0), 1)*1e4) / 1e4
}
