// SPDX-License-Identifier: Apache-2.0

// Package runnable writes files that are executed right afterwards.
//
// A file that anybody holds open for writing cannot be executed: "text file
// busy". The writer may have closed it and it can still be open: what another
// goroutine forked in between has a copy of every descriptor until it executes
// its own program. So nothing may be forked while the file is written.
package runnable

import (
	"os"
	"syscall"
)

// Write writes a file, as os.WriteFile does, and promises that no process this
// one starts holds it open for writing.
func Write(path string, content []byte, mode os.FileMode) error {
	return Alone(func() error { return os.WriteFile(path, content, mode) })
}

// Alone calls do while this process starts no other. What do opens for writing
// it closes before it returns; it must not start a process, which would wait
// for it for ever, nor take long.
func Alone(do func() error) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return do()
}
