// SPDX-License-Identifier: Apache-2.0

// Package pkitest makes keys for the tests of packages that need some.
package pkitest

import (
	"path/filepath"
	"testing"

	"staunch/internal/server/pki"
)

// Sealer seals with a key of the test's own.
func Sealer(t testing.TB) pki.Seal {
	t.Helper()
	dir, err := pki.Open(filepath.Join(t.TempDir(), "keys"))
	if err != nil {
		t.Fatal(err)
	}
	seal, err := dir.Seal()
	if err != nil {
		t.Fatal(err)
	}
	return seal
}
