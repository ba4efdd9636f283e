package config

// LaterKeys are the keys that are refused as not yet supported.
func LaterKeys() []string { return laterKeys() }

// LaterValues are the values that are, by key.
func LaterValues() map[string][]string {
	values := map[string][]string{}
	for key, c := range choices() {
		if len(c.later) > 0 {
			values[key] = c.later
		}
	}
	return values
}
