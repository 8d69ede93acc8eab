// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Checkpoint is what the server signs: that its log began with these lines.
type Checkpoint struct {
	Origin string // the log's name, which is its key's name
	Size   int64  // lines
	Root   tlog.Hash
}

// text is the signed text, as C2SP's tlog-checkpoint defines it:
//
//	example.org/staunch
//	1042
//	CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
func (c Checkpoint) text() string {
	return fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, c.Root)
}

// Sign signs the checkpoint of t, under the signer's name, as a note.
func Sign(t Tree, signer note.Signer) ([]byte, error) {
	c := Checkpoint{Origin: signer.Name(), Size: t.Size(), Root: t.Root()}
	signed, err := note.Sign(&note.Note{Text: c.text()}, signer)
	if err != nil {
		return nil, fmt.Errorf("cannot sign the audit checkpoint of %d lines: %w", c.Size, err)
	}
	return signed, nil
}

// maxCheckpoint bounds a signed checkpoint, in bytes: room for co-signatures.
const maxCheckpoint = 16 << 10

// OpenCheckpoint reads a signed checkpoint; one of keys must have signed it.
func OpenCheckpoint(signed []byte, keys ...note.Verifier) (Checkpoint, error) {
	if len(signed) > maxCheckpoint {
		return Checkpoint{}, fmt.Errorf("cannot read audit checkpoint: %d bytes are more than the %d allowed", len(signed), maxCheckpoint)
	}
	n, err := note.Open(signed, note.VerifierList(keys...))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("cannot trust audit checkpoint: %w", err)
	}
	c, err := parseCheckpoint(n.Text)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("cannot read audit checkpoint: %w", err)
	}
	for _, sig := range n.Sigs {
		if sig.Name == c.Origin {
			return c, nil
		}
	}
	return Checkpoint{}, fmt.Errorf("cannot trust audit checkpoint: it is of the log %q, signed by %q", c.Origin, n.Sigs[0].Name)
}

func parseCheckpoint(text string) (c Checkpoint, err error) {
	lines := strings.SplitN(text, "\n", 4)
	if len(lines) < 4 {
		return c, errors.New("want three lines: origin, size, root hash")
	}
	c.Origin = lines[0]
	if c.Size, err = strconv.ParseInt(lines[1], 10, 64); err != nil || c.Size < 0 || lines[1] != strconv.FormatInt(c.Size, 10) {
		return c, fmt.Errorf("size %q is not a number of lines", lines[1])
	}
	if c.Root, err = tlog.ParseHash(lines[2]); err != nil || lines[2] != c.Root.String() { // base64 has several spellings
		return c, fmt.Errorf("root hash %q is not base64 of 32 bytes", lines[2])
	}
	return c, nil
}
