// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"

	"staunch/internal/agent/vault"
	"staunch/internal/order"
)

// ReadItems lists the vault of a folder in which no agent runs, or one that we
// do not want to disturb. It takes no lock and changes nothing.
func ReadItems(s State, log *slog.Logger) ([]order.Item, error) {
	if _, err := os.Stat(s.path("vault")); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	v, err := vault.Open(vault.Config{Dir: s.path("vault"), ReadOnly: true, Log: log})
	if err != nil {
		return nil, err
	}
	defer v.Close()
	return v.List()
}

// ReadStatus is what the folder alone tells.
func ReadStatus(s State, log *slog.Logger) (Status, error) {
	st := Status{Version: Version, StateDir: s.Dir, Privileged: facts().Privileged, Off: []string{"everything: no agent runs in this folder"}}
	e, err := s.Enrollment()
	if err != nil && !errors.Is(err, ErrNotEnrolled) {
		return st, err
	}
	st.DeviceID, st.Server = e.DeviceID, e.URL
	g, err := openGates(s, nil, log)
	if err != nil {
		return st, err
	}
	st.Gates = g.all
	items, err := ReadItems(s, log)
	for _, i := range items {
		if i.State == "sealed" {
			st.Items++
		}
	}
	return st, err
}
