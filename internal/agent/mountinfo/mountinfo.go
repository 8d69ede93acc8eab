// SPDX-License-Identifier: Apache-2.0

// Package mountinfo reads what is mounted, as the kernel writes it into
// /proc/PID/mountinfo: see proc_pid_mountinfo(5).
package mountinfo

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Self is what this process sees mounted.
const Self = "/proc/self/mountinfo"

// Mount is one line.
type Mount struct {
	ID      uint64
	Dev     uint64 // of the superblock; files of btrfs and overlay may show another
	Root    string // the folder of the file system that is mounted
	Point   string // where, as the process sees it
	Type    string
	Source  string
	Options string // of the superblock, still escaped: a value may hold a comma
}

// Device is the superblock's device number for people, "major:minor".
func (m Mount) Device() string { return fmt.Sprintf("%d:%d", unix.Major(m.Dev), unix.Minor(m.Dev)) }

// Option returns the value of one superblock option.
func (m Mount) Option(name string) (string, bool) {
	for o := range strings.SplitSeq(m.Options, ",") {
		if v, ok := strings.CutPrefix(o, name+"="); ok {
			return Unescape(v), true
		}
	}
	return "", false
}

// Nameless reports whether a file or folder is mounted that has lost its own name.
func (m Mount) Nameless() bool { return strings.HasSuffix(m.Root, "//deleted") }

// Read reads a mountinfo file, see Parse.
func Read(path string) ([]Mount, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot list what is mounted: %w", err)
	}
	defer f.Close() //nolint:errcheck // read only
	return Parse(f)
}

// Parse reads all lines. One that it cannot read is an error beside the lines
// that it could.
func Parse(r io.Reader) (all []Mount, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 4096), 1<<20)
	for lines.Scan() {
		m, lineErr := parse(lines.Text())
		if lineErr != nil {
			err = errors.Join(err, lineErr)
			continue
		}
		all = append(all, m)
	}
	if lines.Err() != nil {
		err = errors.Join(err, fmt.Errorf("cannot list what is mounted: %w", lines.Err()))
	}
	return all, err
}

// parse reads
//
//	36 35 98:0 /root /point options [tag:value]… - type source superoptions
func parse(line string) (m Mount, err error) {
	bad := func(what string) (Mount, error) {
		return Mount{}, fmt.Errorf("cannot read mount %q: %s", line, what)
	}
	head, tail, ok := strings.Cut(line, " - ")
	f, g := strings.Split(head, " "), strings.Split(tail, " ")
	if !ok || len(f) < 6 || len(g) < 2 {
		return bad("too few fields")
	}
	if m.ID, err = strconv.ParseUint(f[0], 10, 64); err != nil {
		return bad("its number is no number")
	}
	major, minor, ok := strings.Cut(f[2], ":")
	maj, err1 := strconv.ParseUint(major, 10, 32)
	mnr, err2 := strconv.ParseUint(minor, 10, 32)
	if !ok || err1 != nil || err2 != nil {
		return bad("its device is not MAJOR:MINOR")
	}
	m.Dev = unix.Mkdev(uint32(maj), uint32(mnr))
	m.Root, m.Point = Unescape(f[3]), Unescape(f[4])
	m.Type, m.Source = Unescape(g[0]), Unescape(g[1])
	if len(g) > 2 {
		m.Options = g[2]
	}
	return m, nil
}

// Unescape undoes the \ooo by which the kernel writes space, tab, newline and
// backslash in a name. What is no such thing stays as it is.
func Unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
