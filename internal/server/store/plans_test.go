// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"staunch/internal/server/odata"
	"staunch/internal/server/storetest"
)

const sqliteExplain, postgresExplain = "EXPLAIN QUERY PLAN ", "EXPLAIN "

// planned is a list and what the API's pages say it is filtered and ordered by.
type planned struct {
	name    string
	list    list
	fields  []odata.Field
	filters []string
	orders  []string          // beside the order that a list has by itself
	sorted  map[string]string // filter → the orders in which its rows, which are few, are sorted
}

func plannedLists(now time.Time) []planned {
	few := "lastUpdateDateTimeUtc lastUpdateDateTimeUtc desc creationDateTimeUtc creationDateTimeUtc desc"
	return []planned{
		{
			"MachineAction", actionList, ActionFields(),
			[]string{
				"id eq 'a'", "status eq 'Pending'", "machineId eq 'm'", "type eq 'Isolate'", "requestor eq 'r'", "creationDateTimeUtc ge 2026-01-01Z", "lastUpdateDateTimeUtc gt 2026-01-01Z",
				"status in ('Pending','InProgress')", "startswith(requestor,'a')",
				"requestor eq 'ana@corp.example' and type eq 'RunAntiVirusScan'", "machineId eq 'm' and status ne 'Pending'",
			},
			[]string{"lastUpdateDateTimeUtc", "lastUpdateDateTimeUtc desc", "creationDateTimeUtc", "creationDateTimeUtc desc"},
			map[string]string{
				"id eq 'a'": few, "machineId eq 'm'": few, "machineId eq 'm' and status ne 'Pending'": few,
				// A range of one property in the order of another.
				"creationDateTimeUtc ge 2026-01-01Z": few, "lastUpdateDateTimeUtc gt 2026-01-01Z": few + " default", "startswith(requestor,'a')": few + " default",
				"status in ('Pending','InProgress')": few + " default",
			},
		},
		{
			"Machine", deviceList, DeviceFields(now),
			[]string{
				"computerDnsName eq 'fin-lt-014'", "startswith(computerDnsName,'fin-')", "id eq 'a'", "version eq '22.04'", "deviceValue eq 'High'", "aadDeviceId eq 'a'",
				"machineTags/any(t: t eq 'x')", "lastSeen gt 2026-01-01Z", "lastIpAddress eq '10.0.0.1'", "healthStatus ne 'Active'", "healthStatus eq 'Active'",
				"osPlatform eq 'Ubuntu'", "rbacGroupId eq 12", "riskScore eq 'High'", "exposureLevel eq 'High'", "onboardingStatus eq 'CanBeOnboarded'",
			},
			[]string{"lastSeen", "lastSeen desc", "computerDnsName"},
			nil, // devices are few
		},
		{
			"Indicator", list{table: "indicators", columns: indicatorRow, only: alive(now)}, IndicatorFields(),
			[]string{
				"application eq 'a'", "createdByDisplayName eq 'a'", "expirationTime lt 2026-01-01Z", "generateAlert eq true", "title eq 'a'", "rbacGroupNames/any(g: g eq 'Finance')",
				"rbacGroupIds/any(g: g eq '12')", "indicatorValue eq 'a'", "indicatorType eq 'FileSha1'", "creationTimeDateTimeUtc gt 2026-01-01Z", "createdBy eq 'a'",
				"action eq 'BlockAndRemediate'", "severity eq 'High'", "id eq '31'",
			},
			[]string{"creationTimeDateTimeUtc", "creationTimeDateTimeUtc desc", "lastUpdateTime desc"},
			nil, // indicators are few
		},
		{
			"Alert", alertList, AlertFields(),
			[]string{
				"alertCreationTime gt 2026-01-01Z", "lastUpdateTime gt 2026-01-01Z", "status eq 'New'", "severity eq 'High'", "category eq 'Malware'", "machineId eq 'a'",
				"sha1 eq 'a'", "incidentId eq 5", "investigationId eq 5",
			},
			[]string{"alertCreationTime", "alertCreationTime desc", "lastUpdateTime", "lastUpdateTime desc"},
			map[string]string{"status eq 'New'": "lastUpdateTime desc", "severity eq 'High'": "lastUpdateTime desc", "category eq 'Malware'": "lastUpdateTime desc",
				"machineId eq 'a'": "lastUpdateTime desc", "sha1 eq 'a'": "lastUpdateTime desc default alertCreationTime desc", "alertCreationTime gt 2026-01-01Z": "lastUpdateTime desc",
				"lastUpdateTime gt 2026-01-01Z": "alertCreationTime desc default", "incidentId eq 5": "lastUpdateTime desc", "investigationId eq 5": "lastUpdateTime desc"},
		},
	}
}

// No list that the API's pages describe is answered by reading a whole table,
// and none by sorting it, wherever a page goes on: what that costs would grow
// with the table. This asks for plans and not for times.
func TestPlans(t *testing.T) {
	t.Parallel()
	now := time.Now()
	signer, _ := storetest.Signer(t)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	s, err := Open(t.Context(), Config{Path: filepath.Join(t.TempDir(), "plans.db"), Checkpoint: signer, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }() // only read
	t.Run("SQLite", func(t *testing.T) { holdPlans(t, plannedLists(now), s.read, sqliteExplain, sqliteFault) })
}

func TestPlansOnPostgres(t *testing.T) {
	t.Parallel()
	server := storetest.StartPostgres(t)
	signer, _ := storetest.Signer(t)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	s, err := Open(t.Context(), Config{URL: server.Create(t), Checkpoint: signer, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }() // only read
	s.read.SetMaxOpenConns(1)
	// Of an empty table the planner reads everything; it is the actions that are many.
	if err := storetest.Fill(t.Context(), s.write, 20_000, time.Now()); err != nil {
		t.Fatal(err)
	}
	holdPlans(t, plannedLists(time.Now())[:1], s.read, postgresExplain, postgresFault)
}

func holdPlans(t *testing.T, lists []planned, db *sql.DB, explain string, fault func(plan []string, l list, q odata.Query) (scan, sort bool)) {
	for _, p := range lists {
		for _, filter := range append([]string{""}, p.filters...) {
			for _, order := range append([]string{""}, p.orders...) {
				values := map[string][]string{"$top": {"100"}}
				if filter != "" {
					values["$filter"] = []string{filter}
				}
				if order != "" {
					values["$orderby"] = []string{order}
				}
				q, err := odata.Parse(values, p.fields, odata.Options{})
				if err != nil {
					t.Fatal(err)
				}
				// Few rows in a range are read by it; many are met soon on a walk in order.
				sparse := explain != postgresExplain && len(q.Spans) > 0 && q.Spans[0].Column != p.list.order(q)[0].Column
				on := q
				on.After = somewhere(p.list.order(q))
				for _, q := range []odata.Query{q, on} {
					text, args := p.list.page(q, sparse)
					if strings.Contains(text, "(FALSE)") || strings.Contains(text, "(CAST(NULL AS") {
						continue // known to be empty before a row is read
					}
					plan := planOf(t, db, explain+text, args)
					scan, sort := fault(plan, p.list, q)
					few := p.sorted == nil && (filter != "" || order == "computerDnsName" || order == "lastUpdateTime desc") ||
						strings.Contains(p.sorted[filter], order) && order != "" || order == "" && strings.Contains(p.sorted[filter], "default")
					if scan || sort && !few {
						t.Errorf("%s: $filter=%s $orderby=%s, going on: %v: reads all: %v, sorts: %v\n%s\n%s", p.name, filter, order, q.After != nil, scan, sort, text, strings.Join(plan, "\n"))
					}
				}
			}
		}
	}
}

func somewhere(order []odata.Order) *odata.Place {
	p := odata.Place{Seq: 5}
	for _, o := range order[:len(order)-1] {
		var key any = "a"
		switch o.Type {
		case odata.DateTime, odata.Number:
			key = int64(5)
		case odata.Bool:
			key = true
		}
		p.Keys = append(p.Keys, key)
	}
	return &p
}

// planOf returns the lines of a plan.
func planOf(t *testing.T, db *sql.DB, text string, args []any) (lines []string) {
	t.Helper()
	rows, err := db.QueryContext(context.Background(), text, args...)
	if err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	defer func() { _ = rows.Close() }() // Err has what matters
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		values, into := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprint(values[len(values)-1]))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}

// sqliteFault looks for the words of EXPLAIN QUERY PLAN. Without a filter a scan
// in the order of an index, or of the rows, ends with the page.
func sqliteFault(plan []string, l list, q odata.Query) (scan, sort bool) {
	for _, line := range plan {
		switch {
		case strings.HasPrefix(line, "SCAN "+l.table) && q.Where != "":
			scan = true
		case strings.Contains(line, "USE TEMP B-TREE FOR ORDER BY"):
			sort = true
		}
	}
	return scan, sort
}

// postgresFault looks for those of EXPLAIN. PostgreSQL keeps statistics: whether
// it sorts few rows or walks in order is its choice.
func postgresFault(plan []string, l list, _ odata.Query) (scan, sort bool) {
	for _, line := range plan {
		scan = scan || strings.Contains(line, "Seq Scan on "+l.table)
	}
	return scan, false
}

// Once SQLite knows its tables, of two properties the one is used that few rows share.
func TestTuned(t *testing.T) {
	t.Parallel()
	signer, _ := storetest.Signer(t)
	c := Config{Path: filepath.Join(t.TempDir(), "tuned.db"), Checkpoint: signer, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := s.engine.openWriter()
	if err != nil {
		t.Fatal(err)
	}
	if err := storetest.Fill(t.Context(), db, 30_000, time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("DELETE FROM sqlite_stat1"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range 2 { // the first tunes, the second knows
		if i == 1 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if s, err = Open(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		for n := 0; n == 0; time.Sleep(time.Millisecond) {
			if err := s.read.QueryRow("SELECT count(*) FROM sqlite_stat1 WHERE tbl = 'actions'").Scan(&n); err != nil {
				t.Fatal(err)
			}
		}
		again := s
		defer func() { _ = again.Close() }() // only read
	}
	for _, filter := range []string{"machineId eq 'm' and status eq 'Succeeded'", "status eq 'Succeeded' and machineId eq 'm' and type eq 'StopAndQuarantineFile'"} {
		q, err := odata.Parse(map[string][]string{"$filter": {filter}}, ActionFields(), odata.Options{})
		if err != nil {
			t.Fatal(err)
		}
		text, args := actionList.page(q, false)
		if plan := strings.Join(planOf(t, s.read, sqliteExplain+text, args), "\n"); !strings.Contains(plan, "INDEX actions_machine (") {
			t.Errorf("%s: %s", filter, plan)
		}
	}
}
