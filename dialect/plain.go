package dialect

// Plain returns the dialect of everything else: no endpoint is known, and of
// bodies that are JSON objects the members model, stream, temperature and seed
// are read. What has no temperature does not sample, or so it seems.
func Plain() *Dialect {
	return &Dialect{name: "plain", api: apiPlain, other: requestForm{
		pointers: [roles][]string{
			roleModel:       {"/model"},
			roleStream:      {"/stream"},
			roleTemperature: {"/temperature"},
			roleSeed:        {"/seed"},
			roleLarge:       {"/messages", "/prompt", "/input", "/inputs", "/instances", "/data"},
		},
		others: true,
	}.compiled()}
}
