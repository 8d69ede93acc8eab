// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"cmp"
	"fmt"
	"iter"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// Line is one line as it is kept.
type Line struct {
	Index  int64       // its place
	Leaf   []byte      // what Leaf wrote
	Hashes []tlog.Hash // its stored hashes; nil when only the lines are at hand
}

// Fault says where a log stops being the one that was written.
type Fault struct {
	Line   int64 // the first bad line; with Reason saying more where it cannot be told exactly
	Reason string
}

func (f *Fault) Error() string {
	return fmt.Sprintf("audit log is broken at line %d: %s", f.Line, f.Reason)
}

// Report says what a verification has proved.
type Report struct {
	Lines     int64     `json:"lines"`     // all of them follow from one another
	Signed    int64     `json:"signed"`    // the first so many stand as they were signed
	Root      tlog.Hash `json:"root"`      // of all lines
	Notes     int       `json:"notes"`     // checkpoints that agree
	FirstTime string    `json:"firstTime"` // of the first line, RFC 3339; "" when there is none
	LastTime  string    `json:"lastTime"`
}

// Verify reads a log from its first line and checks that every line is in its
// place, that it hashes to what was stored with it, and that the log has at every
// checkpoint's size the root that was signed. The error is a *Fault, or what
// the lines' reader returned.
//
// What it can see depends on what it is given. Lines and stored hashes show a
// change by somebody who did not recompute all the hashes after it. Checkpoints,
// which must have been opened with the log's key, show any change of the lines
// that they cover, a cut end included; kept away from the log, they show it even
// when whoever changed it also removed the checkpoints beside it.
func Verify(lines iter.Seq2[Line, error], checkpoints []Checkpoint) (Report, error) {
	checkpoints = slices.SortedFunc(slices.Values(checkpoints), func(a, b Checkpoint) int { return cmp.Compare(a.Size, b.Size) })
	v := verifier{checkpoints: checkpoints}
	if err := v.settle(); err != nil {
		return v.report, err
	}
	for line, err := range lines {
		if err != nil {
			return v.report, err
		}
		if err := v.line(line); err != nil {
			return v.report, err
		}
		if err := v.settle(); err != nil {
			return v.report, err
		}
	}
	v.report.Root = v.tree.Root()
	if rest := v.checkpoints; len(rest) > 0 {
		return v.report, &Fault{v.tree.size, fmt.Sprintf(
			"the log ends after %d lines, but a checkpoint of %d was signed: its end was cut off", v.tree.size, rest[len(rest)-1].Size)}
	}
	return v.report, nil
}

type verifier struct {
	tree        Tree
	checkpoints []Checkpoint // those not reached yet, by size
	report      Report
}

// line checks the next line.
func (v *verifier) line(l Line) error {
	at := v.tree.size
	if l.Index != at {
		return &Fault{at, fmt.Sprintf("it is missing; line %d comes next", l.Index)}
	}
	e, err := ParseLeaf(l.Leaf)
	if err != nil {
		return &Fault{at, "it cannot be read: " + err.Error()}
	}
	if e.Index != at {
		return &Fault{at, fmt.Sprintf("it calls itself line %d: a line was moved, dropped or slipped in", e.Index)}
	}
	hashes := v.tree.Append(l.Leaf)
	if l.Hashes != nil {
		if err := compare(at, l.Hashes, hashes); err != nil {
			return err
		}
	}
	v.report.Lines = v.tree.size
	v.report.LastTime = e.Time.Format(timeLayout)
	if at == 0 {
		v.report.FirstTime = v.report.LastTime
	}
	return nil
}

const timeLayout = "2006-01-02T15:04:05.999999Z07:00"

// compare names what differs between a line's stored and computed hashes.
func compare(line int64, stored, computed []tlog.Hash) error {
	if len(stored) != len(computed) {
		return &Fault{line, fmt.Sprintf("%d hashes are stored with it, want %d", len(stored), len(computed))}
	}
	for level := range computed {
		switch {
		case stored[level] == computed[level]:
		case level == 0:
			return &Fault{line, "it was changed: it does not hash to what was stored with it"}
		default:
			first := line + 1 - 1<<level
			return &Fault{first, fmt.Sprintf("a line from %d to %d, or a hash over them, was changed", first, line)}
		}
	}
	return nil
}

// settle checks the checkpoints of the size that the tree has now.
func (v *verifier) settle() error {
	for len(v.checkpoints) > 0 && v.checkpoints[0].Size <= v.tree.size {
		c := v.checkpoints[0]
		if c.Root != v.tree.Root() {
			reason := fmt.Sprintf("a line from %d to %d is not what was signed", v.report.Signed, c.Size-1)
			if c.Size == v.report.Signed {
				reason = fmt.Sprintf("two different logs of %d lines were signed", c.Size)
			}
			return &Fault{v.report.Signed, reason}
		}
		v.report.Signed, v.checkpoints = c.Size, v.checkpoints[1:]
		v.report.Notes++
	}
	return nil
}
