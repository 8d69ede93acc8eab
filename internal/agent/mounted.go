// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"syscall"

	"staunch/internal/agent/mountinfo"
	"staunch/internal/order"
)

// stillMounted returns where the content can still be reached although its
// names are gone: a file that is itself mounted somewhere, by a bind mount,
// stays there until it is unmounted.
func (c *containment) stillMounted() (order.Text, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("cannot list what is mounted: %w", err)
	}
	for _, point := range deletedMounts(b) {
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

// deletedMounts reads proc_pid_mountinfo(5) and returns the places where
// something is mounted that has lost its own name. Fields four and five are
// the root of the mount within its file system and the place:
//
//	36 35 98:0 /real/file//deleted /mnt/file rw,noatime - ext4 /dev/root rw
func deletedMounts(table []byte) (points []string) {
	for line := range bytes.Lines(table) {
		f := strings.Fields(string(line))
		if len(f) > 5 && strings.HasSuffix(f[3], "//deleted") {
			points = append(points, mountinfo.Unescape(f[4]))
		}
	}
	return points
}
