// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"strings"
	"testing"
)

func TestProbe(t *testing.T) {
	needRoot(t)
	checks := Probe(t.Context(), LocalConfig{GateArgs: []string{"test-gate"}})
	byName := map[string]Check{}
	for _, c := range checks {
		t.Logf("%-32s %v %s", c.Name, c.OK, c.Detail)
		byName[c.Name] = c
	}
	for _, name := range []string{
		"permission events", "execution without a rule", "execution refused by content",
		"execution refused by file", "opening refused by file", "execution allowed again",
	} {
		if !byName[name].OK {
			t.Errorf("%s: %+v", name, byName[name])
		}
	}
	if c := byName["marks on proc"]; c.OK || !strings.Contains(c.Detail, "not covered") {
		t.Errorf("proc: %+v", c)
	}
}
