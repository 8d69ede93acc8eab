// SPDX-License-Identifier: Apache-2.0

package action

import (
	"context"
	"fmt"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/periodic"
)

// sweepBatch is how many actions or devices one look handles at a time.
const sweepBatch = 500

// Start begins to look, every SweepEvery, for actions past their date and for
// devices whose orders wait although their bell was rung: a lost bell costs no
// more than that time.
func (s *Service) Start(ctx context.Context) {
	s.loop = periodic.Start(ctx, s.cfg.SweepEvery, func(ctx context.Context) {
		if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Error("sweep of actions failed", "error", err)
		}
	})
}

// Stop ends what Start began and waits for it.
func (s *Service) Stop() { s.loop.Stop() }

func (s *Service) sweep(ctx context.Context) error {
	if err := s.expire(ctx); err != nil {
		return err
	}
	return s.ringAgain(ctx)
}

// expire ends what is past its date.
func (s *Service) expire(ctx context.Context) error {
	for {
		now := s.now()
		ids, err := s.cfg.Store.Overdue(ctx, now, sweepBatch)
		if err != nil {
			return fmt.Errorf("cannot look for overdue actions: %w", err)
		}
		for _, id := range ids {
			err := s.change(ctx, id, func(a *Action) (*audit.Entry, error) {
				if api.Final(a.Status) || now.Before(a.Expires) {
					return nil, errUnchanged // a receipt or an acknowledgement came first
				}
				return s.timeOut(a), nil
			})
			if err != nil {
				return fmt.Errorf("cannot expire action %s: %w", id, err)
			}
		}
		if len(ids) < sweepBatch {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// timeOut ends an action that is past its date.
func (s *Service) timeOut(a *Action) *audit.Entry {
	if a.Status == api.InProgress {
		a.TroubleshootInfo = "The device accepted the order and sent no receipt"
	}
	a.Status, a.ErrorHResult, a.Updated = api.TimeOut, hrTimeout, s.now()
	a.Acknowledged = true
	e := audit.By(auth.Caller{Kind: auth.System, ID: "system", Name: "system"}, audit.FinishMachineAction, a.ID, a.Status)
	e.Detail = detail(map[string]any{"machine": a.MachineID, "info": a.TroubleshootInfo})
	return &e
}

// ringAgain rings for every device that has something to fetch. Who is not
// connected does not hear it.
func (s *Service) ringAgain(ctx context.Context) error {
	for after := ""; ; {
		devices, err := s.cfg.Store.Waiting(ctx, after, sweepBatch)
		if err != nil {
			return fmt.Errorf("cannot look for waiting devices: %w", err)
		}
		for _, d := range devices {
			s.ring(d)
		}
		if len(devices) < sweepBatch {
			return nil
		}
		after = devices[len(devices)-1]
	}
}
