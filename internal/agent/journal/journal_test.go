// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const device = "0123456789abcdef0123456789abcdef01234567"

func record(n int) Record {
	return Record{
		Time: time.Date(2026, 11, 24, 21, 0, 0, n, time.UTC), Kind: StepDone,
		Order: "6d2b4d3c-0000-4000-8000-000000000000", Name: "take",
		Data: json.RawMessage(fmt.Sprintf(`{"n":%d}`, n)),
	}
}

func mustOpen(t *testing.T, dir string, cfg Config) (*Journal, []Record) {
	t.Helper()
	if cfg.Device == "" {
		cfg.Device = device
	}
	j, records, err := Open(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j, records
}

func mustAppend(t *testing.T, j *Journal, records ...Record) {
	t.Helper()
	for _, r := range records {
		if err := j.Append(r); err != nil {
			t.Fatal(err)
		}
	}
}

// filled makes a journal of three records and returns its folder and content.
func filled(t *testing.T) (string, []byte) {
	t.Helper()
	dir := t.TempDir()
	j, _ := mustOpen(t, dir, Config{})
	mustAppend(t, j, record(1), record(2), record(3))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, FileName))
	if err != nil {
		t.Fatal(err)
	}
	return dir, b
}

func TestAppendAndOpenAgain(t *testing.T) {
	dir := t.TempDir()
	want := []Record{record(1), record(2), {Time: time.Unix(0, 1).UTC(), Kind: Enrolled}}
	j, have := mustOpen(t, dir, Config{})
	if len(have) != 0 {
		t.Fatalf("a new journal has %d records", len(have))
	}
	mustAppend(t, j, want...)
	if _, _, err := Open(dir, Config{Device: device}); err == nil || !strings.Contains(err.Error(), "is another agent running?") {
		t.Errorf("second Open: got %v", err)
	}
	if have, err := Read(dir); err != nil || !cmp.Equal(want, have) {
		t.Errorf("Read beside an open journal: %v %s", err, cmp.Diff(want, have))
	}
	_ = j.Close()
	_, have = mustOpen(t, dir, Config{})
	if diff := cmp.Diff(want, have); diff != "" {
		t.Error(diff)
	}
	if err := j.Append(record(9)); !errors.Is(err, ErrClosed) {
		t.Errorf("Append after Close: got %v", err)
	}
	if fi, _ := os.Stat(filepath.Join(dir, FileName)); fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", fi.Mode())
	}
}

func TestAppendRefuses(t *testing.T) {
	j, _ := mustOpen(t, t.TempDir(), Config{})
	for name, c := range map[string]struct {
		r    Record
		want string
	}{
		"kind":  {Record{Time: time.Now(), Kind: "rumour"}, `cannot append to journal: kind "rumour" is not known to this version`},
		"time":  {Record{Kind: StepDone}, "cannot append to journal: it has no time"},
		"json":  {Record{Time: time.Now(), Kind: StepDone, Data: json.RawMessage("{")}, "cannot append to journal: json: error calling MarshalJSON"},
		"large": {Record{Time: time.Now(), Kind: StepDone, Name: strings.Repeat("x", MaxRecord)}, "more than the 16777216 allowed"},
	} {
		if err := j.Append(c.r); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want …%s…", name, err, c.want)
		}
	}
	mustAppend(t, j, record(1)) // none of them did harm
}

// TestDevices: a journal without a device takes one; it never changes it.
func TestDevices(t *testing.T) {
	dir := t.TempDir()
	j, _, err := Open(dir, Config{})
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, j, record(1))
	_ = j.Close()
	j, have := mustOpen(t, dir, Config{})
	if len(have) != 1 {
		t.Fatalf("%d records after the first enrollment, want 1", len(have))
	}
	mustAppend(t, j, record(2))
	_ = j.Close()
	other := strings.Repeat("f", 40)
	_, _, err = Open(dir, Config{Device: other})
	if !errors.Is(err, ErrOtherDevice) || !strings.Contains(err.Error(), "move it away, as a new enrollment does") {
		t.Errorf("other device: got %v", err)
	}
	old, err := SetAside(dir, time.Unix(0, 0))
	if err != nil || filepath.Base(old) != "journal.log.old-19700101T000000Z" {
		t.Fatalf("SetAside: %q, %v", old, err)
	}
	if _, have := mustOpen(t, dir, Config{Device: other}); len(have) != 0 {
		t.Errorf("the new device sees %d old records", len(have))
	}
	if b, err := os.ReadFile(old); err != nil || bytes.Count(b, []byte("\n")) != 3 {
		t.Errorf("the old journal is not whole: %v", err)
	}
}

// TestTorn: a journal cut at any byte behind its header opens, with all whole
// records, and can be appended to.
func TestTorn(t *testing.T) {
	_, whole := filled(t)
	first := bytes.IndexByte(whole, '\n') + 1
	for cut := first; cut < len(whole); cut++ {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, FileName), whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		wantN := bytes.Count(whole[:cut], []byte("\n")) - 1
		torn := whole[cut-1] != '\n'
		rep, err := Fsck(dir, false, Config{Device: device})
		if err != nil || !rep.OK() || rep.Records != wantN || (len(rep.Findings) > 0) != torn {
			t.Fatalf("cut at %d: fsck %+v, %v", cut, rep, err)
		}
		j, have := mustOpen(t, dir, Config{})
		if len(have) != wantN {
			t.Fatalf("cut at %d: %d records, want %d", cut, len(have), wantN)
		}
		mustAppend(t, j, record(7))
		_ = j.Close()
		if _, have = mustOpen(t, dir, Config{}); len(have) != wantN+1 {
			t.Fatalf("cut at %d: %d records after one more, want %d", cut, len(have), wantN+1)
		}
	}
}

// TestTornZeros: some file systems leave zeros where a write was lost.
func TestTornZeros(t *testing.T) {
	dir, whole := filled(t)
	if err := os.WriteFile(filepath.Join(dir, FileName), append(whole, make([]byte, 4096)...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, have := mustOpen(t, dir, Config{}); len(have) != 3 {
		t.Errorf("%d records, want 3", len(have))
	}
}

// TestDamage: a changed byte in any whole line is found, named, and repaired
// without losing another line.
func TestDamage(t *testing.T) {
	_, whole := filled(t)
	for i := range whole {
		if whole[i] == '\n' {
			continue // joins two lines; TestDamageForms
		}
		dir := t.TempDir()
		bad := bytes.Clone(whole)
		bad[i] ^= 0x04
		if err := os.WriteFile(filepath.Join(dir, FileName), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		line := int64(bytes.LastIndexByte(whole[:i], '\n') + 1)
		_, _, err := Open(dir, Config{Device: device})
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), fmt.Sprintf("at byte %d, line", line)) ||
			!strings.Contains(err.Error(), "run staunch-agent fsck --repair") {
			t.Fatalf("byte %d: got %v", i, err)
		}
		rep, err := Fsck(dir, true, Config{Device: device})
		if err != nil || !rep.OK() || rep.Findings[0].Offset != line {
			t.Fatalf("byte %d: fsck %+v, %v", i, rep, err)
		}
		if kept, err := os.ReadFile(rep.Aside); err != nil || !bytes.Equal(kept, bad) {
			t.Fatalf("byte %d: the damaged file is not at %s: %v", i, rep.Aside, err)
		}
		want := 2
		if line == 0 {
			want = 3 // the header
		}
		if _, have := mustOpen(t, dir, Config{}); len(have) != want {
			t.Fatalf("byte %d: %d records kept, want %d", i, len(have), want)
		}
	}
}

func TestDamageForms(t *testing.T) {
	_, whole := filled(t)
	sound := strings.SplitAfter(string(whole), "\n")
	frame := func(v any) string { b, _ := encodeLine(v); return string(b) }
	for name, c := range map[string]struct{ content, want string }{
		"empty file":     {"", "at byte 0, line 1: header: the line is not complete"},
		"header only":    {strings.TrimSuffix(sound[0], "\n"), "at byte 0, line 1: header: the line is not complete"},
		"blank line":     {sound[0] + "\n" + sound[1], "line 2: the line does not begin with a checksum"},
		"not hex":        {sound[0] + "zzzzzzzz {}\n", "line 2: the line does not begin with a checksum"},
		"unknown kind":   {sound[0] + frame(Record{Time: time.Unix(1, 0), Kind: "rumour"}), `kind "rumour" is not known`},
		"unknown field":  {sound[0] + frame(map[string]any{"surprise": 1}), `unknown field "surprise"`},
		"no time":        {sound[0] + frame(Record{Kind: StepDone}), "it has no time"},
		"two values":     {sound[0] + fmt.Sprintf("%08x {} {}\n", checksum([]byte("{} {}"))), "something behind its record"},
		"another's file": {"#!/bin/sh\necho\n", "at byte 0, line 1: header: the line does not begin"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, FileName), []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Open(dir, Config{Device: device}); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want …%s…", name, err, c.want)
		}
		if _, err := Read(dir); name != "empty file" && name != "header only" && !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: Read: got %v", name, err)
		}
		if rep, err := Fsck(dir, false, Config{}); err != nil || rep.OK() {
			t.Errorf("%s: fsck says %+v, %v", name, rep, err)
		}
		if rep, err := Fsck(dir, true, Config{Device: device}); err != nil || !rep.OK() {
			t.Errorf("%s: repair says %+v, %v", name, rep, err)
		}
		mustOpen(t, dir, Config{})
	}
}

// A journal of another version is not damage: it is refused and left alone.
func TestOtherVersion(t *testing.T) {
	dir := t.TempDir()
	line, err := encodeLine(header{Journal: 2})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, FileName), append(line, "whatever\n"...), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = Open(dir, Config{})
	if !errors.Is(err, ErrOtherVersion) || errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "its format is version 2, this agent reads version 1") {
		t.Errorf("got %v", err)
	}
	rep, err := Fsck(dir, true, Config{})
	if err != nil || rep.OK() || rep.Aside != "" || !strings.Contains(rep.Findings[0].Do, "it is left alone") {
		t.Errorf("fsck --repair: %+v, %v", rep, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, FileName)); err != nil || !strings.HasPrefix(string(b), string(line)) {
		t.Errorf("changed: %q, %v", b, err)
	}
}

func TestFsckOthers(t *testing.T) {
	if rep, err := Fsck(filepath.Join(t.TempDir(), "none"), true, Config{}); err != nil || !rep.OK() {
		t.Errorf("no folder: %+v, %v", rep, err)
	}
	dir, _ := filled(t)
	path := filepath.Join(dir, FileName)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	rep, err := Fsck(dir, false, Config{Device: strings.Repeat("f", 40)})
	if err != nil || len(rep.Findings) != 2 || rep.OK() ||
		!strings.Contains(rep.Findings[0].What, "belongs to device") || !strings.Contains(rep.Findings[1].What, "mode is 0644") {
		t.Fatalf("got %+v, %v", rep, err)
	}
	if rep, err := Fsck(dir, true, Config{Device: device}); err != nil || !rep.OK() || len(rep.Findings) != 1 {
		t.Fatalf("got %+v, %v", rep, err)
	}
	if fi, _ := os.Stat(path); fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v after repair", fi.Mode())
	}
	mustOpen(t, dir, Config{})
	if _, err := Fsck(dir, true, Config{}); err == nil || !strings.Contains(err.Error(), "stop the agent first") {
		t.Errorf("repair under a running agent: got %v", err)
	}
}

// TestGroupCommit: what comes while the disk is busy goes with one sync.
func TestGroupCommit(t *testing.T) {
	var syncs atomic.Int64
	busy := make(chan struct{})
	cfg := Config{Sync: func(f *os.File) error {
		if syncs.Add(1) == 1 {
			<-busy
		}
		return unix.Fdatasync(int(f.Fd()))
	}}
	dir := t.TempDir()
	j, _ := mustOpen(t, dir, cfg)
	const n = 100
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := j.Append(record(i)); err != nil {
				t.Error(err)
			}
		})
	}
	for joined := 0; joined < n; { // wait until all but the one that syncs have joined a batch
		j.mu.Lock()
		joined = 1
		if j.next != nil {
			joined += bytes.Count(j.next.lines, []byte("\n"))
		}
		// The first batch may have taken several before its leader came to write.
		if syncs.Load() == 1 {
			joined += int(firstBatch(j)) - 1
		}
		j.mu.Unlock()
	}
	close(busy)
	wg.Wait()
	if s := syncs.Load(); s != 2 {
		t.Errorf("%d syncs for two batches", s)
	}
	_ = j.Close()
	if _, have := mustOpen(t, dir, Config{}); len(have) != n {
		t.Errorf("%d records, want %d", len(have), n)
	}
}

// firstBatch counts the records of the batch that is being synced: they are in
// the file, but not yet counted in size.
func firstBatch(j *Journal) int {
	b, err := os.ReadFile(j.path())
	if err != nil {
		return 0
	}
	return bytes.Count(b, []byte("\n")) - 1
}

// TestPoison: after a failed sync nothing is appended until the journal is
// opened again, and then what is there is what was on the disk.
func TestPoison(t *testing.T) {
	dir := t.TempDir()
	fail := false
	j, _ := mustOpen(t, dir, Config{Sync: func(f *os.File) error {
		if fail {
			fail = false
			return unix.EIO
		}
		return unix.Fdatasync(int(f.Fd()))
	}})
	mustAppend(t, j, record(1))
	fail = true
	for i := range 3 {
		err := j.Append(record(2))
		if !errors.Is(err, ErrPoisoned) || !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), "restart the agent") {
			t.Errorf("Append %d after EIO: got %v", i, err)
		}
	}
	if err := j.Compact(nil); !errors.Is(err, ErrPoisoned) {
		t.Errorf("Compact: got %v", err)
	}
	_ = j.Close()
	j, have := mustOpen(t, dir, Config{})
	if len(have) == 0 || have[0].Order == "" {
		t.Fatalf("the record from before is gone: %v", have)
	}
	mustAppend(t, j, record(3))
}

// TestFullDisk: a full disk refuses a record and harms nothing; what was
// reserved still takes the outcomes.
func TestFullDisk(t *testing.T) {
	dir := scratchTmpfs(t, "4m")
	j, _ := mustOpen(t, dir, Config{})
	mustAppend(t, j, record(1))
	filler, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	for chunk := make([]byte, 4096); ; {
		if _, err := filler.Write(chunk); err != nil {
			break
		}
	}
	for i := range 100 {
		mustAppend(t, j, record(i)) // into the reserve
	}
	big := record(0)
	big.Name = strings.Repeat("x", 3<<20)
	if err := j.Append(big); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("on a full disk: got %v", err)
	}
	if err := filler.Truncate(0); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, j, record(2))
	_ = j.Close()
	if _, have := mustOpen(t, dir, Config{}); len(have) != 102 {
		t.Errorf("%d records, want 102", len(have))
	}
}

func scratchTmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: a full disk: cannot mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func TestCompact(t *testing.T) {
	dir, _ := filled(t)
	j, have := mustOpen(t, dir, Config{})
	before := j.Size()
	if err := j.Compact(have[2:]); err != nil {
		t.Fatal(err)
	}
	if j.Size() >= before {
		t.Errorf("size %d, was %d", j.Size(), before)
	}
	mustAppend(t, j, record(4))
	if err := j.Compact([]Record{{Kind: "rumour"}}); err == nil || !strings.Contains(err.Error(), "record 0: kind") {
		t.Errorf("bad record: got %v", err)
	}
	_ = j.Close()
	_, have = mustOpen(t, dir, Config{})
	if diff := cmp.Diff([]Record{record(3), record(4)}, have); diff != "" {
		t.Error(diff)
	}
}

// TestRewriteLosesNothing: records appended while the journal is compacted are
// all there afterwards.
func TestRewriteLosesNothing(t *testing.T) {
	dir := t.TempDir()
	j, _ := mustOpen(t, dir, Config{})
	const writers, each = 4, 50
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if err := j.Append(record(w*each + i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 20 {
		if err := j.Rewrite(func(r []Record) []Record { return r }); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	_ = j.Close()
	if _, have := mustOpen(t, dir, Config{}); len(have) != writers*each {
		t.Errorf("%d records, want %d", len(have), writers*each)
	}
}

func FuzzScan(f *testing.F) {
	good, err := encode(device, []Record{record(1), record(2)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-3])
	f.Add([]byte("00000000 {}\n"))
	f.Add([]byte("\n\n\x00"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := scan(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if s.end+s.torn != int64(len(b)) {
			t.Fatalf("%d whole and %d torn bytes of %d", s.end, s.torn, len(b))
		}
		lines := len(s.records) + len(s.damaged)
		if s.named {
			lines++
		}
		if n := bytes.Count(b, []byte("\n")); n != lines {
			t.Fatalf("%d lines, %d accounted for", n, lines)
		}
		again, err := encode(s.header.Device, s.records)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		r, err := scan(bytes.NewReader(again))
		if err != nil || len(r.damaged) != 0 || len(r.records) != len(s.records) {
			t.Fatalf("what was written cannot be read: %v %v", err, r.damaged)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 16} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			j, _, err := Open(b.TempDir(), Config{Device: device})
			if err != nil {
				b.Fatal(err)
			}
			defer j.Close()
			b.SetParallelism(writers)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := j.Append(record(1)); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
