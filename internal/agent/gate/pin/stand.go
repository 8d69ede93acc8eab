// SPDX-License-Identifier: Apache-2.0

package pin

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// attach has the kernel ask the programs from now on, until the links are
// closed and not pinned. A program that was attached once cannot be attached
// again before Linux 5.13, so there another is loaded. p.mu is held, or p is
// not shared.
func (p *Pins) attach() ([]link.Link, error) {
	links, err := p.attachOnce()
	if !errors.Is(err, fs.ErrNotExist) {
		return links, err
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return nil, fmt.Errorf("cannot read the embedded object: %w", err)
	}
	same := map[string]*ebpf.Map{}
	for _, name := range maps() {
		same[name] = p.coll.Maps[name]
	}
	anew, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: same})
	if err != nil {
		return nil, fmt.Errorf("cannot load the kernel's programs: %w", err)
	}
	p.coll.Close()
	p.coll = anew
	return p.attachOnce()
}

func (p *Pins) attachOnce() (links []link.Link, err error) {
	for _, name := range programs() {
		l, err := link.AttachLSM(link.LSMOptions{Program: p.coll.Programs[name]})
		if err != nil {
			for _, l := range links {
				_ = l.Close() // only a descriptor
			}
			return nil, fmt.Errorf("cannot attach the kernel's program %s: %w", name, err)
		}
		links = append(links, l)
	}
	return links, nil
}

// stand attaches and pins, if that is not done. p.mu is held.
func (p *Pins) stand() (err error) {
	if len(p.links) > 0 {
		return nil
	}
	if p.links, err = p.attach(); err != nil {
		return err
	}
	if err = p.pin(); err != nil {
		p.detach()
		return errors.Join(err, unpin(p.dir))
	}
	return nil
}

// pin gives maps and links names in the BPF file system, in place of what is
// there: the new programs are at work before the old ones go.
func (p *Pins) pin() error {
	if err := os.Mkdir(p.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("cannot pin: %w", err)
	}
	for _, name := range maps() {
		path := filepath.Join(p.dir, name)
		if _, err := os.Lstat(path); err == nil {
			continue // it is this map: see load
		}
		if err := p.coll.Maps[name].Pin(path); err != nil {
			return fmt.Errorf("cannot pin %s: %w", name, err)
		}
	}
	for i, name := range programs() {
		path := filepath.Join(p.dir, name)
		_ = os.Remove(path + "-new") // of an agent that died here
		if err := p.links[i].Pin(path + "-new"); err != nil {
			return fmt.Errorf("cannot pin %s: %w", name, err)
		}
		if err := os.Rename(path+"-new", path); err != nil {
			return fmt.Errorf("cannot pin %s: %w", name, err)
		}
	}
	return nil
}

// settle ends everything once no file is marked. p.mu is held, or p is not shared.
func (p *Pins) settle() error {
	left := 0
	if err := p.each(func(key, mark) { left++ }); err != nil || left > 0 {
		return err
	}
	p.detach()
	return unpin(p.dir)
}

// unpin removes the names: programs first, so that none is without its marks.
func unpin(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot unpin: %w", err)
	}
	var errs []error
	for _, e := range slices.Backward(entries) { // on_… before marks
		errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
	}
	if err := errors.Join(append(errs, os.Remove(dir))...); err != nil {
		return fmt.Errorf("cannot unpin: %w; remove %s by hand", err, dir)
	}
	return nil
}

// isBPF reports whether a BPF file system is mounted there.
func isBPF(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.BPF_FS_MAGIC
}
