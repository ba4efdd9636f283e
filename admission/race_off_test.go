//go:build !race

package admission_test

// raceEnabled says that everything is some ten times as slow.
const raceEnabled = false
