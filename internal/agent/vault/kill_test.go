// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestMain becomes the process that is killed, when a test starts it so.
func TestMain(m *testing.M) {
	if play := os.Getenv("STAUNCH_VAULT_PLAY"); play != "" {
		if err := child(play, os.Getenv("STAUNCH_VAULT_DIR"), os.Getenv("STAUNCH_VAULT_PLACE"), os.Getenv("STAUNCH_VAULT_KILL_AT")); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// names of the file that the plays are about: two folders, three names.
func namesIn(place string) []string {
	return []string{filepath.Join(place, "d", "tool"), filepath.Join(place, "d", "same"), filepath.Join(place, "e", "to\xffol")}
}

// child plays, and is killed behind its nth step.
func child(play, dir, place, killAt string) error {
	n, err := strconv.Atoi(killAt)
	if err != nil {
		return err
	}
	v, err := Open(Config{Dir: dir, Step: func(string) {
		if n--; n == 0 {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	}})
	if err != nil {
		return err
	}
	v.named = play == "restore named"
	ctx := context.Background()
	if _, err := v.Recover(ctx); err != nil {
		return err
	}
	if play == "loop" {
		return loop(ctx, v, place)
	}
	if play == "unprivileged" {
		return unprivileged(ctx, v, place)
	}
	items, err := v.List()
	if err != nil {
		return err
	}
	switch play {
	case "restore", "restore named":
		_, err = v.Restore(ctx, items[0].ID, RestoreOptions{})
	case "purge":
		err = v.Purge(ctx, items[0].ID)
	case "sealopen":
		var f *os.File
		if f, err = os.Open(namesIn(place)[0]); err == nil {
			_, err = v.SealOpen(ctx, f, why)
		}
	case "alike":
		for _, n := range []string{"one", "two"} {
			if err = grabAndSeal(ctx, v, []string{filepath.Join(place, n)}, "take"); err != nil {
				return err
			}
		}
	case "take", "putback":
		err = grabAndSeal(ctx, v, namesIn(place), play)
	}
	return err
}

func grabAndSeal(ctx context.Context, v *Vault, names []string, play string) error {
	f, err := os.Open(names[0])
	if err != nil {
		return err
	}
	defer f.Close()
	g, err := v.Grab(ctx, f, names, anything)
	if err != nil {
		return err
	}
	if _, err = v.Seal(ctx, g, why); err != nil {
		return err
	}
	if play == "take" {
		return g.Remove(ctx)
	}
	return g.PutBack(ctx)
}

// unprivileged takes and restores a file of its own.
func unprivileged(ctx context.Context, v *Vault, place string) error {
	path := filepath.Join(place, "own")
	if err := grabAndSeal(ctx, v, []string{path}, "take"); err != nil {
		return err
	}
	items, err := v.List()
	if err != nil || len(items) != 1 || exists(path) {
		return fmt.Errorf("taken: %v, %w", items, err)
	}
	res, err := v.Restore(ctx, items[0].ID, RestoreOptions{})
	if err != nil || res.Side || len(res.Lost) > 0 {
		return fmt.Errorf("restored: %+v, %w", res, err)
	}
	err = grabAndSeal(ctx, v, []string{filepath.Join(place, "others", "tool")}, "take")
	if !errors.Is(err, unix.EACCES) {
		return fmt.Errorf("another's file: %w", err)
	}
	rep, err := v.Fsck(ctx, false)
	if err != nil || !rep.OK() {
		return fmt.Errorf("fsck: %+v, %w", rep, err)
	}
	return nil
}

// loop takes and restores until it is killed.
func loop(ctx context.Context, v *Vault, place string) error {
	for {
		for i := range 4 {
			path := filepath.Join(place, strconv.Itoa(i))
			if exists(path) {
				play := []string{"take", "putback"}[rand.IntN(2)]
				if err := grabAndSeal(ctx, v, []string{path}, play); err != nil {
					return err
				}
				continue
			}
			items, err := v.List()
			if err != nil {
				return err
			}
			for _, it := range items {
				if it.State == string(Sealed) && string(it.Paths[0]) == path {
					if _, err := v.Restore(ctx, it.ID, RestoreOptions{}); err != nil {
						return err
					}
				}
			}
		}
	}
}

func command(play, dir, place string, killAt int) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "STAUNCH_VAULT_PLAY="+play, "STAUNCH_VAULT_DIR="+dir, "STAUNCH_VAULT_PLACE="+place, fmt.Sprint("STAUNCH_VAULT_KILL_AT=", killAt))
	return cmd
}

// stageSet is the file of the plays, locked in locked folders, and the vault.
type stageSet struct {
	dir, place string
	before     look
	data       []byte
	locked     bool
}

func setStage(t *testing.T, kind StageKind, locked bool) *stageSet {
	t.Helper()
	base := tempDir(t)
	s := &stageSet{dir: filepath.Join(base, "vault"), place: filepath.Join(base, "place"), data: random(3000), locked: locked}
	if kind == inVault {
		if err := os.Mkdir(s.place, 0o755); err != nil {
			t.Fatal(err)
		}
	} else {
		s.place = tmpfs(t, "")
	}
	v, err := Open(Config{Dir: s.dir})
	if err != nil {
		t.Fatal(err)
	}
	if kind == inParent { // a file where the staging folder would be
		write(t, filepath.Join(s.place, v.mountStageName()), nil)
	}
	_ = v.Close()
	names := namesIn(s.place)
	if err := errors.Join(os.Mkdir(filepath.Join(s.place, "d"), 0o755), os.Mkdir(filepath.Join(s.place, "e"), 0o755)); err != nil {
		t.Fatal(err)
	}
	write(t, names[0], s.data)
	for _, n := range names[1:] {
		if err := os.Link(names[0], n); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chmod(names[0], 0o4755|os.ModeSetuid), unix.Setxattr(names[0], "user.note", []byte("x"), 0)); err != nil {
		t.Fatal(err)
	}
	if locked {
		for _, p := range []string{names[0], filepath.Join(s.place, "d"), filepath.Join(s.place, "e")} {
			chattr(t, p, 0x10)
		}
	}
	s.before = lookAt(t, names[0])
	return s
}

// inPlace checks that the file is whole under all its names, or under none.
func (s *stageSet) inPlace(t *testing.T, what string) bool {
	t.Helper()
	names := namesIn(s.place)
	n := 0
	for _, name := range names {
		if !exists(name) {
			continue
		}
		n++
		if diff := cmp.Diff(s.before, lookAt(t, name)); diff != "" {
			t.Errorf("%s: %q: %s", what, name, diff)
		}
	}
	if n != 0 && n != len(names) {
		t.Errorf("%s: %d of %d names are there", what, n, len(names))
	}
	for _, folder := range []string{"d", "e"} {
		if s.locked && flagsOf(t, filepath.Join(s.place, folder))&0x10 == 0 {
			t.Errorf("%s: folder %s was left open", what, folder)
		}
	}
	for _, pattern := range []string{"d/.staunch*", "e/.staunch*", ".staunch*/*"} {
		if left, _ := filepath.Glob(filepath.Join(s.place, pattern)); len(left) > 0 {
			t.Errorf("%s: left behind: %q", what, left)
		}
	}
	return n > 0
}

// sealed returns the state of the one item, or "".
func (s *stageSet) sealed(t *testing.T, v *Vault, what string) State {
	t.Helper()
	items, err := v.List()
	if err != nil || len(items) > 1 {
		t.Errorf("%s: %d items, %v", what, len(items), err)
	}
	if len(items) == 0 {
		return ""
	}
	if st := State(items[0].State); st == Purged {
		return st
	}
	if string(contentOf(t, v, items[0].ID)) != string(s.data) {
		t.Errorf("%s: the sealed content is not the file's", what)
	}
	return State(items[0].State)
}

// TestKillAtEveryStep kills the process behind every step of every play, and
// then finds the file in exactly one place, whole, after Recover.
func TestKillAtEveryStep(t *testing.T) {
	needRoot(t, "immutable files, other mounts")
	for _, kind := range []StageKind{inVault, inMount, inParent} {
		for _, play := range []string{"take", "putback", "restore", "restore named", "sealopen", "purge"} {
			t.Run(string(kind)+"/"+play, func(t *testing.T) {
				for n := 1; killed(t, kind, play, n); n++ {
					if n > 60 {
						t.Fatal("the play does not end")
					}
				}
			})
		}
	}
}

// killed plays with a kill behind step n; false: the play had no such step.
func killed(t *testing.T, kind StageKind, play string, n int) bool {
	t.Helper()
	s := setStage(t, kind, play != "sealopen")
	if strings.HasPrefix(play, "restore") || play == "purge" {
		v := openVault(t, Config{Dir: s.dir})
		take(t, v, namesIn(s.place)...)
		_ = v.Close()
	}
	out, err := command(play, s.dir, s.place, n).CombinedOutput()
	done := err == nil
	var exit *exec.ExitError
	if !done && (!errors.As(err, &exit) || exit.ExitCode() != -1) {
		t.Fatalf("kill %d: %v: %s", n, err, out)
	}
	what := fmt.Sprintf("kill %d", n)
	var steps []string
	v, err := Open(Config{Dir: s.dir, Step: func(step string) { steps = append(steps, step) }})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	recovered, err := v.Recover(t.Context())
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if again, err := v.Recover(t.Context()); err != nil || len(again) > 0 {
		t.Errorf("%s: a second Recover finds %+v, %v", what, again, err)
	}
	there, state := s.inPlace(t, what), s.sealed(t, v, what)
	ok := false
	switch play {
	case "take":
		ok = there && state == "" && !done || !there && state == Sealed
	case "putback":
		ok = there && state == "" || !there && state == Sealed && !done
	case "restore", "restore named":
		ok = there && state == Restored || !there && state == Sealed && !done
	case "sealopen":
		ok = there && (state == Sealed || state == "" && !done)
	case "purge":
		ok = !there && (state == Purged || state == Sealed && !done)
	}
	items := 0
	if state != "" {
		items = 1
	}
	if !ok {
		t.Errorf("%s: in place: %v, vault: %q, recovered: %+v, steps: %v", what, there, state, recovered, steps)
	}
	sound(t, v, items)
	if t.Failed() {
		t.FailNow()
	}
	for _, p := range []string{"d/tool", "d", "e"} {
		if s.locked && exists(filepath.Join(s.place, p)) {
			chattr(t, filepath.Join(s.place, p), 0)
		}
	}
	return !done
}

// TestKillAtRandom kills a process that takes and restores, at random times,
// again and again on the same vault: every file is always in one place.
func TestKillAtRandom(t *testing.T) {
	base := tempDir(t)
	dir, place := filepath.Join(base, "vault"), filepath.Join(base, "place")
	if err := os.Mkdir(place, 0o755); err != nil {
		t.Fatal(err)
	}
	var want [4]string
	for i := range want {
		want[i] = strings.Repeat(string(rune('a'+i)), 200000*i+10)
		write(t, filepath.Join(place, strconv.Itoa(i)), []byte(want[i]))
	}
	rounds := 25
	if testing.Short() {
		rounds = 5
	}
	for range rounds {
		cmd := command("loop", dir, place, -1)
		var out strings.Builder
		cmd.Stdout = &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rand.IntN(60_000)) * time.Microsecond) // any instant will do
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		if out.Len() > 0 {
			t.Fatal(out.String())
		}
		v, err := Open(Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		items, err := v.List()
		if err != nil {
			t.Fatal(err)
		}
		for i := range want {
			path := filepath.Join(place, strconv.Itoa(i))
			n := 0
			if b, err := os.ReadFile(path); err == nil {
				n++
				if string(b) != want[i] {
					t.Errorf("%s is not whole", path)
				}
			}
			for _, it := range items {
				if it.State == string(Sealed) && string(it.Paths[0]) == path {
					n++
					if string(contentOf(t, v, it.ID)) != want[i] {
						t.Errorf("item %s is not whole", it.ID)
					}
				}
			}
			if n != 1 {
				t.Fatalf("file %d is in %d places", i, n)
			}
		}
		sound(t, v, len(items))
		_ = v.Close()
	}
}
