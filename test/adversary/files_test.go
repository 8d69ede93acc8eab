// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"staunch/internal/order"
)

func hostileFiles() []scenario {
	return []scenario{
		{name: "copier", processes: true, moves: true, may: []order.Code{order.Reappeared}, set: func(w *world) {
			w.check(os.Mkdir(w.at("spread"), 0o755))
			w.run(w.evil("evil"), "spread", 60, w.at("spread"))
			w.lives()
		}},
		{name: "crawls from copy to copy", processes: true, moves: true, may: []order.Code{order.Reappeared}, set: func(w *world) {
			w.check(os.Mkdir(w.at("crawl"), 0o755))
			w.run(w.evil("evil"), "crawl", 1500, w.at("crawl"))
			w.lives()
		}},
		{name: "renames itself", moves: true, may: []order.Code{order.Reappeared, order.Partial}, set: func(w *world) {
			w.check(os.Mkdir(w.at("names"), 0o755))
			evil := w.evil("evil")
			w.run(evil, "rename", 100, evil, w.at("names"))
			w.lives()
		}},
		{name: "is renamed by another", moves: true, may: []order.Code{order.Reappeared, order.Partial}, set: func(w *world) {
			w.check(os.Mkdir(w.at("names"), 0o755))
			w.accomplice("rename", 300, w.evil("evil"), w.at("names"))
		}},
		{name: "folder exchanged for a link to a victim", moves: true, may: []order.Code{order.Partial, order.Reappeared}, set: func(w *world) {
			w.evil("in/evil")
			w.innocent(w.at("victim/evil"), w.foe("victim"))
			w.check(os.Symlink(w.at("victim"), w.at("via")))
			w.accomplice("exchange", 0, w.at("in"), w.at("via"))
		}},
		{name: "folder exchanged for a victim's", moves: true, may: []order.Code{order.Partial, order.Reappeared}, set: func(w *world) {
			w.evil("in/evil")
			w.write(w.at("victim/evil"), w.foe("victim"), 0o755)
			w.travels(w.at("in/evil"), w.at("victim/evil"))
			w.accomplice("exchange", 20, w.at("in"), w.at("victim"))
		}},
		{name: "file exchanged for a victim's", moves: true, may: []order.Code{order.Partial, order.Reappeared}, set: func(w *world) {
			evil := w.evil("in/evil")
			victim := w.write(w.at("in/victim"), w.foe("victim"), 0o755)
			w.travels(evil, victim)
			w.accomplice("exchange", 20, evil, victim)
		}},
		{name: "hard links by the dozen", moves: true, may: []order.Code{order.Partial, order.Reappeared}, set: func(w *world) {
			w.check(os.Mkdir(w.at("links"), 0o755))
			w.accomplice("links", 200, w.evil("evil"), w.at("links"))
		}},
		{name: "open and mapped for writing", may: []order.Code{order.Partial}, set: func(w *world) {
			w.accomplice("writer", 0, w.evil("evil"))
			w.opened(w.at("evil"))
		}},
		{name: "flips by write", moves: true, flips: true, may: []order.Code{order.Partial, order.FileNotFound, order.Reappeared, order.NotProven}, set: func(w *world) {
			w.accomplice("flip", 400, w.evil("evil"))
			w.opened(w.at("evil"))
		}},
		{name: "flips through a mapping", moves: true, flips: true, may: []order.Code{order.Partial, order.FileNotFound, order.Reappeared, order.NotProven}, set: func(w *world) {
			w.accomplice("mapflip", 400, w.evil("evil"))
			w.opened(w.at("evil"))
		}},
		{name: "dropped again and again", moves: true, may: []order.Code{order.Reappeared, order.Partial}, set: func(w *world) {
			evil := w.evil("evil")
			seed := w.write(filepath.Join(w.dir, "seed"), w.content, 0o755)
			w.beside("the dropper", "/bin/sh", "-c", `while :; do cp "$0" "$1.new" && mv "$1.new" "$1"; sleep 0.02; done`, seed, evil)
		}},
		{name: "hostile names", set: hostileNames},
		{name: "deeper than a path may be", set: deepPath},
		{name: "hard links, all of them", set: func(w *world) {
			evil := w.evil("one/evil")
			for i := range 5 {
				to := w.at(fmt.Sprintf("l%d/name", i))
				w.check(os.MkdirAll(filepath.Dir(to), 0o755))
				w.check(os.Link(evil, to))
			}
			w.evil(filepath.Join(w.other, "copy"))
		}},
		{name: "owner, mode, times, attributes, ACL", set: dressed},
		{name: "immutable and append-only", set: func(w *world) {
			for name, flag := range map[string]int{"fixed/evil": unix.STATX_ATTR_IMMUTABLE, "log/evil": unix.STATX_ATTR_APPEND} {
				path := w.evil(name)
				w.setFlags(path, flag)
			}
			w.setFlags(w.at("fixed"), unix.STATX_ATTR_IMMUTABLE)
		}},
		{name: "symbolic links around it", set: func(w *world) {
			evil := w.evil("evil")
			victim := w.innocent(w.at("victim"), w.foe("victim"))
			w.check(os.Symlink(victim, w.at("evil.lnk")))
			w.check(os.Symlink(evil, w.at("bin/to-evil")))
			w.check(os.Symlink("loop", w.at("loop")))
		}},
		{name: "large", set: func(w *world) {
			w.content = append(bytes.Repeat([]byte("staunch large file\n"), 24<<20/19), w.foe("A")...)
			w.evil("large")
		}},
		{name: "sparse", set: func(w *world) {
			w.content = make([]byte, 48<<20+w.pad)
			copy(w.content[20<<20:], w.mark)
			f, err := os.Create(w.at("sparse"))
			w.check(err)
			w.check(f.Truncate(int64(len(w.content))))
			_, err = f.WriteAt([]byte(w.mark), 20<<20)
			w.check(err)
			w.check(f.Close())
		}},
		{name: "near-identical neighbours", set: func(w *world) {
			w.evil("evil")
			for i := range 20 {
				b := bytes.Clone(w.content)
				b[len(b)*i/20] ^= 1 << (i % 8)
				w.innocent(w.at(fmt.Sprintf("near/%d", i)), b)
			}
			w.innocent(w.at("near/short"), w.content[:len(w.content)-1])
			w.innocent(w.at("near/long"), append(bytes.Clone(w.content), 0))
		}},
		{name: "many copies", set: func(w *world) {
			w.content = []byte("a small evil " + w.mark + strings.Repeat("#", w.pad%4096))
			for i := range 150 {
				w.evil(fmt.Sprintf("many/%d/evil", i))
			}
		}},
	}
}

// travels has two files watched that change places with each other: their
// content, not their path, is what they are known by afterwards.
func (w *world) travels(evil, victim string) {
	b, err := os.ReadFile(victim)
	w.check(err)
	w.check(os.Link(victim, filepath.Join(w.disk, "victim-kept"))) // the inode is watched here
	w.t.Cleanup(func() {
		for _, p := range []string{evil, victim} {
			if got, err := os.ReadFile(p); err == nil && bytes.Equal(got, b) {
				return
			}
		}
		w.t.Errorf("harm: the victim lost its name: neither at %s nor at %s", evil, victim)
	})
	w.watch(filepath.Join(w.disk, "victim-kept"))
}

func hostileNames(w *world) {
	names := []string{
		"new\nline", "tab\tand \x1b[31mred", "bad\xff\xfeutf8", strings.Repeat("n", 255), " leading and trailing ", "-rf", "*", "back\\slash",
		"quote'\"`$(reboot)", ".hidden", "\u202ereversed", "x (deleted)", "%s%n", strings.Repeat("\xf0\x9f\x92\xa9", 63),
	}
	for _, n := range names {
		w.evil("names/" + n)
		w.innocent(filepath.Join(w.disk, "same-names", n), w.foe("n"))
	}
	w.evil("dir\nwith\xffnames/evil")
}

// deepPath makes a copy below folders whose path is longer than PATH_MAX.
func deepPath(w *world) {
	const depth = 24
	name := strings.Repeat("d", 250)
	fd, err := unix.Open(w.disk, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	w.check(err)
	for range depth {
		w.check(unix.Mkdirat(fd, name, 0o755))
		next, err := unix.Openat(fd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		w.check(err)
		w.check(unix.Close(fd))
		fd = next
	}
	for n, content := range map[string][]byte{"evil": w.content, "twin": w.foe("deep")} {
		f, err := unix.Openat(fd, n, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o755)
		w.check(err)
		file := os.NewFile(uintptr(f), n)
		_, err = file.Write(content)
		w.check(err)
		w.check(file.Close())
	}
	w.check(unix.Close(fd))
	w.watch(w.disk + strings.Repeat("/"+name, depth) + "/twin")
	w.evil("evil")
}

// dressed gives a copy all the metadata a file can have here.
func dressed(w *world) {
	evil := w.evil("evil")
	w.check(os.Chown(evil, 1234, 5678))
	w.check(os.Chmod(evil, 0o751|os.ModeSetuid))
	for name, value := range map[string]string{"user.note": "kept\x00whole", "trusted.staunch": "t", "security.staunch": "s"} {
		if err := unix.Setxattr(evil, name, []byte(value), 0); err != nil {
			w.t.Logf("%s cannot be set here: %v", name, err)
		}
	}
	// struct posix_acl_xattr_header and entries, acl(5): user 4321 may read.
	acl := []byte{2, 0, 0, 0,
		1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 4, 0, 0xe1, 0x10, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255, 16, 0, 5, 0, 255, 255, 255, 255, 32, 0, 1, 0, 255, 255, 255, 255}
	if err := unix.Setxattr(evil, "system.posix_acl_access", acl, 0); err != nil {
		w.t.Logf("an ACL cannot be set here: %v", err)
	}
	ts := []unix.Timespec{{Sec: 1_000_000_000, Nsec: 123_456_789}, {Sec: 1_111_111_111, Nsec: 987_654_321}}
	w.check(unix.UtimesNanoAt(unix.AT_FDCWD, evil, ts, 0))
}

func (w *world) setFlags(path string, flags int) {
	w.t.Helper()
	f, err := os.Open(path)
	w.check(err)
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags); err != nil {
		w.t.Skipf("SKIPPED, NOT PROVEN: no flags on %s: %v", path, err)
	}
	w.t.Cleanup(func() {
		if f, err := os.Open(path); err == nil {
			_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, 0) // on a file system that goes
			_ = f.Close()                                                     // read only
		}
	})
}

func hostilePlaces() []scenario {
	return []scenario{
		{name: "own tmpfs, mount and pid namespace", processes: true, moves: true,
			set: func(w *world) {
				w.check(os.Mkdir(w.at("own"), 0o755))
				w.ghosts = []string{w.at("own")}
				w.run(w.evil("evil"), "private", 300, w.at("own"))
				w.lives()
			}},
		{
			name: "container kept alive by an innocent, which respawns", moves: true, set: func(w *world) {
				evil := w.evil("evil")
				own := w.at("own")
				w.check(os.Mkdir(own, 0o755))
				w.ghosts = []string{own}
				w.container(own, evil, `while :; do "$2"/inner sleep `+until()+` 0; sleep 0.02; done`)
				w.lives()
			},
		},
		{
			name: "container with a copy that does not run", moves: true, set: func(w *world) {
				evil := w.evil("evil")
				own := w.at("own")
				w.check(os.Mkdir(own, 0o755))
				w.ghosts = []string{own}
				w.container(own, evil, `while :; do sleep 1; done`)
			},
		},
		{name: "overlay: copy in the upper layer", processes: true, set: func(w *world) {
			merged := w.overlay()
			evil := w.evil(filepath.Join(merged, "evil"))
			w.run(evil, "hop", 300)
			w.lives()
		}},
		{name: "overlay: copy in the lower layer", processes: true, stays: true, moves: true, may: []order.Code{order.Partial}, set: func(w *world) {
			w.evil("lower/evil")
			merged := w.overlay()
			w.run(filepath.Join(merged, "evil"), "hop", 300)
			w.lives()
		}},
		{name: "bind mounts of folder and file", processes: true, moves: true, limit: "a file that is itself mounted stays where it is mounted until it is unmounted", may: []order.Code{order.Partial}, set: func(w *world) {
			evil := w.evil("real/evil")
			w.check(os.Mkdir(w.at("bound"), 0o755))
			w.check(unix.Mount(w.at("real"), w.at("bound"), "", unix.MS_BIND, ""))
			w.unmountLater(w.at("bound"))
			file := w.write(w.at("file"), nil, 0o755)
			w.check(unix.Mount(evil, file, "", unix.MS_BIND, ""))
			w.unmountLater(file)
			w.run(file, "hop", 400)
			w.run(w.at("bound/evil"), "comet", 400)
			w.lives()
		}},
		{name: "read-only mount", may: []order.Code{order.Partial}, set: func(w *world) {
			w.evil(filepath.Join(w.other, "fixed"))
			w.check(unix.Mount("", w.other, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
		}},
		{name: "its disk is full", set: func(w *world) {
			w.evil(filepath.Join(w.other, "full"))
			w.fill(w.other)
			w.evil("evil")
		}},
		{name: "its disk has no inode left", set: func(w *world) {
			small := w.mount("small", "size=8m,nr_inodes=12")
			w.walked = append(w.walked, small)
			w.evil(filepath.Join(small, "evil"))
			for i := range 12 {
				if os.WriteFile(filepath.Join(small, strconv.Itoa(i)), nil, 0o644) != nil {
					break
				}
			}
		}},
		{name: "the vault's disk is full", may: []order.Code{order.NoSpace}, only: alone, set: func(w *world) {
			evil := w.evil("evil")
			w.run(evil, "hop", 300)
			w.lives()
			var found struct{ Files []any }
			_, err := w.ask(&found, "find", w.hash(), "--scan", w.disk) // makes the folder
			w.check(err)
			w.fill(filepath.Dir(w.state))
		}},
		{name: "ext4 on a loop device", processes: true, set: func(w *world) {
			disk := w.ext4()
			evil := w.evil(filepath.Join(disk, "a/evil"))
			w.check(os.Link(evil, filepath.Join(disk, "a/link")))
			w.sameNumber(evil)
			w.run(evil, "hop", 300)
			w.lives()
		}},
	}
}

// container starts an innocent shell in mount and pid namespaces of its own,
// with a copy of evil on a file system that only it has mounted.
func (w *world) container(own, evil, script string) {
	w.t.Helper()
	cmd := w.command("/usr/bin/unshare", "-m", "-p", "-f", "--propagation", "private", "/bin/sh", "-c",
		`mount -t tmpfs -o size=32m own "$2" && cp "$1" "$2"/inner && : >"$0" && `+script, filepath.Join(w.dir, "contained"), evil, own)
	cmd.Env = append(cmd.Env, "STAUNCH_BEAT="+w.beat())
	w.innocents = append(w.innocents, neighbour{w.begin(cmd), "the container"})
	w.wait("the container", func() bool {
		_, err := os.Stat(filepath.Join(w.dir, "contained"))
		return err == nil
	})
}

func (w *world) overlay() string {
	w.t.Helper()
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		w.check(os.MkdirAll(w.at(d), 0o755))
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", w.at("lower"), w.at("upper"), w.at("work"))
	if err := unix.Mount("overlay", w.at("merged"), "overlay", 0, options); err != nil {
		w.t.Skipf("SKIPPED, NOT PROVEN: cannot mount an overlay: %v", err)
	}
	w.unmountLater(w.at("merged"))
	return w.at("merged")
}

// fill leaves no byte on a file system.
func (w *world) fill(dir string) {
	w.t.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast"))
	w.check(err)
	defer f.Close()
	block := make([]byte, 1<<20)
	for len(block) > 0 {
		if _, err := f.Write(block); err != nil {
			block = block[:len(block)/2]
		}
	}
}

// ext4 makes a small file system on a loop device and mounts it.
func (w *world) ext4() string {
	w.t.Helper()
	image := filepath.Join(w.dir, "image")
	w.check(os.WriteFile(image, nil, 0o600))
	w.check(os.Truncate(image, 64<<20))
	dir := filepath.Join(w.dir, "ext4")
	w.check(os.Mkdir(dir, 0o755))
	for _, args := range [][]string{{"mkfs.ext4", "-q", image}, {"mount", "-o", "loop", image, dir}} {
		cmd := w.command(args...)
		if out, err := cmd.CombinedOutput(); err != nil {
			w.t.Skipf("SKIPPED, NOT PROVEN: %v: %v: %s", args, err, out)
		}
	}
	w.unmountLater(dir)
	w.walked = append(w.walked, dir)
	return dir
}
