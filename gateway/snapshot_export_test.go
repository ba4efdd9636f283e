package gateway

// FreshSnapshot is what Snapshot makes where the last one is too old.
func FreshSnapshot(g *Gateway) Snapshot { return g.newSnapshot() }
