package admin

import (
	"html/template"
	"net/url"
	"slices"
)

// column is the head of a column, for templates.
type column struct {
	Title, Href string
	Num         bool
	// Sort is the value of aria-sort, "" where another column decides the order.
	Sort string
	Help template.HTML
}

// sortable is a column of rows of T.
type sortable[T any] struct {
	key, title string
	// help says what the column is; "" where its title does.
	help string
	// num puts numbers to the right, and the largest first; down does the latter alone.
	num, down bool
	compare   func(a, b T) int // nil: nobody sorts by it
}

// sortRows puts rows in the order that the query of the page asks for, sort=KEY and
// order=reverse, by the column first without, and returns the heads of the columns.
func sortRows[T any](v *view, rows []T, columns []sortable[T], first string) []column {
	query := v.Request.URL.Query()
	by, reverse := first, query.Get("order") == "reverse"
	for _, c := range columns {
		if c.compare != nil && c.key == query.Get("sort") {
			by = c.key
		}
	}
	heads := make([]column, len(columns))
	for i, c := range columns {
		h := column{Title: c.title, Num: c.num}
		if c.help != "" {
			h.Help = help("column-"+c.key, c.title, c.help)
		}
		if c.compare == nil {
			heads[i] = h
			continue
		}
		next := url.Values{"sort": {c.key}}
		if c.key == by {
			descending := (c.num || c.down) != reverse
			slices.SortStableFunc(rows, func(a, b T) int {
				if descending {
					return c.compare(b, a)
				}
				return c.compare(a, b)
			})
			h.Sort = "ascending"
			if descending {
				h.Sort = "descending"
			}
			if !reverse {
				next.Set("order", "reverse")
			}
		}
		h.Href = v.Page.path + "?" + next.Encode()
		heads[i] = h
	}
	return heads
}
