package admin

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

func (d *dashboard) cachePage() page {
	return page{
		path: "/cache", title: "Cache", template: "cache",
		about:   "What the caches keep, what they save, and a way to make them forget.",
		regions: []string{"figures", "top"},
		data:    func(v *view) (any, error) { return cacheOf(v), nil },
		posts:   map[string]func(http.ResponseWriter, *http.Request) error{"/cache/purge": d.purge},
	}
}

// purgeAllPage asks once more before everything is forgotten.
func (d *dashboard) purgeAllPage() page {
	return page{
		path: "/cache/all", title: "Purge the whole cache", template: "cacheall", within: "/cache",
		data: func(v *view) (any, error) { return cacheOf(v), nil },
	}
}

// cacheData is what the page shows beside the snapshot.
type cacheData struct {
	Fields  []field               // one for each form: what it purges is its key
	Entries int64                 // of all tiers of which this is known
	Top     []gateway.KeySnapshot // the first of the snapshot's
}

// shownTop is how many answers the page lists.
const shownTop = 20

func cacheOf(v *view) cacheData {
	top := v.Snapshot.Cache.Keys
	data := cacheData{Fields: purgeFields(), Top: top[:min(len(top), shownTop)]}
	for _, t := range v.Snapshot.Cache.Tiers {
		data.Entries += t.Entries
	}
	kind := v.Request.PostFormValue("kind")
	for i := range data.Fields {
		if data.Fields[i].Key == kind {
			data.Fields[i].Value = textOf(v.Request, "value")
		}
	}
	besideAll(data.Fields, v.Failed)
	return data
}

// purgeFields are the inputs of the forms that purge, but for the one that purges all.
func purgeFields() []field {
	return []field{
		{Key: "path", Label: "Path", Type: "text", Hint: "Of requests, for example /v1/chat/completions, or /v1/* for all that begin so."},
		{Key: "tag", Label: "Tag", Type: "text", Hint: "One of cache.tags of a route, or that an upstream has sent."},
		{Key: "caller", Label: "Caller", Type: "text", Hint: "As on the page Callers, for example key:alice or ip:192.0.2.1."},
		{Key: "key", Label: "Key", Type: "text", Hint: "The 64 hexadecimal digits, as the table above has them."},
	}
}

// besideAll puts the mistakes of a form beside its fields, and says above them that it did.
func besideAll(fields []field, failed *failure) {
	if failed == nil {
		return
	}
	all := len(failed.Mistakes)
	failed.Mistakes = beside(fields, failed.Mistakes, "")
	if all > 0 && len(failed.Mistakes) == 0 {
		failed.Detail = "What is wrong stands beside the field."
	}
}

// caches are those of the gateway, as the API has them.
func (d *dashboard) caches() caches { return caches{d.gateway, d.guard.log} }

// purge removes the answers that a form names.
func (d *dashboard) purge(w http.ResponseWriter, r *http.Request) error {
	p := purge{kind: r.PostFormValue("kind"), value: textOf(r, "value")}
	switch p.kind {
	case "all":
		p.value = ""
	case "key":
		p.value = strings.ToLower(p.value)
		fallthrough
	case "path", "tag", "caller":
		if want := p.mistake(); want != "" {
			return config.Mistakes{{Path: p.kind, Value: shown(p.value), Want: want}}
		}
	default:
		return &weir.Problem{Status: http.StatusBadRequest, Title: "Nothing is purged", Detail: "The form does not say what to purge: want key, tag, path, caller or all."}
	}
	removed, err := d.caches().remove(r, p)
	if err != nil {
		return err
	}
	return d.see(w, r, "/cache", purgedWord+strconv.Itoa(removed))
}

// purgedWord is before the number of answers in what a page is told of a purge.
const purgedWord = "purged-"

// purgedNote is the text of a purge, "" for what is none.
func purgedNote(done string) string {
	text, ok := strings.CutPrefix(done, purgedWord)
	n, err := strconv.ParseUint(text, 10, 32)
	switch {
	case !ok || err != nil:
		return ""
	case n == 0:
		return "No answer was removed at this instance: it kept none of that kind. Others that share its store forget theirs, too."
	case n == 1:
		return "1 answer was removed at this instance. Others that share its store forget theirs, too."
	}
	return fmt.Sprintf("%s answers were removed at this instance. Others that share its store forget theirs, too.", count(int64(n)))
}

// shortKey is the beginning of a cache key, which tells it from others on a page.
func shortKey(key string) string {
	const most = 12
	if len(key) <= most {
		return key
	}
	return key[:most] + "…"
}

// tierState is how full a tier is, in words.
func tierState(t gateway.TierSnapshot) string {
	if t.MaxBytes <= 0 {
		return bytesOf(t.Bytes)
	}
	return fmt.Sprintf("%s of %s (%s)", bytesOf(t.Bytes), bytesOf(t.MaxBytes), ratio(t.Bytes, t.MaxBytes))
}
