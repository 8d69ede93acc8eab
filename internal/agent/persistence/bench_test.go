// SPDX-License-Identifier: Apache-2.0

package persistence

import "testing"

// BenchmarkFind looks through this machine.
func BenchmarkFind(b *testing.B) {
	for b.Loop() {
		if _, err := Find(b.Context(), Config{}, Targets{Paths: []string{"/srv/evil"}}); err != nil {
			b.Fatal(err)
		}
	}
}
