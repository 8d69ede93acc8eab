// SPDX-License-Identifier: Apache-2.0

package process

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// inspect asks the kernel which inode a descriptor of ours names.
func (k *hooks) inspect(fd int) (hookAnswer, error) {
	k.asking.Lock()
	defer k.asking.Unlock()
	if err := k.coll.Variables["asked_fd"].Set(uint32(fd)); err != nil { //nolint:gosec // descriptors are small
		return hookAnswer{}, fmt.Errorf("cannot identify file in the kernel: %w", err)
	}
	if _, err := k.coll.Programs["inspect"].Run(&ebpf.RunOptions{}); err != nil {
		return hookAnswer{}, fmt.Errorf("cannot identify file in the kernel: %w", err)
	}
	var a hookAnswer
	if err := k.coll.Variables["answered"].Get(&a); err != nil {
		return hookAnswer{}, fmt.Errorf("cannot identify file in the kernel: %w", err)
	}
	if a.Inode == 0 {
		return a, errors.New("cannot identify file in the kernel: it found no such descriptor")
	}
	return a, nil
}

// deny has the kernel kill what executes the file. count says whether this is
// one more holder of the address; the caller keeps f open until allow.
func (k *hooks) deny(f *os.File, count func(addr uint64) bool) (addr uint64, err error) {
	a, err := k.inspect(int(f.Fd()))
	if err != nil {
		return 0, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.coll.Maps["denied"].Put(a.Inode, a.Mark); err != nil {
		return 0, fmt.Errorf("cannot deny file in the kernel: %w", err)
	}
	if count(a.Inode) {
		k.denials[a.Inode]++
	}
	return a.Inode, nil
}

// allow undoes one deny.
func (k *hooks) allow(addr uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.denials[addr]--; k.denials[addr] > 0 {
		return
	}
	delete(k.denials, addr)
	if err := k.coll.Maps["denied"].Delete(addr); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		// The map is ours and the key is there: this cannot fail. Were it to,
		// a new file at this address would still have to have its size and time.
		return
	}
}

// doom has the kernel kill what a process forks from now on, whatever it
// executes. start is in clock ticks since boot.
func (k *hooks) doom(pid int, start uint64) error {
	if err := k.coll.Maps["doomed"].Put(uint32(pid), start); err != nil { //nolint:gosec // pids are small
		return fmt.Errorf("cannot doom process %d in the kernel: %w", pid, err)
	}
	return nil
}

// pardon undoes doom.
func (k *hooks) pardon(pid int) {
	_ = k.coll.Maps["doomed"].Delete(uint32(pid)) //nolint:gosec // pids are small; gone already is fine
}

// watch has the kernel tell of execs that may be of the hold's target; called
// again, it takes account of what has been learnt of it since.
func (k *hooks) watch(d *Hold) error {
	size := int64(-1)
	if n, ok := d.judge.bytes(); ok && d.judge.program() {
		size = n
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	old, watched := k.watched[d]
	if watched && old == size {
		return nil
	}
	if size >= 0 {
		if err := k.coll.Maps["sizes"].Put(uint64(size), uint32(1)); err != nil { //nolint:gosec // not negative
			size = -1 // the map is full: be told of everything
		}
	}
	k.watched[d] = size
	k.sizes[size]++
	if watched {
		k.forget(old)
	}
	return k.arm()
}

// forget undoes one hold's wait for a size. Called with mu held.
func (k *hooks) forget(size int64) {
	if k.sizes[size]--; k.sizes[size] > 0 {
		return
	}
	delete(k.sizes, size)
	if size >= 0 {
		_ = k.coll.Maps["sizes"].Delete(uint64(size)) // a size too many only costs a look
	}
}

// unwatch undoes watch.
func (k *hooks) unwatch(d *Hold) {
	k.mu.Lock()
	defer k.mu.Unlock()
	size, ok := k.watched[d]
	if !ok {
		return
	}
	delete(k.watched, d)
	k.forget(size)
	_ = k.arm() // disarming cannot fail for want of anything; armed for nothing costs a look
}

// arm sets the flags to what the holds and streams need. Called with mu held.
func (k *hooks) arm() error {
	var flags uint32
	if len(k.watched) > 0 {
		flags |= hookArmed
	}
	if k.sizes[-1] > 0 {
		flags |= hookAllExecs
	}
	if len(k.streams) > 0 {
		flags |= hookArmed | hookStream
	}
	if err := k.coll.Variables["flags"].Set(flags); err != nil {
		return fmt.Errorf("cannot arm the kernel hooks: %w", err)
	}
	if k.child {
		return nil
	}
	switch {
	case len(k.watched) > 0 && k.call == nil:
		l, err := link.AttachTracing(link.TracingOptions{Program: k.coll.Programs["on_call"]})
		if err != nil {
			return fmt.Errorf("cannot attach the kernel hook on_call: %w", err)
		}
		k.call = l
	case len(k.watched) == 0 && k.call != nil:
		err := k.call.Close()
		k.call = nil
		return err
	}
	return nil
}
