// SPDX-License-Identifier: Apache-2.0

package index

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"staunch/internal/filehash"
)

// storm changes a tree at random, from a seed.
type storm struct {
	t    testing.TB
	r    *rand.Rand
	root string
	open []*os.File // written and never closed
	maps [][]byte   // written through shared mappings
}

// contents are few, so that copies abound.
func (s *storm) content() string { return strings.Repeat(string(rune('a'+s.r.IntN(8))), 1+s.r.IntN(3)) }

func (s *storm) dirs() (all []string) {
	_ = filepath.WalkDir(s.root, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			all = append(all, p)
		}
		return nil
	})
	return all
}

func (s *storm) files() (all []string) {
	_ = filepath.WalkDir(s.root, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			all = append(all, p)
		}
		return nil
	})
	return all
}

func (s *storm) place() string {
	d := s.dirs()
	return filepath.Join(d[s.r.IntN(len(d))], fmt.Sprintf("n%d", s.r.IntN(12)))
}

func (s *storm) file() string {
	f := s.files()
	if len(f) == 0 {
		p := s.place() + ".first"
		_ = os.WriteFile(p, []byte(s.content()), 0o644)
		return p
	}
	return f[s.r.IntN(len(f))]
}

// step does one thing; most may fail for good reason.
func (s *storm) step() {
	switch s.r.IntN(16) {
	case 0, 1, 2:
		_ = os.WriteFile(s.place(), []byte(s.content()), 0o644)
	case 3, 4:
		_ = os.Mkdir(s.place(), 0o755)
	case 5:
		_ = os.Rename(s.file(), s.place())
	case 6:
		d := s.dirs()
		_ = os.Rename(d[s.r.IntN(len(d))], s.place())
	case 7:
		_ = os.Link(s.file(), s.place())
	case 8:
		_ = os.Remove(s.file())
	case 9:
		if d := s.dirs(); len(d) > 1 && s.r.IntN(4) == 0 {
			_ = os.RemoveAll(d[1+s.r.IntN(len(d)-1)])
		}
	case 10:
		_ = unix.Renameat2(unix.AT_FDCWD, s.place(), unix.AT_FDCWD, s.place(), unix.RENAME_EXCHANGE)
	case 11:
		_ = os.Truncate(s.file(), int64(s.r.IntN(3)))
	case 12: // written, and left open
		if f, err := os.OpenFile(s.file(), os.O_RDWR, 0); err == nil {
			_, _ = f.WriteAt([]byte(s.content()), 0)
			s.open = append(s.open, f)
		}
	case 13: // written through a descriptor of long ago, perhaps of a file with other names, or none
		if len(s.open) > 0 {
			_, _ = s.open[s.r.IntN(len(s.open))].WriteAt([]byte(s.content()), 0)
		}
	case 14: // written through a shared mapping that stays
		f, err := os.OpenFile(s.file(), os.O_RDWR, 0)
		if err != nil {
			return
		}
		defer f.Close()
		if st, err := f.Stat(); err == nil && st.Size() > 0 {
			if m, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
				m[0] = s.content()[0]
				s.maps = append(s.maps, m)
			}
		}
	case 15: // bytes and times as they were
		p := s.file()
		if st, err := os.Stat(p); err == nil {
			_ = os.WriteFile(p, []byte(s.content()), 0o644)
			_ = os.Chtimes(p, st.ModTime(), st.ModTime())
		}
	}
}

func (s *storm) end() {
	for _, f := range s.open {
		_ = f.Close()
	}
	for _, m := range s.maps {
		_ = unix.Munmap(m)
	}
}

// equalsBruteForce compares what the index says after a barrier with the truth.
func equalsBruteForce(t *testing.T, x *Index, root string) {
	t.Helper()
	must(t, x.Barrier(t.Context()))
	truth := bruteForce(t, root)
	for c := range 8 {
		for n := 1; n <= 3; n++ {
			truth[sumOf(strings.Repeat(string(rune('a'+c)), n)).SHA1] = truth[sumOf(strings.Repeat(string(rune('a'+c)), n)).SHA1]
		}
	}
	for sum, want := range truth {
		a, err := x.Lookup(t.Context(), filehash.Hash{SHA1: sum})
		must(t, err)
		if !a.Complete {
			t.Errorf("%s: not complete: %s", sum, a.Why)
		}
		if got := verified(t, x, a, filehash.Hash{SHA1: sum}); !slices.Equal(got, want) {
			t.Errorf("%s: the index has %q, the tree %q", sum, got, want)
		}
	}
}

func TestIndexEqualsBruteForceAfterStorms(t *testing.T) {
	for name, fs := range map[string]func(testing.TB) string{"tmpfs": scratch, "ext4": scratchExt4} {
		t.Run(name, func(t *testing.T) {
			root := fs(t)
			x := startIndex(t, Config{Roots: []string{root}})
			settled(t, x)
			seeds := 8
			if testing.Short() || raceEnabled {
				seeds = 2
			}
			for seed := range seeds {
				s := &storm{t: t, r: rand.New(rand.NewPCG(uint64(seed), 1)), root: root}
				for round := range 8 {
					for range 1 + s.r.IntN(60) {
						s.step()
					}
					equalsBruteForce(t, x, root)
					if t.Failed() {
						t.Fatalf("seed %d, round %d", seed, round)
					}
				}
				s.end()
			}
		})
	}
}

func TestStormWhileBuilding(t *testing.T) {
	seeds := 8
	if raceEnabled {
		seeds = 3
	}
	for seed := range seeds {
		root := scratch(t)
		s := &storm{t: t, r: rand.New(rand.NewPCG(uint64(seed), 2)), root: root}
		for range 300 {
			s.step()
		}
		x := startIndex(t, Config{Roots: []string{root}})
		for range 300 {
			s.step()
		}
		until(t, "it is built", func() bool { return x.Barrier(t.Context()) == nil })
		equalsBruteForce(t, x, root)
		s.end()
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func TestOverflowIsRescanned(t *testing.T) {
	root := scratch(t)
	mkdirs(t, root, "a", "b")
	x := startIndex(t, Config{Roots: []string{root}})
	settled(t, x)
	v := x.volumes[0]
	v.group.mu.Lock() // nobody reads: the kernel's queue fills up
	for i := range 20000 {
		must(t, os.WriteFile(fmt.Sprintf("%s/a/%d", root, i), nil, 0o644))
	}
	write(t, root+"/b/after", "evil")
	v.group.mu.Unlock()
	if a := lookup(t, x, sha1Of("evil")); !slices.Equal(pathsOf(a), []string{root + "/b/after"}) || !a.Complete {
		t.Errorf("after an overflow the index says %+v", a)
	}
	if n := x.Status().Overflows; n == 0 {
		t.Error("the overflow is not counted")
	}
	if got := x.Status().Files; got != 20001 {
		t.Errorf("%d files known, want 20001", got)
	}
}

// hop moves a file to a new name, in one of two folders, as fast as it can.
func hop(t testing.TB, root, start string) (stop func()) {
	mkdirs(t, root, "x", "y")
	var done sync.WaitGroup
	quit := make(chan struct{})
	at := start
	done.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-quit:
				return
			default:
			}
			to := fmt.Sprintf("%s/%c/hop%d", root, 'x'+i%2, i)
			if err := os.Rename(at, to); err != nil {
				t.Errorf("hop: %v", err)
				return
			}
			at = to
		}
	})
	return sync.OnceFunc(func() { close(quit); done.Wait() })
}

func TestLookupIsNotOutrun(t *testing.T) {
	root := scratchExt4(t)
	write(t, root+"/evil", "evil")
	x := startIndex(t, Config{Roots: []string{root}})
	settled(t, x)
	defer hop(t, root, root+"/evil")()
	rounds := 12
	if raceEnabled {
		rounds = 5
	}
	for i := range rounds {
		err := x.Barrier(t.Context())
		a, err2 := x.Lookup(t.Context(), sha1Of("evil"))
		must(t, err2)
		if a.Complete && len(a.Copies) == 0 {
			t.Fatalf("round %d: the file is there all the time, and the index swears it is not", i)
		}
		found := false
		for _, c := range append(a.Copies, a.Unsure...) {
			got, verr := x.Verify(t.Context(), c)
			if verr != nil {
				continue
			}
			found = found || sha1Of("evil").Matches(got.Sum)
			must(t, got.File.Close())
		}
		if !found && a.Complete {
			t.Errorf("round %d: not found though complete: barrier %v, answer %+v", i, err, a)
		}
	}
}

func TestSearchIsNotOutrun(t *testing.T) {
	root := scratchExt4(t)
	write(t, root+"/evil", "evil")
	for i := range 300 {
		write(t, fmt.Sprintf("%s/d%d/f", root, i), "good")
	}
	defer hop(t, root, root+"/evil")()
	missed := 0
	for range 50 {
		_, res := searchFor(t, SearchConfig{Roots: []string{root}, Hash: sha1Of("evil"), Size: -1})
		if len(res.Copies) != 1 {
			missed++
		}
	}
	if missed > 0 {
		t.Errorf("missed %d of 50 times", missed)
	}
}

func TestSearchSaysWhenItWasOutrun(t *testing.T) {
	root := scratch(t)
	write(t, root+"/evil", "evil")
	s, err := newSearch(SearchConfig{Roots: []string{root}, Hash: sha1Of("evil"), Size: -1, Workers: 2})
	must(t, err)
	s.watches = watch(s.watchPoints())
	defer s.watches.close()
	for i := range 20000 { // more than the kernel's queue holds
		must(t, os.WriteFile(fmt.Sprintf("%s/%d", root, i), nil, 0o644))
	}
	must(t, s.walkAndFollow(t.Context()))
	res := s.result()
	defer res.Close()
	want := []string{"file system events: " + errOutrun.Error()}
	if len(res.Copies) != 1 || res.Watched || !slices.Equal(res.NotCovered, want) {
		t.Errorf("%d copies, watched %v, gaps %q", len(res.Copies), res.Watched, res.NotCovered)
	}
}
