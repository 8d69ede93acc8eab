// SPDX-License-Identifier: Apache-2.0

package people

import (
	"context"
	"fmt"

	"staunch/internal/server/audit"
)

// SealAll seals the second factors that servers before this one kept in the
// clear: those of exactly a secret's length, which nothing sealed has. Where none
// of those that are sealed can be opened it fails: the key is not this database's.
func (s *Service) SealAll(ctx context.Context) error {
	users, err := s.cfg.Store.Users(ctx)
	if err != nil {
		return fmt.Errorf("cannot seal second factors: %w", err)
	}
	opened, foreign := 0, 0
	for _, u := range users {
		if len(u.TOTP) == 0 {
			continue
		}
		if len(u.TOTP) != totpSecret {
			if _, err := s.cfg.Sealer.Open(u.TOTP, u.ID); err != nil {
				foreign++
				s.cfg.Log.Error("second_factor_not_opened", "user", u.UPN, "error", err)
			} else {
				opened++
			}
			continue
		}
		_, err := s.cfg.Store.ChangeUser(ctx, u.ID, func(u *User) (*audit.Entry, error) {
			if len(u.TOTP) == totpSecret { // another replica may have been faster
				u.TOTP = s.cfg.Sealer.Seal(u.TOTP, u.ID)
			}
			return nil, nil
		})
		if err != nil {
			return fmt.Errorf("cannot seal the second factor of %s: %w", u.UPN, err)
		}
	}
	if foreign > 0 && opened == 0 {
		return fmt.Errorf("cannot open any of %d second factors: keys/seal.key is not the one that they were sealed with; put that in its place, from a backup or from another replica", foreign)
	}
	return nil
}
