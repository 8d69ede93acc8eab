// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// CheckInclusion verifies that leaf is line index of the log that c signs for.
func CheckInclusion(c Checkpoint, index int64, leaf []byte, proof tlog.RecordProof) error {
	if err := tlog.CheckRecord(proof, c.Size, c.Root, index, tlog.RecordHash(leaf)); err != nil {
		return fmt.Errorf("line %d is not in the log of %d lines: %w", index, c.Size, err)
	}
	return nil
}

// CheckConsistency verifies that the log of the checkpoint newer begins with
// the log of older: that nothing was rewritten between them.
func CheckConsistency(older, newer Checkpoint, proof tlog.TreeProof) error {
	if older.Origin != newer.Origin {
		return fmt.Errorf("the checkpoints are of two logs, %q and %q", older.Origin, newer.Origin)
	}
	if older.Size == 0 {
		return nil // every log begins with the empty one; tlog has no proof of that
	}
	if err := tlog.CheckTree(proof, newer.Size, newer.Root, older.Size, older.Root); err != nil {
		return fmt.Errorf("the log of %d lines does not begin with the one of %d: %w", newer.Size, older.Size, err)
	}
	return nil
}
