package jsonscan

// keptLength is the longest list that a scratch keeps: enough for bodies of 100
// KB, and one that had a million names must not hold their memory for ever. All
// lists of a scratch are then 72 KiB at most.
const keptLength = 1024

// scratch is memory for the lists of a scan. It holds nothing of a body but the
// text of names that had escapes.
type scratch struct {
	names     []name
	unescaped []byte
	order     []uint32
	canon     canon
}

// borrow returns a scratch, which giveBack takes back.
func (p *Paths) borrow() *scratch {
	if p == nil {
		return &scratch{}
	}
	if room, ok := p.scratch.Get().(*scratch); ok {
		return room
	}
	return &scratch{}
}

func (p *Paths) giveBack(room *scratch) {
	c := &room.canon
	longest := max(cap(room.names), cap(room.unescaped), cap(room.order), cap(c.members), cap(c.objects), cap(c.pieces))
	if p == nil || longest > keptLength {
		return
	}
	p.scratch.Put(room)
}
