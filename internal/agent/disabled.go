// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"staunch/internal/agent/persistence"
	"staunch/internal/durable"
	"staunch/internal/order"
)

// Disabled is one thing that would bring a file back and was switched off, with
// what switches it on again.
type Disabled struct {
	Order string           `json:"order"` // the containment's id
	Since time.Time        `json:"since"`
	Undo  persistence.Undo `json:"undo"`
}

// disabled is the list of them: disabled.json, written before anything is
// changed, so that what a crash interrupts can be taken back.
type disabled struct {
	path string

	mu sync.Mutex // one change at a time
}

func (d *disabled) list() ([]Disabled, error) {
	var all []Disabled
	b, err := os.ReadFile(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read what was disabled in %s: %w", d.path, err)
	}
	return all, nil
}

func (d *disabled) write(all []Disabled) error {
	b, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(d.path, append(b, '\n'), 0o600)
}

// disable switches one finding off for an order.
func (d *disabled) disable(ctx context.Context, id string, now time.Time, f persistence.Finding) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	undo, err := persistence.Plan(persistence.Config{}, f)
	if err != nil {
		return err
	}
	all, err := d.list()
	if err != nil {
		return err
	}
	if err := d.write(append(all, Disabled{Order: id, Since: now.UTC(), Undo: undo})); err != nil {
		return err
	}
	return persistence.Apply(ctx, persistence.Config{}, undo)
}

// enable switches everything of an order on again, the last first. What has
// changed since is left as it is, stays on the list, and is in the error.
func (d *disabled) enable(ctx context.Context, id string) (n int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	all, err := d.list()
	if err != nil {
		return 0, err
	}
	var left []Disabled
	var errs []error
	for _, k := range slices.Backward(all) {
		if k.Order != id {
			left = append(left, k)
			continue
		}
		if err := persistence.Enable(ctx, persistence.Config{}, k.Undo); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", k.Undo.File, err))
			left = append(left, k)
			continue
		}
		n++
	}
	slices.Reverse(left)
	if n == 0 && len(errs) == 0 {
		return 0, fmt.Errorf("nothing is disabled for %q; staunch-agent persistence list shows what is", id)
	}
	return n, errors.Join(append(errs, d.write(left))...)
}

// disable switches off what trace found, as the request asks; what cannot be is
// said in the finding.
func (c *containment) disable(ctx context.Context, found []persistence.Finding) {
	for i, f := range found {
		w := &c.receipt.Persistence[i]
		if err := c.off.disable(ctx, c.ID, c.now(), f); err != nil {
			w.Detail += order.TextOf("; not disabled: " + err.Error())
			continue
		}
		w.Disabled = true
	}
}

// Enable implements Service.
func (a *Agent) Enable(ctx context.Context, r EnableRequest) (Enabled, error) {
	n, err := a.off.enable(ctx, r.Order)
	return Enabled{n}, err
}

// ReadDisabled lists what is switched off, and by which containment.
func ReadDisabled(s State) ([]Disabled, error) {
	return (&disabled{path: s.path("disabled.json")}).list()
}
