// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"staunch/internal/order"
)

// Staging says where a grabbed file waits: always on its own file system.
type Staging struct {
	Kind StageKind  `json:"kind"`
	Dir  order.Text `json:"dir"`  // the folder
	Name string     `json:"name"` // the name in it
}

// StageKind is a kind of staging folder, best first.
type StageKind string

// The kinds of staging folder.
const (
	inVault  StageKind = "vault"  // DIR/staging: the vault lies on the same mount
	inMount  StageKind = "mount"  // .staunch-staging-UID at the root of the file's mount, 0700
	inParent StageKind = "parent" // the file's own folder, as .staunch-ID, mode 0600: no better place may be written to
)

// stage is an open staging folder.
type stage struct {
	kind StageKind
	dir  *os.File
	own  bool // to be closed with the stage
}

func (s *stage) close() {
	if s != nil && s.own {
		_ = s.dir.Close() // read only
	}
}

// name is the staged name of an item, or of its nth further name.
func (s *stage) name(id string, n int) string {
	if s.kind == inParent {
		id = ".staunch-" + id
	}
	if n > 0 {
		id += fmt.Sprintf(".%d", n)
	}
	return id
}

func (s *stage) ref(id string) Staging {
	return Staging{Kind: s.kind, Dir: order.TextOf(s.dir.Name()), Name: s.name(id, 0)}
}

// stages returns how to open the folders that a file in parent can be moved
// to, best first. One mount may still refuse a move between its parts (btrfs
// subvolumes, project quotas): then the next is tried.
func (v *Vault) stages(parent *os.File) []func() (*stage, error) {
	mount, err := mountID(int(parent.Fd()))
	ours, err2 := mountID(int(v.staging.Fd()))
	var all []func() (*stage, error)
	if err == nil && err2 == nil && mount == ours {
		all = append(all, func() (*stage, error) { return &stage{kind: inVault, dir: v.staging}, nil })
	}
	return append(all,
		func() (*stage, error) { return v.mountStage(parent) },
		func() (*stage, error) {
			dir, err := reopen(parent)
			return &stage{kind: inParent, dir: dir, own: true}, err
		})
}

func (v *Vault) mountStageName() string { return ".staunch-staging-" + v.uid }

// mountStage opens the vault's folder at the root of a mount, making it if
// need be. One that is not ours alone is not used.
func (v *Vault) mountStage(parent *os.File) (*stage, error) {
	root, err := mountRoot(parent)
	if err != nil {
		return nil, err
	}
	defer root.Close() //nolint:errcheck // read only
	name := v.mountStageName()
	if err := unix.Mkdirat(int(root.Fd()), name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	fd, err := openat2(int(root.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	dir := os.NewFile(uintptr(fd), path.Join(root.Name(), name))
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && (int(st.Uid) != os.Geteuid() || st.Mode&0o777 != 0o700) {
		err = fmt.Errorf("%q is not ours alone", order.TextOf(dir.Name()))
	}
	if err == nil {
		err = v.syncDir(root)
	}
	if err != nil {
		_ = dir.Close() // read only
		return nil, err
	}
	return &stage{kind: inMount, dir: dir, own: true}, nil
}

// openStage opens the staging folder that an intent names. That it is not
// there any more is an error that matches unix.ENOENT.
func (v *Vault) openStage(s Staging) (*stage, error) {
	if s.Kind == inVault {
		return &stage{kind: inVault, dir: v.staging}, nil
	}
	raw, err := s.Dir.Bytes()
	if err != nil {
		return nil, err
	}
	dir, err := openDir(raw)
	if err != nil {
		return nil, err
	}
	return &stage{kind: s.Kind, dir: dir, own: true}, nil
}

// tidy removes a staging folder at a mount's root once it is empty. Grab makes
// it again, under the same lock.
func (v *Vault) tidy(s *stage) {
	if s == nil || s.kind != inMount {
		return
	}
	v.lift.Lock()
	defer v.lift.Unlock()
	if root, err := openDir(path.Dir(s.dir.Name())); err == nil {
		_ = unix.Unlinkat(int(root.Fd()), v.mountStageName(), unix.AT_REMOVEDIR) // not empty: another grab uses it
		_ = root.Close()                                                         // read only
	}
}
