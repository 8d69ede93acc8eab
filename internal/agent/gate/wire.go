// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"staunch/internal/filehash"
)

// The three processes talk in JSON objects, one per packet of a pair of
// SOCK_SEQPACKET sockets they inherit; nobody else can reach these. A file goes
// along as a descriptor. Both ends are the same program, so the form has no
// versions and anything unexpected is an error.
const maxMessage = 64 << 10 // bytes

// The operations. A request carries seq, its reply the same seq and op "reply".
const (
	opReply     = "reply"
	opDenyFile  = "deny-file"  // descriptor, id
	opAllowFile = "allow-file" // descriptor
	opDenyHash  = "deny-hash"  // rule
	opAllowHash = "allow-hash" // hash
	opRelease   = "release"    // id
	opReplace   = "replace"    // begins a set: text is its token, id the prefix of its ids
	opAddRules  = "add-rules"  // token, rules
	opReplaced  = "replaced"   // ends it: token
	opStatus    = "status"     //
	opExempt    = "exempt"     // descriptor: pidfd of a process of the agent
	opRefusal   = "refusal"    // gate to worker, no reply
	opStart     = "start"      // supervisor to gate: serve
	opReady     = "ready"      // gate to supervisor; supervisor to StartLocal
	opOff       = "off"        // supervisor to StartLocal: text says why
	opPing      = "ping"       // supervisor to gate
	opNote      = "note"       // gate to supervisor: text for the log
)

type message struct {
	Op      string        `json:"op"`
	Seq     uint64        `json:"seq,omitempty"`
	Error   string        `json:"error,omitempty"`
	Text    string        `json:"text,omitempty"`
	ID      string        `json:"id,omitempty"`
	Rule    *Rule         `json:"rule,omitempty"`
	Rules   []Rule        `json:"rules,omitempty"`
	Hash    filehash.Hash `json:"hash,omitzero"`
	Status  *Status       `json:"status,omitempty"`
	Refusal *Refusal      `json:"refusal,omitempty"`
}

func decodeMessage(b []byte) (message, error) {
	var m message
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return message{}, fmt.Errorf("cannot read message: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return message{}, errors.New("cannot read message: something follows the object")
	}
	if m.Op == "" {
		return message{}, errors.New("cannot read message: it has no op")
	}
	return m, nil
}

// conn is one end of a pair.
type conn struct{ u *net.UnixConn }

// newConn takes over f, which it closes.
func newConn(f *os.File) (*conn, error) {
	defer f.Close() // net.FileConn has its own duplicate
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("cannot use control socket: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close() // it was never used
		return nil, fmt.Errorf("cannot use control socket: it is a %T", c)
	}
	return &conn{u: u}, nil
}

func (c *conn) close() error { return c.u.Close() }

// recv waits for a message. The file that came along, if any, is the caller's.
// After an error matching errMessage the connection can still be used.
func (c *conn) recv(buf []byte) (message, *os.File, error) {
	oob := make([]byte, unix.CmsgSpace(4*4))
	n, oobn, flags, _, err := c.u.ReadMsgUnix(buf, oob)
	if err != nil {
		return message{}, nil, err
	}
	f := receivedFile(oob[:oobn])
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		closeFile(f)
		return message{}, nil, fmt.Errorf("%w: it is longer than %d bytes", errMessage, len(buf))
	}
	m, err := decodeMessage(buf[:n])
	if err != nil {
		closeFile(f)
		return message{}, nil, fmt.Errorf("%w: %w", errMessage, err)
	}
	return m, f, nil
}

var errMessage = errors.New("bad message")

// receivedFile returns the first descriptor of a control message and closes
// the others.
func receivedFile(oob []byte) (f *os.File) {
	cmsgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range cmsgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if f == nil {
				f = os.NewFile(uintptr(fd), "received")
			} else {
				_ = unix.Close(fd) // nobody asked for it
			}
		}
	}
	return f
}

func closeFile(f *os.File) {
	if f != nil {
		_ = f.Close() // nothing was written through it
	}
}

// send never waits: a peer that does not read gets an error instead.
func (c *conn) send(m message, fds ...int) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("cannot write message: %w", err)
	}
	if len(b) > maxMessage {
		return fmt.Errorf("cannot send message: it has %d bytes, the limit is %d", len(b), maxMessage)
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	raw, err := c.u.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	if err := raw.Control(func(fd uintptr) {
		sendErr = unix.Sendmsg(int(fd), b, oob, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	}); err != nil {
		return err
	}
	if sendErr != nil {
		return fmt.Errorf("cannot send message: %w", sendErr)
	}
	return nil
}

// pair makes two connected sockets.
func pair() (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make control sockets: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control"), nil
}
