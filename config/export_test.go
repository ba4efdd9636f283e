package config

// LaterKeys are the keys that are refused as not yet supported.
func LaterKeys() []string { return laterKeys() }

// RestartKeys are the keys whose change a reload cannot put in force.
func RestartKeys() []string { return restartKeys() }
