// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"os"
	"syscall"

	"staunch/internal/agent/mountinfo"
	"staunch/internal/order"
)

// stillMounted returns where the content can still be reached although its
// names are gone: a file that is itself mounted somewhere, by a bind mount,
// stays there until it is unmounted.
func (c *containment) stillMounted() (order.Text, error) {
	mounts, err := mountinfo.Read(mountinfo.Self)
	if err != nil {
		return "", err
	}
	for _, m := range mounts {
		if !m.Nameless() {
			continue
		}
		point := m.Point
		fi, err := os.Lstat(point)
		if err != nil || !fi.Mode().IsRegular() || c.size() >= 0 && fi.Size() != c.size() {
			continue // unmounted meanwhile, or another file
		}
		f, err := os.OpenFile(point, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
		if err != nil {
			return "", fmt.Errorf("cannot look at what is mounted at %q: %w", order.TextOf(point), err)
		}
		is, err := c.sums.match(f)
		_ = f.Close() // read only
		if is || err != nil {
			return order.TextOf(point), err
		}
	}
	return "", nil
}
