// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"staunch/internal/agent/mountinfo"
)

// modes checks that nobody else can read or run what lies here.
func (c *checker) modes(context.Context) error {
	return filepath.WalkDir(c.v.dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == "restored" {
			return fs.SkipDir // files as they were, modes included; the folder is closed by the one above
		}
		if d.IsDir() && d.Name() == "staging" {
			return c.mode(path, d, fs.SkipDir)
		}
		return c.mode(path, d, nil)
	})
}

func (c *checker) mode(path string, d fs.DirEntry, then error) error {
	fi, err := d.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return then
	}
	if err != nil {
		return err
	}
	want := fs.FileMode(0o600)
	if d.IsDir() {
		want = 0o700
	}
	if d.Type()&fs.ModeSymlink != 0 || fi.Mode().Perm() == want {
		return then // a link leads nowhere: nothing here follows it
	}
	c.found("", path, fmt.Sprintf("its mode is %04o, so others may get at it or run it", fi.Mode().Perm()), fmt.Sprintf("run chmod %o on it", want), func() (string, error) {
		return fmt.Sprintf("its mode is %04o now", want), os.Chmod(path, want)
	})
	return then
}

// stagings looks into this vault's staging folders on the other local file
// systems. Network and user-space ones are passed by: they may not answer.
func (c *checker) stagings(context.Context) error {
	points, err := localMounts()
	if err != nil {
		c.found("", "/proc/self/mountinfo", "cannot see which file systems are mounted: "+err.Error(), "mount /proc and check again", nil)
		return nil
	}
	for _, p := range points {
		dir := filepath.Join(p, c.v.mountStageName())
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // the usual case: there is none
		}
		for _, e := range entries {
			id, _, _ := strings.Cut(e.Name(), ".")
			if !c.v.claimed(id) && !c.v.intended(id) {
				c.staged(filepath.Join(dir, e.Name()), e.Name())
			}
		}
	}
	return nil
}

// localMounts are the mount points of file systems that answer by themselves.
func localMounts() (points []string, err error) {
	mounts, err := mountinfo.Read(mountinfo.Self)
	if len(mounts) == 0 {
		return nil, err
	}
	for _, m := range mounts {
		if k := m.Kind(); (k == mountinfo.Local || k == mountinfo.Layers) && !slices.Contains(points, m.Point) {
			points = append(points, m.Point)
		}
	}
	return points, nil
}
