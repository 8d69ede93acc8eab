// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"staunch/internal/order"
)

func utmp(kind uint16, name string, at int64) []byte {
	b := make([]byte, utmpSize)
	binary.LittleEndian.PutUint16(b, kind)
	copy(b[utmpUser:utmpUser+32], name)
	binary.LittleEndian.PutUint32(b[utmpSeconds:], uint32(at))
	return b
}

func TestLogonUsers(t *testing.T) {
	var b []byte
	for _, r := range [][]byte{
		utmp(7, "ana", 2000), utmp(7, "bob", 1000), utmp(8, "gone", 3000), utmp(7, "ana", 1500), utmp(7, "ana", 4000), utmp(7, "", 5000), utmp(7, "a\x07", 5000), utmp(2, "reboot", 1),
	} {
		b = append(b, r...)
	}
	at := func(s int64) time.Time { return time.Unix(s, 0).UTC() }
	want := []order.LogonUser{{Name: "ana", First: at(1500), Last: at(4000)}, {Name: "bob", First: at(1000), Last: at(1000)}}
	if diff := cmp.Diff(want, parseWtmp(append(b, 1, 2, 3))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := parseWtmp(nil); got != nil {
		t.Errorf("%v of nothing", got)
	}
}

func FuzzParseWtmp(f *testing.F) {
	f.Add(utmp(7, "ana", 2000))
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, u := range parseWtmp(b) {
			if u.Name == "" || u.Last.Before(u.First) {
				t.Errorf("%+v", u)
			}
		}
	})
}
