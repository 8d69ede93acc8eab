// SPDX-License-Identifier: Apache-2.0

package process

import (
	"os"
	"time"

	"staunch/internal/agent/inode"
	"staunch/internal/order"
)

// How a process runs a file.
type How string

// The ways.
const (
	Executes   How = "executes"   // it is the program
	Maps       How = "maps"       // an executable mapping of it: a library, a program given to the loader
	Interprets How = "interprets" // it is the script the process's interpreter was given
)

// Match is one process that runs the target.
type Match struct {
	PID     int
	Start   uint64 // clock ticks since boot; with PID the process's identity
	PPID    int
	UID     uint32
	Exe     string // where /proc/PID/exe points, any bytes, with the kernel's " (deleted)"
	Command string // arguments separated by NUL, cut at 4 KiB
	How     How
	Ident   inode.ID // the file that matched
	Size    int64    // its size, in bytes
	// Exe of a file that has no name any more (unlinked, or in memory), opened
	// before the kill so that it can be sealed: once for each such file. The
	// caller closes it.
	File   *os.File
	Killed bool      // SIGKILL was delivered
	Gone   bool      // it is dead
	Done   time.Time // when Gone was seen
	Err    error     // why it was not killed, or is not gone
}

// maxCommand bounds what is kept of a command line.
const maxCommand = 4096

// Wire returns the match as a receipt carries it; accepted is when the order
// was.
func (m Match) Wire(accepted time.Time) order.Match {
	w := order.Match{
		PID: m.PID, Start: m.Start, UID: m.UID,
		Exe: order.TextOf(m.Exe), Command: order.TextOf(words(m.Command)),
		How: string(m.How), State: "running",
	}
	switch {
	case m.Killed && m.Gone:
		w.State = "killed"
	case m.Gone:
		w.State = "gone"
	}
	if !m.Done.IsZero() {
		w.DoneNs = m.Done.Sub(accepted).Nanoseconds()
	}
	if m.Err != nil {
		w.Error = m.Err.Error()
	}
	return w
}

// words shows a command line with spaces between its arguments.
func words(command string) string {
	b := []byte(command)
	for len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	for i, c := range b {
		if c == 0 {
			b[i] = ' '
		}
	}
	return string(b)
}

// Result is how a Stop went.
type Result struct {
	Rung    string
	Proven  bool    // no match escaped, none is alive; see Notes where it is false
	Matches []Match // every match met, dead ones included, at most 10,000
	Met     int     // how many matches were met in all
	PauseNs int64   // longest pause of any process that is not a match
	Notes   []string
}
