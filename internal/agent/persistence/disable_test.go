// SPDX-License-Identifier: Apache-2.0

package persistence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// snapshot is all there is to know of a tree, but for times and inode numbers.
func snapshot(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		s := fmt.Sprintf("%o %d:%d ", st.Mode, st.Uid, st.Gid)
		switch fi.Mode().Type() {
		case 0:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			v := make([]byte, 100)
			n, _ := unix.Getxattr(p, "user.note", v)
			s += string(v[:max(n, 0)]) + string(b)
		case fs.ModeSymlink:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			s += to
		}
		all[p] = s
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestDisableEnable disables each finding of the corpus: it is found no more,
// scripts stay scripts, and enabling gives back every byte, mode, owner and
// attribute. The undo record passes through JSON, as through a journal.
func TestDisableEnable(t *testing.T) {
	root := corpus(t)
	cfg := Config{Root: root}
	for p, mode := range map[string]os.FileMode{"etc/rc.local": 0o755, "etc/crontab": 0o600, "home/ann/.bashrc": 0o640} {
		p = filepath.Join(root, p)
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
		if os.Geteuid() == 0 {
			if err := os.Chown(p, 1234, 4321); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.Setxattr(p, "user.note", []byte("kept"), 0); err != nil {
			t.Logf("no user attributes here, so they are not proven: %v", err)
		}
	}
	before := snapshot(t, root)
	targets := Targets{Paths: []string{target}}
	res, err := Find(t.Context(), cfg, targets)
	if err != nil {
		t.Fatal(err)
	}
	done := 0
	var undos []Undo
	for _, n := range res.Findings {
		u, err := Plan(cfg, n)
		if errors.Is(err, ErrByHand) {
			t.Logf("by hand: %v", err)
			continue
		}
		if err != nil {
			t.Errorf("plan %s:%d: %v", n.Where, n.Line, err)
			continue
		}
		b, err := json.Marshal(u)
		if err != nil {
			t.Fatal(err)
		}
		var read Undo
		if err := json.Unmarshal(b, &read); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(u, read); diff != "" {
			t.Errorf("through JSON: %s", diff)
		}
		for range 2 { // the second time changes nothing
			if err := Apply(t.Context(), cfg, u); err != nil {
				t.Errorf("disable %s:%d: %v", n.Where, n.Line, err)
			}
		}
		if slices.Contains(find(t, root, target), brief([]Finding{n})[0]) {
			t.Errorf("%s:%d is found after it was disabled", n.Where, n.Line)
		}
		if n.Edit == Null {
			if out, err := exec.Command("bash", "-n", filepath.Join(root, n.File)).CombinedOutput(); err != nil && !strings.Contains(n.File, "90-up") {
				t.Errorf("%s: %v: %s", n.File, err, out)
			}
		}
		for range 2 {
			if err := Enable(t.Context(), cfg, read); err != nil {
				t.Errorf("enable %s:%d: %v", n.Where, n.Line, err)
			}
		}
		if diff := cmp.Diff(before, snapshot(t, root)); diff != "" {
			t.Fatalf("after %s:%d was disabled and enabled:\n%s", n.Where, n.Line, diff)
		}
		done++
		undos = append(undos, u)
	}
	if done < 35 {
		t.Errorf("only %d findings could be disabled", done)
	}
	// All at once, enabled in the order they were disabled in.
	for _, u := range undos {
		if err := Apply(t.Context(), cfg, u); err != nil {
			t.Error(err)
		}
	}
	for _, u := range undos {
		if err := Enable(t.Context(), cfg, u); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff(before, snapshot(t, root)); diff != "" {
		t.Errorf("after all were disabled and enabled:\n%s", diff)
	}
}

// TestRefusals has one row per reason not to touch a file; each reads the text.
func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		file, text string
		after      string // what the file is changed to in between
		want       string
		is         error
	}{
		"changed":      {"/etc/cron.d/x", "* * * * * root " + target + "\n", "* * * * * root " + target + " -x\n", "it has changed since", ErrChanged},
		"shorter":      {"/etc/cron.d/x", "\n\n* * * * * root " + target + "\n", "x", "it has changed since", ErrChanged},
		"if":           {"/etc/rc.local", "if " + target + "; then\n :\nfi\n", "", "part of a larger construct", ErrByHand},
		"continued":    {"/etc/rc.local", "true &&\n" + target + "\n", "", "part of a larger construct", ErrByHand},
		"continues":    {"/etc/rc.local", target + " |\n cat\n", "", "part of a larger construct", ErrByHand},
		"quotes":       {"/etc/rc.local", "x='\n" + target + "\n'\n", "", "part of a larger construct", ErrByHand},
		"opens quotes": {"/etc/rc.local", "sh -c '" + target + "\n'\n", "", "part of a larger construct", ErrByHand},
		"here":         {"/etc/rc.local", "cat <<E\n" + target + "\nE\n", "", "part of a larger construct", ErrByHand},
		"pam":          {"/etc/pam.d/x", "auth [success=2 default=ignore] pam_unix.so\nauth optional pam_exec.so " + target + "\n", "", "would change who may log in", ErrByHand},
		"apt":          {"/etc/apt/apt.conf.d/x", `APT::Update::Pre-Invoke {"` + target + `";};` + "\n", "", "not a line of a file", ErrByHand},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			put(t, root, c.file, c.text)
			res, err := Find(t.Context(), Config{Root: root}, Targets{Paths: []string{target}})
			if err != nil || len(res.Findings) != 1 {
				t.Fatalf("found %v, %v", res.Findings, err)
			}
			if c.after != "" {
				put(t, root, c.file, c.after)
			}
			before := snapshot(t, root)
			_, err = Disable(t.Context(), Config{Root: root}, res.Findings[0])
			if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.file) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if diff := cmp.Diff(before, snapshot(t, root)); diff != "" {
				t.Errorf("changed:\n%s", diff)
			}
		})
	}
}

// TestEnableFollows: lines that moved are found where they are now; lines that
// were changed or doubled are not touched.
func TestEnableFollows(t *testing.T) {
	root := t.TempDir()
	cfg := Config{Root: root}
	put(t, root, "/etc/cron.d/x", "A=1\n* * * * * root "+target+"\n")
	res, err := Find(t.Context(), cfg, Targets{Paths: []string{target}})
	if err != nil || len(res.Findings) != 1 {
		t.Fatal(res, err)
	}
	u, err := Disable(t.Context(), cfg, res.Findings[0])
	if err != nil {
		t.Fatal(err)
	}
	off := "# staunch-disabled: * * * * * root " + target + "\n"
	put(t, root, "/etc/cron.d/x", "# new\nB=2\nA=1\n"+off)
	if err := Enable(t.Context(), cfg, u); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(root, "/etc/cron.d/x"))
	if want := "# new\nB=2\nA=1\n* * * * * root " + target + "\n"; err != nil || string(got) != want {
		t.Errorf("got %q, %v", got, err)
	}
	for _, text := range []string{"# edited\n", "\n\n" + off + off} {
		put(t, root, "/etc/cron.d/x", text)
		if err := Enable(t.Context(), cfg, u); !errors.Is(err, ErrChanged) {
			t.Errorf("%q: got %v, want ErrChanged", text, err)
		}
	}
}

// TestHostileHome: what a user puts in the way of the search and of a change.
func TestHostileHome(t *testing.T) {
	root := t.TempDir()
	cfg := Config{Root: root}
	home := filepath.Join(root, "home/eve")
	put(t, root, "/home/eve/.bashrc", target+"\n")
	put(t, root, "/etc/secret", target+"\n")
	if err := unix.Mkfifo(filepath.Join(home, ".profile"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.Symlink("../../etc/secret", filepath.Join(home, ".zshrc")),
		os.MkdirAll(filepath.Join(home, ".zlogin"), 0o755),
		os.MkdirAll(filepath.Join(root, "etc/systemd/user"), 0o755),
		os.MkdirAll(filepath.Join(home, ".config"), 0o755),
		os.Symlink("/etc", filepath.Join(home, ".config/fish")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	res, err := Find(t.Context(), cfg, Targets{Paths: []string{target}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"profile /home/eve/.bashrc:1"}, brief(res.Findings)); diff != "" {
		t.Fatal(diff)
	}
	n := res.Findings[0]
	// A second name would keep the old text; a link would lead the change elsewhere.
	if err := os.Link(filepath.Join(home, ".bashrc"), filepath.Join(home, "second")); err != nil {
		t.Fatal(err)
	}
	if _, err := Disable(t.Context(), cfg, n); !errors.Is(err, ErrByHand) || !strings.Contains(err.Error(), "2 names") {
		t.Errorf("two names: got %v", err)
	}
	for _, name := range []string{"second", ".bashrc"} {
		if err := os.Remove(filepath.Join(home, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../../etc/secret", filepath.Join(home, ".bashrc")); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, root)
	if _, err := Disable(t.Context(), cfg, n); err == nil {
		t.Error("followed a link out of the home")
	}
	if diff := cmp.Diff(before, snapshot(t, root)); diff != "" {
		t.Errorf("changed:\n%s", diff)
	}
	for _, u := range []Undo{{File: "/etc/secret", Base: "/home/eve"}, {File: "/home/eve", Base: "/home/eve"}, {File: `\q`, Base: "/"}} {
		if err := Enable(context.Background(), cfg, u); err == nil {
			t.Errorf("%+v: accepted", u)
		}
	}
}
