package dialect

// OwnEndpoints are the names of d's endpoints that are in d's own API and do not
// change the server.
func (d *Dialect) OwnEndpoints() []string {
	var names []string
	for _, e := range d.endpoints {
		if e.api == d.api && !e.manages {
			names = append(names, e.name)
		}
	}
	return names
}
