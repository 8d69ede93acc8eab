// SPDX-License-Identifier: Apache-2.0

package runnable

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// What is written is executed at once, while others start programs all the
// time. (With os.WriteFile in its place this fails within a few dozen rounds.)
func TestNeverBusy(t *testing.T) {
	program, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Skip("SKIPPED, NOT PROVEN: there is no /bin/true")
	}
	dir, done := t.TempDir(), make(chan struct{})
	var forks sync.WaitGroup
	for range 4 {
		forks.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					_ = exec.Command("/bin/true").Run() // it is the forking that counts
				}
			}
		})
	}
	defer forks.Wait()
	defer close(done)
	for i := range 300 {
		path := filepath.Join(dir, fmt.Sprint(i))
		if err := Write(path, program, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := exec.Command(path).Run(); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
	}
}
