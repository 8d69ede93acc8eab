// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/filehash"
)

const (
	tryFor     = time.Second      // then a request is sent again: a dying gate may have swallowed it
	giveUp     = 15 * time.Second // then the caller hears of it
	maxRefused = 1024             // refusals kept for a slow reader
)

// Client is the worker's end. Its methods may be called from many goroutines.
// They outlive gates: while one is replaced, requests wait.
type Client struct {
	conn       *conn
	stop       func() error // of a local gate; may be nil
	supervisor int          // its process

	close    func() error // end, once
	seq      atomic.Uint64
	lost     atomic.Uint64
	refusals chan Refusal
	done     chan struct{} // closed once the reader has returned

	mu      sync.Mutex
	replies map[uint64]chan message // guarded by mu; nil once closed
}

// Inherited returns the gate that the supervisor of this process offers, or an
// error that matches ErrOff and says why there is none.
func Inherited() (*Client, error) {
	if why := os.Getenv(envOff); why != "" {
		return nil, fmt.Errorf("%w: %s", ErrOff, why)
	}
	fd, err := strconv.Atoi(os.Getenv(envSocket))
	if err != nil {
		return nil, fmt.Errorf("%w: this process was not started by `staunch-agent run`", ErrOff)
	}
	unix.CloseOnExec(fd)
	return Dial(os.NewFile(uintptr(fd), "gate"))
}

// Dial takes over the worker's control socket. From then on the gate lets this
// process open what it denies to others.
func Dial(f *os.File) (*Client, error) {
	cn, err := newConn(f)
	if err != nil {
		return nil, err
	}
	return newClient(cn, os.Getppid(), nil)
}

func newClient(cn *conn, supervisor int, stop func() error) (*Client, error) {
	c := &Client{
		conn: cn, stop: stop, supervisor: supervisor, refusals: make(chan Refusal, maxRefused), done: make(chan struct{}),
		replies: map[uint64]chan message{},
	}
	c.close = sync.OnceValue(c.end)
	c.seq.Store(rand.Uint64() >> 1) // so that no reply to a worker before us fits
	go c.read()
	if err := c.exemptSelf(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Client) exemptSelf() error {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return fmt.Errorf("cannot open pidfd: %w", err)
	}
	self := os.NewFile(uintptr(fd), "self")
	defer self.Close() // the gate has its own duplicate
	_, err = c.request(message{Op: opExempt}, self)
	return err
}

// Supervisor is the number of the process that starts the gates.
func (c *Client) Supervisor() int { return c.supervisor }

// DenyFile refuses to everybody but the agent to open or execute the file, by
// whatever name, for the order or indicator id. f may have been opened with
// O_PATH. Descriptors others have open already are not affected.
func (c *Client) DenyFile(f *os.File, id string) error {
	_, err := c.request(message{Op: opDenyFile, ID: id}, f)
	return err
}

// AllowFile lifts every rule against the file itself. A rule against its
// content stands.
func (c *Client) AllowFile(f *os.File) error {
	_, err := c.request(message{Op: opAllowFile}, f)
	return err
}

// DenyHash refuses the execution of the content on every covered file system,
// see Status. A rule with the same hash and id is replaced.
func (c *Client) DenyHash(r Rule) error {
	_, err := c.request(message{Op: opDenyHash, Rule: &r}, nil)
	return err
}

// AllowHash lifts every rule against the content. Rules against single files
// stand.
func (c *Client) AllowHash(h filehash.Hash) error {
	_, err := c.request(message{Op: opAllowHash, Hash: h}, nil)
	return err
}

// Release lifts every rule, of files and contents, that was made under the id.
// Of a file that still exists use AllowFile too, which also takes its mark.
func (c *Client) Release(id string) error {
	_, err := c.request(message{Op: opRelease, ID: id}, nil)
	return err
}

// Status asks the gate about itself.
func (c *Client) Status() (Status, error) {
	m, err := c.request(message{Op: opStatus}, nil)
	if err != nil {
		return Status{}, err
	}
	if m.Status == nil {
		return Status{}, errors.New("cannot read the gate's status: the reply is empty")
	}
	m.Status.Lost += c.lost.Load()
	return *m.Status, nil
}

// Refusals yields what was refused. It keeps a bounded number for a slow
// reader, loses the rest and counts them in Status.Lost. Close closes it.
func (c *Client) Refusals() <-chan Refusal { return c.refusals }

// Close ends the connection, and the gate with all its rules if it is a local
// one. It may be called again, for the same result.
func (c *Client) Close() error { return c.close() }

func (c *Client) end() error {
	err := c.conn.close()
	<-c.done
	if c.stop != nil {
		err = errors.Join(err, c.stop())
	}
	return err
}

// request sends m until a reply comes.
func (c *Client) request(m message, f *os.File) (message, error) {
	m.Seq = c.seq.Add(1)
	reply := make(chan message, 1)
	c.mu.Lock()
	if c.replies == nil {
		c.mu.Unlock()
		return message{}, fmt.Errorf("cannot ask the gate to %s: the connection is closed", m.Op)
	}
	c.replies[m.Seq] = reply
	c.mu.Unlock()
	defer c.forget(m.Seq)

	var fds []int
	if f != nil {
		fds = []int{int(f.Fd())}
	}
	var sendErr error
	for end := time.Now().Add(giveUp); time.Now().Before(end); {
		wait := tryFor
		if sendErr = c.conn.send(m, fds...); sendErr != nil {
			wait = 20 * time.Millisecond // its buffer is full, or there is no gate just now
		}
		select {
		case got, ok := <-reply:
			switch {
			case !ok:
				return message{}, fmt.Errorf("cannot ask the gate to %s: the connection is closed", m.Op)
			case got.Error != "":
				return message{}, errors.New(got.Error)
			}
			return got, nil
		case <-time.After(wait):
		}
	}
	return message{}, errors.Join(fmt.Errorf("cannot ask the gate to %s: no answer within %v; see `staunch-agent status`", m.Op, giveUp), sendErr)
}

func (c *Client) forget(seq uint64) {
	c.mu.Lock()
	delete(c.replies, seq)
	c.mu.Unlock()
}

func (c *Client) read() {
	defer close(c.done)
	defer close(c.refusals)
	buf := make([]byte, maxMessage)
	for {
		m, f, err := c.conn.recv(buf)
		closeFile(f)
		if errors.Is(err, errMessage) {
			continue
		}
		if err != nil {
			c.mu.Lock()
			for _, reply := range c.replies {
				close(reply)
			}
			c.replies = nil
			c.mu.Unlock()
			return
		}
		c.take(m)
	}
}

func (c *Client) take(m message) {
	switch {
	case m.Op == opRefusal && m.Refusal != nil:
		select {
		case c.refusals <- *m.Refusal:
		default:
			c.lost.Add(1)
		}
	case m.Op == opReply:
		c.mu.Lock()
		if reply, ok := c.replies[m.Seq]; ok {
			select {
			case reply <- m:
			default: // the second answer to a request that was sent twice
			}
		}
		c.mu.Unlock()
	}
}
