// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/vault"
	"staunch/internal/filehash"
	"staunch/internal/order"
)

// sealOne takes a file into the agent's vault and returns the item.
func sealOne(t *testing.T, a *Agent, path string) order.Item {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	g, err := a.vault.Grab(t.Context(), f, []string{path}, func(filehash.Sum) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	item, err := a.vault.Seal(t.Context(), g, vault.Why{})
	if err == nil {
		err = g.Remove(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return item
}

func refuse(t *testing.T, a *Agent, h filehash.Hash, since time.Time) {
	t.Helper()
	if err := a.gates.write([]Gated{{File: h, Size: 1, Order: "o", Since: since}}); err != nil {
		t.Fatal(err)
	}
}

// TestRestoreWithoutGate: what is restored while there is no gate is not
// refused by the next one.
func TestRestoreWithoutGate(t *testing.T) {
	a, disk := kit(t, Config{})
	h := put(t, filepath.Join(disk, "tool"), "a tool")
	item := sealOne(t, a, filepath.Join(disk, "tool"))
	refuse(t, a, h, time.Now())
	r, err := a.Restore(t.Context(), RestoreRequest{Item: item.ID})
	if err != nil || r.Outcome != order.Proven || r.Code != "" {
		t.Fatalf("%+v, %v", r, err)
	}
	if b, _ := os.ReadFile(a.state.path("gates.json")); strings.Contains(string(b), h.SHA1.String()) {
		t.Errorf("refused still: %s", b)
	}
}

// TestGateOfRestoredIsLifted: an agent that died between giving a file back and
// lifting its gate lifts it when it starts; what was refused later stands.
func TestGateOfRestoredIsLifted(t *testing.T) {
	for name, later := range map[string]time.Duration{"before": -time.Hour, "after": time.Hour} {
		t.Run(name, func(t *testing.T) {
			a, disk := kit(t, Config{})
			h := put(t, filepath.Join(disk, "tool"), "a tool")
			item := sealOne(t, a, filepath.Join(disk, "tool"))
			if _, err := a.vault.Restore(t.Context(), item.ID, vault.RestoreOptions{}); err != nil {
				t.Fatal(err)
			}
			refuse(t, a, h, time.Now().Add(later))
			if err := a.StartLocal(); err != nil {
				t.Fatal(err)
			}
			want := 0
			if later > 0 {
				want = 1
			}
			if got := a.gates.list(); len(got) != want {
				t.Errorf("refused: %+v", got)
			}
		})
	}
}

// TestRestoreNotRepeated: a restore that an interrupted agent had begun, and
// that was finished, is reported and not done again.
func TestRestoreNotRepeated(t *testing.T) {
	a, disk := kit(t, Config{})
	path := filepath.Join(disk, "tool")
	put(t, path, "a tool")
	item := sealOne(t, a, path)
	began := time.Now()
	if _, err := a.vault.Restore(t.Context(), item.ID, vault.RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	r := a.restore(t.Context(), newID(), item.ID, "", began)
	if r.Outcome != order.Proven || r.Code != "" || r.Restored.Side || string(r.Restored.Paths[0]) != path {
		t.Errorf("%+v, %+v", r, r.Restored)
	}
	if r = a.restore(t.Context(), newID(), item.ID, "", time.Time{}); r.Code != order.PlaceTaken {
		t.Errorf("asked for anew: %+v", r)
	}
}

// TestStateFolderRefusals: each damaged or foreign state is refused with what
// is wrong and what to do.
func TestStateFolderRefusals(t *testing.T) {
	key := "bring it back from a backup, or move it away and enroll this device again with --force"
	for _, c := range []struct {
		name   string
		damage func(dir string) error
		want   string
	}{
		{"loose mode", func(d string) error { return os.Chmod(d, 0o755) }, "run chmod 700"},
		{"gates not JSON", func(d string) error { return os.WriteFile(d+"/gates.json", []byte("{"), 0o600) }, "move it aside"},
		{"gates a pipe", func(d string) error { return unix.Mkfifo(d+"/gates.json", 0o600) }, "not a regular file"},
		{"enrollment a folder", func(d string) error { return os.Mkdir(d+"/enrollment.json", 0o700) }, "not a regular file"},
		{"enrollment of nobody", func(d string) error { return os.WriteFile(d+"/enrollment.json", []byte("{}"), 0o600) }, "enroll this device again with --force"},
		{"key cut", func(d string) error { return os.WriteFile(d+"/device.key", []byte("-----BEGIN"), 0o600) }, key},
		{"key a pipe", func(d string) error { return unix.Mkfifo(d+"/device.key", 0o600) }, "not a regular file"},
		{"key too large", func(d string) error { return os.WriteFile(d+"/device.key", make([]byte, maxState+1), 0o600) }, "more than the"},
		{"owner", func(d string) error { return os.Chown(d, 4321, 4321) }, "it belongs to user 4321"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "owner" && os.Geteuid() != 0 {
				t.Skip("SKIPPED, NOT PROVEN: another's state folder: needs root")
			}
			dir := filepath.Join(t.TempDir(), "state")
			state, err := OpenState(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.damage(dir); err != nil {
				t.Fatal(err)
			}
			if _, err = OpenState(dir); err == nil {
				_, err = New(Config{State: state, NoIndex: true, Log: slog.New(slog.DiscardHandler)})
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestFsckState: fsck sees what New would refuse, thaws, and moves a list of
// refusals aside that cannot be read.
func TestFsckState(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	state, err := OpenState(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"gates.json": "x", "enrollment.json": "x", "device.key": "x", "frozen.json": `{"boot":"another","groups":[]}`} {
		if err := os.WriteFile(state.path(name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Fsck(t.Context(), state, false, log)
	if err != nil || r.OK || len(r.Findings) != 4 {
		t.Errorf("%+v, %v", r, err)
	}
	r, err = Fsck(t.Context(), state, true, log)
	if err != nil || r.OK || len(r.Findings) != 3 { // the identity only a person brings back
		t.Errorf("repairing: %+v, %v", r, err)
	}
	if aside, _ := filepath.Glob(state.path("gates.json.damaged-*")); len(aside) != 1 {
		t.Errorf("set aside: %v", aside)
	}
	if _, err := os.Stat(state.path("frozen.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("not thawed: %v", err)
	}
	if b, err := json.Marshal(r); err != nil || !strings.Contains(string(b), "may start again until it is contained again") {
		t.Errorf("%s, %v", b, err)
	}
}
