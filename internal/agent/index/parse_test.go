// SPDX-License-Identifier: Apache-2.0

package index

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
	"staunch/internal/agent/mountinfo"
)

const mountSamples = `22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
40 27 254:0 /srv /mnt/bind rw,relatime shared:1 master:2 - ext4 /dev/vda rw
41 27 0:50 / /mnt/with\040space\011tab\012line\134back rw - tmpfs tmpfs rw
42 27 0:51 / /merged rw - overlay overlay rw,lowerdir=/l/a\:b:/l/c,upperdir=/u,workdir=/w
43 27 0:52 / /new rw - overlay overlay rw,lowerdir+=/one,lowerdir+=/two,datadir+=/data
44 27 0:53 / /nfs rw - nfs4 host:/export rw,addr=10.0.0.1
45 27 0:54 / /sshfs rw - fuse.sshfs host: rw
46 27 8:1 / /usb rw - fuseblk /dev/sda1 rw
47 27 0:55 / /mnt/with\040space\011tab\012line\134back rw - tmpfs over rw
`

func TestMounts(t *testing.T) {
	all, err := mountinfo.Parse(strings.NewReader(mountSamples))
	must(t, err)
	var got []string
	for _, m := range all {
		got = append(got, m.Point)
	}
	odd := "/mnt/with space\ttab\nline\\back"
	want := []string{"/proc", "/", "/mnt/bind", odd, "/merged", "/new", "/nfs", "/sshfs", "/usb", odd}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	dirs, ok := layerDirs(&all[4])
	if want := []layerDir{{"/l/a:b", LayerLower}, {"/l/c", LayerLower}, {"/u", LayerUpper}}; !ok || !slices.Equal(dirs, want) {
		t.Errorf("layers %v", dirs)
	}
	dirs, ok = layerDirs(&all[5])
	if want := []layerDir{{"/one", LayerLower}, {"/two", LayerLower}, {"/data", LayerLower}}; !ok || !slices.Equal(dirs, want) {
		t.Errorf("layers %v", dirs)
	}
	picked, gaps, skipped := sources(all)
	var ids []uint64
	for _, m := range picked {
		ids = append(ids, m.ID)
	}
	if want := []uint64{27, 42, 43, 46, 47}; !slices.Equal(ids, want) { // 41 is below 47, 40 is part of 27; the layers of 42 and 43 are nowhere to be seen
		t.Errorf("picked %v, want %v", ids, want)
	}
	if want := []string{"/nfs: nfs4 is not a local file system", "/sshfs: fuse.sshfs is not a local file system"}; !slices.Equal(gaps, want) {
		t.Errorf("gaps %q", gaps)
	}
	if want := []string{"/proc: proc holds no files"}; !slices.Equal(skipped, want) {
		t.Errorf("skipped %q", skipped)
	}
}

func FuzzMounts(f *testing.F) {
	f.Add([]byte(mountSamples))
	if own, err := os.ReadFile(mountsFile); err == nil {
		f.Add(own)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := mountinfo.Parse(bytes.NewReader(b))
		if err != nil {
			return
		}
		for i := range all {
			_, _ = layerDirs(&all[i])
		}
		_ = tops(slices.Clone(all))
	})
}

// record builds what the kernel writes: one event with info records.
func record(mask uint64, infos ...[]byte) []byte {
	b := make([]byte, unix.FAN_EVENT_METADATA_LEN)
	for _, i := range infos {
		b = append(b, i...)
	}
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	b[4] = unix.FANOTIFY_METADATA_VERSION
	binary.NativeEndian.PutUint16(b[6:], unix.FAN_EVENT_METADATA_LEN)
	binary.NativeEndian.PutUint64(b[8:], mask)
	return b
}

func info(typ byte, h string, name string) []byte {
	b := make([]byte, 20, 64)
	b[0] = typ
	binary.NativeEndian.PutUint32(b[12:], uint32(len(h)))
	binary.NativeEndian.PutUint32(b[16:], 1)
	b = append(append(b, h...), name...)
	b = append(b, 0)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	binary.NativeEndian.PutUint16(b[2:], uint16(len(b)))
	return b
}

func TestParseEvents(t *testing.T) {
	one := "\x01\x00\x00\x00"
	buf := slices.Concat(
		record(unix.FAN_CREATE, info(unix.FAN_EVENT_INFO_TYPE_DFID_NAME, "dir1", "na\nme"), info(unix.FAN_EVENT_INFO_TYPE_FID, "file", "")),
		record(unix.FAN_RENAME, info(unix.FAN_EVENT_INFO_TYPE_OLD_DFID_NAME, "old1", "from"), info(unix.FAN_EVENT_INFO_TYPE_NEW_DFID_NAME, "new1", "to")),
		record(unix.FAN_ATTRIB|unix.FAN_ONDIR, info(unix.FAN_EVENT_INFO_TYPE_DFID_NAME, "dir1", "."), info(99, "what", "ever")),
		record(unix.FAN_Q_OVERFLOW),
	)
	got, err := parseEvents(buf)
	must(t, err)
	want := []event{
		{mask: unix.FAN_CREATE, places: []place{{handle(one + "dir1"), "na\nme"}}, target: handle(one + "file")},
		{mask: unix.FAN_RENAME, places: []place{{handle(one + "new1"), "to"}, {handle(one + "old1"), "from"}}},
		{mask: unix.FAN_ATTRIB | unix.FAN_ONDIR, places: []place{{handle(one + "dir1"), ""}}},
		{mask: unix.FAN_Q_OVERFLOW},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(event{}, place{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if !got[3].overflow() {
		t.Error("the overflow is not seen")
	}
	for i := 1; i < len(buf); i++ { // cut anywhere: an error or fewer events, never a panic
		if list, err := parseEvents(buf[:i]); err == nil && len(list) == 4 {
			t.Errorf("cut at %d and still whole", i)
		}
	}
}

func FuzzParseEvents(f *testing.F) {
	f.Add(record(unix.FAN_CREATE, info(unix.FAN_EVENT_INFO_TYPE_DFID_NAME, "12345678", "name"), info(unix.FAN_EVENT_INFO_TYPE_FID, "file", "")))
	f.Add(record(unix.FAN_RENAME, info(unix.FAN_EVENT_INFO_TYPE_OLD_DFID_NAME, "old1", "from"), info(unix.FAN_EVENT_INFO_TYPE_NEW_DFID_NAME, "new1", "to")))
	f.Add(record(unix.FAN_Q_OVERFLOW))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parseEvents(b)
		if err == nil && len(b) > 0 && len(list) == 0 {
			t.Error("bytes, but neither an event nor an error")
		}
		var p pending
		for i := range list {
			p.add(&list[i])
		}
	})
}

func FuzzParseEntries(f *testing.F) {
	dir, err := os.Open(".")
	if err != nil {
		f.Fatal(err)
	}
	buf := make([]byte, 1024)
	n, err := unix.Getdents(int(dir.Fd()), buf)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(buf[:n])
	f.Fuzz(func(t *testing.T, b []byte) {
		list, _ := parseEntries(b)
		for _, e := range list {
			if e.name == "" || e.name == "." || e.name == ".." || strings.ContainsRune(e.name, 0) {
				t.Errorf("entry %q", e.name)
			}
		}
	})
}

func FuzzWritableMapping(f *testing.F) {
	f.Add("7f0000000000-7f0000001000 rw-s 00000000 fe:00 1234    /var/lib/x y")
	f.Add("7f0000000000-7f0000001000 r--p 00000000 fe:00 1234    /bin/true")
	f.Add("7f0000000000-7f0000001000 rw-s 00000000 00:05 0       /dev/zero (deleted)")
	f.Fuzz(func(t *testing.T, line string) {
		if id, ok := writableMapping(line); ok && id.Ino == 0 {
			t.Errorf("%q: no inode", line)
		}
	})
}

// TestMappedForWriting: asked for single mappings and read as text, the kernel
// tells the same: the file that is mapped shared and writable and no other.
func TestMappedForWriting(t *testing.T) {
	ids := map[string]inode.ID{}
	for name, how := range map[string][2]int{
		"written": {unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED},
		"private": {unix.PROT_READ | unix.PROT_WRITE, unix.MAP_PRIVATE},
		"read":    {unix.PROT_READ, unix.MAP_SHARED},
	} {
		path := filepath.Join(t.TempDir(), name)
		write(t, path, "x")
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		must(t, err)
		defer f.Close()
		m, err := unix.Mmap(int(f.Fd()), 0, 1, how[0], how[1])
		must(t, err)
		defer func() { _ = unix.Munmap(m) }()
		st, err := inode.Of(f)
		must(t, err)
		ids[name] = st.ID
	}
	for what, l := range map[string]*mapsLooker{"asked": {}, "as text": {asText: true}} {
		found := map[inode.ID]bool{}
		l.found = func(id inode.ID) { found[id] = true }
		l.look("/proc/self/maps")
		if what == "asked" && l.asText {
			t.Log("SKIPPED, NOT PROVEN: this kernel cannot be asked for single mappings (6.11 and later)")
		}
		for name, id := range ids {
			if found[id] != (name == "written") {
				t.Errorf("%s: %s is found: %v", what, name, found[id])
			}
		}
	}
	if !mappedForWriting()[ids["written"]] {
		t.Error("not found among all processes")
	}
}

func TestWritableMapping(t *testing.T) {
	id, ok := writableMapping("7f0000000000-7f0000001000 rw-s 00000000 fe:01 1234    /var/lib/x y")
	if want := (inode.ID{Dev: unix.Mkdev(0xfe, 1), Ino: 1234}); !ok || id != want {
		t.Errorf("%v %v, want %v", id, ok, want)
	}
	for _, line := range []string{"", "a-b rw-p 0 fe:01 12 x", "a-b r--s 0 fe:01 12 x", "a-b rw-s 0 fe:01 0 x", "a-b rw-s 0 fe 12 x"} {
		if _, ok := writableMapping(line); ok {
			t.Errorf("%q was taken", line)
		}
	}
}
