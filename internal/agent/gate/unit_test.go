// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"staunch/internal/agent/mountinfo"
	"staunch/internal/filehash"
)

func testBook(t testing.TB) *book {
	t.Helper()
	f, err := newBookFile()
	if err != nil {
		t.Fatal(err)
	}
	return reopen(t, f)
}

func reopen(t testing.TB, f *os.File) *book {
	t.Helper()
	b, bad, err := openBook(f)
	if err != nil || len(bad) > 0 {
		t.Fatal(err, bad)
	}
	t.Cleanup(func() { _ = b.close() })
	return b
}

func content(n byte, size int64, id string) entry {
	return entry{kind: slotContent, hash: filehash.Hash{SHA1: filehash.SHA1{n}, SHA256: filehash.SHA256{n}}, size: size, id: id}
}

func sumOf(n byte, size int64) filehash.Sum {
	return filehash.Sum{SHA1: filehash.SHA1{n}, SHA256: filehash.SHA256{n}, Size: size}
}

// What a gate wrote into the book, its successor finds there.
func TestBookOutlastsItsGate(t *testing.T) {
	b := testBook(t)
	file := entry{kind: slotFile, file: identity{dev: 7, ino: 8, birth: 9}, id: "order-1"}
	for _, e := range []entry{
		content(1, 10, "order-1"), content(1, 10, "order-2"), content(1, -1, "order-2"), content(2, -1, "order-2"),
		content(3, 30, strings.Repeat("x", MaxID)), file, file,
	} {
		if err := b.add(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.liftHash(filehash.Hash{SHA256: filehash.SHA256{2}}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if files, hashes := b.counts(); files != 1 || hashes != 3 {
			t.Errorf("%d files and %d contents; want 1 and 3", files, hashes)
		}
		if e, ok := b.rule(sumOf(1, 11)); !ok || e.id != "order-2" {
			t.Errorf("content of unknown size: %+v, %v", e, ok)
		}
		if _, ok := b.rule(sumOf(2, 1)); ok {
			t.Error("a lifted content is denied")
		}
		if _, ok := b.rule(sumOf(3, 31)); ok {
			t.Error("a content of another size is denied")
		}
		b = reopen(t, b.f)
	}
	if err := b.liftID("order-2"); err != nil {
		t.Fatal(err)
	}
	if b.sizeCounts(11) || !b.sizeCounts(10) || !b.sizeCounts(30) {
		t.Error("the sizes do not follow the rules")
	}
	if e, ok := b.rule(sumOf(1, 10)); !ok || e.id != "order-1" {
		t.Errorf("lifting one order lifted another's rule: %+v, %v", e, ok)
	}
	// A place that became free is used again.
	used := b.used
	if err := b.add(content(4, 1, "x")); err != nil || b.used != used {
		t.Errorf("%v; %d slots used, before %d", err, b.used, used)
	}
}

// An inode number that came to another file does not make it denied.
func TestInodeNumberUsedAgain(t *testing.T) {
	b := testBook(t)
	if err := b.add(entry{kind: slotFile, file: identity{1, 2, 3}}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		file identity
		sure bool
		want bool
	}{
		{identity{1, 2, 3}, false, true},
		{identity{1, 2, 4}, false, false},
		{identity{1, 2, 0}, false, false},
		{identity{1, 2, 0}, true, true}, // its own mark asked: it is the inode
		{identity{1, 3, 3}, true, false},
	} {
		if _, got := b.deniesFile(tt.file, tt.sure); got != tt.want {
			t.Errorf("%+v, sure %v: %v", tt.file, tt.sure, got)
		}
	}
}

func TestSameContent(t *testing.T) {
	h1, h256 := filehash.Hash{SHA1: filehash.SHA1{1}}, filehash.Hash{SHA256: filehash.SHA256{1}}
	both := filehash.Hash{SHA1: filehash.SHA1{1}, SHA256: filehash.SHA256{1}}
	collision := filehash.Hash{SHA1: filehash.SHA1{1}, SHA256: filehash.SHA256{2}}
	for _, tt := range []struct {
		a, b filehash.Hash
		want bool
	}{{h1, both, true}, {h256, both, true}, {both, both, true}, {h1, h256, false}, {both, collision, false}, {h1, filehash.Hash{}, false}} {
		if got := sameContent(tt.a, tt.b); got != tt.want {
			t.Errorf("%+v and %+v: %v", tt.a, tt.b, got)
		}
	}
}

func TestSumsForgetTheOldest(t *testing.T) {
	s := newSums(3)
	v := func(n int) version { return version{size: int64(n)} }
	for n := range 3 {
		s.put(v(n), sumOf(byte(n), 1))
	}
	s.get(v(0))
	s.put(v(2), sumOf(22, 1))
	s.put(v(3), sumOf(3, 1)) // 1 is the oldest now
	var got []int
	for n := range 4 {
		if sum, ok := s.get(v(n)); ok {
			got = append(got, int(sum.SHA1[0]))
		}
	}
	if diff := cmp.Diff([]int{0, 22, 3}, got); diff != "" {
		t.Error(diff)
	}
}

// rawEvent lays out an event as the kernel does.
func rawEvent(size uint32, version byte, mask uint64, fd, pid int32) []byte {
	b := make([]byte, unix.FAN_EVENT_METADATA_LEN)
	binary.NativeEndian.PutUint32(b, size)
	b[4] = version
	binary.NativeEndian.PutUint16(b[6:], unix.FAN_EVENT_METADATA_LEN)
	binary.NativeEndian.PutUint64(b[8:], mask)
	binary.NativeEndian.PutUint32(b[16:], uint32(fd))
	binary.NativeEndian.PutUint32(b[20:], uint32(pid))
	return b
}

func TestNextEventRefuses(t *testing.T) {
	for _, tt := range []struct {
		in   []byte
		want string
	}{
		{nil, "too few"},
		{rawEvent(24, 9, 0, 0, 0), "the kernel speaks version 9"},
		{rawEvent(25, 3, 0, 0, 0), "its length is 25 of 24"},
		{rawEvent(0, 3, 0, 0, 0), "its length is 0"},
	} {
		if _, _, err := nextEvent(tt.in); !errors.Is(err, errEvent) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%x: %v; want %q", tt.in, err, tt.want)
		}
	}
}

// What asks nothing is not answered; a queue that ran over is counted.
func TestOverflowIsCounted(t *testing.T) {
	j := newJudge(Settings{}.withDefaults(), group{fd: -1}, testBook(t))
	e, _, err := nextEvent(rawEvent(24, 3, unix.FAN_Q_OVERFLOW, unix.FAN_NOFD, 0))
	if err != nil {
		t.Fatal(err)
	}
	j.decide(e, time.Now(), new(unix.Statx_t))
	if s := j.status(); s.Overflows != 1 || s.Allowed != 0 || s.Denied != 0 {
		t.Errorf("status: %+v", s)
	}
}

// Beyond the limit of waiting events the setting answers at once.
func TestTooManyPending(t *testing.T) {
	j := newJudge(Settings{}.withDefaults(), group{fd: -1}, testBook(t))
	j.pending.Store(maxPending)
	j.hashes.start(event{fd: -1}, version{}, leaseNone, time.Now())
	if s := j.status(); s.FailOpens != 1 || s.Pending != maxPending {
		t.Errorf("status: %+v", s)
	}
}

// A process that ended is exempt no longer, whoever has its number now.
func TestExemptEnds(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	pid, err := pidOf(f)
	if err != nil || int(pid) != cmd.Process.Pid {
		t.Fatalf("pidOf: %d, %v; want %d", pid, err, cmd.Process.Pid)
	}
	var x exempt
	x.add(pid, f)
	if !x.has(pid) || x.has(pid+1) {
		t.Error("the living process is not exempt, or another is")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if x.has(pid) {
		t.Error("the dead process is exempt")
	}
	if _, err := pidOf(f); err == nil || !strings.Contains(err.Error(), "it has ended") {
		t.Errorf("pidOf a dead process: %v", err)
	}
}

func TestScope(t *testing.T) {
	mounts := []mountinfo.Mount{
		{ID: 1, Point: "/"}, {ID: 2, Point: "/srv"}, {ID: 3, Point: "/srv/a"}, {ID: 4, Point: "/srvx"},
		{ID: 5, Point: "/opt/a"}, {ID: 6, Point: "/var"}, {ID: 7, Point: "/var"}, // one over the other
	}
	for _, k := range []struct {
		under []string
		want  []int
	}{
		{nil, []int{1, 2, 3, 4, 5, 6, 7}},
		{[]string{"/srv"}, []int{2, 3}},
		{[]string{"/srv/a/b/c"}, []int{3}},
		{[]string{"/home/ana"}, []int{1}},
		{[]string{"/opt/"}, []int{1, 5}},
		{[]string{"/var/lib"}, []int{7}},
	} {
		in := (&coverage{under: k.under}).scope(mounts)
		var got []int
		for _, m := range mounts {
			if in(m) {
				got = append(got, int(m.ID)) //nolint:gosec // the small ones above
			}
		}
		if diff := cmp.Diff(k.want, got); diff != "" {
			t.Errorf("under %q: %s", k.under, diff)
		}
	}
}

func TestSkippedFilesystems(t *testing.T) {
	for fstype, want := range map[string]bool{"ext4": false, "tmpfs": false, "overlay": false, "new": false, "fuseblk": false,
		"proc": true, "nfs4": true, "fuse": true, "fuse.sshfs": true} {
		if got := skipped(mountinfo.Mount{Type: fstype}) != ""; got != want {
			t.Errorf("%s skipped: %v", fstype, got)
		}
	}
}

func TestMainAlone(t *testing.T) {
	if err := Main(GateConfig{}); err == nil || !strings.Contains(err.Error(), "cannot run the gate by itself") {
		t.Errorf("got %v", err)
	}
}

func TestInheritedWithout(t *testing.T) {
	t.Setenv(envSocket, "")
	if _, err := Inherited(); !errors.Is(err, ErrOff) || !strings.Contains(err.Error(), "staunch-agent run") {
		t.Errorf("got %v", err)
	}
	t.Setenv(envOff, "no such kernel")
	if _, err := Inherited(); !errors.Is(err, ErrOff) || !strings.Contains(err.Error(), "no such kernel") {
		t.Errorf("got %v", err)
	}
	if _, err := Dial(open(t, "/dev/null")); err == nil || !strings.Contains(err.Error(), "cannot use control socket") {
		t.Errorf("got %v", err)
	}
}

// A log that nobody reads keeps nobody waiting, and says what it lost.
func TestLossyLog(t *testing.T) {
	var text bytes.Buffer
	gate := make(chan struct{})
	h, flush := newLossy(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
		<-gate
		return text.Write(p)
	}), nil))
	log := slog.New(h).With("part", "gate")
	for i := range 1000 {
		log.Info("line", "n", i)
	}
	gate <- struct{}{} // one is through: there is room for one more
	for h.(*lossy).queue.dropped.Load() > 0 {
		log.Info("after")
	}
	close(gate)
	flush()
	if !strings.Contains(text.String(), "records_lost_before=") || !strings.Contains(text.String(), "part=gate") {
		t.Errorf("the log says %.200s", text.String())
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func FuzzNextEvent(f *testing.F) {
	f.Add(rawEvent(24, 3, unix.FAN_OPEN_PERM, 5, 6))
	f.Add(append(rawEvent(24, 3, unix.FAN_OPEN_EXEC_PERM, 5, 6), rawEvent(24, 3, unix.FAN_Q_OVERFLOW, -1, 0)...))
	f.Add(append(rawEvent(32, 3, 0, -2, 0), make([]byte, 8)...))
	f.Add(rawEvent(0xffffffff, 3, 0, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		for rest := b; len(rest) > 0; {
			before := len(rest)
			var err error
			if _, rest, err = nextEvent(rest); err != nil {
				return
			}
			if len(rest) > before-unix.FAN_EVENT_METADATA_LEN {
				t.Fatal("an event took less than its least size")
			}
		}
	})
}

func FuzzDecodeMessage(f *testing.F) {
	f.Add([]byte(`{"op":"deny-file","seq":1,"id":"x"}`))
	f.Add([]byte(`{"op":"deny-hash","rule":{"file":{"sha1":"da39a3ee5e6b4b0d3255bfef95601890afd80709"},"size":-1}}`))
	f.Add([]byte(`{"op":"reply","status":{"since":"2026-01-01T00:00:00Z"}} `))
	f.Add([]byte(`{"op":"refusal","refusal":{"pid":1,"exec":true,"when":"2026-01-01T00:00:00Z"}}{`))
	f.Add([]byte(`{"op":"","x":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMessage(b)
		if err != nil {
			return
		}
		text, err := json.Marshal(m)
		if err != nil {
			t.Skip() // a time that JSON cannot write
		}
		again, err := decodeMessage(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		text2, err := json.Marshal(again)
		if err != nil || !bytes.Equal(text, text2) {
			t.Fatalf("%s became %s, %v", text, text2, err)
		}
	})
}

func FuzzDecodeSlot(f *testing.F) {
	for _, e := range []entry{content(1, -1, "order-1"), {kind: slotFile, file: identity{1, 2, 3}, id: "x"}} {
		b := make([]byte, slotSize)
		e.encode(b)
		f.Add(b)
	}
	f.Add([]byte{1})
	f.Add(bytes.Repeat([]byte{0xff}, slotSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeSlot(b)
		if err != nil {
			return
		}
		again := make([]byte, slotSize)
		e.encode(again)
		if got, err := decodeSlot(again); err != nil || got != e {
			t.Fatalf("%+v became %+v, %v", e, got, err)
		}
	})
}
