// SPDX-License-Identifier: Apache-2.0

package process

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestThawLeftover: an agent died while it had groups frozen; the next one
// with its state folder thaws them.
func TestThawLeftover(t *testing.T) {
	bin := runner(t)
	k := newKit(t, bin)
	if k.group == nil {
		t.Skip("SKIPPED, NOT PROVEN: no control group could be made")
	}
	in := k.innocent(k.program("twin", bin, k.mark))
	dir := t.TempDir()
	h, err := New(Config{Rung: RungFreeze, StateDir: dir, Freeze: time.Minute})
	if err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: %v", err)
	}
	fr, err := h.freeze(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	fr.bound.Stop() // the timer died with the agent
	if !k.frozen() {
		t.Fatal("nothing was frozen")
	}
	if fi, err := os.Stat(filepath.Join(dir, frozenFile)); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the record: %v, %v", fi, err)
	}
	again, err := New(Config{Rung: RungBestEffort, StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close() //nolint:errcheck // checked by others
	k.thawed()
	if _, err := os.Stat(filepath.Join(dir, frozenFile)); !os.IsNotExist(err) {
		t.Errorf("the record is still there: %v", err)
	}
	if err := alive(in); err != nil {
		t.Error(err)
	}
	if err := fr.closeGroups(); err != nil {
		t.Error(err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
}

// TestFreezeIsBounded: whoever froze hangs; the timer thaws, and the freeze says
// that it did not hold.
func TestFreezeIsBounded(t *testing.T) {
	bin := runner(t)
	k := newKit(t, bin)
	if k.group == nil {
		t.Skip("SKIPPED, NOT PROVEN: no control group could be made")
	}
	k.innocent(k.program("twin", bin, k.mark))
	h, err := New(Config{Rung: RungFreeze, StateDir: t.TempDir(), Freeze: time.Second})
	if err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: %v", err)
	}
	defer h.Close() //nolint:errcheck // checked by others
	var fr *freeze
	waitFor(t, "a freeze to come to rest in half of its second", func() bool {
		if fr, err = h.freeze(t.Context()); err != nil {
			_, _ = fr.end() // it is tried again
		}
		return err == nil
	})
	waitFor(t, "the timer to thaw", func() bool { return !k.frozen() && fr.expired.Load() })
	if fr.held() {
		t.Error("a freeze that ran out is held to have held")
	}
	if pause, err := fr.end(); err != nil || pause < time.Second.Nanoseconds() {
		t.Errorf("paused %d ns, %v", pause, err)
	}
	if err := fr.thaw(); err != nil {
		t.Errorf("thawed again: %v", err)
	}
}

// TestCandidates: no group with a spared process, none that somebody
// else has frozen, none without anybody; the topmost otherwise.
func TestCandidates(t *testing.T) {
	root := t.TempDir()
	group := func(name, state string, pids ...string) {
		t.Helper()
		dir := filepath.Join(root, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for file, text := range map[string]string{"cgroup.procs": strings.Join(pids, "\n"), "cgroup.freeze": state} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	group("", "0", "5")
	group("init", "0", "1")
	group("system", "0")
	group("system/agent", "0", "77", "78")
	group("system/web", "0", "100")
	group("system/web/worker", "0", "101", "102")
	group("system/empty", "0")
	group("user/session/app", "0", "200")
	group("user/session", "0")
	group("user", "0")
	group("frozen", "1", "300")
	group("agent/below", "0", "400")
	group("agent", "0", "77")
	fz := freezer{root: root, file: "cgroup.freeze", stop: "1", thaw: "0"}
	got, err := fz.candidates(func(pid int) bool { return pid == 1 || pid == 77 })
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, name := range []string{"agent/below", "system/web", "user"} {
		want = append(want, filepath.Join(root, name))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("candidates (-want +got):\n%s", diff)
	}
}

func TestThawLeftoverRefusals(t *testing.T) {
	precious := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(precious, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	record := func(boot, file, thaw string) string {
		b, err := json.Marshal(frozenRecord{Boot: boot, Groups: []frozenGroup{{File: file, Thaw: thaw}}})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, c := range []struct{ name, text, err string }{
		{"nothing", "", "damaged"},
		{"half", `{"boot":"`, "damaged; thaw the control groups by hand"},
		{"not a freezer", record(bootID(), precious, "0"), "not the file of a freezer"},
		{"not a thaw", record(bootID(), "/sys/fs/cgroup/x/cgroup.freeze", "1"), "not the file of a freezer"},
		{"gone", record(bootID(), "/sys/fs/cgroup/no-such-group/cgroup.freeze", "0"), ""},
		{"another boot", record("long ago", precious, "0"), ""},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, frozenFile), []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := ThawLeftover(dir)
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.err)
		}
		_, statErr := os.Stat(filepath.Join(dir, frozenFile))
		if kept := statErr == nil; kept != (c.err != "") {
			t.Errorf("%s: the record is kept: %v", c.name, kept)
		}
	}
	if b, err := os.ReadFile(precious); err != nil || string(b) != "data" {
		t.Errorf("another file was written: %q, %v", b, err)
	}
	if err := ThawLeftover(t.TempDir()); err != nil {
		t.Errorf("without a record: %v", err)
	}
}

// TestNestedGroups: matches hidden in groups below groups, one of them in a
// subtree with a frozen sibling that is somebody else's.
func TestNestedGroups(t *testing.T) {
	bin := runner(t)
	k := newKit(t, bin)
	if k.group == nil {
		t.Skip("SKIPPED, NOT PROVEN: no control group could be made")
	}
	h := newHolder(t, RungFreeze)
	evil := k.program("evil", bin, k.mark)
	top := k.group
	var made []string
	for _, name := range []string{"a", "a/b", "a/b/c", "theirs"} {
		dir := filepath.Join(top.Name(), name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		made = append(made, dir)
	}
	defer func() {
		k.clean()
		for i := len(made) - 1; i >= 0; i-- {
			waitFor(t, "the group to empty", func() bool { return os.Remove(made[i]) == nil })
		}
	}()
	for _, dir := range made {
		g, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		k.group = g
		if strings.HasSuffix(dir, "theirs") {
			k.innocent(k.program("twin", bin, k.mark+"~"))
		} else {
			k.mode(evil, "hop", 300)
		}
		closeFile(g)
	}
	k.group = top
	theirs := filepath.Join(top.Name(), "theirs", "cgroup.freeze")
	if err := os.WriteFile(theirs, []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "signs of life", func() bool { return k.beats() > 30 })
	k.gives(h, k.target(evil, true), evil)
	if b, err := os.ReadFile(theirs); err != nil || strings.TrimSpace(string(b)) != "1" {
		t.Errorf("somebody else's freeze was lifted: %q, %v", b, err)
	}
	if err := os.WriteFile(theirs, []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
}
