// SPDX-License-Identifier: Apache-2.0

package index

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/filehash"
)

// needRoot skips what only root can prove.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT PROVEN: needs root to mount file systems and to have file system events")
	}
}

// scratch mounts a tmpfs of the test's own.
func scratch(t testing.TB) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	mountAt(t, "tmpfs", dir, "")
	return dir
}

func mountAt(t testing.TB, fstype, dir, data string) {
	t.Helper()
	if err := unix.Mount("staunch-test", dir, fstype, 0, data); err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: cannot mount %s: %v", fstype, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// scratchExt4 mounts an ext4 of the test's own.
func scratchExt4(t testing.TB) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	image := filepath.Join(t.TempDir(), "image")
	for _, c := range [][]string{
		{"truncate", "-s", "256M", image},
		{"mkfs.ext4", "-q", "-N", "60000", image},
		{"mount", "-o", "loop", image, dir},
	} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Skipf("SKIPPED, NOT PROVEN: %s: %v: %s", strings.Join(c, " "), err, out)
		}
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() })
	return dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, path, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(content), 0o644))
}

func sumOf(content string) filehash.Sum {
	s, err := filehash.Compute(strings.NewReader(content))
	if err != nil {
		panic(err)
	}
	return s
}

func sha1Of(content string) filehash.Hash { return filehash.Hash{SHA1: sumOf(content).SHA1} }

func logger(t testing.TB) *slog.Logger {
	if testing.Verbose() {
		return slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	return slog.New(slog.NewTextHandler(io.Discard, nil))
}

// searchFor searches and returns the paths of all copies.
func searchFor(t testing.TB, cfg SearchConfig) (paths []string, res Result) {
	t.Helper()
	res, err := Search(t.Context(), cfg)
	must(t, err)
	t.Cleanup(res.Close)
	for _, c := range res.Copies {
		paths = append(paths, c.Paths...)
	}
	slices.Sort(paths)
	return paths, res
}

// startIndex opens and starts an index that works without rest.
func startIndex(t testing.TB, cfg Config) *Index {
	t.Helper()
	if cfg.Path == "" {
		cfg.Path = filepath.Join(t.TempDir(), "index.db")
	}
	if cfg.Debounce == 0 {
		cfg.Debounce = 10 * time.Millisecond
	}
	cfg.Share = 100
	cfg.Log = logger(t)
	x, err := Open(cfg)
	must(t, err)
	t.Cleanup(func() { _ = x.Stop() })
	must(t, x.Start(context.Background()))
	return x
}

// until waits for something that must come; how long says nothing.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("gave up waiting until %s", what)
		}
	}
}

// settled waits until the index has built itself.
func settled(t testing.TB, x *Index) {
	t.Helper()
	until(t, "the index is complete", func() bool { return x.Status().Complete })
}

// lookup asks after a barrier, which must succeed.
func lookup(t testing.TB, x *Index, h filehash.Hash) Answer {
	t.Helper()
	must(t, x.Barrier(t.Context()))
	a, err := x.Lookup(t.Context(), h)
	must(t, err)
	return a
}

func pathsOf(a Answer) (paths []string) {
	for _, c := range a.Copies {
		paths = append(paths, c.Paths...)
	}
	slices.Sort(paths)
	return paths
}

// verified returns the paths of the candidates that still have the content.
func verified(t testing.TB, x *Index, a Answer, h filehash.Hash) (paths []string) {
	t.Helper()
	for _, c := range a.Copies {
		got, err := x.Verify(t.Context(), c)
		if err != nil {
			t.Logf("not verified: %v", err)
			continue
		}
		if h.Matches(got.Sum) {
			paths = append(paths, got.Paths...)
		}
		must(t, got.File.Close())
	}
	slices.Sort(paths)
	return paths
}

// bruteForce hashes everything the plain way.
func bruteForce(t testing.TB, root string) map[filehash.SHA1][]string {
	t.Helper()
	found := map[filehash.SHA1][]string{}
	must(t, filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		s := sumOf(string(b)).SHA1
		found[s] = append(found[s], path)
		return nil
	}))
	for _, p := range found {
		slices.Sort(p)
	}
	return found
}

func mkdirs(t testing.TB, root string, names ...string) {
	t.Helper()
	for _, n := range names {
		must(t, os.MkdirAll(filepath.Join(root, n), 0o755))
	}
}
