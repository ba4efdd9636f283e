// Package clients tests Weir with the official clients of the APIs that it
// speaks, unmodified. It is a module of its own, because its tests need Node and
// npm packages, and Weir's own need neither. It has nothing but tests; README.md
// says how to run and how to extend them.
package clients
