// Package bench measures Weir's packages beside other libraries that do the same
// work. It is a module of its own, so that those libraries never become
// dependencies of Weir. It has nothing but benchmarks; README.md says how to run
// and how to read them.
package bench
