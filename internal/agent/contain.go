// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"staunch/internal/agent/guard"
	"staunch/internal/agent/index"
	"staunch/internal/agent/inode"
	"staunch/internal/agent/persistence"
	"staunch/internal/agent/process"
	"staunch/internal/agent/vault"
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
// reverse. do may be called again in a later round and must then add to what
// it did before.
type step struct {
	name string
	do   func(*containment, context.Context) error
	undo func(*containment)
}

// steps is a containment from beginning to end. "hold" kills and is the point
// of no return: up to it a cancel leaves everything as it was.
var steps = []step{
	{"find", (*containment).find, nil},
	{"guard", (*containment).guard, nil},
	{"gate", (*containment).gate, (*containment).ungate},
	{"hold", (*containment).hold, nil},
	{"take", (*containment).take, nil},
	{"trace", (*containment).trace, nil},
	{"prove", (*containment).prove, nil},
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
	inVault int64 // the content's size in bytes, where an item has it; else 0
	sums    *sums
	armed   *process.Hold         // from hold on
	seen    []persistence.Process // processes that ran the file, as they were
	once    []string              // paths it had when it was started
	gated   bool                  // the hash is in the gate's deny set because of us
	final   bool                  // past the point of no return
}

// taken is one copy and what became of it.
type taken struct {
	index.Copy
	nameless bool            // reached only through a process; there is no place to take it from
	guarded  bool            // the guard lets it be taken
	state    order.CopyState // "" while nothing has become of it
	item     string
	err      error
	doneNs   int64
}

func (t *taken) wire() order.Copy {
	w := order.Copy{
		Dev: t.Stat.Dev, Ino: t.Stat.Ino, SHA1: t.Sum.SHA1, SHA256: t.Sum.SHA256, Size: t.Sum.Size,
		UID: t.Stat.UID, GID: t.Stat.GID, Mode: t.Stat.Mode, State: t.state, Item: t.item, DoneNs: t.doneNs,
	}
	for _, p := range t.Paths {
		w.Paths = append(w.Paths, order.TextOf(p))
	}
	if w.State == "" {
		w.State = order.InPlace
	}
	if t.err != nil {
		w.Error = t.err.Error()
		var errno syscall.Errno
		if errors.As(t.err, &errno) {
			w.Errno = int(errno)
		}
	}
	return w
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
	c := &containment{Agent: a, Request: r, begun: a.now(), sums: newSums(r.File)}
	c.receipt = order.Receipt{Order: r.ID, Device: a.deviceID(), Kind: order.StopAndQuarantine, Accepted: c.begun.UTC()}
	defer c.close()

	err := c.run(ctx)
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
		start := c.since()
		err := s.do(c, ctx)
		done := order.Step{Name: s.name, StartNs: start, EndNs: c.since()}
		if err != nil && !errors.Is(err, errDone) {
			done.Error = err.Error()
		}
		c.receipt.Steps = append(c.receipt.Steps, done)
		if err := c.outcome(done); err != nil {
			return err
		}
		if err != nil {
			if !c.final {
				c.undo(first + i)
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
	if c.armed != nil {
		c.armed.Release()
	}
	if c.gated && c.receipt.Outcome == order.Proven {
		// The files are gone, and with them the marks on them.
		if err := c.gates.client.Release(c.ID + fileRules); err != nil {
			c.log.Warn("gate rules are left over", "order_id", c.ID, "error", err)
		}
		c.held.keep(c.File, c.size())
	}
	for _, t := range c.copies {
		if t.File != nil {
			_ = t.File.Close() // read only
		}
	}
}

// find gathers every copy: what the index knows, what runs, and, where the
// index cannot vouch for the rest, what a search turns up.
func (c *containment) find(ctx context.Context) error {
	sealed, err := c.sealed(c.File)
	if err != nil {
		return err
	}
	if len(sealed) > 0 {
		c.inVault = sealed[0].Size
	}
	if err := c.look(ctx); err != nil {
		return err
	}
	for _, item := range sealed {
		switch {
		case item.Order == c.ID: // before the agent was interrupted
		case len(c.copies) == 0:
			c.receipt.Code = order.AlreadyQuarantined
		default: // somebody else's account
			continue
		}
		c.receipt.Copies = append(c.receipt.Copies, copyOf(item))
	}
	if len(c.copies) > 0 {
		return c.conflict()
	}
	// Nothing is there, but it was: the gate, the processes and the proof are
	// still due.
	if len(sealed) > 0 {
		return nil
	}
	return fail(order.FileNotFound, "no file and no process on this device has the hash %s", c.File)
}

// look adds the copies that are there now and are not known yet.
func (c *containment) look(ctx context.Context) error {
	vouched := false
	if c.index != nil && len(c.Scan) == 0 {
		found, complete, err := c.lookup(ctx)
		if err != nil {
			return err
		}
		c.add(found...)
		vouched = complete
	}
	if !vouched {
		if err := c.search(ctx); err != nil {
			return err
		}
	}
	// Last: a copy that was found tells the size, which spares reading nearly
	// all that runs.
	return c.running(ctx)
}

// search adds the copies that lie where the index cannot vouch.
func (c *containment) search(ctx context.Context) error {
	res, err := index.Search(ctx, index.SearchConfig{
		Roots: c.searchRoots(), Skip: c.ownFolders(), Hash: c.File, Size: c.size(), Log: c.log,
	})
	if err != nil {
		return fmt.Errorf("cannot search for copies: %w", err)
	}
	c.add(res.Copies...)
	c.receipt.Searched = merge(c.receipt.Searched, res.Covered)
	c.receipt.NotCovered = merge(c.receipt.NotCovered, res.NotCovered)
	return nil
}

func (c *containment) searchRoots() []string {
	if len(c.Scan) > 0 {
		return c.Scan
	}
	return c.roots
}

// size is the content's size in bytes once a copy has told it, one in the vault
// included, else -1.
func (c *containment) size() int64 {
	if len(c.copies) > 0 {
		return c.copies[0].Sum.Size
	}
	if c.inVault > 0 {
		return c.inVault
	}
	return -1
}

// lookup asks the index, after it has taken in all that happened before. It
// vouches for the answer when nothing but what was verified could have the content.
func (c *containment) lookup(ctx context.Context) (found []index.Copy, vouched bool, err error) {
	barrier, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := c.index.Barrier(barrier); err != nil {
		c.log.Debug("the index is behind", "error", err)
	}
	answer, err := c.index.Lookup(ctx, c.File)
	if err != nil {
		c.note("the index could not be asked, so the file systems were searched: %v", err)
		return nil, false, nil
	}
	vouched = answer.Complete || answer.OnlyUnsure
	for _, candidate := range slices.Concat(answer.Copies, answer.Unsure) {
		got, err := c.index.Verify(ctx, candidate)
		switch {
		case err == nil && c.File.Matches(got.Sum):
			found = append(found, got)
		case err == nil:
			_ = got.File.Close() // read only
		case ctx.Err() != nil:
			return found, false, ctx.Err()
		default: // changed or gone since: where the content is now only a search can tell
			vouched = false
		}
	}
	return found, vouched, nil
}

// running adds the executables of processes: also those that have no name any
// more, and those on file systems nobody searches.
func (c *containment) running(ctx context.Context) error {
	matches, err := c.holder.Look(ctx, c.target())
	c.addRunning(matches)
	return c.notAll(err)
}

// notAll notes which processes could not be examined. An agent that is not
// root never can; for one that is, it is a failure.
func (c *containment) notAll(err error) error {
	switch {
	case err == nil:
		return nil
	case c.privileged:
		return fmt.Errorf("cannot look at every process: %w", err)
	}
	c.receipt.NotCovered = merge(c.receipt.NotCovered, []string{"processes: " + err.Error()})
	return nil
}

func (c *containment) addRunning(matches []process.Match) {
	c.remember(matches)
	for _, m := range matches {
		if m.File == nil {
			continue
		}
		got, err := describe(m.File, c.sums)
		if err != nil || c.known(got.Stat.ID) || !c.File.Matches(got.Sum) {
			_ = m.File.Close() // read only
			continue
		}
		if got.Paths = nameOf(m.File, got.Stat.ID); len(got.Paths) > 0 {
			c.add(got) // a process showed a place that was not searched
			continue
		}
		c.copies = append(c.copies, &taken{Copy: got, nameless: true})
	}
}

// nameOf returns the name by which the kernel knows an open file, if that leads
// to it from here: it does not for a file that is deleted, in memory, or on a
// file system that only others have mounted.
func nameOf(f *os.File, id inode.ID) []string {
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return nil
	}
	if found, ok := at(name); !ok || found != id {
		return nil
	}
	return []string{name}
}

func describe(f *os.File, s *sums) (index.Copy, error) {
	st, err := inode.Of(f)
	if err != nil {
		return index.Copy{}, err
	}
	sum, err := s.of(f)
	return index.Copy{File: f, Stat: st, Sum: sum}, err
}

func (c *containment) known(id inode.ID) bool {
	return slices.ContainsFunc(c.copies, func(t *taken) bool { return t.Stat.ID == id && t.state != order.Sealed })
}

func (c *containment) add(found ...index.Copy) {
	for _, f := range found {
		i := slices.IndexFunc(c.copies, func(t *taken) bool { return t.Stat.ID == f.Stat.ID && t.state != order.Sealed })
		if i < 0 {
			c.copies = append(c.copies, &taken{Copy: f})
			continue
		}
		t := c.copies[i]
		t.Paths = merge(t.Paths, f.Paths)
		t.nameless = t.nameless && len(f.Paths) == 0
		_ = f.File.Close() // the descriptor we have is of the same inode
	}
}

// conflict refuses contents that share the SHA-1 that was named but are not the same.
func (c *containment) conflict() error {
	for _, t := range c.copies[1:] {
		if t.Sum.SHA256 != c.copies[0].Sum.SHA256 {
			return fail(order.HashConflict, "two contents on this device share SHA-1 %s: SHA-256 %s and %s; order again by the SHA-256 that is meant",
				t.Sum.SHA1, c.copies[0].Sum.SHA256, t.Sum.SHA256)
		}
	}
	return nil
}

// guard refuses what must not be taken, and checks for room, before anything is changed.
func (c *containment) guard(ctx context.Context) error {
	var files []guard.File
	var room int64
	for _, t := range c.open() {
		if id, ok := c.policy.allows(t.Sum.Hash()); ok {
			return fail(order.Protected, "indicator %d allows this content: delete it first, if it is to be contained", id)
		}
		files = append(files, guard.File{File: t.File, ID: t.Stat.ID, Sum: t.Sum, Paths: t.Paths})
		room += t.Sum.Size
		t.guarded = true
	}
	err := c.rules.Check(ctx, files, c.Force)
	var refusal *guard.Refusal
	if errors.As(err, &refusal) {
		return fail(order.Protected, "%w", refusal)
	}
	if err != nil {
		return err
	}
	if c.DryRun {
		return nil
	}
	if err := c.vault.Room(room); err != nil {
		return fail(order.NoSpace, "%w; nothing was moved", err)
	}
	return nil
}

// open are the copies that still have to be dealt with.
func (c *containment) open() []*taken {
	return slices.DeleteFunc(slices.Clone(c.copies), func(t *taken) bool { return t.state != "" })
}

// gate refuses open and exec of every known copy, and exec of every unknown one.
func (c *containment) gate(context.Context) error {
	if c.gates == nil {
		c.receipt.Gate = "none"
		c.note("no gate: %s; a copy that is not found can be started until it is", c.gateOff)
		return nil
	}
	if err := c.gates.deny(Gated{File: c.File, Size: c.size(), Order: c.ID, Since: c.begun.UTC()}); err != nil {
		return fail(order.NotSupported, "cannot gate: %w", err)
	}
	c.gated = true
	c.receipt.Gate = "content and files"
	for _, t := range c.open() {
		if err := c.gates.client.DenyFile(t.File, c.ID+fileRules); err != nil {
			c.note("the gate has no rule for file %s itself: %v", t.Stat.ID, err)
		}
	}
	return nil
}

// fileRules is what is added to a containment's id for the gate's rules on
// single files: they end with it, the rule on the content stands.
const fileRules = ".file"

func (c *containment) ungate() {
	if !c.gated {
		return
	}
	c.gated = false
	c.openFiles()
	if err := errors.Join(c.gates.client.Release(c.ID+fileRules), c.gates.lift(c.ID)); err != nil {
		c.note("the gate could not be lifted: %v", err)
	}
}

// openFiles lifts the gate on the files that are left where they are.
func (c *containment) openFiles() {
	for _, t := range c.copies {
		if t.state == order.Sealed {
			continue
		}
		if err := c.gates.client.AllowFile(t.File); err != nil {
			c.note("the gate on file %s could not be lifted: %v", t.Stat.ID, err)
		}
	}
}

// target is what the process package has to recognise.
func (c *containment) target() process.Target {
	t := process.Target{Match: c.sums.match, Size: max(c.size(), 0)}
	for _, k := range c.open() {
		t.Copies = append(t.Copies, process.Copy{File: k.File, Stat: k.Stat})
	}
	return t
}

// arm begins to hold what is known, and what was found since. A copy that
// changes all the time must not keep the others from being held.
func (c *containment) arm() (err error) {
	again := c.armed != nil
	if !again {
		t := c.target()
		t.Copies = nil
		if c.armed, err = c.holder.Arm(t); err != nil {
			return fail(order.ProcessRunning, "cannot hold the processes: %w", err)
		}
	}
	for _, t := range c.open() {
		err := c.armed.Add(process.Copy{File: t.File, Stat: t.Stat})
		switch {
		case err == nil:
		case again, errors.Is(err, process.ErrOther):
			c.note("the hold has no rule for file %s itself: %v", t.Stat.ID, err)
		default:
			return fail(order.ProcessRunning, "cannot hold the processes: %w", err)
		}
	}
	return nil
}

// hold kills every match by a method that forking does not outrun.
func (c *containment) hold(ctx context.Context) (err error) {
	if err := c.arm(); err != nil {
		return err
	}
	res, err := c.armed.Stop(ctx)
	c.receipt.Rung, c.receipt.HeldProven = res.Rung, res.Proven
	c.receipt.PauseNs = max(c.receipt.PauseNs, res.PauseNs)
	c.receipt.Notes = merge(c.receipt.Notes, res.Notes)
	c.addRunning(res.Matches)
	alive := 0
	for _, m := range res.Matches {
		c.receipt.Matches = append(c.receipt.Matches, m.Wire(c.begun))
		if !m.Gone {
			alive++
		}
	}
	if alive > 0 {
		return fail(order.ProcessRunning, "%d of %d processes could not be stopped: %v", alive, len(res.Matches), err)
	}
	if err != nil {
		return fail(order.ProcessRunning, "cannot stop the processes: %w", err)
	}
	return nil
}

// take seals every copy and removes it from its place.
func (c *containment) take(ctx context.Context) error {
	if slices.ContainsFunc(c.open(), func(t *taken) bool { return !t.guarded }) {
		if err := c.guard(ctx); err != nil { // of what the hold has turned up
			return err
		}
	}
	todo := c.open()
	c.takeAll(ctx, todo)
	all, left, moved := len(todo), 0, 0
	var firstErr error
	for _, t := range todo {
		switch {
		case t.err == nil:
		case errors.Is(t.err, vault.ErrMoved):
			moved++
			t.err = nil
		default:
			left++
			if firstErr == nil {
				firstErr = t.err
			}
		}
		if t.state == order.Gated {
			c.note("%s: %s", first(t.Paths), t.Note)
		}
	}
	if left == 0 && moved > 0 {
		return fmt.Errorf("%w: %d copies were renamed meanwhile", errRound, moved)
	}
	if left == 0 {
		return nil
	}
	if errors.Is(firstErr, vault.ErrNoSpace) && left == all {
		return fail(order.NoSpace, "%w; nothing was moved", firstErr)
	}
	return fail(order.Partial, "%d of %d copies quarantined: %w", all-left, all, firstErr)
}

func (c *containment) takeOne(ctx context.Context, t *taken) error {
	if t.Layer == index.LayerLower {
		t.state = order.Gated
		return nil
	}
	why := vault.Why{Order: c.ID, Comment: c.Comment, Requestor: c.Requestor}
	if t.nameless {
		return c.sealOpen(ctx, t, why)
	}
	g, err := c.vault.Grab(ctx, t.File, t.Paths, c.File.Matches)
	switch {
	case errors.Is(err, vault.ErrMoved):
		return err
	case errors.Is(err, vault.ErrVanished): // somebody removed it: what we have open is all there is
		return c.sealOpen(ctx, t, why)
	case errors.Is(err, vault.ErrChanged):
		t.state = order.PutBack
		return err
	case err != nil:
		t.state = order.InPlace
		return err
	}
	item, err := c.vault.Seal(ctx, g, why)
	if err != nil {
		t.state = order.PutBack
		return errors.Join(err, g.PutBack(ctx))
	}
	err = g.Remove(ctx)
	if errors.Is(err, vault.ErrChanged) {
		t.state = order.PutBack
		return errors.Join(err, g.PutBack(ctx))
	}
	t.state, t.item = order.Sealed, item.ID
	return err // a *vault.LeftError: sealed, but some of its names are left
}

// takers is how many copies are taken at once: most of the time of a small one
// is spent waiting for the disk, which syncs many as fast as one.
const takers = 16

// each calls do for every copy, some at a time, and waits for all.
func (c *containment) each(todo []*taken, do func(*taken)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, takers)
	for _, t := range todo {
		slots <- struct{}{}
		wg.Go(func() {
			do(t)
			<-slots
		})
	}
	wg.Wait()
}

// sealOpen seals a file that can be reached only through its descriptor.
func (c *containment) sealOpen(ctx context.Context, t *taken, why vault.Why) error {
	item, err := c.vault.SealOpen(ctx, t.File, why)
	if err != nil {
		t.state = order.InPlace
		return err
	}
	t.state, t.item = order.Sealed, item.ID
	if st, err := inode.Of(t.File); err == nil && st.Nlink > 0 {
		t.state = order.InPlace
		return fmt.Errorf("sealed as %s, but it has a name that cannot be reached from here: on a file system that only its processes had mounted", item.ID)
	}
	return nil
}

// proofLooks are when the processes are looked at again after the last step:
// an execution in flight or a library being mapped shows within them.
var proofLooks = []time.Duration{0, 10 * time.Millisecond, 100 * time.Millisecond, time.Second}

// prove looks again until nothing is left, or asks for another round.
func (c *containment) prove(ctx context.Context) error {
	before := len(c.copies)
	if err := c.look(ctx); err != nil {
		return err
	}
	if n := len(c.copies) - before; n > 0 {
		return fmt.Errorf("%w: %d more copies", errRound, n)
	}
	since := c.now()
	for _, delay := range proofLooks {
		c.wait(ctx, delay-c.now().Sub(since))
		matches, err := c.armed.Look(ctx)
		if err := c.notAll(err); err != nil {
			return err
		}
		if len(matches) > 0 {
			return fmt.Errorf("%w: %d more processes", errRound, len(matches))
		}
	}
	if c.privileged && !c.receipt.HeldProven {
		return fail(order.NotProven, "all that was found is stopped and sealed, but holding by %s does not exclude that a process escaped by forking: see the notes, and staunch-agent doctor", c.receipt.Rung)
	}
	for _, t := range c.copies {
		for _, p := range t.Paths {
			if id, ok := at(p); ok && id == t.Stat.ID && t.state == order.Sealed {
				return fail(order.Partial, "a sealed file is still at %q", p)
			}
		}
	}
	c.receipt.NotCovered = merge(c.receipt.NotCovered, foreign())
	point, err := c.stillMounted()
	if err == nil && point != "" {
		err = fail(order.Partial, "a sealed file is still mounted at %q: unmount it, and order again", point)
	}
	return err
}

// at returns the identity of what lies at a path, without following a link.
func at(path string) (inode.ID, bool) {
	fi, err := os.Lstat(path)
	if err != nil {
		return inode.ID{}, false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return inode.ID{Dev: st.Dev, Ino: st.Ino}, ok
}

func copyOf(i order.Item) order.Copy {
	return order.Copy{
		Paths: i.Paths, SHA1: i.SHA1, SHA256: i.SHA256, Size: i.Size, UID: i.UID, GID: i.GID, Mode: i.Mode, State: order.Sealed, Item: i.ID,
	}
}

func first(paths []string) order.Text {
	if len(paths) == 0 {
		return "(no name)"
	}
	return order.TextOf(paths[0])
}

func merge(a, b []string) []string {
	for _, s := range b {
		if !slices.Contains(a, s) {
			a = append(a, s)
		}
	}
	return a
}

func (c *containment) ownFolders() []string { return []string{filepath.Clean(c.state.Dir)} }
