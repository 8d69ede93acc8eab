// SPDX-License-Identifier: Apache-2.0

package index

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"staunch/internal/agent/inode"
	"staunch/internal/order"
)

// Verify opens a candidate without following a link anywhere, makes sure that
// it is the inode the index meant, and reads it. The caller closes the copy's
// file and compares its Sum with what it looks for: the content may be another
// one by now.
func (x *Index) Verify(ctx context.Context, c Candidate) (Copy, error) {
	got, err := x.verify(ctx, &c)
	if err != nil {
		name := c.ID.String()
		if len(c.Paths) > 0 {
			name = string(order.TextOf(c.Paths[0]))
		}
		return Copy{}, fmt.Errorf("cannot verify %s: %w", name, err)
	}
	return got, nil
}

func (x *Index) verify(ctx context.Context, c *Candidate) (got Copy, err error) {
	v := x.active()[c.volume]
	if v == nil {
		return got, errors.New("its file system is not mounted any more")
	}
	mount, err := v.open()
	if err != nil {
		return got, err
	}
	defer closeFD(mount)
	fd, _, err := x.openFile(ctx, v, mount, int64(c.ID.Ino), c.spots, c.own)
	if err != nil {
		return got, err
	}
	f, err := look(fd, "")
	if err == nil {
		got.Sum, _, err = newSummer().settled(ctx, fd, f)
	}
	if err != nil {
		closeFD(fd)
		return got, err
	}
	x.names(ctx, v, mount, c, &got)
	name := fdPath(fd)
	if len(got.Paths) > 0 {
		name = got.Paths[0]
	}
	if got.File, err = keep(fd, name); err != nil {
		closeFD(fd)
		return Copy{}, err
	}
	if got.Stat, err = inode.Of(got.File); err != nil {
		return Copy{}, errors.Join(err, got.File.Close())
	}
	if have := uint64(len(got.Paths)); got.Stat.Nlink > have {
		got.Missing = got.Stat.Nlink - have
		got.note("%d of its %d names were not found", got.Missing, got.Stat.Nlink)
	}
	return got, nil
}

// names keeps the names that lead to the candidate now, and notes the overlay
// it is part of.
func (x *Index) names(ctx context.Context, v *volume, mount int, c *Candidate, got *Copy) {
	x.mu.Lock()
	layers := x.layers
	x.mu.Unlock()
	for _, s := range c.spots {
		dir, err := x.openSpotDir(ctx, v, mount, s)
		if err != nil {
			continue
		}
		f, err := look(dir, s.name)
		if err == nil && f.id == c.ID && !f.mountRoot {
			got.Paths = append(got.Paths, x.pathOf(ctx, v, dir, s))
			if part, ok := layerAbove(dir, v.root, layers); ok && got.Layer != LayerLower {
				got.Layer = part.layer
				got.note("it lies on the %s layer of the overlay at %s", part.layer, order.TextOf(part.point))
			}
		}
		closeFD(dir)
	}
	slices.Sort(got.Paths)
	got.Paths = slices.Compact(got.Paths)
}

// pathOf is where an open folder's name is now, as far as a path can tell.
func (x *Index) pathOf(ctx context.Context, v *volume, dir int, s spot) string {
	if path, err := os.Readlink(fdPath(dir)); err == nil && within(path, v.point) {
		if path == "/" {
			return "/" + s.name
		}
		return path + "/" + s.name
	}
	names, _ := x.chain(ctx, s.dir.id) // too deep for the kernel to spell; the names as last seen
	return v.path(append(names, s.name)...)
}

// layerAbove looks upwards from a folder for the top of an overlay's layer.
func layerAbove(dir int, top inode.ID, layers map[inode.ID]layer) (layer, bool) {
	if len(layers) == 0 {
		return layer{}, false
	}
	up := dir
	for {
		f, err := look(up, "")
		part, ok := layers[f.id]
		next := -1
		if err == nil && !ok && f.id != top {
			next, err = openAt(up, "..", openDirFlags)
		}
		if up != dir {
			closeFD(up)
		}
		if err != nil || next < 0 {
			return part, ok
		}
		up = next
	}
}
