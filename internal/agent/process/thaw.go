// SPDX-License-Identifier: Apache-2.0

package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"staunch/internal/durable"
)

// frozenFile is where a freeze is recorded in the state folder.
const frozenFile = "frozen.json"

// frozenRecord names the groups that are frozen, or were about to be.
//
//	{"boot":"6f1e…","groups":[{"file":"/sys/fs/cgroup/a.slice/cgroup.freeze","thaw":"0"}]}
type frozenRecord struct {
	Boot   string        `json:"boot"` // /proc/sys/kernel/random/boot_id: groups do not outlive a boot
	Groups []frozenGroup `json:"groups"`
}

type frozenGroup struct {
	File string `json:"file"` // the control file
	Thaw string `json:"thaw"` // what to write to it
}

// ThawLeftover thaws what an agent with this state folder had frozen when it
// died. New calls it; a supervisor may call it as soon as the agent is dead.
func ThawLeftover(stateDir string) error {
	name := filepath.Join(stateDir, frozenFile)
	b, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot thaw what was left frozen: %w", err)
	}
	var rec frozenRecord
	if err := json.Unmarshal(b, &rec); err != nil {
		return fmt.Errorf("cannot thaw what was left frozen: %s is damaged; thaw the control groups by hand "+
			"(write 0 to each cgroup.freeze that holds 1) and remove it: %w", name, err)
	}
	var errs []error
	if rec.Boot == bootID() {
		for _, g := range rec.Groups {
			errs = append(errs, thawFile(g))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot thaw what was left frozen: %w", err)
	}
	return durable.Remove(name)
}

// thawFile writes only what thaws, and only to what is a freezer's file.
func thawFile(g frozenGroup) error {
	base := filepath.Base(g.File)
	if base == "cgroup.freeze" && g.Thaw != "0" || base == "freezer.state" && g.Thaw != "THAWED" ||
		base != "cgroup.freeze" && base != "freezer.state" {
		return fmt.Errorf("%s is not the file of a freezer", g.File)
	}
	f, err := os.OpenFile(g.File, os.O_WRONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // the group is gone, and so is everybody in it
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(g.Thaw)
	if errors.Is(err, unix.ENODEV) {
		err = nil
	}
	return errors.Join(err, f.Close())
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}
