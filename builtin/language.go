package builtin

import "strings"

// Undetermined is the label of a text whose language cannot be told, with score
// 0: BCP 47's code for that.
const Undetermined = "und"

// Language names the language of text. The label is the language's Wikipedia
// code, mostly its ISO 639-1 or 639-3 code (en, fr, zh, ceb), and the score the
// probability that the model gives it. A text without a word or a part of a
// word that the model knows (an empty one, white space, most numbers, single
// letters, emoji) is Undetermined: the model would only guess what most text on
// the web is. All white space is alike, so that several lines are one text.
//
// The model knows 176 languages and takes every text for one of them. It is
// made for sentences: below some 20 characters expect low scores and mistakes,
// and of a text in several languages it names one. The time taken grows in
// proportion to the text's length.
func (m *Models) Language(text string) Prediction {
	if strings.TrimSpace(text) == "" {
		return Prediction{Label: Undetermined}
	}
	label, probability := m.language.predict(text)
	if label == "" {
		return Prediction{Label: Undetermined}
	}
	return Prediction{Label: label, Score: score(probability)}
}
