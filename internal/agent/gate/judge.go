// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"errors"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/filehash"
	"staunch/internal/order"
)

const (
	// leaseHold is how long a lease stays after "allow": the kernel closes the
	// file to writers itself, but only a moment after the answer.
	leaseHold = 5 * time.Millisecond
	maxHeld   = 1024 // leases held at once
	maxTold   = 256  // refusals waiting for the worker
	maxSums   = 8192 // file versions remembered
)

// judge answers events. Its methods never wait for anything but memory, except
// in goroutines of their own.
type judge struct {
	set    Settings
	fan    group
	book   *book
	sums   *sums
	exempt exempt
	hashes *hashing

	held chan heldFile
	told chan told

	denied, allowed, hashed, failOpens, late, writers, unleased, overflows, lost atomic.Uint64
	slowest, pending                                                             atomic.Int64
	start                                                                        time.Time
	readers                                                                      *readers
	self                                                                         int32
}

type heldFile struct {
	fd    int32
	until time.Time
}

type told struct {
	fd int32 // the file, for its name; closed by tell
	r  Refusal
}

func newJudge(set Settings, fan group, b *book) *judge {
	j := &judge{
		set: set, fan: fan, book: b, sums: newSums(maxSums),
		held: make(chan heldFile, maxHeld), told: make(chan told, maxTold), start: time.Now(), self: int32(os.Getpid()),
	}
	j.hashes = newHashing(j)
	j.readers = &readers{
		fan: fan, start: j.start, take: j.decide,
		refused: func(err error) {
			if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
				j.failOpens.Add(1) // not for its own sake
			}
			j.denied.Add(1)
		},
	}
	return j
}

// decide answers e, or leaves it to a goroutine that will.
func (j *judge) decide(e event, at time.Time, st *unix.Statx_t) {
	if e.mask&unix.FAN_Q_OVERFLOW != 0 {
		j.overflows.Add(1)
	}
	if !e.asks() {
		closeEvent(e.fd)
		return
	}
	if e.pid == j.self || j.exempt.has(e.pid) {
		j.allow(e, at, leaseNone)
		return
	}
	_, hashes := j.book.counts()
	var l lease
	if hashes > 0 {
		l = takeLease(int(e.fd)) // before the look: from here on the version stands still
	}
	v, regular, err := look(int(e.fd), st)
	if err != nil {
		j.undecided(e, at)
		return
	}
	// Only a mark on the file itself asks about opens.
	if rule, ok := j.book.deniesFile(v.identity, !e.exec()); ok {
		j.refuse(e, at, rule, filehash.Sum{})
		return
	}
	if hashes == 0 || !regular {
		j.allow(e, at, leaseNone)
		return
	}
	switch l {
	case leaseWriter:
		j.hashes.waitForWriter(e, v, at)
		return
	case leaseNone:
		j.unleased.Add(1)
	}
	j.byContent(e, v, l, at)
}

// byContent goes by size, by what is remembered of this version, and only then
// by reading the file.
func (j *judge) byContent(e event, v version, l lease, at time.Time) {
	if !j.book.sizeCounts(v.size) {
		j.allow(e, at, l)
		return
	}
	if sum, ok := j.sums.get(v); ok {
		j.bySum(e, sum, l, at)
		return
	}
	j.hashes.start(e, v, l, at)
}

func (j *judge) bySum(e event, sum filehash.Sum, l lease, at time.Time) {
	rule, ok := j.book.rule(sum)
	switch {
	case !ok:
		j.allow(e, at, l)
	case rule.do == doAudit:
		j.answer(e, allow, at)
		j.tell(e, Refusal{ID: rule.id, File: sum.Hash(), When: at, Audit: true})
	default:
		j.refuse(e, at, rule, sum)
	}
}

// allow answers and closes the event's file, later where its lease must stay.
func (j *judge) allow(e event, at time.Time, l lease) {
	j.answer(e, allow, at)
	if l != leaseHeld {
		closeEvent(e.fd)
		return
	}
	select {
	case j.held <- heldFile{e.fd, time.Now().Add(leaseHold)}:
	default:
		closeEvent(e.fd)
	}
}

func (j *judge) refuse(e event, at time.Time, rule entry, sum filehash.Sum) {
	j.answer(e, deny, at)
	j.tell(e, Refusal{ID: rule.id, File: sum.Hash(), When: at})
}

// undecided answers by the setting.
func (j *judge) undecided(e event, at time.Time) {
	j.failOpens.Add(1)
	j.answer(e, j.set.fallback(), at)
	closeEvent(e.fd)
}

func (j *judge) answer(e event, v verdict, at time.Time) {
	// ENOENT: the asking process was killed meanwhile.
	_ = j.fan.answer(e.fd, v)
	if v == allow {
		j.allowed.Add(1)
	} else {
		j.denied.Add(1)
	}
	took := int64(time.Since(at))
	for {
		was := j.slowest.Load()
		if took <= was || j.slowest.CompareAndSwap(was, took) {
			return
		}
	}
}

// tell queues a refusal for the worker, or counts it as lost, and takes over
// the event's file.
func (j *judge) tell(e event, r Refusal) {
	r.PID, r.Exec = int(e.pid), e.exec()
	select {
	case j.told <- told{e.fd, r}:
	default:
		j.lost.Add(1)
		closeEvent(e.fd)
	}
}

// release gives leases back when their time has come.
func (j *judge) release() {
	for h := range j.held {
		time.Sleep(time.Until(h.until))
		closeEvent(h.fd)
	}
}

// report sends refusals to the worker, who may not be there.
func (j *judge) report(worker *conn) {
	for t := range j.told {
		if path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(t.fd))); err == nil {
			t.r.Path = order.TextOf(path)
		}
		closeEvent(t.fd)
		if err := worker.send(message{Op: opRefusal, Refusal: &t.r}); err != nil {
			j.lost.Add(1)
		}
	}
}

func (j *judge) status() Status {
	files, hashes := j.book.counts()
	return Status{
		Mode: j.set.mode(), Since: j.start, Files: files, Hashes: hashes, Unlimited: j.fan.unlimited,
		Denied: j.denied.Load(), Allowed: j.allowed.Load(), HashedExecs: j.hashed.Load(),
		FailOpens: j.failOpens.Load(), Late: j.late.Load(), Writers: j.writers.Load(), Unleased: j.unleased.Load(),
		Overflows: j.overflows.Load(), Lost: j.lost.Load(),
		SlowestNs: j.slowest.Load(), Pending: int(j.pending.Load()),
	}
}

func closeEvent(fd int32) {
	if fd >= 0 {
		_ = unix.Close(int(fd)) // nothing was written through it
	}
}
