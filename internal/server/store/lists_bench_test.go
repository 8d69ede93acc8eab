// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"database/sql"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // registers itself as "pgx"

	"staunch/internal/server/action"
	"staunch/internal/server/odata"
	"staunch/internal/server/store"
	"staunch/internal/server/storetest"
)

// listed are the lists that are measured: what clients are known to ask for.
func listed(now time.Time) []string {
	since := func(d time.Duration) string {
		return "lastUpdateDateTimeUtc gt " + now.Add(-d).UTC().Format(time.RFC3339)
	}
	return []string{
		"$top=100",
		"$filter=status eq 'Pending'&$top=100",
		"$filter=status eq 'Succeeded'&$orderby=lastUpdateDateTimeUtc desc&$top=100",
		"$filter=machineId eq '" + storetest.MachineID(42) + "'&$top=100",
		"$filter=machineId eq '" + storetest.MachineID(42) + "' and status eq 'Pending'&$top=100",
		"$filter=requestor eq 'APP7' and type eq 'RunAntiVirusScan'&$top=100",
		"$filter=type eq 'RestoreFile'&$top=100",
		"$filter=" + since(time.Hour) + "&$orderby=lastUpdateDateTimeUtc asc&$top=1000",
		"$filter=" + since(2*time.Minute), // a poll: all that changed
		"$filter=status ne 'Pending' and " + since(2*time.Minute) + "&$top=1000",
		"$filter=startswith(requestor,'app4')&$top=100",
	}
}

// BenchmarkLists reads lists from tables of rising size, from 100,000 actions to
// STAUNCH_BENCH_ROWS (1,000,000 where it is not set), and prints how the median
// of each grows with the table: 1 is not at all. It walks whole pages of 10,000
// by nextLink too, and compares the first with the last.
func BenchmarkLists(b *testing.B) {
	most, err := strconv.Atoi(os.Getenv("STAUNCH_BENCH_ROWS"))
	if err != nil {
		most = 1_000_000
	}
	b.Run("sqlite", func(b *testing.B) { growth(b, "sqlite", func() store.Config { return sqlite(b) }, most) })
	b.Run("postgres", func(b *testing.B) {
		server := storetest.StartPostgres(b)
		growth(b, "pgx", func() store.Config { return postgres(b, server) }, min(most, 1_000_000))
	})
}

func growth(b *testing.B, driver string, config func() store.Config, most int) {
	now := time.Now()
	first := map[string]time.Duration{}
	for rows := 100_000; rows <= most; rows *= 10 {
		c, _ := signed(b, config())
		if err := open(b, c).Close(); err != nil { // for its schema
			b.Fatal(err)
		}
		name := c.URL
		if name == "" {
			name = "file:" + escaped(c.Path)
		}
		db, err := sql.Open(driver, name)
		if err != nil {
			b.Fatal(err)
		}
		if err := storetest.Fill(b.Context(), db, rows, now); err != nil {
			b.Fatal(err)
		}
		_ = db.Close()
		s := open(b, c)
		for _, text := range listed(now) {
			b.Run(fmt.Sprintf("%d/%s", rows, text), func(b *testing.B) {
				q := listQuery(b, text)
				report(b, first, text, func() {
					if _, _, err := s.Actions(b.Context(), q); err != nil {
						b.Fatal(err)
					}
				})
			})
		}
		b.Run(fmt.Sprintf("%d/nextLink", rows), func(b *testing.B) { walkAll(b, s, rows) })
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		if c.Path != "" {
			_ = os.Remove(c.Path) // gigabytes
		}
	}
}

// report measures read b.N times and prints median, p99 and growth.
func report(b *testing.B, first map[string]time.Duration, name string, read func()) {
	took := make([]time.Duration, b.N)
	for i := range b.N {
		begun := time.Now()
		read()
		took[i] = time.Since(begun)
	}
	slices.Sort(took)
	if b.N == 1 && first[name] == 0 {
		return // a first look, at a cold cache
	}
	median := took[b.N/2]
	if first[name] == 0 {
		first[name] = median
	}
	b.ReportMetric(float64(median.Microseconds())/1000, "ms-median")
	b.ReportMetric(float64(took[b.N*99/100].Microseconds())/1000, "ms-p99")
	b.ReportMetric(float64(median)/float64(first[name]), "growth")
}

// walkAll reads a list of all actions page by page, as nextLink leads, and
// prints the median of the first ten pages, that of the last ten, and the worst.
func walkAll(b *testing.B, s *store.Store, rows int) {
	for range b.N {
		q := listQuery(b, "")
		var took []time.Duration
		seen := 0
		for {
			page, mark := []action.Action(nil), &odata.Mark{Row: odata.MaxTop}
			q.Mark = mark
			begun := time.Now()
			page, _, err := s.Actions(b.Context(), q)
			if err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(begun))
			seen += len(page)
			if q.After = mark.Place; q.After == nil || len(page) < odata.MaxTop {
				break
			}
		}
		if seen != rows {
			b.Fatalf("%d rows of %d", seen, rows)
		}
		middle := func(d []time.Duration) float64 {
			d = slices.Sorted(slices.Values(d))
			return float64(d[len(d)/2].Microseconds()) / 1000
		}
		full := took[:rows/odata.MaxTop]
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(middle(full[:min(10, len(full))]), "ms-first-pages")
		b.ReportMetric(middle(full[max(0, len(full)-10):]), "ms-last-pages")
		b.ReportMetric(float64(slices.Max(took).Microseconds())/1000, "ms-worst-page")
	}
}

func listQuery(b *testing.B, text string) odata.Query {
	b.Helper()
	values, err := odata.Split(text)
	if err != nil {
		b.Fatal(err)
	}
	q, err := odata.Parse(values, store.ActionFields(), odata.Options{})
	if err != nil {
		b.Fatal(err)
	}
	return q
}

// escaped is a path as it stands in a file: URL.
func escaped(path string) string {
	out := ""
	for _, c := range []byte(path) {
		switch {
		case c == '?' || c == '#' || c == '%' || c == ' ' || c >= 0x80:
			out += fmt.Sprintf("%%%02X", c)
		default:
			out += string(c)
		}
	}
	return out
}
