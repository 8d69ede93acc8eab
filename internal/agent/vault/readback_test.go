// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestReadBack: what the disk has made of the sealed bytes, and what somebody
// has made of the file meanwhile, is noticed wherever it is, and the file goes
// back.
func TestReadBack(t *testing.T) {
	for _, size := range []int{100, 2 * span, 5*span + 12345} {
		for _, at := range []float64{0, 0.6, 0.999999} {
			for _, what := range []string{"sealed", "cut", "file"} {
				t.Run(fmt.Sprintf("%d %s at %g", size, what, at), func(t *testing.T) {
					place := tempDir(t)
					path := filepath.Join(place, "tool")
					data := random(size)
					write(t, path, data)
					writer, err := os.OpenFile(path, os.O_WRONLY, 0) // from before, so nobody gets a lease
					if err != nil {
						t.Fatal(err)
					}
					defer writer.Close()
					var v *Vault
					var g *Grabbed
					v = openVault(t, Config{Dir: filepath.Join(tempDir(t), "vault"), Step: func(step string) {
						if step != "seal:written" {
							return
						}
						err := errors.New("no such case")
						sealed := v.tmpPath(g.ID())
						switch what {
						case "sealed":
							fi, _ := os.Stat(sealed)
							err = flip(sealed, int(float64(fi.Size())*at))
						case "cut":
							fi, _ := os.Stat(sealed)
							err = os.Truncate(sealed, int64(float64(fi.Size())*at))
						case "file":
							off := int64(float64(size) * at)
							_, err = writer.WriteAt([]byte{data[off] ^ 1}, off)
						}
						if err != nil {
							t.Error(err)
						}
					}})
					if g, err = v.Grab(t.Context(), mustOpen(t, path), []string{path}, is(data)); err != nil {
						t.Fatal(err)
					}
					_, err = v.Seal(t.Context(), g, why)
					want := ErrDamaged
					if what == "file" {
						want = ErrChanged
					}
					wantErr(t, "Seal", err, want)
					if err := g.PutBack(t.Context()); err != nil {
						t.Fatal(err)
					}
					if got, err := os.ReadFile(path); err != nil || len(got) != size || what != "file" && string(got) != string(data) {
						t.Errorf("the file is not back: %d bytes, %v", len(got), err)
					}
					sound(t, v, 0)
				})
			}
		}
	}
}
