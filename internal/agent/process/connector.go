// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The process connector (linux/cn_proc.h, linux/connector.h).
const (
	cnIdxProc      = 1
	cnValProc      = 1
	mcastListen    = 1
	procEventNone  = 0x00000000
	procEventFork  = 0x00000001
	procEventExec  = 0x00000002
	netlinkHeader  = unix.SizeofNlMsghdr
	cnHeader       = 20
	connectorBytes = 16 << 20 // receive buffer
)

// connector follows forks and execs through the process connector.
type connector struct {
	fd   int
	buf  []byte
	next map[uint32]uint32 // by processor, the number its next event must have
}

func openConnector() (*connector, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_CONNECTOR)
	if err != nil {
		return nil, fmt.Errorf("cannot open the process connector: %w", err)
	}
	c := &connector{fd: fd, buf: make([]byte, 64<<10), next: make(map[uint32]uint32)}
	if err := c.listen(); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot listen to the process connector: %w", err), c.close())
	}
	return c, nil
}

func (c *connector) listen() error {
	if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, connectorBytes); err != nil {
		// Without the privilege the system's ceiling holds; events lost
		// for it are noticed.
		if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, connectorBytes); err != nil {
			return err
		}
	}
	if err := unix.Bind(c.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: cnIdxProc}); err != nil {
		return err
	}
	ne := binary.NativeEndian
	msg := make([]byte, netlinkHeader+cnHeader+4)
	ne.PutUint32(msg[0:], uint32(len(msg))) //nolint:gosec // 40
	ne.PutUint16(msg[4:], unix.NLMSG_DONE)
	cn := msg[netlinkHeader:]
	ne.PutUint32(cn[0:], cnIdxProc)
	ne.PutUint32(cn[4:], cnValProc)
	ne.PutUint16(cn[16:], 4)
	ne.PutUint32(cn[cnHeader:], mcastListen)
	return unix.Sendto(c.fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

func (c *connector) close() error { return unix.Close(c.fd) }

// drain implements stream. The kernel queues an event before what was born
// runs; a full queue is reported once and means that events are missing.
func (c *connector) drain() (all []event, lost bool, err error) {
	for {
		n, from, err := unix.Recvfrom(c.fd, c.buf, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return all, lost, nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS):
			lost = true
			continue
		case err != nil:
			return nil, false, fmt.Errorf("cannot read the process connector: %w", err)
		}
		if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 {
			continue // not from the kernel
		}
		lost = c.gap(c.buf[:n]) || lost
		if e, ok := parseConnector(c.buf[:n]); ok {
			all = append(all, e)
		}
	}
}

// await implements stream.
func (c *connector) await(most time.Duration) error { return readable(c.fd, most) }

// readable waits until a descriptor can be read, or not for as long.
func readable(fd int, most time.Duration) error {
	_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(most.Milliseconds())) //nolint:gosec // descriptors are small
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	return err
}

// gap reports whether an event is missing before this one: each processor
// counts its own. The kernel drops events without a word when it has no memory
// for them at that moment.
func (c *connector) gap(b []byte) bool {
	const head = netlinkHeader + cnHeader
	ne := binary.NativeEndian
	if len(b) < head+8 || ne.Uint32(b[head:]) == procEventNone {
		return false // an answer to us: it has a number of ours
	}
	seq, cpu := ne.Uint32(b[netlinkHeader+8:]), ne.Uint32(b[head+4:])
	want, seen := c.next[cpu]
	c.next[cpu] = seq + 1
	return seen && seq != want
}

// parseConnector reads one message: netlink header, connector header, struct
// proc_event. Of a fork the parent is left out: the event names the new
// process's parent, which with CLONE_PARENT is not the one that forked.
func parseConnector(b []byte) (event, bool) {
	const head = netlinkHeader + cnHeader
	if len(b) < head+24 {
		return event{}, false
	}
	ne := binary.NativeEndian
	p := b[head:]
	what, ns := ne.Uint32(p[0:]), int64(ne.Uint64(p[8:]))              //nolint:gosec // a clock
	id := func(i int) int { return int(int32(ne.Uint32(p[16+4*i:]))) } //nolint:gosec // pids are signed
	switch what {
	case procEventFork:
		if len(p) < 32 || id(2) != id(3) {
			return event{}, false // a thread
		}
		return event{ns: ns, pid: id(3)}, true
	case procEventExec:
		return event{ns: ns, pid: id(1), exec: true}, true
	}
	return event{}, false
}

// prepareConnector sees with a canary that forks and execs are told.
func (h *Holder) prepareConnector() error {
	if !h.proc.host {
		return errors.New("the agent does not see the machine's own process numbers: run it outside of containers")
	}
	if err := h.prepareBestEffort(); err != nil {
		return err
	}
	s, err := openConnector()
	if err != nil {
		return err
	}
	c, err := newCanary(h.cfg.StateDir, os.TempDir())
	if err != nil {
		return errors.Join(err, s.close())
	}
	cmd := c.command()
	err = cmd.Run()
	events, _, drainErr := s.drain()
	if err := errors.Join(err, drainErr, s.close(), c.close()); err != nil {
		return err
	}
	var fork, exec bool
	for _, e := range events {
		if e.pid == cmd.Process.Pid {
			fork, exec = fork || !e.exec, exec || e.exec
		}
	}
	if !fork || !exec {
		return errors.New("the process connector is silent")
	}
	return nil
}

// stopFollowed is the rung connector: every process is examined, and so is
// whatever is born or executes meanwhile, until nothing is left to examine.
func (d *Hold) stopFollowed(ctx context.Context, r *Result) error {
	s, err := openConnector()
	if err != nil {
		return err
	}
	l := d.h.newLook(d.judge)
	complete, err := d.chase(ctx, l, s)
	err = errors.Join(err, s.close())
	r.Proven = complete && err == nil
	if err == nil && !complete {
		r.Notes = append(r.Notes, outrun)
	}
	return errors.Join(err, l.trouble())
}
