// Package jsonscan reads JSON in one pass and builds no tree: it checks a body
// (Check), finds members by JSON pointer (Compile, Paths.Find) and writes a
// canonical form (AppendCanonical) from which cache keys are made. Of a text that
// comes in pieces and is not kept, a Scanner finds the members. A Walk goes through
// the elements of a value that was found.
//
// The first three accept the same language, RFC 8259 without latitude: UTF-8
// only, no byte order mark, nothing after the value, and no object with two
// members of one name. Parsers disagree about which of two equal names counts, so
// a body that has them could mean one thing here and another to the model server.
// Names are compared unescaped: "model" and "\u006dodel" are the same.
//
// A body is untrusted. Nesting is bounded by a depth that the caller chooses,
// time grows as n log n at worst, and no input makes a function of this package
// panic. Beyond the body, Check and Find need memory only for the names of the
// objects that are open, AppendCanonical twice the body; a body made of nothing
// but tiny members can cost ten times its size in the former, twenty in the
// latter.
package jsonscan
