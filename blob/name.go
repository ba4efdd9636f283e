package blob

import (
	"mime"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxText    = 255
	octets     = "application/octet-stream"
	attachment = "attachment"
)

// cleanType is a media type as it is, or that of unknown bytes.
func cleanType(kind string) string {
	if len(kind) > maxText || strings.ContainsFunc(kind, func(r rune) bool { return r < ' ' || r > '~' }) {
		return octets
	}
	main, _, err := mime.ParseMediaType(kind)
	if err != nil || !strings.Contains(main, "/") || strings.TrimSpace(kind) != kind {
		return octets
	}
	return kind
}

// cleanName is a file name without what leads out of a directory, hides what it is, or
// means something to a shell or a file system.
func cleanName(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError, unicode.IsControl(r), unicode.Is(unicode.Cf, r), unicode.Is(unicode.Zl, r), unicode.Is(unicode.Zp, r):
			return '_'
		case strings.ContainsRune(`/\:*?"<>|%`, r):
			return '_'
		}
		return r
	}, strings.ToValidUTF8(name, "_"))
	name = strings.Trim(name, " ")
	if strings.HasPrefix(name, ".") {
		name = "_" + name[1:]
	}
	for len(name) > maxText {
		_, size := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-size]
	}
	return name
}

// disposition is a Content-Disposition that makes a browser keep the answer as a file
// and not show it (RFC 6266). A name that is not ASCII is there twice: for old clients
// without what they cannot read, and as RFC 8187 has it.
func disposition(name string) string {
	if name == "" {
		return attachment
	}
	plain := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			return '_'
		}
		return r
	}, name)
	if plain == name {
		return attachment + `; filename="` + plain + `"`
	}
	return attachment + `; filename="` + plain + `"; filename*=UTF-8''` + percent(name)
}

// nameOf is the name in a Content-Disposition of ours.
func nameOf(header string) string {
	_, parameters, err := mime.ParseMediaType(header)
	if err != nil {
		return ""
	}
	return cleanName(parameters["filename"])
}

// percent encodes all but the attr-char of RFC 8187, section 3.2.1.
func percent(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$&+-.^_`|~", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(hex[c>>4])
		b.WriteByte(hex[c&15])
	}
	return b.String()
}
