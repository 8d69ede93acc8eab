// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"os"

	"staunch/internal/agent/process"
)

// Doctor tries what this kernel lets the agent do. It guesses nothing and
// changes nothing that lasts.
func Doctor(context.Context) []Check {
	checks := []Check{{Name: "root", OK: os.Geteuid() == 0, Detail: "needed to see every process, to gate, and to take other people's files"}}
	for _, rung := range []string{process.RungBPF, process.RungFreeze, process.RungConnector, process.RungBestEffort} {
		check := Check{Name: "hold by " + rung}
		h, err := process.New(process.Config{Rung: rung, StateDir: os.TempDir()})
		if err != nil {
			check.Detail = err.Error()
		} else {
			check.OK = true
			_, check.Detail = h.Rung()
			if err := h.Close(); err != nil {
				check.OK, check.Detail = false, err.Error()
			}
		}
		checks = append(checks, check)
	}
	return checks
}
