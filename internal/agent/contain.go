// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"staunch/internal/agent/persistence"
	"staunch/internal/agent/process"
	"staunch/internal/filehash"
	"staunch/internal/order"
)

// Request asks for one containment.
type Request struct {
	ID        string // the order's, or a new GUID for one by hand
	File      filehash.Hash
	Force     bool
	Comment   string
	Requestor string
	Scan      []string // search these trees and do not ask the index
	DryRun    bool     // find and guard, change nothing
	Disable   bool     // what would bring the file back, reversibly: see Agent.Enable
}

// A step is one step of a containment. Steps are tried in order; when one
// fails before the point of no return, those that had begun are undone in
// reverse; behind it, those that are due all the same are still done. do may be
// called again in a later round and must then add to what it did before.
type step struct {
	name   string
	do     func(*containment, context.Context) error
	undo   func(*containment)
	always bool // also when one before it has failed behind the point of no return
}

// steps is a containment from beginning to end. "hold" kills and is the point
// of no return: up to it a cancel leaves everything as it was.
var steps = []step{
	{name: "find", do: (*containment).find},
	{name: "guard", do: (*containment).guard},
	{name: "gate", do: (*containment).gate, undo: (*containment).ungate},
	{name: "hold", do: (*containment).hold},
	{name: "take", do: (*containment).take},
	{name: "trace", do: (*containment).trace, always: true},
	{name: "prove", do: (*containment).prove},
}

// pointOfNoReturn is the first step that cannot be undone.
const pointOfNoReturn = "hold"

// maxRounds bounds how often what came back during the proof is held and taken
// again before the containment fails as Reappeared.
const maxRounds = 4

// A containment is the work for one Request.
type containment struct {
	*Agent
	Request
	begun   time.Time // carries the monotonic clock
	receipt order.Receipt
	copies  []*taken
	ran     int64 // the size, in bytes, of what a process was met to run, of which there may be no file any more; -1: none was met
	inVault int64 // the content's size in bytes, where an item has it; else 0
	sums    *sums
	armed   *process.Hold         // from hold on
	seen    []persistence.Process // processes that ran the file, as they were
	once    []string              // paths it had when it was started
	vouched bool                  // the last look saw every file where it was asked to, also those that moved meanwhile
	tracing *tracing              // from trace on, until its result is in the receipt
	unread  []string              // places the last look should have seen and could not; a few
	gated   bool                  // the hash is in the gate's deny set because of us
	final   bool                  // past the point of no return
}

// A failure is an error with the receipt's code.
type failure struct {
	code order.Code
	err  error
}

func (f *failure) Error() string { return f.err.Error() }

func (f *failure) Unwrap() error { return f.err }

func fail(code order.Code, format string, args ...any) error {
	return &failure{code, fmt.Errorf(format, args...)}
}

// errRound says that the proof found something left and another round is due.
var errRound = errors.New("something is left")

// errDone ends a containment early, with nothing more to do.
var errDone = errors.New("done")

// contain carries one request out and returns the account of it. The account
// is complete also when ctx ends or a step fails; it is not signed yet.
func (a *Agent) contain(ctx context.Context, r Request) order.Receipt {
	defer a.hashes.lock(r.File.String())()
	c := &containment{Agent: a, Request: r, begun: a.now(), ran: -1, sums: newSums(r.File)}
	c.receipt = order.Receipt{Order: r.ID, Device: a.deviceID(), Kind: order.StopAndQuarantine, Accepted: c.begun.UTC()}
	defer c.close()

	err := c.run(ctx)
	if err != nil && !errors.Is(err, errDone) && !c.final {
		c.ungateBefore()
	}
	c.endTrace()
	for _, t := range c.copies {
		c.receipt.Copies = append(c.receipt.Copies, t.wire())
	}
	c.receipt.Outcome = order.Proven
	var f *failure
	switch {
	case err == nil || errors.Is(err, errDone):
	case !c.final && ctx.Err() != nil:
		c.receipt.Outcome, c.receipt.Reason = order.Cancelled, "given up before anything was changed"
	case errors.As(err, &f):
		c.receipt.Outcome, c.receipt.Code, c.receipt.Reason = order.Failed, f.code, err.Error()
	default:
		c.receipt.Outcome, c.receipt.Code, c.receipt.Reason = order.Failed, order.Internal, err.Error()
	}
	c.receipt.Finished = a.now().UTC()
	return c.receipt
}

// run goes through the steps, and through hold to prove again while the proof
// finds something left.
func (c *containment) run(ctx context.Context) error {
	first := 0
	for round := 1; ; round++ {
		err := c.runFrom(ctx, first)
		if !errors.Is(err, errRound) {
			return err
		}
		if round == maxRounds {
			return fail(order.Reappeared, "it came back %d times while it was being taken; find what brings it back (see persistence) and order again", round)
		}
		c.note("round %d: %v", round+1, err)
		if err := c.look(ctx); err != nil { // what moved has other names by now
			return err
		}
		first = slices.IndexFunc(steps, func(s step) bool { return s.name == "guard" })
	}
}

func (c *containment) runFrom(ctx context.Context, first int) error {
	for i, s := range steps[first:] {
		if s.name == pointOfNoReturn {
			if err := ctx.Err(); err != nil {
				c.undo(first + i)
				return err
			}
			c.final = true
			ctx = context.WithoutCancel(ctx) // from here on it is finished, not left half done
		}
		if err := c.intend(s.name); err != nil {
			c.undo(first + i)
			return err
		}
		done, err := c.try(ctx, s)
		if err := c.outcome(done); err != nil {
			return err
		}
		if err != nil {
			if !c.final {
				c.undo(first + i)
			} else if !errors.Is(err, errRound) && !errors.Is(err, errDone) {
				c.rest(ctx, steps[first+i+1:])
			}
			return err
		}
		if c.DryRun && s.name == "guard" {
			c.note("dry run: nothing was changed")
			return errDone
		}
	}
	return nil
}

// try does one step and notes it in the receipt.
func (c *containment) try(ctx context.Context, s step) (order.Step, error) {
	start := c.since()
	err := s.do(c, ctx)
	done := order.Step{Name: s.name, StartNs: start, EndNs: c.since()}
	if err != nil && !errors.Is(err, errDone) {
		done.Error = err.Error()
	}
	c.receipt.Steps = append(c.receipt.Steps, done)
	return done, err
}

// rest does what is due behind a step that has failed: whoever reads why also
// reads what would bring the file back. What goes wrong with it does not hide
// the first failure.
func (c *containment) rest(ctx context.Context, steps []step) {
	for _, s := range steps {
		if !s.always || c.intend(s.name) != nil {
			continue
		}
		done, _ := c.try(ctx, s) // the receipt has it
		if err := c.outcome(done); err != nil {
			c.log.Warn("the outcome of a step is not in the journal", "step", s.name, "error", err)
		}
	}
}

func (c *containment) undo(last int) {
	for i := last; i >= 0; i-- {
		if steps[i].undo != nil {
			steps[i].undo(c)
		}
	}
}

func (c *containment) since() int64 { return c.now().Sub(c.begun).Nanoseconds() }

func (c *containment) note(format string, args ...any) {
	c.receipt.Notes = append(c.receipt.Notes, fmt.Sprintf(format, args...))
}

func (c *containment) close() {
	if c.gated && c.final {
		c.endFileRules()
	}
	if c.gated && c.receipt.Outcome == order.Proven {
		c.held.keep(c.File, c.size(), c.armed != nil && c.armed.Program())
	}
	if c.armed != nil { // after what outlasts it
		c.armed.Release()
	}
	for _, t := range c.copies {
		if t.File != nil {
			_ = t.File.Close() // read only
		}
	}
}
