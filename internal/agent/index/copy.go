// SPDX-License-Identifier: Apache-2.0

package index

import (
	"fmt"
	"os"

	"staunch/internal/agent/inode"
	"staunch/internal/filehash"
	"staunch/internal/order"
)

// The part a copy's folder plays in an overlay file system (containers).
const (
	LayerLower = "lower" // shared and read-only for those above: gate it, do not tear it out
	LayerUpper = "upper" // one container's own writes
)

// Copy is one inode whose content was read through File and summed up.
type Copy struct {
	File    *os.File // open for reading; the caller closes it
	Stat    inode.Stat
	Sum     filehash.Sum
	Paths   []string // every name found, as the kernel spells it (any bytes); may be longer than PATH_MAX
	Missing uint64   // names the file system counts beyond Paths: hidden below a mount, or made meanwhile
	Layer   string   // LayerLower, LayerUpper or ""
	Note    string   // what a person should know of this copy, or ""
}

// note adds a sentence.
func (c *Copy) note(format string, args ...any) {
	if c.Note != "" {
		c.Note += "; "
	}
	c.Note += fmt.Sprintf(format, args...)
}

// gap tells a person of a place that was left out.
func gap(path, reason string) string {
	return string(order.TextOf(path)) + ": " + reason
}

// gapLimit bounds a list of gaps; a tree of unreadable folders is one finding.
const gapLimit = 1000
