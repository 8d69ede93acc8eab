// SPDX-License-Identifier: Apache-2.0

package link

import (
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// proxy stands between agent and server and does what networks do: it delays,
// and it cuts connections in the middle of a byte stream.
type proxy struct {
	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex
	target string
	rnd    *rand.Rand
	cut    bool // cut each connection after a random number of bytes
	conns  map[net.Conn]struct{}
}

func newProxy(t *testing.T, target string, seed uint64) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &proxy{listener: l, target: target, cut: true, rnd: rand.New(rand.NewPCG(seed, 1)), conns: map[net.Conn]struct{}{}}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.cutAll()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) accept() {
	for {
		near, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		target := p.target
		p.mu.Unlock()
		far, err := net.Dial("tcp", target)
		if err != nil {
			_ = near.Close()
			continue
		}
		p.mu.Lock()
		budget := int64(1 << 40)
		if p.cut {
			budget = 2000 + p.rnd.Int64N(60000)
		}
		p.conns[near], p.conns[far] = struct{}{}, struct{}{}
		p.mu.Unlock()
		p.wg.Go(func() { p.pipe(near, far, budget) })
		p.wg.Go(func() { p.pipe(far, near, budget) })
	}
}

// pipe copies up to budget bytes in small delayed pieces, then cuts both ends.
func (p *proxy) pipe(from, to net.Conn, budget int64) {
	buf := make([]byte, 700) // not a TLS record's size
	for budget > 0 {
		n, err := from.Read(buf[:min(int64(len(buf)), budget)])
		if n > 0 {
			p.mu.Lock()
			pause := p.rnd.IntN(300)
			p.mu.Unlock()
			time.Sleep(time.Duration(pause) * time.Microsecond)
			if _, err := to.Write(buf[:n]); err != nil {
				break
			}
		}
		budget -= int64(n)
		if err != nil {
			break
		}
	}
	_ = from.Close()
	_ = to.Close()
}

// heal stops cutting; connections that are open keep their budget.
func (p *proxy) heal() {
	p.mu.Lock()
	p.cut = false
	p.mu.Unlock()
	p.cutAll()
}

func (p *proxy) cutAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
		delete(p.conns, c)
	}
}
