// SPDX-License-Identifier: Apache-2.0

package people

import (
	"context"
	"fmt"

	"staunch/internal/server/audit"
)

// SealAll seals the second factors that servers before this one kept in the
// clear: those of exactly a secret's length, which nothing sealed has.
func (s *Service) SealAll(ctx context.Context) error {
	users, err := s.cfg.Store.Users(ctx)
	if err != nil {
		return fmt.Errorf("cannot seal second factors: %w", err)
	}
	for _, u := range users {
		if len(u.TOTP) != totpSecret {
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
	return nil
}
