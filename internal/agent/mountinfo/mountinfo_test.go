// SPDX-License-Identifier: Apache-2.0

package mountinfo

import "testing"

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "/plain": "/plain", `/a\040b`: "/a b", `\011\012\134`: "\t\n\\", `/end\040`: "/end ",
		`/short\04`: `/short\04`, `/big\777`: `/big\777`, `/other\x20`: `/other\x20`, `\\040`: `\ `,
	} {
		if got := Unescape(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}
