// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

func TestSeal(t *testing.T) {
	d := open(t)
	seal, err := d.Seal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := d.Seal() // the key is kept
	if err != nil {
		t.Fatal(err)
	}
	secret := []byte("a secret of twenty b")
	sealed := seal.Seal(secret, "ana")
	if bytes.Contains(sealed, secret) || bytes.Equal(sealed, seal.Seal(secret, "ana")) {
		t.Errorf("sealed as %x", sealed)
	}
	if got, err := again.Open(sealed, "ana"); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("opened as %q, %v", got, err)
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, err := seal.Open(bad, "ana"); err == nil {
			t.Errorf("byte %d altered, and it opens", i)
		}
		if _, err := seal.Open(sealed[:i], "ana"); err == nil {
			t.Errorf("the first %d bytes open", i)
		}
	}
	if _, err := seal.Open(sealed, "bob"); err == nil {
		t.Error("it opens for another")
	}
	other, err := open(t).Seal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Open(sealed, "ana"); err == nil {
		t.Error("another key opens it")
	}
	if fi, err := os.Stat(d.path("seal.key")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v", fi.Mode(), err)
	}
	for _, bad := range []string{"", "00", strings.Repeat("g", 64), strings.Repeat("0", 66)} {
		if err := os.WriteFile(d.path("seal.key"), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Seal(); err == nil || !strings.Contains(err.Error(), "put the right file back") {
			t.Errorf("key %q: %v", bad, err)
		}
	}
}
