package builtin

import (
	"math"
	"strings"
)

// Labels of Sentiment.
const (
	Positive = "positive"
	Neutral  = "neutral"
	Negative = "negative"
)

// decided is the compound score from which VADER's authors call a text positive
// or, below zero, negative.
const decided = 0.05

// Sentiment says whether an English text is positive, negative or neutral, by
// VADER's lexicon and rules. VADER sums the words' values into a compound score
// c from -1 to 1; the label is Positive from c >= 0.05, Negative from
// c <= -0.05, else Neutral, as its authors propose. The score is how far c lies
// to the label's side, not a probability:
//
//	Positive   c         (0.05 to 1)
//	Negative   -c        (0.05 to 1)
//	Neutral    1 - |c|   (over 0.95 to 1)
//
// so that a higher score is always more of the label, and VADER's own number
// can be read back. A text that VADER finds nothing in, which every text in
// another language mostly is, is Neutral with score 1; an empty one is Neutral
// with score 0. The time taken grows in proportion to the text's length.
func (m *Models) Sentiment(text string) Prediction {
	words := strings.Fields(text)
	if len(words) == 0 {
		return Prediction{Label: Neutral}
	}
	// The port splits at single spaces only, where VADER splits at any white
	// space: without this a word after a newline or a tab would be lost.
	c := m.sentiment.PolarityScores(strings.Join(words, " ")).Compound
	switch {
	case c >= decided:
		return Prediction{Label: Positive, Score: score(c)}
	case c <= -decided:
		return Prediction{Label: Negative, Score: score(-c)}
	}
	return Prediction{Label: Neutral, Score: score(1 - math.Abs(c))}
}
