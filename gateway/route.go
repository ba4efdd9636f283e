package gateway

// route is the way of a request. Each step answers it, or refuses it with an
// error, or leaves it to the next; the comments name the refusals.
func (x *exchange) route() error {
	if own := x.own(); own != nil { // jobs and blobs
		return own()
	}
	if err := x.match(); err != nil { // 400, 404, 405, 414, 431, 501, 505
		return err
	}
	if err := x.authenticate(); err != nil { // 400, 401
		return err
	}
	if err := x.readBody(); err != nil { // 400, 408, 413
		return err
	}
	if err := x.choose(); err != nil { // 400, 403, 404, 413
		return err
	}
	if x.upgrades {
		return x.tunnel() // 429, 502, 503, 504
	}
	if err := x.deferIfWanted(); err != nil { // 400
		return err
	}
	if answered, err := x.replay(); answered || err != nil { // 422, 503
		return err
	}
	if x.chosen.config.Cache.ChargeHits {
		if err := x.reserveHit(); err != nil { // 429, 503
			return err
		}
	}
	if answered, err := x.lookUp(); answered || err != nil { // 504 for only-if-cached
		return err
	}
	defer x.look.Leave()
	if x.deferred != nil {
		return x.handIn() // 202; 400, 422, 429, 503
	}
	x.watch()
	if answered, err := x.join(); answered || err != nil {
		return err
	}
	return x.fetch() // 429, 502, 503, 504
}
