// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"staunch/internal/server/people"
)

// sweepTries is how many forgotten counters each change takes away: more than it
// makes, so that they become fewer.
const sweepTries = 10

// ChangeTries is people.Store's.
func (s *Store) ChangeTries(ctx context.Context, names []string, change func([]people.Tries)) error {
	for _, n := range names {
		if err := checkTexts(text{"name of tries", n, maxName}); err != nil {
			return err
		}
	}
	return s.change(ctx, func(t *tx) error {
		tries := make([]people.Tries, len(names))
		for i, n := range names {
			err := t.row("SELECT wrong, until, last FROM sign_in_tries WHERE name = $1", n).Scan(&tries[i].Wrong, scanMicros{&tries[i].Until}, scanMicros{&tries[i].Last})
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return fmt.Errorf("cannot read tries: %w", err)
			}
		}
		change(tries)
		for i, n := range names {
			if err := keepTries(t, n, tries[i]); err != nil {
				return fmt.Errorf("cannot keep tries: %w", err)
			}
		}
		err := t.exec("DELETE FROM sign_in_tries WHERE name IN (SELECT name FROM sign_in_tries WHERE last < $1 LIMIT $2)", micros(t.now().Add(-people.ForgetTries)), int64(sweepTries))
		if err != nil {
			return fmt.Errorf("cannot sweep tries: %w", err)
		}
		return nil
	})
}

func keepTries(t *tx, name string, v people.Tries) error {
	if v.Wrong == 0 {
		return t.exec("DELETE FROM sign_in_tries WHERE name = $1", name)
	}
	return t.exec(`INSERT INTO sign_in_tries (name, wrong, until, last) VALUES ($1,$2,$3,$4)
		ON CONFLICT (name) DO UPDATE SET wrong = excluded.wrong, until = excluded.until, last = excluded.last`, name, int64(v.Wrong), micros(v.Until), micros(v.Last))
}
