package gateway

import (
	"encoding/binary"
	"syscall"
)

// canLook says that the system tells whether the other end has closed a connection
// from which not all is read.
const canLook = true

// States of a TCP connection whose other end has closed it, or reset it
// (include/net/tcp_states.h). In the others it is open, or only this end has closed.
const (
	tcpTimeWait  = 6
	tcpClose     = 7
	tcpCloseWait = 8
	tcpLastAck   = 9
	tcpClosing   = 11
)

// newLook returns what tells whether a client has left. It is not safe for
// concurrent use, and allocates nothing each time.
//
// A client that closes only its half has left, as for the server. One with several
// paths (MPTCP) may lose that which is looked at, and stay: it never has.
func newLook() (hasLeft func(*client) bool) {
	var state byte
	read := func(fd uintptr) {
		// The first of the 4 bytes is tcpi_state of struct tcp_info, of which the
		// system gives as much as there is room for.
		info, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
		if err == nil {
			state = binary.NativeEndian.AppendUint32(make([]byte, 0, 4), uint32(info))[0]
		}
	}
	return func(c *client) bool {
		state = 0
		if c.raw.Control(read) != nil {
			return false // this end has closed it
		}
		switch state {
		case tcpTimeWait, tcpClose, tcpCloseWait, tcpLastAck, tcpClosing:
			many, err := c.conn.MultipathTCP()
			return err == nil && !many
		}
		return false
	}
}
