// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"staunch/internal/server/odata"
	"staunch/internal/server/store"
	"staunch/internal/server/storetest"
)

// BenchmarkLists reads pages of 100 actions from tables of rising size and
// prints for each query how its time grows with the table: 1 is not at all.
// STAUNCH_BENCH_ROWS is the largest size; 1,000,000 where it is not set.
func BenchmarkLists(b *testing.B) {
	most, err := strconv.Atoi(os.Getenv("STAUNCH_BENCH_ROWS"))
	if err != nil {
		most = 1_000_000
	}
	now := time.Now()
	queries := []string{
		"$top=100", "$top=100&$skip=5000", "$filter=status eq 'Pending'&$top=100", "$filter=machineId eq 'm42'&$top=100", "$filter=requestor eq 'SOC'&$top=100",
		"$filter=lastUpdateDateTimeUtc gt " + now.Add(-time.Hour).UTC().Format(time.RFC3339) + "&$orderby=lastUpdateDateTimeUtc asc&$top=100",
		"$filter=machineId eq 'm42' and status ne 'Pending'&$top=100&$count=true",
	}
	first := map[string]time.Duration{}
	for rows := most / 100; rows <= most; rows *= 10 {
		c, _ := signed(b, sqlite(b))
		if err := open(b, c).Close(); err != nil { // for its schema
			b.Fatal(err)
		}
		fill(b, c.Path, rows, now)
		s := open(b, c)
		for _, text := range queries {
			q := listQuery(b, text)
			b.Run(fmt.Sprintf("%d/%s", rows, text), func(b *testing.B) {
				begun := time.Now()
				for range b.N {
					if _, _, err := s.Actions(b.Context(), q); err != nil {
						b.Fatal(err)
					}
				}
				each := time.Since(begun) / time.Duration(b.N)
				if b.N == 1 {
					return // a first look, at a cold cache
				}
				if first[text] == 0 {
					first[text] = each
				}
				b.ReportMetric(float64(each)/float64(first[text]), "growth")
			})
		}
		_ = s.Close()
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

// fill writes actions past the store: one transaction for all.
func fill(b *testing.B, path string, rows int, now time.Time) {
	b.Helper()
	db, err := sql.Open("sqlite", "file:"+escaped(path)+"?_pragma=synchronous(OFF)")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	tx, err := db.BeginTx(context.Background(), nil)
	if err != nil {
		b.Fatal(err)
	}
	insert, err := tx.Prepare(`INSERT INTO actions (id, type, status, machine_id, machine_name, requestor, requestor_kind, requestor_id, comment, created, updated, expires,
		canceller, canceller_kind, canceller_id, cancel_comment, error_hresult, troubleshoot, external_id, source, sha1, sha256, item, active_key, acknowledged, signed_order)
		VALUES (?,?,?,?,?,?,'app','id','comment',?,?,?,'','','','',0,'','','PublicApi',?,'','',?,?,?)`)
	if err != nil {
		b.Fatal(err)
	}
	order := make([]byte, 900)
	statuses := []string{"Succeeded", "Failed", "Cancelled", "TimeOut"}
	for i := range rows {
		status := statuses[i%len(statuses)]
		if i%1000 == 0 {
			status = "Pending"
		}
		at := now.Add(-time.Duration(rows-i) * time.Second).UnixMicro()
		a := storetest.NewAction("m" + strconv.Itoa(i%1000))
		if _, err := insert.Exec(a.ID, a.Type, status, a.MachineID, "host.example", "app"+strconv.Itoa(i%50), at, at, at+1, a.File.SHA1.String(), a.ID, true, order); err != nil {
			b.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		b.Fatal(err)
	}
	if _, err := db.Exec("ANALYZE"); err != nil {
		b.Fatal(err)
	}
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
