// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"os"
)

// enterParent waits until names in a folder may be moved. Where its flags must
// be lifted for that, nobody else moves names anywhere meanwhile.
func (v *Vault) enterParent(dir *os.File, p *Parent) (done func(), err error) {
	v.lift.RLock()
	now, err := parentOf(dir)
	if err == nil && now.Flags&locks == 0 {
		p.Flags = now.Flags
		return v.lift.RUnlock, nil
	}
	v.lift.RUnlock()
	if err != nil {
		return nil, err
	}
	v.lift.Lock()
	now, err = parentOf(dir)
	if err != nil {
		v.lift.Unlock()
		return nil, err
	}
	p.Flags = now.Flags
	return v.lift.Unlock, nil
}

// enterLifted is enterParent with the folder's locks off until done.
func (v *Vault) enterLifted(dir *os.File) (done func() error, err error) {
	var now Parent
	leave, err := v.enterParent(dir, &now)
	if err != nil {
		return nil, err
	}
	if err := unlockInode(int(dir.Fd()), now.Flags); err != nil {
		leave()
		return nil, err
	}
	return func() error {
		defer leave()
		return lockInode(int(dir.Fd()), now.Flags)
	}, nil
}
