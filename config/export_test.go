package config

// LaterKeys are the keys that are refused as not yet supported.
func LaterKeys() []string { return laterKeys() }
