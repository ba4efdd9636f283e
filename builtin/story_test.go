package builtin

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

// knownStory is one of testdata/story-known.json: what the program that trained
// the model computes from the same file.
type knownStory struct {
	Request   string       `json:"request"`
	PromptIDs []uint16     `json:"prompt_ids"`
	FirstTop5 [][2]float64 `json:"first_top5"`
	GreedyIDs []uint16     `json:"greedy_ids"`
	Greedy    string       `json:"greedy_text"`
}

func knownStories(t testing.TB) (stories []knownStory) {
	t.Helper()
	data, err := os.ReadFile("testdata/story-known.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &stories); err != nil {
		t.Fatal(err)
	}
	if len(stories) != 8 {
		t.Fatalf("%d stories, want 8", len(stories))
	}
	return stories
}

func shippedStory(t testing.TB) *story {
	t.Helper()
	m, err := loadStory(storyData)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// greedyIDs is the likeliest continuation of a prompt to its end.
func greedyIDs(m *story, prompt []uint16) (first []float32, ids []uint16) {
	s := m.state(m.context)
	if err := s.read(context.Background(), prompt); err != nil {
		panic(err)
	}
	first = slices.Clone(s.logits)
	choose := newSampler(StoryOptions{}, 0)
	for len(prompt)+len(ids) < m.context {
		id := choose.next(m.tokens, s.logits)
		if id == m.tokens.eos {
			break
		}
		ids = append(ids, id)
		s.step(id)
		s.predict()
	}
	return first, ids
}

func TestStoryComputesWhatTheTrainerComputes(t *testing.T) {
	m := shippedStory(t)
	for _, k := range knownStories(t) {
		t.Run(k.Request, func(t *testing.T) {
			prompt := m.prompt(k.Request)
			if !slices.Equal(prompt, k.PromptIDs) {
				t.Fatalf("prompt %v, want %v", prompt, k.PromptIDs)
			}
			first, ids := greedyIDs(m, prompt)
			for _, top := range k.FirstTop5 {
				if got := float64(first[int(top[0])]); math.Abs(got-top[1]) > 0.001 {
					t.Errorf("logit of %v: %v, want %v", top[0], got, top[1])
				}
			}
			if !slices.Equal(ids, k.GreedyIDs) {
				t.Errorf("ids  %v\nwant %v", ids, k.GreedyIDs)
			}
			var text strings.Builder
			told, err := (&Models{story: m}).Story(t.Context(), k.Request, StoryOptions{}, func(piece string) error {
				text.WriteString(piece)
				return nil
			})
			if err != nil || text.String() != k.Greedy || told.Usage.Input != int64(len(k.PromptIDs)) ||
				told.Usage.Output != int64(len(k.GreedyIDs)) || told.Usage.Cached != 0 || told.Finish != FinishStop {
				t.Errorf("got %q, %+v, %v\nwant %q, %d and %d tokens, stop", text.String(), told, err, k.Greedy, len(k.PromptIDs), len(k.GreedyIDs))
			}
		})
	}
}

func TestEmbeddedStoryIsTheOneNoticed(t *testing.T) {
	want, err := os.ReadFile("models/story/SHA256SUMS")
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%x  weir-story.wlm\n", sha256.Sum256(storyData)); got != string(want) {
		t.Errorf("got %swant %s", got, want)
	}
}

func TestTokens(t *testing.T) {
	tokens := shippedStory(t).tokens
	t.Run("gives back every text of characters that it knows", func(t *testing.T) {
		var all strings.Builder
		for c := rune(32); c < 127; c++ {
			fmt.Fprintf(&all, "%c %c%c\n", c, c, c)
		}
		for _, text := range []string{"", " ", "  a  b ", "\n\n", all.String(), "Tell me a story about 12 cats, please!\nA", strings.Repeat("once upon a time", 99)} {
			var back strings.Builder
			for _, id := range tokens.encode(nil, text) {
				back.WriteString(tokens.texts[id])
			}
			if back.String() != text {
				t.Errorf("%q: got back %q", text, back.String())
			}
		}
	})
	t.Run("merges the pair of the lowest rank first, from the left", func(t *testing.T) {
		for text, want := range map[string][]string{
			" hhehe":        {" h", "he", "he"}, // he (rank 2) before " h"
			" aaa":          {" a", "a", "a"},
			"heheh":         {"he", "he", "h"},
			"What is":       {"What", " is"},
			"a\tb c\u00a0d": {"a", "b", " c", "d"}, // as \s and findall in Python
			"é 火x 9":        {"<unk>", " ", "<unk>", "x", " ", "9"},
			"\x1c\x85\xff":  {"<unk>", "<unk>"}, // bytes that are not UTF-8 are no white space
			"<s></s>":       {"<", "s", ">", "<", "/", "s", ">"},
		} {
			var got []string
			for _, id := range tokens.encode(nil, text) {
				got = append(got, tokens.texts[id])
			}
			if !slices.Equal(got, want) {
				t.Errorf("%q: got %q, want %q", text, got, want)
			}
		}
	})
	t.Run("takes a word without end", func(t *testing.T) {
		word := strings.Repeat("surprisedsilvermountainlibrarytogether", MaxChatBytes/38)
		var back strings.Builder
		for _, id := range tokens.encode(nil, word) {
			back.WriteString(tokens.texts[id])
		}
		if back.String() != word {
			t.Errorf("got back %d bytes that are not the %d of the word", back.Len(), len(word))
		}
	})
}

// mergeByHeart is the trainer's way to merge: one pair at a time.
func mergeByHeart(t *storyTokens, word []symbol) []uint16 {
	ids := make([]uint16, 0, len(word))
	for _, s := range word {
		ids = append(ids, s.id)
	}
	for {
		best, at := noMerge, 0
		for i := 0; i+1 < len(ids); i++ {
			if rank, ok := t.ranks[[2]uint16{ids[i], ids[i+1]}]; ok && rank < best {
				best, at = rank, i
			}
		}
		if best == noMerge {
			return ids
		}
		ids = slices.Replace(ids, at, at+2, t.made[best])
	}
}

func FuzzTokens(f *testing.F) {
	for _, k := range knownStories(f) {
		f.Add(k.Request)
	}
	f.Add(" hhehehheaaaasaidthethe  was\x1c\t\u3000é\xff\n")
	tokens := shippedStory(f).tokens
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1000 {
			return
		}
		got := tokens.encode(nil, text)
		var want []uint16
		for len(text) > 0 {
			n, counts := nextPiece(text)
			if n < 1 || n > len(text) {
				t.Fatalf("%q: a piece of %d bytes", text, n)
			}
			if counts {
				want = append(want, mergeByHeart(tokens, tokens.split(nil, text[:n]))...)
			}
			text = text[n:]
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	})
}

func TestDamagedStoriesAreRefused(t *testing.T) {
	replaced := func(from, to string) []byte {
		if len(from) != len(to) || !strings.Contains(string(storyData), from) {
			t.Fatalf("%q to %q", from, to)
		}
		return []byte(strings.Replace(string(storyData), from, to, 1))
	}
	put := func(at int, b ...byte) []byte {
		data := slices.Clone(storyData)
		copy(data[at:], b)
		return data
	}
	const matrices = 8 + 13779
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"nothing", nil, `story model: it begins with "": want "WLM1" and a length`},
		{"another format", put(0, 'G', 'G', 'U', 'F'), `story model: it begins with "GGUF\xd35\x00\x00": want "WLM1" and a length`},
		{"a header that is too long", put(4, 255, 255, 255, 255), "story model: header of 4294967295 bytes: want at most 1048576 and the 927187 that follow"},
		{"a header that is cut", put(4, 9, 0, 0, 0), "story model: header: unexpected EOF"},
		{"an unknown member", replaced(`"vocab"`, `"Voc4b"`), `story model: header: json: unknown field "Voc4b"`},
		{"another version", replaced(`"wlm1"`, `"wlm2"`), `story model: header: format "wlm2", piece " ?[A-Za-z]+| ?[0-9]| ?[^A-Za-z0-9\\s]|\\n| ": want "wlm1", " ?[A-Za-z]+| ?[0-9]| ?[^A-Za-z0-9\\s]|\\n| "`},
		{"a width that no head divides", replaced(`"heads":4`, `"heads":6`), "story model: header: dim 128, heads 6, layers 4, context 256: want heads of an even size, and at most 4194304 numbers in layers x context x dim"},
		{"no heads", replaced(`"heads":4`, `"heads":0`), "story model: header: heads: 0: want 1 to 4096, a multiple of 1"},
		{"an odd width", replaced(`"dim":128`, `"dim":127`), "story model: header: dim: 127: want 2 to 4096, a multiple of 2"},
		{"another vocabulary", replaced(`"vocab":640`, `"vocab":641`), "story model: header: vocab 641, 640 tokens, 541 merges: want as many tokens as vocab, at most 4096, and fewer merges"},
		{"an epsilon of zero", replaced(`"norm_eps":1e-05`, `"norm_eps":0e-05`), "story model: header: rope_theta 10000, norm_eps 0: want 1 to 1e9 and more than 1e-12 to 1"},
		{"a special token that is not there", replaced(`"bos":1`, `"bos":-`), "story model: header: invalid character ',' in numeric literal"},
		{"two special tokens in one", replaced(`"bos":1`, `"bos":2`), "story model, header: bos 2, eos 2, unk 0: want three different tokens, 0 to 639"},
		{"a token twice", replaced(`"!",`, `"#",`), `story model, header: tokens[7]: "#": want 1 to 64 bytes that no other token has`},
		{"a merge of what was not made yet", replaced(`["h","e"]`, `["h","E"]`), `story model, header: merges[2]: ["h" "E"]: want two characters or tokens made before, that make a new token`},
		{"another name in the table", replaced(`"name":"q0"`, `"name":"q9"`), `story model: matrices: "q9" "i8" [128 128], 16896 bytes at 85504: want "q0" "i8" [128 128], 16896 bytes at 85504`},
		{"a gap", replaced(`"offset":85504`, `"offset":85505`), `story model: matrices: "q0" "i8" [128 128], 16896 bytes at 85505: want "q0" "i8" [128 128], 16896 bytes at 85504`},
		{"fewer layers than the table has", replaced(`"layers":4`, `"layers":3`), "story model: matrices: 9 more matrices and 207104 more bytes: want none"},
		{"more layers than the table has", replaced(`"layers":4`, `"layers":5`), "story model: matrices: the table ends: want norm_attn4"},
		{"a scale that is not a number", put(matrices, 0, 0, 0xc0, 0x7f), "story model: emb: number 0: NaN: want a number between -1000 and 1000"},
		{"a norm that is too large", put(matrices+84480+4, 0, 0, 0x80, 0x7f), "story model: norm: number 1: +Inf: want a number between -1000 and 1000"},
		{"a cut at the end", storyData[:len(storyData)-1], "story model: down3: the file ends after 45567 more bytes: want 45568"},
		{"a byte too many", append(slices.Clone(storyData), 0), "story model: matrices: 0 more matrices and 1 more bytes: want none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := loadStory(c.data)
			if err == nil || m != nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

// TestDamageIsRefusedOrHarmless damages the model all over, a little and a lot,
// and cuts it.
func TestDamageIsRefusedOrHarmless(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	refused := 0
	for i := range 400 {
		data := slices.Clone(storyData)
		within := len(data)
		if i%2 == 0 {
			within = 14000 // the header
		}
		for range 1 + random.IntN(3) {
			data[random.IntN(within)] ^= byte(1 + random.IntN(255))
		}
		if i%5 == 0 {
			data = data[:random.IntN(len(data))]
		}
		if !loads(t, data) {
			refused++
		}
	}
	if refused < 200 {
		t.Errorf("%d of 400 were refused, want most of those with another header, and all that were cut", refused)
	}
}

// loads says whether data is taken for a model, and makes sure that it computes
// if so: what only makes it worse cannot be seen.
func loads(t *testing.T, data []byte) bool {
	t.Helper()
	m, err := loadStory(data)
	if err != nil {
		if text := err.Error(); !strings.HasPrefix(text, "story model") || len(text) > 500 {
			t.Fatalf("%q", text)
		}
		return false
	}
	s := m.state(5)
	if err := s.read(t.Context(), []uint16{0, uint16(len(m.tokens.texts) - 1), 2}); err != nil {
		t.Fatal(err)
	}
	for i, v := range s.logits {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			t.Fatalf("logit %d is %v", i, v)
		}
	}
	newSampler(StoryOptions{Temperature: 1, TopP: .9}, 0).next(m.tokens, s.logits)
	return true
}

// FuzzLoadStory overwrites part of the model and cuts it.
func FuzzLoadStory(f *testing.F) {
	f.Add(uint32(4), []byte{1, 2, 3}, uint32(0))
	f.Add(uint32(9), []byte(`"vocab":9999`), uint32(0))
	f.Add(uint32(8+13779), []byte{0xff, 0xff, 0x79, 0x44}, uint32(0))
	f.Add(uint32(20000), slices.Repeat([]byte{0x7f}, 5000), uint32(7))
	f.Fuzz(func(t *testing.T, at uint32, bytes []byte, cut uint32) {
		data := slices.Clone(storyData)
		copy(data[int(at)%len(data):], bytes)
		data = data[:len(data)-int(cut)%len(data)]
		loads(t, data)
	})
}

// pass gives pieces to a storyText and returns what came out each time, up to a
// stop text, which shows as a "|".
func pass(stops []string, pieces ...string) string {
	text := storyText{stops: stops}
	var out []string
	for _, piece := range pieces {
		pass, stopped := text.add(piece)
		out = append(out, pass)
		if stopped {
			return strings.Join(out, ",") + "|"
		}
	}
	return strings.Join(append(out, text.held), ",")
}

func TestStopTexts(t *testing.T) {
	for _, c := range []struct {
		name   string
		stops  []string
		pieces []string
		want   string
	}{
		{"drops white space at the beginning only", nil, []string{" ", "\n a", " b", " "}, ",a, b, ,"},
		{"ends at a stop text within a piece", []string{"x"}, []string{"a", "bxc", "d"}, "a,b|"},
		{"holds back what may begin a stop text", []string{"stop"}, []string{"a s", "to", "p", "b"}, "a ,,|"},
		{"passes on what did not become one", []string{"stop"}, []string{"a s", "to", "n", "e"}, "a ,,ston,e,"},
		{"passes on at the end what was held", []string{"stop"}, []string{"a", "sto"}, "a,,sto"},
		{"ends at the first of several", []string{"cd", "bc", "b"}, []string{"a", "bcd"}, "a,|"},
		{"takes the earlier of two in one piece", []string{"d", "bc"}, []string{"abcd"}, "a|"},
		{"begins again within a beginning", []string{"aab"}, []string{"a", "a", "a", "b"}, ",,a,|"},
		{"compares whole characters", []string{"é!"}, []string{"è", "é", "?", "é!"}, "è,,é?,|"},
		{"ends at once", []string{"a"}, []string{"a"}, "|"},
		{"ignores an empty stop text", []string{""}, []string{"a", "b"}, "a,b,"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := pass(c.stops, c.pieces...); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestSampler(t *testing.T) {
	tokens := &storyTokens{bos: 0, unk: 1, eos: 2}
	logits := []float32{9, 9, 0, 2, 1, -3}
	draw := func(o StoryOptions) (counts [6]int) {
		s := newSampler(o, 0)
		for range 20000 {
			counts[s.next(tokens, slices.Clone(logits))]++
		}
		return counts
	}
	near := func(t *testing.T, o StoryOptions, want [6]int) {
		t.Helper()
		for id, n := range draw(o) {
			if d := n - want[id]; d < -300 || d > 300 {
				t.Errorf("%+v: token %d: %d times of 20000, want about %d", o, id, n, want[id])
			}
		}
	}
	t.Run("takes the likeliest at temperature 0", func(t *testing.T) {
		if got, want := draw(StoryOptions{}), [6]int{3: 20000}; got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	})
	t.Run("draws by probability, and never what is no text", func(t *testing.T) {
		near(t, StoryOptions{Temperature: 1}, [6]int{2: 1795, 3: 13258, 4: 4877, 5: 90}) // softmax of 0, 2, 1, -3
	})
	t.Run("draws more freely at a higher temperature", func(t *testing.T) {
		near(t, StoryOptions{Temperature: 2}, [6]int{2: 3582, 3: 9737, 4: 5906, 5: 775})
	})
	t.Run("leaves out the unlikely", func(t *testing.T) {
		near(t, StoryOptions{Temperature: 1, TopP: .8}, [6]int{3: 14621, 4: 5379})
	})
	t.Run("takes the likeliest where the temperature or the rest is next to nothing", func(t *testing.T) {
		for _, o := range []StoryOptions{{Temperature: math.SmallestNonzeroFloat64}, {Temperature: 2, TopP: math.SmallestNonzeroFloat64}} {
			if got, want := draw(o), [6]int{3: 20000}; got != want {
				t.Errorf("%+v: got %v, want %v", o, got, want)
			}
		}
	})
	t.Run("penalises what was told", func(t *testing.T) {
		told := func(o StoryOptions) (ids []uint16) {
			s := newSampler(o, 0)
			for range 4 {
				ids = append(ids, s.next(tokens, slices.Clone(logits)))
			}
			return ids
		}
		if got, want := told(StoryOptions{PresencePenalty: 1.5}), []uint16{3, 4, 3, 3}; !slices.Equal(got, want) {
			t.Errorf("presence: %v, want %v", got, want)
		}
		if got, want := told(StoryOptions{FrequencyPenalty: 1.5}), []uint16{3, 4, 3, 2}; !slices.Equal(got, want) {
			t.Errorf("frequency: %v, want %v", got, want)
		}
	})
}

// looks is a context that ends after so many looks at it.
type looks struct {
	context.Context
	left int
}

func (c *looks) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

func TestStoryEndsEarly(t *testing.T) {
	m := &Models{story: shippedStory(t)}
	prompt := len(m.story.prompt("a fox"))
	t.Run("within one token of its context", func(t *testing.T) {
		for _, c := range []struct{ looks, input, output int64 }{{0, 0, 0}, {1, 1, 0}, {int64(prompt) + 1, 1, 0}, {int64(prompt) + 6, 1, 5}} {
			pieces := int64(0)
			told, err := m.Story(&looks{t.Context(), int(c.looks)}, "a fox", StoryOptions{}, func(string) error { pieces++; return nil })
			if !errors.Is(err, context.Canceled) || told.Finish != "" || told.Usage.Output != c.output || pieces != c.output {
				t.Errorf("after %d looks: got %+v, %v and %d pieces, want %d", c.looks, told, err, pieces, c.output)
			}
			if len(m.story.slots) != 0 {
				t.Errorf("after %d looks: %d slots are taken", c.looks, len(m.story.slots))
			}
		}
	})
	t.Run("with the error of emit", func(t *testing.T) {
		want := errors.New("enough")
		told, err := m.Story(t.Context(), "a fox", StoryOptions{}, func(string) error { return want })
		if !errors.Is(err, want) || told.Usage.Output != 1 || len(m.story.slots) != 0 {
			t.Errorf("got %+v, %v", told, err)
		}
	})
}

func TestStoriesWaitTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := shippedStory(t) // its channel is of this bubble
		for range cap(m.slots) {
			m.slots <- struct{}{}
		}
		why := errors.New("why")
		ctx, cancel := context.WithCancelCause(t.Context())
		result := make(chan error, 1)
		go func() {
			_, err := (&Models{story: m}).Story(ctx, "a fox", StoryOptions{}, nil)
			result <- err
		}()
		synctest.Wait()
		select {
		case err := <-result:
			t.Fatalf("it did not wait: %v", err)
		default:
		}
		cancel(why)
		if err := <-result; !errors.Is(err, why) {
			t.Errorf("got %v, want %v", err, why)
		}
		// What waits gets the slot that becomes free, in the order of arrival.
		order := make(chan int, 3)
		for i := range 3 {
			go func() {
				told, err := m.begin(t.Context(), m.prompt("a fox"), 1)
				if err != nil {
					t.Error(err)
					return
				}
				order <- i
				told.end()
			}()
			synctest.Wait()
		}
		<-m.slots
		if got := [3]int{<-order, <-order, <-order}; got != [3]int{0, 1, 2} {
			t.Errorf("served %v, want 0 1 2", got)
		}
	})
}

func TestStoryLimits(t *testing.T) {
	m := &Models{story: shippedStory(t)}
	ignore := func(string) error { return nil }
	t.Run("tells as many tokens as asked for", func(t *testing.T) {
		told, err := m.Story(t.Context(), "Tell me a story", StoryOptions{MaxTokens: 7}, ignore)
		if err != nil || told.Finish != FinishLength || told.Usage.Output != 7 {
			t.Errorf("got %+v, %v, want 7 tokens, length", told, err)
		}
	})
	t.Run("ends with the context", func(t *testing.T) {
		room := m.story.context - len(m.story.prompt(""))
		told, err := m.Story(t.Context(), strings.Repeat("a", room-2), StoryOptions{MaxTokens: 1000}, ignore)
		if err != nil || told.Finish != FinishLength || told.Usage.Input+told.Usage.Output != 256 {
			t.Errorf("got %+v, %v, want 256 tokens in all, length", told, err)
		}
	})
	t.Run("refuses a request that leaves no room", func(t *testing.T) {
		told, err := m.Story(t.Context(), strings.Repeat("9", 300), StoryOptions{}, ignore)
		if want := "weir-story: a prompt of 305 tokens: want at most 255: ask for less"; err == nil || err.Error() != want || told != (Told{}) {
			t.Errorf("got %+v, %v, want %s", told, err, want)
		}
	})
}

func TestAPanicOfTheGoroutineThatTellsReachesTheServer(t *testing.T) {
	m := shippedStory(t)
	said, err := m.begin(t.Context(), m.prompt("a fox"), 10)
	if err != nil {
		t.Fatal(err)
	}
	said.state.logits = nil // choosing a token panics
	w := httptest.NewRecorder()
	s := &chatStream{w: w, flush: func() error { return nil }}
	defer func() {
		text := fmt.Sprint(recover())
		if !strings.HasPrefix(text, "builtin: telling a story: runtime error: index out of range") || !strings.Contains(text, "sampler") {
			t.Errorf("got %s, want the error and its place", text)
		}
		if len(m.slots) != 0 || strings.Contains(w.Body.String(), "[DONE]") {
			t.Errorf("%d slots are held, and the client has %s", len(m.slots), w.Body)
		}
	}()
	s.serve(t.Context(), &chatRequest{choices: 1}, said)
}

func TestStoryAllocatesNothingForAToken(t *testing.T) {
	m := shippedStory(t)
	s := m.state(m.context)
	choose := newSampler(StoryOptions{Temperature: 1, TopP: .9, FrequencyPenalty: 1}, 0)
	if err := s.read(t.Context(), m.prompt("a fox")); err != nil {
		t.Fatal(err)
	}
	one := func() {
		id := choose.next(m.tokens, s.logits)
		s.step(id)
		s.predict()
	}
	one()
	if n := testing.AllocsPerRun(50, one); n > 0.5 {
		t.Errorf("%v allocations a token, want none", n)
	}
}

// BenchmarkStory tells a whole story. Its tokens are those told and those of the
// prompt.
func BenchmarkStory(b *testing.B) {
	m := &Models{story: shippedStory(b)}
	tokens := int64(0)
	for b.Loop() {
		told, err := m.Story(b.Context(), "Tell me a story about a cat and a red ball", StoryOptions{}, func(string) error { return nil })
		if err != nil {
			b.Fatal(err)
		}
		tokens += told.Usage.Input + told.Usage.Output
	}
	b.ReportMetric(float64(tokens)/b.Elapsed().Seconds(), "tokens/s")
}

func BenchmarkLoadStory(b *testing.B) {
	for b.Loop() {
		if _, err := loadStory(storyData); err != nil {
			b.Fatal(err)
		}
	}
}
