// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"os"
	"syscall"

	"staunch/internal/agent/index"
	"staunch/internal/order"
)

// overlayMagic is the type of an overlay file system in statfs(2).
const overlayMagic = 0x794c7630

func onOverlay(f *os.File) bool {
	var st syscall.Statfs_t
	return f != nil && syscall.Fstatfs(int(f.Fd()), &st) == nil && st.Type == overlayMagic
}

// takeAll takes every copy. A file on the upper layer of an overlay is met
// twice: where the layer lies, and through the overlay, by its mount or only by
// a process of a container. It is one file, and is taken once: through the
// overlay where that has a name for it, because an overlay whose layers change
// below it goes on showing what is not there any more.
func (c *containment) takeAll(ctx context.Context, todo []*taken) {
	take := func(t *taken) { t.err = c.takeOne(ctx, t); t.doneNs = c.since() }
	var above, rest, seen []*taken
	for _, t := range todo {
		switch {
		case !onOverlay(t.File):
			rest = append(rest, t)
		case !t.nameless:
			above = append(above, t)
		default:
			seen = append(seen, t)
		}
	}
	c.each(above, take)
	c.each(rest, func(t *taken) {
		if t.Layer != index.LayerUpper || !t.as(above) {
			take(t)
		}
	})
	c.each(seen, func(t *taken) {
		if !t.as(above) && !t.as(rest) {
			take(t)
		}
	})
}

// as takes over what became of the same file seen in another way, if that is
// out of its place or refused there. The number of a file on an overlay is that
// of the file on its layer wherever all layers are on one file system; where
// they are not, the two are taken for different.
func (t *taken) as(others []*taken) bool {
	for _, o := range others {
		if o.Stat.Ino != t.Stat.Ino || o.Sum != t.Sum || t.Layer == "" && o.Layer == "" {
			continue
		}
		if o.state == order.Sealed && o.err == nil || o.state == order.Gated {
			t.state, t.item, t.doneNs = o.state, o.item, o.doneNs
			return true
		}
	}
	return false
}
