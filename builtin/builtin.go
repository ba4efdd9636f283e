// Package builtin holds the models that ship with Weir, so that a gateway
// answers for real on a machine that has nothing else: the language of a text
// (fastText's lid.176, 176 languages) and its sentiment (VADER, English). They
// are small, run in process in pure Go, and read no file and no network.
//
// Models is an http.Handler with
//
//	POST /predict/language    {"instances": ["text", …]}
//	POST /predict/sentiment   {"instances": ["text", …]}
//	GET  /predict/language?text=…
//	GET  /predict/sentiment?text=…
//
// and has the same as Go methods. What each model is and is not, and what its
// scores mean, is said at Models.Language and Models.Sentiment.
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
// hold about 2 MB, besides VADER's lexicon. Use New: the zero value has no
// models in it.
type Models struct {
	language  *fastText
	sentiment *govader.SentimentIntensityAnalyzer
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
	return &Models{language: language, sentiment: govader.NewSentimentIntensityAnalyzer()}, nil
}

// score brings p to what Prediction.Score promises.
func score(p float64) float64 {
	return math.Round(min(max(p, 0), 1)*1e4) / 1e4
}
