// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os"
	"path/filepath"
	"testing"

	"staunch/internal/agent/index"
	"staunch/internal/agent/inode"
	"staunch/internal/agent/process"
	"staunch/internal/order"
)

// TestUnused: the proof is shortened only where nothing can be in flight; each
// row takes one of the reasons away.
func TestUnused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if ok, err := inode.Alone(f); err != nil || !ok {
		t.Skipf("SKIPPED, NOT PROVEN: this file system does not tell who has a file open (%v)", err)
	}
	for what, change := range map[string]func(*testing.T, *containment){
		"":                      func(_ *testing.T, _ *containment) {},
		"another rung":          func(_ *testing.T, c *containment) { c.receipt.Rung = process.RungFreeze },
		"not held":              func(_ *testing.T, c *containment) { c.receipt.HeldProven = false },
		"no gate":               func(_ *testing.T, c *containment) { c.gated = false },
		"no copy":               func(_ *testing.T, c *containment) { c.copies = nil },
		"a copy left in place":  func(_ *testing.T, c *containment) { c.copies[0].state = order.InPlace },
		"a layer of an overlay": func(_ *testing.T, c *containment) { c.copies[0].Layer = index.LayerUpper },
		"somebody has it open": func(t *testing.T, _ *containment) {
			other, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { other.Close() })
		},
		"one of two is open to somebody": func(t *testing.T, c *containment) {
			second := filepath.Join(t.TempDir(), "second")
			if err := os.WriteFile(second, []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
			for i := range 2 {
				g, err := os.Open(second)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { g.Close() })
				if i == 0 {
					c.copies = append(c.copies, &taken{Copy: index.Copy{File: g}, state: order.Sealed})
				}
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			c := &containment{gated: true, copies: []*taken{{Copy: index.Copy{File: f}, state: order.Sealed}}}
			c.receipt.Rung, c.receipt.HeldProven = process.RungBPF, true
			change(t, c)
			if got := c.unused(); got != (what == "") {
				t.Errorf("got %v", got)
			}
		})
	}
}
