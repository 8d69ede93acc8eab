// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"staunch/internal/order"
)

// masked is a client's frame.
func masked(op ws.OpCode, fin bool, payload string) []byte {
	var b bytes.Buffer
	f := ws.MaskFrame(ws.NewFrame(op, fin, []byte(payload)))
	if err := ws.WriteFrame(&b, f); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func reader(r io.Reader, limit int, pong func([]byte)) *frames {
	return &frames{r: r, limit: limit, wait: func(bool) error { return nil }, pong: pong, gone: func(ws.StatusCode) {}}
}

func TestFragments(t *testing.T) {
	in := bytes.Join([][]byte{
		masked(ws.OpText, false, "one "), masked(ws.OpPing, true, "p"), masked(ws.OpContinuation, false, "mess"),
		masked(ws.OpContinuation, true, "age"), masked(ws.OpText, true, "two"), masked(ws.OpClose, true, ""),
	}, nil)
	var pongs []string
	f := reader(bytes.NewReader(in), 100, func(p []byte) { pongs = append(pongs, string(p)) })
	for _, want := range []string{"one message", "two"} {
		if got, err := f.next(); err != nil || string(got) != want {
			t.Errorf("%q %v, want %q", got, err, want)
		}
	}
	if _, err := f.next(); !errors.Is(err, errClosed) {
		t.Error(err)
	}
	if len(pongs) != 1 || pongs[0] != "p" {
		t.Errorf("pongs %q", pongs)
	}
	// The limit is the message's, not the frame's.
	f = reader(bytes.NewReader(in), 10, func([]byte) {})
	var v *violation
	if _, err := f.next(); !errors.As(err, &v) || v.code != ws.StatusMessageTooBig {
		t.Error(err)
	}
}

// counter is a reader that knows how much was taken of it.
type counter struct {
	r io.Reader
	n int
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

// FuzzFrames: whatever comes, the reader ends with an error, and no message is
// longer than the limit or than what was sent.
func FuzzFrames(f *testing.F) {
	f.Add(masked(ws.OpText, true, `{"ack":{"order":"x"}}`))
	f.Add(append(masked(ws.OpText, false, "a"), masked(ws.OpContinuation, true, "b")...))
	f.Add(masked(ws.OpPing, true, "p"))
	f.Add(masked(ws.OpClose, true, "\x03\xe8bye"))
	f.Add([]byte("\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00"))
	f.Add([]byte("\x81\xfe\xff\xff\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		const limit = 1000
		src := &counter{r: bytes.NewReader(in)}
		fr := reader(src, limit, func(p []byte) {
			if len(p) > 125 {
				t.Fatalf("ping of %d bytes", len(p))
			}
		})
		for total := 0; ; {
			msg, err := fr.next()
			if err != nil {
				return
			}
			total += len(msg)
			if len(msg) > limit || total > src.n {
				t.Fatalf("message of %d bytes out of %d", len(msg), src.n)
			}
		}
	})
}

// FuzzDecodeMessage: what is read has one part and survives being written.
func FuzzDecodeMessage(f *testing.F) {
	for _, s := range []string{
		`{"ack":{"order":"x"}}`, `{"ack":null}`, `{}`, `{"bye":{"reason":"r","retry":true}}`,
		`{"receipt":{"order":"x","envelope":{"payloadType":"t","payload":"aGk=","signatures":[{"keyid":"k","sig":"aGk="}]}}}`,
		`{"answer":{"id":"1","has":"yes","paths":["/a\\xff"]}}`, `{"inventory":{"items":[{"id":"e","sha1":"","sha256":""}]}}`,
		`{"facts":{"hostname":"h","can":["restore"]}}`, `{"hello":{"device":"d","signature":"aGk=","facts":{}}}`, `{"challenge":{"version":1,"nonce":"","time":"2026-01-02T03:04:05Z"}}`,
		`{"ask":{"id":"1","file":{"sha1":"da39a3ee5e6b4b0d3255bfef95601890afd80709"}}}`, `{"sightings":{"files":[]}}`, `{"ACK":{"order":"x"}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := order.DecodeMessage(in)
		if err != nil {
			return
		}
		out, err := json.Marshal(m)
		if err != nil {
			t.Fatalf("read but cannot be written: %v", err)
		}
		if string(out) == "{}" {
			return // the part was null: the gateway refuses it
		}
		again, err := order.DecodeMessage(out)
		if err != nil {
			t.Fatalf("written but cannot be read: %s: %v", out, err)
		}
		twice, err := json.Marshal(again)
		if err != nil || !bytes.Equal(out, twice) {
			t.Fatalf("%s became %s (%v)", out, twice, err)
		}
	})
}

// FuzzTake: a welcomed device can say anything without more harm than its link.
func FuzzTake(f *testing.F) {
	f.Add([]byte(`{"ack":{"order":"x"}}`))
	f.Add([]byte(`{"ack":{"order":"x","refused":"no"}}`))
	f.Add([]byte(`{"receipt":{"order":"x","envelope":{"payloadType":"","payload":"","signatures":null}}}`))
	f.Add([]byte(`{"answer":{"id":"1","has":"yes","paths":["/a"]}}`))
	f.Add([]byte(`{"inventory":{"items":[]}}`))
	f.Add([]byte(`{"sightings":{"files":[]}}`))
	f.Add([]byte(`{"bye":{"reason":"r","retry":true}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		g := &Gateway{
			Config: Config{Actions: &actions{}, Log: slog.New(slog.DiscardHandler), Now: time.Now},
			ctx:    t.Context(), large: make(chan struct{}, 1),
		}
		c := newConn(g, "::1")
		c.asks = map[string]asking{"1": {reply: func(a order.Answer) {
			if a.Has != "yes" && a.Has != "no" && a.Has != "unknown" {
				t.Fatalf("answer %q", a.Has)
			}
		}}}
		_ = c.take(in) // any error is fine: it closes the link
	})
}
