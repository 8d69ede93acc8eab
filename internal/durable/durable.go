// SPDX-License-Identifier: Apache-2.0

// Package durable changes files so that a crash at any instant leaves either
// the old state or the new one, and what it has returned from survives a loss
// of power. Nothing else in Staunch writes state by name.
//
// What fsync does not promise: it makes a file's bytes durable, not its name.
// A name is durable only when the folder that holds it has been synced, so
// every function here that makes or removes a name syncs the folder too. After
// a failed fsync the kernel may have dropped the dirty pages: the caller must
// treat the state as unknown and start again from what is on the disk.
package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// WriteFile puts data under path with mode perm, replacing what was there.
//
//	openat(dir, O_TMPFILE-like temporary name, O_EXCL) write fsync rename fsync(dir)
func WriteFile(path string, data []byte, perm os.FileMode) error {
	return writeFile(path, data, perm, SyncDir)
}

func writeFile(path string, data []byte, perm os.FileMode, syncDir func(string) error) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".tmp-*")
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot write %s: %w", path, err)
			_ = f.Close()           // the first error is the one to report
			_ = os.Remove(f.Name()) // a leftover is harmless and is not the state
		}
	}()
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// CreateFile is WriteFile for a path that must not exist yet; it fails with an
// error matching fs.ErrExist where it does.
//
//	open(temporary) write fsync link fsync(dir) unlink
func CreateFile(path string, data []byte, perm os.FileMode) error {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot create %s: %w", path, err)
	}
	if err := WriteFile(tmp, data, perm); err != nil {
		return err
	}
	linkErr := os.Link(tmp, path)
	if err := Remove(tmp); err != nil && linkErr == nil {
		return err
	}
	if linkErr != nil {
		return fmt.Errorf("cannot create %s: %w", path, linkErr)
	}
	return nil
}

// Rename moves from to to, replacing it, and syncs both folders.
//
//	rename fsync(dir of to) fsync(dir of from)
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("cannot rename %s: %w", from, err)
	}
	if err := SyncDir(filepath.Dir(to)); err != nil {
		return err
	}
	if filepath.Dir(from) == filepath.Dir(to) {
		return nil
	}
	return SyncDir(filepath.Dir(from))
}

// Remove unlinks path and syncs its folder. A path that is not there is no error.
//
//	unlink fsync(dir)
func Remove(path string) error {
	return remove(path, func() error { return SyncDir(filepath.Dir(path)) })
}

func remove(path string, syncDir func() error) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove %s: %w", path, err)
	}
	return syncDir()
}

// Mkdir makes the folder path and its missing parents with mode perm and syncs
// the folder above each one made.
func Mkdir(path string, perm os.FileMode) error {
	if fi, err := os.Stat(path); err == nil {
		if !fi.IsDir() {
			return fmt.Errorf("cannot make folder %s: a file is in its place", path)
		}
		return nil
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := Mkdir(parent, perm); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, perm); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("cannot make folder: %w", err)
	}
	return SyncDir(parent)
}

// SyncDir makes the names in the folder durable.
//
//	open(dir) fsync
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("cannot sync folder: %w", err)
	}
	err = d.Sync()
	closeErr := d.Close()
	// Some file systems (overlay on old kernels, FUSE) cannot sync a folder and
	// say EINVAL; there is nothing further that could be done about it.
	if err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("cannot sync folder: %w", err)
	}
	return closeErr
}
