// SPDX-License-Identifier: Apache-2.0

// Package gate refuses to open or execute denied files, with permission events
// of fanotify(7), from a process of its own that cannot freeze the machine.
//
// Three processes share the work. The supervisor makes the fanotify group,
// keeps a duplicate of its descriptor, starts gate and worker and starts them
// again; it answers for a gate that died or hangs. The gate does nothing but
// answer: it never executes anything, never opens a file by name where it
// gates, never waits for a log, the network or the worker. The worker does all
// the rest and speaks to the gate through a Client.
//
// What holds:
//
//   - Whatever happens to the gate, every waiting open or execution is answered
//     within a bounded time (Settings.Bound and Settings.Budget), with "allow"
//     by default and "deny" when Settings.FailClosed is set.
//   - The rules live in memory that outlasts the gate: a successor refuses from
//     its first event on, also while the worker is down.
//   - If the supervisor dies its children die with it and the kernel lets
//     everything go that waited.
//   - A content that was judged is the content that runs: it is read under a
//     read lease, which no writer survives and none can break meanwhile.
//
// What is not covered is said in docs/gate.md.
package gate

import (
	"errors"
	"time"

	"staunch/internal/filehash"
	"staunch/internal/order"
)

// ErrOff says that there is no gate here; the error that wraps it says why.
var ErrOff = errors.New("the gate is off")

// MaxID is the longest id of a rule, in bytes.
const MaxID = 44

// Settings are the choices an operator has. The zero value is the default.
type Settings struct {
	// FailClosed refuses whatever could not be judged in time, instead of
	// allowing it. A gate in trouble then keeps programs from starting.
	FailClosed bool `json:"failClosed,omitempty"`
	// Bound is the longest the gate may be silent before it is replaced and
	// what waits for it is answered by the setting. Zero: 2 seconds.
	Bound time.Duration `json:"bound,omitempty"`
	// Budget is the longest one open or execution waits for its verdict.
	// Zero: 2 seconds.
	Budget time.Duration `json:"budget,omitempty"`
	// MaxSize is the size in bytes beyond which a file is not hashed but
	// answered by the setting. Zero: 1 GiB.
	MaxSize int64 `json:"maxSize,omitempty"`
	// Under limits the standing gate by hash to the mounts that these folders
	// lie on and those below them. Empty: every local file system.
	Under []string `json:"under,omitempty"`
}

func (s Settings) withDefaults() Settings {
	if s.Bound <= 0 {
		s.Bound = 2 * time.Second
	}
	if s.Budget <= 0 {
		s.Budget = 2 * time.Second
	}
	if s.MaxSize <= 0 {
		s.MaxSize = 1 << 30
	}
	return s
}

// fallback is the answer to what could not be judged.
func (s Settings) fallback() verdict {
	if s.FailClosed {
		return deny
	}
	return allow
}

func (s Settings) mode() string {
	if s.FailClosed {
		return "fail-closed"
	}
	return "fail-open"
}

// Rule refuses the execution of a content, wherever it lies.
type Rule struct {
	File filehash.Hash `json:"file"`
	// Size of the content in bytes, -1 where it is not known. While every rule
	// knows its size, most executions are decided without hashing.
	Size int64 `json:"size"`
	// ID of the order or indicator that asked for it, at most MaxID bytes.
	ID string `json:"id,omitempty"`
	// Do is for a rule of a set: DoDeny, DoAudit or DoAllow. Empty for one by itself.
	Do string `json:"do,omitempty"`
}

// Refusal is one open or execution that the gate refused.
type Refusal struct {
	PID  int           `json:"pid"`           // of the process that was refused; it may be gone
	Path order.Text    `json:"path,omitzero"` // a name of the file at that instant; for people only
	File filehash.Hash `json:"file,omitzero"` // known where the content decided
	ID   string        `json:"id,omitempty"`  // of the rule
	Exec bool          `json:"exec"`          // execution; else open
	// Late: the content was known only after the time was up and the setting
	// had let it run. Whoever reads this must stop it.
	Late bool `json:"late,omitempty"`
	// Audit: it was not refused; a rule wants it reported.
	Audit bool      `json:"audit,omitempty"`
	When  time.Time `json:"when"`
}

// Status is what the gate knows of itself. The counters start at zero with
// every gate process, except Restarts and Swept.
type Status struct {
	Mode        string    `json:"mode"`        // "fail-open" or "fail-closed"
	Since       time.Time `json:"since"`       // start of this gate process
	Restarts    int       `json:"restarts"`    // gates before this one
	Swept       int       `json:"swept"`       // events of dead gates the supervisor answered by Mode
	Files       int       `json:"files"`       // denied files
	Hashes      int       `json:"hashes"`      // denied contents
	Denied      uint64    `json:"denied"`      // refused
	Allowed     uint64    `json:"allowed"`     // allowed, whatever the reason
	HashedExecs uint64    `json:"hashedExecs"` // contents read and hashed
	FailOpens   uint64    `json:"failOpens"`   // answered by Mode and not by content
	Late        uint64    `json:"late"`        // of these, found to be denied once it was too late
	Writers     uint64    `json:"writers"`     // refused because somebody was writing the file
	Unleased    uint64    `json:"unleased"`    // judged where the file system grants no lease
	Overflows   uint64    `json:"overflows"`   // the kernel's queue was full and it let some pass
	Lost        uint64    `json:"lost"`        // refusals nobody was told of
	SlowestNs   int64     `json:"slowestNs"`   // the slowest answer so far, in nanoseconds
	Pending     int       `json:"pending"`     // being hashed now
	Unlimited   bool      `json:"unlimited"`   // the kernel's queue has no limit

	Covered    []Filesystem `json:"covered,omitempty"`    // by the standing gate, now
	NotCovered []Filesystem `json:"notCovered,omitempty"` // with the reason
}

// Filesystem is one mounted file system.
type Filesystem struct {
	Point order.Text `json:"point"`          // where it is mounted
	Type  string     `json:"type"`           // as in /proc/self/mountinfo
	Why   string     `json:"why,omitempty"`  // it is not covered
	Dev   string     `json:"device"`         // "major:minor"
	ID    int        `json:"mount,omitzero"` // the mount's id
}
