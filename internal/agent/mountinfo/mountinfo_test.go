// SPDX-License-Identifier: Apache-2.0

package mountinfo

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

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

func TestParse(t *testing.T) {
	all, err := Parse(strings.NewReader(`27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
36 35 98:1 /mnt1//deleted /mnt\0402\012x rw,noatime master:1 shared:2 - fuse.sshfs host:/x rw,a=b\040c
37 35 0:300 / /merged rw - overlay overlay
`))
	want := []Mount{
		{27, unix.Mkdev(254, 0), "/", "/", "ext4", "/dev/vda", "rw,discard"},
		{36, unix.Mkdev(98, 1), "/mnt1//deleted", "/mnt 2\nx", "fuse.sshfs", "host:/x", `rw,a=b\040c`},
		{37, unix.Mkdev(0, 300), "/", "/merged", "overlay", "overlay", ""},
	}
	if diff := cmp.Diff(want, all); diff != "" || err != nil {
		t.Fatal(diff, err)
	}
	if v, ok := all[1].Option("a"); v != "b c" || !ok || !all[1].Nameless() || all[1].Kind() != Remote {
		t.Errorf("%q %v", v, ok)
	}
	if _, ok := all[0].Option("rw"); ok || all[0].Nameless() || all[0].Kind() != Local || all[2].Kind() != Layers || all[2].Device() != "0:300" {
		t.Errorf("%+v", all)
	}
}

// TestRefusals: a line that cannot be read is told, and costs no other.
func TestRefusals(t *testing.T) {
	for line, want := range map[string]string{
		"garbage":                          `cannot read mount "garbage": too few fields`,
		"1 2 3:4 / /x rw ext4 /dev/x rw":   `cannot read mount "1 2 3:4 / /x rw ext4 /dev/x rw": too few fields`,
		"1 2 3:4 / rw - ext4 /dev/x rw":    `cannot read mount "1 2 3:4 / rw - ext4 /dev/x rw": too few fields`,
		"x 2 3:4 / /x rw - ext4 /dev/x rw": `cannot read mount "x 2 3:4 / /x rw - ext4 /dev/x rw": its number is no number`,
		"1 2 3.4 / /x rw - ext4 /dev/x rw": `cannot read mount "1 2 3.4 / /x rw - ext4 /dev/x rw": its device is not MAJOR:MINOR`,
	} {
		all, err := Parse(strings.NewReader(line + "\n27 1 254:0 / / rw - ext4 a b\n"))
		if err == nil || err.Error() != want || len(all) != 1 {
			t.Errorf("%q: %v and error %q, want %q", line, all, err, want)
		}
	}
	if _, err := Parse(strings.NewReader(strings.Repeat("x", 2<<20))); err == nil {
		t.Error("a line of two megabytes was read")
	}
}

func TestReadSelf(t *testing.T) {
	all, err := Read(Self)
	if err != nil || len(all) == 0 {
		t.Fatalf("%v %v", all, err)
	}
	if _, err := Read("/proc/self/nothing"); err == nil {
		t.Error("what is not there was read")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`36 35 98:0 / /a\040b\999\ rw,noatime master:1 - ext3 /dev/root rw,errors=continue`))
	f.Add([]byte(" - "))
	f.Add([]byte("32 20 0:28 / /sys/fs/cgroup/a\\040b rw - cgroup2 cgroup2 rw\nbroken"))
	if own, err := os.ReadFile(Self); err == nil {
		f.Add(own)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := Parse(bytes.NewReader(b))
		if lines := bytes.Count(b, []byte("\n")) + 1; len(all) > lines || err == nil && len(b) > 0 && len(all) == 0 && len(bytes.TrimRight(b, "\r\n")) > 0 {
			t.Fatalf("%d mounts of %d lines, error %v", len(all), lines, err)
		}
		for _, m := range all {
			_, _ = m.Option("lowerdir")
			_ = m.Kind()
		}
	})
}
