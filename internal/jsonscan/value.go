package jsonscan

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
)

// Kind is what a Value is.
type Kind uint8

// The kinds of values. Missing, the zero Kind, is not null: the body has nothing
// at the pointer.
const (
	Missing Kind = iota
	Null
	Bool
	Number
	String
	Array
	Object
)

// String returns the kind in lower case, for messages: "missing", "null",
// "bool", "number", "string", "array" or "object".
func (k Kind) String() string {
	switch k {
	case Missing:
		return "missing"
	case Null:
		return "null"
	case Bool:
		return "bool"
	case Number:
		return "number"
	case String:
		return "string"
	case Array:
		return "array"
	case Object:
		return "object"
	}
	return "Kind(" + strconv.Itoa(int(k)) + ")"
}

// Value is what a body has at a pointer, as it is written there. It stays valid
// as long as the body is not changed. The zero Value is missing.
type Value struct {
	raw    []byte // valid JSON: only Find and Scanner make values
	offset int
	long   Kind // of a value that a Scanner did not keep, which has no raw
}

// Raw returns the value as it is written in the body: a part of it, not a copy,
// so it must not be changed. It is nil if the value is missing, or TooLong.
func (v Value) Raw() []byte { return v.raw }

// Offset returns where in the body Raw begins, from 0: who wants the body with
// another value there puts it between body[:Offset] and body[Offset+len(Raw):].
// It is 0 if the value is missing.
func (v Value) Offset() int { return v.offset }

// Kind tells what the value is.
func (v Value) Kind() Kind {
	if len(v.raw) == 0 {
		return v.long
	}
	switch v.raw[0] {
	case 'n':
		return Null
	case 't', 'f':
		return Bool
	case '"':
		return String
	case '[':
		return Array
	case '{':
		return Object
	}
	return Number
}

// Text returns the text of a string, unescaped, and whether the value is a
// string. An escaped lone surrogate becomes U+FFFD, as in encoding/json.
func (v Value) Text() (string, bool) {
	if v.Kind() != String || v.TooLong() {
		return "", false
	}
	b := v.raw[1 : len(v.raw)-1]
	if bytes.IndexByte(b, '\\') < 0 {
		return string(b), true
	}
	return string(appendText(make([]byte, 0, len(b)), b, false)), true
}

// Bool returns the value of true or false, and whether the value is one of them.
func (v Value) Bool() (value, ok bool) {
	return v.Kind() == Bool && v.raw[0] == 't', v.Kind() == Bool
}

// Float returns the float64 nearest to a number. ok is false if the value is not
// a number, or one too large for float64; one too small is 0.
func (v Value) Float() (f float64, ok bool) {
	if v.Kind() != Number || v.TooLong() {
		return 0, false
	}
	f, err := strconv.ParseFloat(string(v.raw), 64)
	if err != nil {
		return 0, false
	}
	return f, true
}

// Why a Value has no Int; test with errors.Is.
var (
	// ErrNotInteger goes with anything but a number, and with fractions.
	ErrNotInteger = errors.New("want an integer")
	// ErrRange goes with integers outside int64.
	ErrRange = errors.New("want an integer of at most 64 bits")
)

// Int returns the value of an integer. What counts is the value, not the
// notation: 1.0, 1e3 and 20e-1 are integers. It is exact over all of int64. The
// error wraps ErrNotInteger, and then the result is 0, or ErrRange, and then it
// is the int64 nearest to the value.
func (v Value) Int() (int64, error) {
	if v.Kind() != Number {
		return 0, fmt.Errorf("%s: %w", v.Kind(), ErrNotInteger)
	}
	if v.TooLong() {
		return 0, fmt.Errorf("a number of more than %d bytes: %w", MaxScanned, ErrNotInteger)
	}
	n, err := parseInt(v.raw)
	if err != nil {
		return n, fmt.Errorf("%s: %w", clip(string(v.raw)), err)
	}
	return n, nil
}

// parseInt returns the value of the number b, which is valid JSON.
func parseInt(b []byte) (int64, error) {
	if n, ok := shortInt(b); ok {
		return n, nil
	}
	unsigned := bytes.TrimPrefix(b, []byte{'-'})
	negative := len(unsigned) < len(b)
	digits, point := decimal(unsigned)
	switch {
	case len(digits) == 0:
		return 0, nil
	case point < int64(len(digits)):
		return 0, ErrNotInteger
	case point > 19:
		return extreme(negative), ErrRange
	}
	var n uint64 // 19 digits fit
	for i := range int(point) {
		n *= 10
		if i < len(digits) {
			n += uint64(digits[i] - '0')
		}
	}
	switch {
	case negative && n <= 1<<63:
		return -int64(n), nil
	case negative || n >= 1<<63:
		return extreme(negative), ErrRange
	}
	return int64(n), nil
}

func extreme(negative bool) int64 {
	if negative {
		return math.MinInt64
	}
	return math.MaxInt64
}

// shortInt reads a number that is only digits and perhaps a sign, few enough not
// to overflow.
func shortInt(b []byte) (n int64, ok bool) {
	if len(b) > 18 {
		return 0, false
	}
	digits := bytes.TrimPrefix(b, []byte{'-'})
	for _, c := range digits {
		if !digit(c) {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	if len(digits) < len(b) {
		n = -n
	}
	return n, true
}

// decimal takes the number b, which has no sign, apart: it is 0.digits times 10
// to the power of point. digits has no zeros at its ends; 0 has no digits.
func decimal(b []byte) (digits []byte, point int64) {
	if e := bytes.IndexAny(b, "eE"); e >= 0 {
		b, point = b[:e], clampedInt(b[e+1:])
	}
	whole, fraction, _ := bytes.Cut(b, []byte{'.'})
	point += int64(len(whole))
	digits = append(append(make([]byte, 0, len(b)), whole...), fraction...)
	trimmed := bytes.TrimLeft(digits, "0")
	point -= int64(len(digits) - len(trimmed))
	return bytes.TrimRight(trimmed, "0"), point
}

// clampedInt reads an exponent. One beyond the length of any body is as good as
// a larger one.
func clampedInt(b []byte) int64 {
	const most = 1 << 40
	digits := bytes.TrimLeft(b, "+-")
	var n int64
	for _, c := range digits {
		n = min(10*n+int64(c-'0'), most)
	}
	if b[0] == '-' {
		n = -n
	}
	return n
}
