// SPDX-License-Identifier: Apache-2.0

package process

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestLife: a holder that is closed leaves no goroutine and no descriptor.
func TestLife(t *testing.T) {
	needRoot(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	count := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	once := func() {
		h, err := New(Config{StateDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.Open("/proc/self/exe")
		if err != nil {
			t.Fatal(err)
		}
		defer closeFile(f)
		d, err := h.Arm(Target{Match: func(*os.File) (bool, error) { return false, nil }})
		if err != nil {
			t.Fatal(err)
		}
		if r := stop(t, d); r.Met != 0 {
			t.Errorf("nothing matches, yet %+v", r)
		}
		if err := h.Close(); err != nil { // with the hold standing
			t.Error(err)
		}
	}
	once() // the first one loads what stays for the life of the process
	before := count()
	once()
	if after := count(); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}
