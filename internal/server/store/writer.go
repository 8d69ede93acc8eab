// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// writer is the one goroutine that changes the database. Waiting for the disk
// costs far more than the changes themselves, so it takes all that are waiting
// into one transaction (group commit) and answers them when that is committed:
//
//	begin, lock                          one change at a time, over all replicas
//	savepoint, change, release           for each; a failed one is rolled back to its savepoint
//	append the audit lines of all
//	commit                               the one wait for the disk
//	answer all
//
// A crash before the commit takes back what nobody was told; after it, all is
// there.
type writer struct {
	db     *sql.DB
	engine engine
	now    func() time.Time
	jobs   chan *job
	done   chan struct{} // closed when the goroutine has ended
	stale  chan struct{} // holds a token when lines were committed that no checkpoint covers

	mu     sync.RWMutex // held for reading while sending to jobs
	closed bool         // guarded by mu

	conn *session // the goroutine's alone; nil: to be opened
}

const (
	maxQueue = 1024 // changes waiting; the next caller waits to queue up
	maxBatch = 256  // changes in one transaction
)

var errClosed = errors.New("the store is closed")

// job is one caller's change.
type job struct {
	ctx   context.Context
	fn    func(*tx) error
	state atomic.Int32 // waiting, then taken by the writer or given up by its caller
	done  chan error   // buffered: the writer never waits for a caller
}

const (
	waiting int32 = iota
	taken
	givenUp
)

// panicked carries a panic of a change back to its caller.
type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string { return fmt.Sprintf("panic: %v\n%s", p.value, p.stack) }

func newWriter(db *sql.DB, e engine, now func() time.Time) *writer {
	w := &writer{
		db: db, engine: e, now: now,
		jobs:  make(chan *job, maxQueue),
		done:  make(chan struct{}),
		stale: make(chan struct{}, 1),
	}
	w.stale <- struct{}{} // what the last run did not come to sign
	go w.run()
	return w
}

// do has fn run by the writer, on its goroutine, and returns when fn's changes
// are on the disk or gone. Once fn has begun, the end of ctx is not waited for
// any more: the caller gets to know what has become of the change.
func (w *writer) do(ctx context.Context, fn func(*tx) error) error {
	j := &job{ctx: ctx, fn: fn, done: make(chan error, 1)}
	if err := w.enqueue(j); err != nil {
		return err
	}
	var err error
	select {
	case err = <-j.done:
	case <-ctx.Done():
		if j.state.CompareAndSwap(waiting, givenUp) {
			return ctx.Err()
		}
		err = <-j.done
	}
	if p := (*panicked)(nil); errors.As(err, &p) {
		panic(p) // on the caller's goroutine, as if it had run fn itself
	}
	return err
}

func (w *writer) enqueue(j *job) error {
	if err := j.ctx.Err(); err != nil {
		return err
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.closed {
		return errClosed
	}
	select {
	case w.jobs <- j:
		return nil
	case <-j.ctx.Done():
		return j.ctx.Err()
	}
}

// close lets the queue run out and waits for the end of the goroutine.
func (w *writer) close() {
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		close(w.jobs)
	}
	w.mu.Unlock()
	<-w.done
}

func (w *writer) run() {
	defer close(w.done)
	defer w.drop()
	batch := make([]*job, 0, maxBatch)
	for first := range w.jobs {
		batch = w.gather(append(batch[:0], first))
		answers, err := w.commit(batch)
		for i, j := range batch {
			if err != nil {
				j.done <- err
			} else {
				j.done <- answers[i]
			}
			batch[i] = nil
		}
	}
}

// gather adds what is waiting already. It does not wait for more, but yields
// once to the callers that it has just answered: those that come again at once
// share this transaction rather than the next.
func (w *writer) gather(batch []*job) []*job {
	yielded := false
	for len(batch) < maxBatch {
		select {
		case j, ok := <-w.jobs:
			if !ok {
				return batch
			}
			batch = append(batch, j)
		default:
			if yielded {
				return batch
			}
			yielded = true
			runtime.Gosched()
		}
	}
	return batch
}

// commit runs a batch as one transaction. It returns an answer for each, or the
// error that undid them all.
func (w *writer) commit(batch []*job) (answers []error, err error) {
	ctx, cancel := context.Background(), context.CancelFunc(func() {})
	if w.engine.timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, w.engine.timeout)
	}
	defer cancel()
	t, err := w.begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot begin a change of the database: %w", err)
	}
	defer func() {
		if err != nil {
			w.drop() // the connection's state is not known any more: start again from a new one
		}
	}()
	answers = make([]error, len(batch))
	for i, j := range batch {
		if answers[i], err = w.runJob(t, j, len(batch) > 1); err != nil {
			return nil, err
		}
	}
	if len(batch) == 1 && answers[0] != nil {
		return answers, t.exec("ROLLBACK")
	}
	if err := t.appendLines(); err != nil {
		return nil, fmt.Errorf("cannot append to the audit log: %w", err)
	}
	if err := t.exec("COMMIT"); err != nil {
		return nil, fmt.Errorf("cannot commit a change of the database (it may have been kept or not): %w", err)
	}
	w.conn.tree = t.tree
	if len(t.lines) > 0 {
		select {
		case w.stale <- struct{}{}:
		default:
		}
	}
	return answers, nil
}

// runJob runs one change; savepoint: so that it can be undone alone. answer is
// the job's; err is about the transaction.
func (w *writer) runJob(t *tx, j *job, savepoint bool) (answer, err error) {
	if !j.state.CompareAndSwap(waiting, taken) {
		return context.Canceled, nil // nobody reads it
	}
	if savepoint {
		if err := t.exec("SAVEPOINT change"); err != nil {
			return nil, fmt.Errorf("cannot begin a change of the database: %w", err)
		}
	}
	tree, lines := t.tree, len(t.lines)
	answer = protect(j.fn, t)
	if answer != nil {
		t.tree, t.lines = tree, t.lines[:lines]
	}
	switch {
	case !savepoint:
		return answer, nil
	case answer != nil:
		if err := t.exec("ROLLBACK TO SAVEPOINT change"); err != nil {
			return nil, fmt.Errorf("cannot undo a failed change of the database, so those beside it are undone too: %w", err)
		}
	}
	return answer, t.exec("RELEASE SAVEPOINT change")
}

// protect turns a panic of fn into an error.
func protect(fn func(*tx) error, t *tx) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicked{v, debug.Stack()}
		}
	}()
	return fn(t)
}

// begin begins a transaction that holds the lock of all changes, on the kept
// connection, or on a new one should that have broken in the meantime.
func (w *writer) begin(ctx context.Context) (t *tx, err error) {
	for range 2 {
		if w.conn == nil {
			if w.conn, err = newSession(ctx, w.db); err != nil {
				return nil, err
			}
		}
		if t, err = w.conn.begin(ctx, w.engine, w.now); err == nil {
			return t, nil
		}
		w.drop()
	}
	return nil, err
}

// drop gives up the connection and the transaction that may be open on it.
func (w *writer) drop() {
	if w.conn != nil {
		w.conn.drop()
		w.conn = nil
	}
}
