package auth

// Preview is a, but that the keys that are kept elsewhere are found with stored: for who
// asks what a request comes to, and does not use its key. nil means that there are none.
// It shares all that a has learnt of tokens, is good for as long as a is, and needs no
// Close.
func (a *Authenticator) Preview(stored func(digest [32]byte) (Key, error)) *Authenticator {
	other := *a
	other.stored = stored
	return &other
}
