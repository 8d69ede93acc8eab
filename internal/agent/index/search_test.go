// SPDX-License-Identifier: Apache-2.0

package index

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"staunch/internal/filehash"
	"staunch/internal/runnable"
)

// hostile are names the kernel accepts and programs trip over.
func hostile() []string {
	return []string{
		"new\nline", "in\xffvalid\xfe", strings.Repeat("n", 255), "-rf", " ", "trailing ", "\x1b[31mred", "*", "quo\"te'",
		"\u202eltr", `back\slash`, "(deleted)", "x (deleted)",
	}
}

// zoo makes a tree with the content "evil" in many guises and returns its paths.
func zoo(t testing.TB, root string) (evil []string) {
	t.Helper()
	for _, n := range hostile() {
		p := filepath.Join(root, "h", n)
		write(t, p, "evil")
		evil = append(evil, p)
		q := root + "/dirs/" + n + "/f"
		write(t, q, "evil")
		evil = append(evil, q)
	}
	write(t, root+"/good", "good")
	write(t, root+"/same-size", "live")
	write(t, root+"/longer", "evil!")
	write(t, root+"/empty", "")
	write(t, root+"/links/1", "evil")
	must(t, os.Link(root+"/links/1", root+"/links/2"))
	must(t, os.Link(root+"/links/1", root+"/h/3"))
	evil = append(evil, root+"/links/1", root+"/links/2", root+"/h/3")
	must(t, os.Symlink(root+"/links/1", root+"/symlink"))
	must(t, os.Symlink(".", root+"/loop"))
	must(t, os.Symlink(root, root+"/links/up"))
	must(t, unix.Mkfifo(root+"/fifo", 0o644))
	l, err := net.Listen("unix", root+"/socket")
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	if os.Geteuid() == 0 {
		must(t, unix.Mknod(root+"/device", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5)))) // /dev/zero never ends
	}
	slices.Sort(evil)
	return evil
}

func TestSearchFindsEveryCopy(t *testing.T) {
	root := t.TempDir()
	want := zoo(t, root)
	sum := sumOf("evil")
	for name, h := range map[string]filehash.Hash{"sha1": {SHA1: sum.SHA1}, "sha256": {SHA256: sum.SHA256}, "both": sum.Hash()} {
		for _, size := range []int64{-1, 4} {
			for _, workers := range []int{1, 7} {
				t.Run(fmt.Sprintf("%s/%d/%d", name, size, workers), func(t *testing.T) {
					got, res := searchFor(t, SearchConfig{Roots: []string{root}, Hash: h, Size: size, Workers: workers})
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("-want +got:\n%s", diff)
					}
					if len(res.NotCovered) > 0 || !slices.Equal(res.Covered, []string{root}) {
						t.Errorf("covered %q, not covered %q", res.Covered, res.NotCovered)
					}
					for _, c := range res.Copies {
						if c.Sum != sum || c.Missing != 0 || int(c.Stat.Nlink) != len(c.Paths) {
							t.Errorf("copy %+v", c)
						}
					}
				})
			}
		}
	}
	if got, _ := searchFor(t, SearchConfig{Roots: []string{root}, Hash: sum.Hash(), Size: 5}); got != nil {
		t.Errorf("of another size: %q", got)
	}
}

func TestSizeFirstReadsNothingElse(t *testing.T) {
	root := t.TempDir()
	write(t, root+"/big", strings.Repeat("x", 1<<20))
	write(t, root+"/evil", "evil")
	_, res := searchFor(t, SearchConfig{Roots: []string{root}, Hash: sha1Of("evil"), Size: 4})
	if res.Bytes != 8 { // once by SHA-1, and both of the match
		t.Errorf("read %d bytes", res.Bytes)
	}
}

// deep makes folders below root by relative calls, each with something left to
// do beside it, far deeper than a path can be.
func deep(t testing.TB, root string, levels int) {
	t.Helper()
	fd, err := unix.Open(root, unix.O_DIRECTORY, 0)
	must(t, err)
	for range levels {
		for _, n := range []string{"a-folder-with-a-name", "z"} {
			must(t, unix.Mkdirat(fd, n, 0o755))
		}
		next, err := unix.Openat(fd, "a-folder-with-a-name", unix.O_DIRECTORY, 0)
		must(t, err)
		must(t, unix.Close(fd))
		fd = next
	}
	f, err := unix.Openat(fd, "evil", unix.O_CREAT|unix.O_WRONLY, 0o644)
	must(t, err)
	_, err = unix.Write(f, []byte("evil"))
	must(t, err)
	must(t, errors.Join(unix.Close(f), unix.Close(fd)))
}

func TestSearchBelowPathMax(t *testing.T) {
	root := t.TempDir()
	deep(t, root, 1200)
	t.Cleanup(func() { _ = exec.Command("rm", "-rf", root).Run() })
	s, err := newSearch(SearchConfig{Roots: []string{root}, Hash: sha1Of("evil"), Size: -1, Workers: 2})
	must(t, err)
	s.walk.dirs.max = 16 // far fewer descriptors than levels
	must(t, s.run(t.Context()))
	must(t, s.linkNames(t.Context()))
	res := s.result()
	defer res.Close()
	s.watches.close()
	if len(res.Copies) != 1 || len(res.Copies[0].Paths) != 1 || len(res.Copies[0].Paths[0]) < 1200*20 {
		t.Errorf("found %d copies; gaps %q", len(res.Copies), res.NotCovered)
	}
	if n := s.walk.dirs.open; n != 0 {
		t.Errorf("%d folders left open", n)
	}
}

func TestSearchFindsNamesOutsideTheRoot(t *testing.T) {
	root := scratch(t)
	write(t, root+"/in/evil", "evil")
	mkdirs(t, root, "out")
	must(t, os.Link(root+"/in/evil", root+"/out/other"))
	got, res := searchFor(t, SearchConfig{Roots: []string{root + "/in"}, Hash: sha1Of("evil"), Size: -1})
	if want := []string{root + "/in/evil", root + "/out/other"}; !slices.Equal(got, want) {
		t.Errorf("names %q, want %q; %+v", got, want, res.Copies)
	}
	mountAt(t, "tmpfs", root+"/out", "") // now the other name is hidden
	_, res = searchFor(t, SearchConfig{Roots: []string{root + "/in"}, Hash: sha1Of("evil"), Size: -1})
	if c := res.Copies[0]; c.Missing != 1 || c.Note != "1 of its 2 names were not found" {
		t.Errorf("missing %d, note %q", c.Missing, c.Note)
	}
}

func TestSearchLeavesTheAgentsOwnOut(t *testing.T) {
	root := t.TempDir()
	write(t, root+"/vault/evil", "evil")
	write(t, root+"/evil", "evil")
	skip := root + "/alias"
	must(t, os.Symlink("vault", skip)) // named by another path: identity counts
	got, res := searchFor(t, SearchConfig{Roots: []string{root}, Skip: []string{skip, root + "/not-there"}, Hash: sha1Of("evil"), Size: -1})
	if !slices.Equal(got, []string{root + "/evil"}) {
		t.Errorf("found %q", got)
	}
	if want := []string{root + "/vault: the agent's own"}; !slices.Equal(res.Skipped, want) {
		t.Errorf("skipped %q, want %q", res.Skipped, want)
	}
}

func TestSearchCrossesLocalMountsBelowANamedRoot(t *testing.T) {
	root := scratch(t)
	mkdirs(t, root, "mem", "proc", "bind", "src")
	write(t, root+"/src/evil", "evil")
	mountAt(t, "tmpfs", root+"/mem", "")
	mountAt(t, "proc", root+"/proc", "")
	must(t, unix.Mount(root+"/src", root+"/bind", "", unix.MS_BIND, ""))
	t.Cleanup(func() { _ = unix.Unmount(root+"/bind", unix.MNT_DETACH) })
	write(t, root+"/mem/evil", "evil")
	got, res := searchFor(t, SearchConfig{Roots: []string{root}, Hash: sha1Of("evil"), Size: -1})
	if len(res.Copies) != 2 || !slices.Contains(got, root+"/mem/evil") {
		t.Errorf("found %q in %d copies", got, len(res.Copies))
	}
	if !slices.Equal(res.Skipped, []string{root + "/proc: proc holds no files"}) {
		t.Errorf("skipped %q", res.Skipped)
	}
	for _, c := range res.Copies { // a bind mount is no second name
		if len(c.Paths) != 1 || c.Missing != 0 {
			t.Errorf("copy %q missing %d", c.Paths, c.Missing)
		}
	}
}

func TestSearchTellsOverlayLayers(t *testing.T) {
	root := scratch(t)
	mkdirs(t, root, "l", "u", "w", "m")
	write(t, root+"/l/sub/low", "evil")
	mountAt(t, "overlay", root+"/m", fmt.Sprintf("lowerdir=%s/l,upperdir=%s/u,workdir=%s/w", root, root, root))
	write(t, root+"/m/up", "evil")
	_, res := searchFor(t, SearchConfig{Roots: []string{root + "/l", root + "/u"}, Hash: sha1Of("evil"), Size: -1})
	layers := map[string]string{}
	for _, c := range res.Copies {
		layers[strings.TrimPrefix(c.Paths[0], root)] = c.Layer + ": " + strings.ReplaceAll(c.Note, root, "")
	}
	want := map[string]string{
		"/l/sub/low": "lower: it lies on the lower layer of the overlay at /m",
		"/u/up":      "upper: it lies on the upper layer of the overlay at /m",
	}
	if diff := cmp.Diff(want, layers); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	x := startIndex(t, Config{Roots: []string{root + "/l"}})
	settled(t, x)
	got, err := x.Verify(t.Context(), lookup(t, x, sha1Of("evil")).Copies[0])
	must(t, err)
	defer got.File.Close()
	if got.Layer != LayerLower || !strings.Contains(got.Note, "lower layer of the overlay at") {
		t.Errorf("verified: layer %q, note %q", got.Layer, got.Note)
	}
}

func TestSearchWhileFilesChange(t *testing.T) {
	root := t.TempDir()
	write(t, root+"/evil", "evil")
	for i := range 4 {
		write(t, fmt.Sprintf("%s/hot%d", root, i), "x")
	}
	quit := make(chan struct{})
	var done sync.WaitGroup
	for i := range 4 {
		done.Go(func() {
			f, err := os.OpenFile(fmt.Sprintf("%s/hot%d", root, i), os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				return
			}
			defer f.Close()
			for n := 0; ; n++ {
				select {
				case <-quit:
					return
				default:
					_, _ = f.WriteString("more")
					if n%1000 == 0 {
						_ = f.Truncate(0)
					}
				}
			}
		})
	}
	for range 20 {
		if got, _ := searchFor(t, SearchConfig{Roots: []string{root}, Hash: sha1Of("evil"), Size: -1}); !slices.Equal(got, []string{root + "/evil"}) {
			t.Errorf("found %q", got)
		}
	}
	close(quit)
	done.Wait()
}

func TestSearchRefusals(t *testing.T) {
	root := t.TempDir()
	must(t, unix.Mkfifo(root+"/fifo", 0o644))
	h := sha1Of("evil")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name string
		ctx  context.Context
		cfg  SearchConfig
		want string
	}{
		{"no hash", t.Context(), SearchConfig{Roots: []string{root}, Size: -1}, "cannot search: no hash given; name the content by SHA-1 or SHA-256"},
		{"too large", t.Context(), SearchConfig{Roots: []string{root}, Hash: h, Size: 1 << 50}, "cannot search for a file of 1125899906842624 bytes: it is larger than 1024 GiB, which nothing here hashes"},
		{"no root", t.Context(), SearchConfig{Roots: []string{"/not/there\n"}, Hash: h, Size: -1}, `cannot search: root /not/there\x0a: lstat /not: no such file or directory`},
		{"a fifo", t.Context(), SearchConfig{Roots: []string{root + "/fifo"}, Hash: h, Size: -1}, "cannot search: root " + root + "/fifo: is neither a folder nor a regular file"},
		{"cancelled", cancelled, SearchConfig{Roots: []string{root}, Hash: h, Size: -1}, "cannot search: context canceled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Search(c.ctx, c.cfg)
			if err == nil || err.Error() != c.want {
				t.Errorf("error %q, want %q", err, c.want)
			}
		})
	}
}

func TestSearchOneFile(t *testing.T) {
	root := t.TempDir()
	write(t, root+"/evil", "evil")
	write(t, root+"/other", "evil")
	var last [2]int64
	got, res := searchFor(t, SearchConfig{Roots: []string{root + "/evil"}, Hash: sha1Of("evil"), Size: -1,
		Progress: func(files, bytes int64) { last = [2]int64{files, bytes} }})
	if !slices.Equal(got, []string{root + "/evil"}) || last != [2]int64{res.Files, res.Bytes} {
		t.Errorf("found %q, progress %v of %d files, %d bytes", got, last, res.Files, res.Bytes)
	}
}

// TestUnprivileged runs part of the tests again as nobody.
func TestUnprivileged(t *testing.T) {
	needRoot(t)
	dir, err := os.MkdirTemp("/tmp", "index-nobody-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	must(t, runnable.Write(dir+"/test", self, 0o755))
	must(t, os.Mkdir(dir+"/tmp", 0o777))
	must(t, errors.Join(os.Chmod(dir, 0o755), os.Chmod(dir+"/tmp", 0o777)))
	cmd := exec.Command(dir+"/test", "-test.run", "^TestAsNobody|TestSearchFindsEveryCopy|TestSearchBelowPathMax|TestSearchOneFile", "-test.v")
	cmd.Dir = dir + "/tmp"
	cmd.Env = []string{"TMPDIR=" + dir + "/tmp", "INDEX_AS_NOBODY=1", "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestAsNobody") {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}

func TestAsNobody(t *testing.T) {
	if os.Getenv("INDEX_AS_NOBODY") == "" {
		t.Skip("run by TestUnprivileged")
	}
	root := t.TempDir()
	write(t, root+"/open/evil", "evil")
	write(t, root+"/shut/evil", "evil")
	write(t, root+"/secret", "evil")
	must(t, os.Chmod(root+"/shut", 0))
	must(t, os.Chmod(root+"/secret", 0))
	t.Cleanup(func() { _ = os.Chmod(root+"/shut", 0o755) })
	got, res := searchFor(t, SearchConfig{Roots: []string{root}, Hash: sha1Of("evil"), Size: -1})
	if !slices.Equal(got, []string{root + "/open/evil"}) || res.Watched {
		t.Errorf("found %q, watched %v", got, res.Watched)
	}
	want := []string{
		root + "/secret: cannot open: permission denied",
		root + "/shut: cannot open the folder: permission denied",
	}
	if diff := cmp.Diff(want, res.NotCovered); diff != "" {
		t.Errorf("gaps -want +got:\n%s", diff)
	}

	x := startIndex(t, Config{Roots: []string{root}})
	until(t, "all that can be read is read", func() bool { s := x.Status(); return s.Files == 2 && s.Unread == 1 })
	a, err := x.Lookup(t.Context(), sha1Of("evil"))
	must(t, err)
	if got := verified(t, x, a, sha1Of("evil")); !slices.Equal(got, []string{root + "/open/evil"}) || a.Complete {
		t.Errorf("verified %q, answer %+v", got, a)
	}
	if s := x.Status(); len(s.Unwatched) != 1 || s.Complete || len(s.NotCovered) != 1 {
		t.Errorf("status %+v", s)
	}
	must(t, os.Chmod(root+"/shut", 0o755))
	must(t, os.Chmod(root+"/secret", 0o600))
	must(t, os.Rename(root+"/open", root+"/moved"))
	b := lookup(t, x, sha1Of("evil")) // the barrier looks at everything
	if want := []string{root + "/moved/evil", root + "/secret", root + "/shut/evil"}; !slices.Equal(pathsOf(b), want) || !b.Complete {
		t.Errorf("after a barrier %q, complete %v: %s", pathsOf(b), b.Complete, b.Why)
	}
}
