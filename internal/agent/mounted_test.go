// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"slices"
	"testing"
)

func TestDeletedMounts(t *testing.T) {
	const text = `22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
36 22 98:0 /real/file//deleted /mnt/my\040file\134x rw,noatime - ext4 /dev/root rw
37 22 98:0 /real/file /mnt/deleted rw - ext4 /dev/root rw
38 22 0:41 /a//deleted
39 22 0:41 //deleted /short\04 rw - tmpfs t rw
`
	want := []string{`/mnt/my file\x`, `/short\04`}
	if got := deletedMounts([]byte(text)); !slices.Equal(got, want) {
		t.Errorf("%q; want %q", got, want)
	}
}
