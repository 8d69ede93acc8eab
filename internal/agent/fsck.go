// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"staunch/internal/agent/journal"
	"staunch/internal/agent/process"
	"staunch/internal/agent/vault"
	"staunch/internal/durable"
)

// FsckReport is what fsck found.
type FsckReport struct {
	OK       bool     `json:"ok"` // nothing is left to do
	Items    int      `json:"items"`
	Records  int      `json:"records"`
	Findings []string `json:"findings"`
}

func (r *FsckReport) found(repaired bool, format string, args ...any) {
	r.Findings = append(r.Findings, fmt.Sprintf(format, args...))
	r.OK = r.OK && repaired
}

// Fsck checks a folder that the caller has locked. With repair it thaws who was
// left frozen, finishes or undoes what a crash left, and moves aside what
// cannot be used; it destroys nothing.
func Fsck(ctx context.Context, s State, repair bool, log *slog.Logger) (FsckReport, error) {
	report := FsckReport{OK: true, Findings: []string{}}
	report.frozen(s, repair) // first: somebody may be waiting
	device := report.identity(s)
	v, err := vault.Open(vault.Config{Dir: s.path("vault"), Log: log})
	if err != nil {
		return report, err
	}
	defer v.Close()
	vr, err := v.Fsck(ctx, repair)
	if err != nil {
		return report, err
	}
	jr, err := journal.Fsck(s.JournalDir(), repair, journal.Config{Device: device, Log: log})
	if err != nil {
		return report, err
	}
	report.Items, report.Records = vr.Items, jr.Records
	for _, f := range vr.Findings {
		report.found(f.Repaired, "vault: %s: %s; %s", f.Path, f.What, f.Do)
	}
	for _, f := range jr.Findings {
		report.found(f.Repaired, "journal: byte %d: %s; %s", f.Offset, f.What, f.Do)
	}
	return report, report.refusals(s, v, repair, log)
}

func (r *FsckReport) frozen(s State, repair bool) {
	if repair {
		if err := process.ThawLeftover(s.Dir); err != nil {
			r.found(false, "processes: %v", err)
		}
		return
	}
	if _, err := os.Lstat(s.path("frozen.json")); err == nil {
		r.found(false, "processes: an agent died while it held control groups frozen; start the agent, which thaws them, or run staunch-agent fsck --repair")
	}
}

// identity checks who this device is. Nothing but a new enrollment or a backup
// brings it back.
func (r *FsckReport) identity(s State) (device string) {
	e, err := s.Enrollment()
	if err != nil && !errors.Is(err, ErrNotEnrolled) {
		r.found(false, "enrollment: %v", err)
	}
	if _, err := os.Lstat(s.path("device.key")); errors.Is(err, fs.ErrNotExist) {
		return e.DeviceID // the agent makes a key
	}
	if _, err := s.DeviceKey(); err != nil {
		r.found(false, "device key: %v", err)
	}
	return e.DeviceID
}

// refusals checks the list of contents whose start is refused.
func (r *FsckReport) refusals(s State, v *vault.Vault, repair bool, log *slog.Logger) error {
	path := s.path("gates.json")
	g, err := openGates(s, nil, log)
	switch {
	case err == nil && repair:
		if err := g.openPins(s); err != nil { // lifts what no refusal stands behind
			return err
		}
		return errors.Join(g.liftRestored(v), g.close())
	case err == nil:
		return nil
	case !repair:
		r.found(false, "gates: %v; staunch-agent fsck --repair moves it aside", err)
		return nil
	}
	to := fmt.Sprintf("%s.damaged-%s", path, time.Now().UTC().Format("20060102T150405Z"))
	if err := durable.Rename(path, to); err != nil {
		return fmt.Errorf("cannot repair: %w", err)
	}
	r.found(true, "gates: %v; it was moved to %s: what it refused may start again until it is contained again", err, to)
	return nil
}
