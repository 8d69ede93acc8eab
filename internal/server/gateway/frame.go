// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// frames reads WebSocket messages (RFC 6455) from a peer that is not trusted:
// a frame's length is held against the limit before anything is read, and
// memory grows with what has come, not with what was announced.
type frames struct {
	r     io.Reader
	limit int                      // of a message, in bytes
	wait  func(within bool) error  // called before each read; within: inside a message
	pong  func(payload []byte)     // called for each ping
	gone  func(code ws.StatusCode) // called for a close frame
	head  [ws.MaxHeaderSize]byte   // spares an allocation a frame
	ctrl  [ws.MaxControlFramePayloadSize]byte
}

// violation is a breach of the protocol: it closes the link with its code.
type violation struct {
	code   ws.StatusCode
	reason string
}

func (v *violation) Error() string { return v.reason }

func breach(code ws.StatusCode, format string, args ...any) error {
	return &violation{code, fmt.Sprintf(format, args...)}
}

// errClosed says that the peer has closed the link.
var errClosed = errors.New("closed by the peer")

// chunk is how much is read, and room made for, at a time.
const chunk = 32 << 10

// next returns the next text message, answering control frames on the way.
func (f *frames) next() ([]byte, error) {
	var msg []byte
	state := ws.StateServerSide
	for {
		within := state.Fragmented()
		if err := f.wait(within); err != nil {
			return nil, err
		}
		h, err := ws.ReadHeaderBuffer(f.r, f.head[:])
		if err != nil {
			if errors.Is(err, ws.ErrHeaderLengthMSB) || errors.Is(err, ws.ErrHeaderLengthUnexpected) {
				return nil, breach(ws.StatusProtocolError, "%v", err)
			}
			return nil, err
		}
		if err := ws.CheckHeader(h, state); err != nil {
			return nil, breach(ws.StatusProtocolError, "%v", err)
		}
		switch {
		case h.OpCode.IsControl():
			if err := f.control(h); err != nil {
				return nil, err
			}
			continue
		case h.OpCode == ws.OpBinary:
			return nil, breach(ws.StatusUnsupportedData, "binary message: every message is text")
		case h.Length > int64(f.limit-len(msg)):
			return nil, breach(ws.StatusMessageTooBig, "message of more than %d bytes", f.limit)
		}
		if msg, err = f.payload(msg, h); err != nil {
			return nil, err
		}
		if !h.Fin {
			state = state.Set(ws.StateFragmented)
			continue
		}
		if !utf8.Valid(msg) {
			return nil, breach(ws.StatusInvalidFramePayloadData, "message is not UTF-8")
		}
		return msg, nil
	}
}

// payload appends a frame's unmasked payload to msg.
func (f *frames) payload(msg []byte, h ws.Header) ([]byte, error) {
	for done := 0; done < int(h.Length); {
		if err := f.wait(true); err != nil {
			return nil, err
		}
		n := min(int(h.Length)-done, chunk)
		msg = slices.Grow(msg, n)
		piece := msg[len(msg) : len(msg)+n]
		if _, err := io.ReadFull(f.r, piece); err != nil {
			return nil, err
		}
		ws.Cipher(piece, h.Mask, done)
		msg = msg[:len(msg)+n]
		done += n
	}
	return msg, nil
}

func (f *frames) control(h ws.Header) error {
	p := f.ctrl[:h.Length] // CheckHeader: at most 125 bytes
	if err := f.wait(true); err != nil {
		return err
	}
	if _, err := io.ReadFull(f.r, p); err != nil {
		return err
	}
	ws.Cipher(p, h.Mask, 0)
	switch h.OpCode {
	case ws.OpPing:
		f.pong(p)
	case ws.OpClose:
		code, _ := ws.ParseCloseFrameData(p)
		f.gone(code)
		return errClosed
	}
	return nil
}
