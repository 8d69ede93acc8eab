// SPDX-License-Identifier: Apache-2.0

package order

import (
	"crypto/ed25519"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRecoveryCode(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	e, err := Sign(Order{
		ID: "7f3b0c52-9d7e-4a6b-8c11-2e5f60a4d913", Device: strings.Repeat("a", 40), Kind: Restore, Item: strings.Repeat("b", 32), Issued: now, Expires: now.Add(time.Hour),
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	code, err := RecoveryCode(e)
	if err != nil {
		t.Fatal(err)
	}
	broken := code[:50] + "\n  " + code[50:] + "\n" // as a mail program breaks it
	got, err := ParseRecoveryCode(broken)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(e, got); diff != "" {
		t.Error(diff)
	}
	for name, bad := range map[string]string{"empty": "", "other": "staunch1.abc", "cut": code[:len(code)-7], "mistyped": strings.Replace(code, "e", "!", 2), "long": code + strings.Repeat("A", maxRecoveryCode)} {
		if _, err := ParseRecoveryCode(bad); err == nil || !strings.Contains(err.Error(), "cannot read recovery code") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// FuzzParseRecoveryCode: what parses is written back as the same code.
func FuzzParseRecoveryCode(f *testing.F) {
	f.Add(recoveryPrefix + "eyJwYXlsb2FkVHlwZSI6IngiLCJwYXlsb2FkIjoiIiwic2lnbmF0dXJlcyI6W119")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		e, err := ParseRecoveryCode(s)
		if err != nil {
			return
		}
		code, err := RecoveryCode(e)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseRecoveryCode(code)
		if err != nil || cmp.Diff(e, again) != "" {
			t.Errorf("%q: %v %s", s, err, cmp.Diff(e, again))
		}
	})
}
