// SPDX-License-Identifier: Apache-2.0

package odata

import (
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	_ "modernc.org/sqlite"

	"staunch/api"
)

var testFields = []Field{
	{Name: "id", Column: "m.id", Type: String},
	{Name: "status", Column: "m.status", Type: Folded, Values: []string{"Pending", "InProgress", "Succeeded", "TimeOut"}},
	{Name: "computerDnsName", Column: "m.name", Type: Folded},
	{Name: "rbacGroupId", Column: "m.grp", Type: Number},
	{Name: "isExcluded", Column: "m.excluded", Type: Bool},
	{Name: "lastSeen", Column: "m.seen", Type: DateTime},
	{Name: "firstSeen", Column: "m.first", Type: DateTime},
	{Name: "machineTags", Column: "(SELECT t.machine AS owner, t.tag AS value FROM tags t)", Owner: "m.id", Type: Strings},
	{Name: "healthStatus", Column: "(CASE WHEN m.seen > 1770000000000000 THEN 'Active' ELSE 'Inactive' END)", Type: Folded, Cases: map[string]string{
		"Active": "m.seen > 1770000000000000", "Inactive": "coalesce(m.seen, 0) <= 1770000000000000"}},
}

// testDB holds four machines; d has nothing but its id.
func testDB(t testing.TB) *sql.DB {
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { _ = db.Close() })
	at := func(s string) int64 {
		tm, err := parseTime(s)
		if err != nil {
			t.Fatal(err)
		}
		return tm.UnixMicro()
	}
	exec := func(q string, args ...any) {
		if _, err := db.Exec(q, args...); err != nil {
			t.Fatal(err)
		}
	}
	exec(`CREATE TABLE m (id TEXT, status TEXT, name TEXT, grp BIGINT, excluded BOOLEAN, seen BIGINT, first BIGINT)`)
	exec(`CREATE TABLE tags (machine TEXT, tag TEXT)`)
	ins := `INSERT INTO m VALUES ($1,$2,$3,$4,$5,$6,$7)`
	exec(ins, "a", "Pending", "fin-lt-014.corp.example", 12, false, at("2026-02-10T00:00:00.5Z"), at("2026-01-01Z"))
	exec(ins, "b", "Succeeded", "o'neil_50%", 0, true, at("2026-03-01T00:00:00Z"), at("2026-03-01T00:00:00Z"))
	exec(ins, "c", "TimeOut", `DB\01`, -3, false, at("2018-08-01Z"), at("2018-01-01Z"))
	exec(`INSERT INTO m (id) VALUES ('d')`)
	exec(`INSERT INTO tags VALUES ('a','finance'), ('a','laptop'), ('b','db'), ('b','Finance')`)
	return db
}

func parse(t testing.TB, raw string) (Query, error) {
	values, err := Split(raw)
	if err != nil {
		return Query{}, err
	}
	return Parse(values, testFields, Options{Properties: []string{"id", "status", "computerDnsName"}})
}

func ids(t testing.TB, db *sql.DB, q Query) string {
	query := "SELECT m.id FROM m"
	if q.Where != "" {
		query += " WHERE " + q.Where
	}
	query += " ORDER BY "
	for _, o := range q.Order {
		query += o.Column
		if o.Desc {
			query += " DESC"
		}
		query += ", "
	}
	rows, err := db.Query(query+"m.id", q.Args...)
	if err != nil {
		t.Fatalf("the database refuses %s: %v", query, err)
	}
	defer func() { _ = rows.Close() }()
	var found string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			t.Fatal(err)
		}
		found += id
	}
	if err := rows.Err(); err != nil {
		t.Fatalf("the database refuses %s: %v", query, err)
	}
	return found
}

func TestFilter(t *testing.T) {
	db := testDB(t)
	for _, c := range []struct{ filter, want string }{
		// Operators on each type.
		{"status eq 'Pending'", "a"},
		{"status eq 'pending'", "a"},
		{"status eq 'NoSuchStatus'", ""},
		{"STATUS EQ 'TIMEOUT'", "c"},
		{"status ne 'Pending'", "bcd"}, // null is not 'Pending'
		{"'Pending' eq status", "a"},
		{"id eq 'A'", ""}, // a plain string keeps its case
		{"id gt 'b'", "cd"},
		{"'b' lt id", "cd"},
		{"computerdnsname eq 'FIN-LT-014.corp.example'", "a"},
		{"computerDnsName eq 'o''neil_50%'", "b"},
		{"rbacGroupId eq 12", "a"},
		{"rbacGroupId eq '12'", "a"}, // the reference page calls it a string
		{"rbacGroupId lt 0", "c"},
		{"rbacGroupId eq -3", "c"},
		{"rbacGroupId ge 0 and rbacGroupId le 12", "ab"},
		{"isExcluded eq true", "b"},
		{"isExcluded ne true", "acd"},
		{"isExcluded", "b"},
		{"not isExcluded", "acd"},
		{"isExcluded eq FALSE", "ac"},
		{"lastSeen gt 2026-01-01Z", "ab"},
		{"lastSeen eq 2018-08-01Z", "c"},
		{"lastSeen eq 2018-08-01", "c"},
		{"lastSeen eq 2018-08-01T02:00:00+02:00", "c"},
		{"lastSeen ge 2026-02-10T00:00:00.5Z and lastSeen lt 2026-03-01T00:00Z", "a"},
		{"lastSeen gt 2026-02-10T00:00:00.4999999Z", "ab"},
		{"lastSeen gt 2026-02-10T00:00:00.5000001Z", "b"}, // finer than a column: never the row itself again
		{"lastSeen ge 2026-02-10T00:00:00.5000001Z", "b"},
		{"lastSeen lt 2026-02-10T00:00:00.5000001Z", "ac"},
		{"lastSeen le '2026-02-10t00:00:00.5z'", "ac"},
		{"lastSeen gt firstSeen", "ac"},
		{"lastSeen eq firstSeen", "b"},
		// Worked out, not kept.
		{"healthStatus eq 'ACTIVE'", "ab"},
		{"healthStatus ne 'Active'", "cd"},
		{"healthStatus eq 'Inactive'", "cd"},
		{"healthStatus eq 'NoSensorData'", ""},
		{"healthStatus ne 'NoSensorData'", "abcd"},
		{"healthStatus in ('Inactive','Unknown')", "cd"},
		{"healthStatus eq null", ""},
		{"startswith(healthStatus,'act')", "ab"},
		// Null.
		{"status eq null", "d"},
		{"status ne null", "abc"},
		{"null eq lastSeen", "d"},
		{"not (status eq 'Pending')", "bcd"},
		{"not (lastSeen gt 2026-01-01Z)", "cd"},
		{"not not (status eq null)", "d"},
		// Logic: and binds closer than or, not closer than and.
		{"id eq 'a' or id eq 'b' and id eq 'c'", "a"},
		{"(id eq 'a' or id eq 'b') and id ne 'a'", "b"},
		{"not id eq 'a' and id ne 'b'", "cd"},
		{"id eq 'a' OR id eq 'b' Or id eq 'c'", "abc"},
		{"((((id eq 'a'))))", "a"},
		{"true", "abcd"},
		{"false or id eq 'a'", "a"},
		// in.
		{"status in ('pending','TimeOut')", "ac"},
		{"status in('Pending' , 'x')", "a"},
		{"status in (null, 'Pending')", "ad"},
		{"not (status in (null, 'Pending'))", "bc"},
		{"rbacGroupId in (0,12)", "ab"},
		{"isExcluded in (true)", "b"},
		{"computerDnsName in ('FIN-LT-014.corp.example')", "a"},
		// Functions; their text is text, not a pattern.
		{"startswith(computerDnsName,'fin-')", "a"},
		{"startswith(computerDnsName, 'FIN-') eq true", "a"},
		{"startswith(computerDnsName,'fin-') eq false", "bc"},
		{"endswith(computerDnsName,'%')", "b"},
		{"contains(computerDnsName,'_')", "b"},
		{`contains(computerDnsName,'\')`, "c"},
		{"contains(computerDnsName,'''')", "b"},
		{"not contains(computerDnsName,'x')", "bcd"},
		{"Contains(status,'ING')", "a"},
		{"tolower(computerDnsName) eq 'db\\01'", "c"},
		{"toupper(id) in ('A','B')", "ab"},
		{"startswith(tolower(computerDnsName),'db')", "c"},
		// Collections.
		{"machineTags/any(t: t eq 'finance')", "a"},
		// As clients write it who take the collection for a string.
		{"machineTags eq 'finance'", "a"},
		{"'finance' eq machineTags", "a"},
		{"not (machineTags eq 'finance') and status ne null", "bc"},
		{"machineTags ne 'finance' and status ne null", "bc"},
		// Encoded twice, or not at all.
		{"status+eq+'Pending'+and+rbacGroupId+eq+12", "a"},
		{"lastSeen gt 2026-02-10T00:00:00 00:00 and lastSeen lt 2026-02-10T02:00:00 01:00", "a"},
		{"machineTags/any(tag:tag eq 'db' or startswith(tag,'lap'))", "ab"},
		{"MachineTags/ANY(t:t in ('db','x'))", "b"},
		{"machineTags/any()", "ab"},
		{"not machineTags/any()", "cd"},
		{"machineTags/any(t: t eq 'finance') and machineTags/any(u: u eq 'laptop')", "a"},
		{"machineTags/all(t: contains(t,'a'))", "acd"},
		{"machineTags/any(id: id eq 'db')", "b"}, // the member's name hides the property's
	} {
		t.Run(c.filter, func(t *testing.T) {
			q, err := parse(t, "$filter="+url.QueryEscape(c.filter))
			if err != nil {
				t.Fatal(err)
			}
			if got := ids(t, db, q); got != c.want {
				t.Errorf("found %q, want %q; SQL %s %v", got, c.want, q.Where, q.Args)
			}
		})
	}
}

func TestBareGUID(t *testing.T) {
	q, err := parse(t, "$filter=id eq 7f3b0c52-9d7e-4a6b-8c11-2e5f60a4d913")
	if err != nil || q.Where != "m.id = $1" {
		t.Errorf("have %q, %v", q.Where, err)
	}
}

// Queries that clients in the field send, as they stand in their code.
func TestRealQueries(t *testing.T) {
	db := testDB(t)
	for _, c := range []struct{ raw, want string }{
		{"", "abcd"},
		{"&", "abcd"},
		{"%24filter=id%20eq%20%27a%27&%24top=2&", "a"},
		{"$filter=id+eq+'a'&$top=2", "a"},
		{"$filter=status eq 'Pending' and computerDnsName eq 'fin-lt-014.corp.example'", "a"},
		{"$filter=lastSeen gt 2026-02-10T00:00:00Z&$orderby=lastSeen asc&$top=1000&$skip=0", "ab"},
		{"$filter=lastSeen gt 2026-02-10T00:00:00Z&$orderby=lastSeen desc", "ba"},
		{"$orderby=isExcluded desc,computerDnsName,id", "bcad"},
		{"$orderby=ID DESC", "dcba"},
		{"$filter=id eq 'a;b'", ""},
		{"client-request-id=42&foo", "abcd"},
		{"$filter=id eq 'a'  ", "a"},
		{"$format=json", "abcd"},
	} {
		q, err := parse(t, c.raw)
		if err != nil {
			t.Errorf("%s: %v", c.raw, err)
			continue
		}
		if got := ids(t, db, q); got != c.want {
			t.Errorf("%s: found %q, want %q", c.raw, got, c.want)
		}
	}
}

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		raw  string
		want Query
	}{
		{"", Query{Top: MaxTop, Paged: true}},
		{"$top=0&$count=true", Query{Count: true}},
		{"$top=10000&$skip=7&$count=False", Query{Top: 10000, Skip: 7}},
		{"$TOP=3", Query{Top: 3}},
		{"$select=ID, computerdnsname,id", Query{Top: MaxTop, Paged: true, Select: []string{"id", "computerDnsName"}}},
		{"$select=*", Query{Top: MaxTop, Paged: true}},
	} {
		got, err := parse(t, c.raw)
		if err != nil {
			t.Errorf("%s: %v", c.raw, err)
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: %s", c.raw, d)
		}
	}
}

func TestRefusals(t *testing.T) {
	deep := strings.Repeat("(", 33) + "id eq 'a'" + strings.Repeat(")", 33)
	nots := strings.Repeat("not ", 33) + "id eq 'a'"
	wide := "id eq 'a'" + strings.Repeat(" or id eq 'a'", 256)
	long := "id eq '" + strings.Repeat("x", maxText) + "'"
	filter := func(s string) string { return "$filter=" + url.QueryEscape(s) }
	for _, c := range []struct{ raw, want string }{
		{"$stop=5", "Custom query option '$stop' that starts with '$' is not supported."},
		{"$expand=evidence", "Custom query option '$expand' that starts with '$' is not supported."},
		{"$top=20000", "The limit of '10000' for Top query has been exceeded. The value from the incoming request is '20000'."},
		{"$top=-1", "Invalid value '-1' for $top"},
		{"$top=", "The value for OData query '$top' cannot be empty."},
		{"$top=1&$Top=2", "Query option '$top' was specified more than once"},
		{"$skip=99999999999999999999", "Invalid value '99999999999999999999' for $skip"},
		{"$count=yes", "Invalid value 'yes' for $count"},
		{"$select=colour", "Could not find a property named 'colour' in $select."},
		{"$format=xml", "Invalid value 'xml' for $format"},
		{"$orderby=colour", "Could not find a property named 'colour' at position 1 in '$orderby':  >>> colour"},
		{"$orderby=id sideways", "Expected ',' but found 'sideways' at position 4"},
		{"$orderby=machineTags", "Property 'machineTags' is a collection"},
		{"$orderby=id,", "Expected the name of a property but the text ends"},
		{"$orderby=" + strings.Repeat("id,", 16) + "id", "There are more than 16 terms"},
		{"$filter=%zz", "The value of '$filter' has a broken escape"},
		{"$filter", "The value for OData query '$filter' cannot be empty."},
		{filter("id eq 'a' and colour eq 'x'"), "Could not find a property named 'colour' at position 15 in '$filter': id eq 'a' and  >>> colour eq 'x'"},
		{filter("id"), "Expected an operator (eq, ne, gt, ge, lt, le, in) but the text ends at position 3"},
		{filter("id is 'a'"), "Expected an operator (eq, ne, gt, ge, lt, le, in) but found 'is' at position 4"},
		{filter("id eq"), "Expected a property, a value or a function but the text ends"},
		{filter("id eq 'a"), "The string that begins here has no closing quote at position 7"},
		{filter("id eq a"), "Could not find a property named 'a'"},
		{filter("id eq 'a' 'b'"), "Expected 'and', 'or' or the end but found the string 'b'"},
		{filter("id eq 'a')"), "Expected 'and', 'or' or the end but found ')'"},
		{filter("(id eq 'a'"), "Expected ')' but the text ends"},
		{filter("id eq 5"), "Property 'id' is a string: write its value in single quotes"},
		{filter("rbacGroupId eq 1.5"), "Property 'rbacGroupId' is a whole number"},
		{filter("isExcluded eq 'true'"), "Property 'isExcluded' is true or false"},
		{filter("isExcluded gt true"), "This can be compared by eq and ne only"},
		{filter("lastSeen gt null"), "This can be compared by eq and ne only"},
		{filter("lastSeen gt 2026-13-01Z"), "Property 'lastSeen' is a time, as in 2026-02-10T00:00:00Z"},
		{filter("lastSeen gt rbacGroupId"), "Properties 'lastSeen' and 'rbacGroupId' are of different types"},
		{filter("1 eq 1"), "A comparison needs a property"},
		{filter("id eq 'a' eq 'b'"), "Expected 'and', 'or' or the end but found 'eq'"},
		{filter("machineTags gt 'x'"), "Property 'machineTags' is a collection: use machineTags/any(t: t eq 'x')"},
		{filter("id/any(t: t eq 'x')"), "'id' is not a collection"},
		{filter("machineTags/some(t: t eq 'x')"), "Expected 'any' or 'all' but found 'some'"},
		{filter("machineTags/all()"), "Expected a name for each member"},
		{filter("machineTags/any(t: id eq 'x')"), "Only 't' may be used in here, not 'id'"},
		{filter("machineTags/any(t: t/any(u: u eq 'x'))"), "'t' is not a collection"},
		{filter("length(id) gt 3"), "Function 'length' is not known"},
		{filter("startswith(lastSeen,'x')"), "startswith wants a property that is a string"},
		{filter("startswith(id,5)"), "Expected a string in single quotes but found '5'"},
		{filter("startswith(id)"), "Expected ',' but found ')'"},
		{filter("status in ()"), "Expected a property, a value or a function but found ')'"},
		{filter("status in 'x'"), "Expected '(' but found the string 'x'"},
		{filter("machineTags in ('x')"), "'in' wants a single-valued property"},
		{filter("id eq \"a\""), "Unexpected character '\"' at position 7"},
		{filter("id = 'a'"), "Unexpected character '='"},
		{filter("id eq 'a\x00'"), "There is a byte that is not text at position 9"},
		{filter("id eq '\xff'"), "There is a byte that is not text at position 8"},
		{filter(deep), "The expression is nested more than 32 deep"},
		{filter(nots), "The expression is nested more than 32 deep"},
		{filter(wide), "The expression has more than 256 terms"},
		{filter(long), "The value for OData query '$filter' has 8200 bytes, more than the 8192 allowed."},
	} {
		_, err := parse(t, c.raw)
		var e *api.Error
		switch {
		case !errors.As(err, &e) || e.Code != api.ODataError:
			t.Errorf("%s: have %v, want an ODataError", short(c.raw), err)
		case !strings.HasPrefix(e.Message, "The query specified in the URI is not valid. ") || !strings.Contains(e.Message, c.want):
			t.Errorf("%s:\nhave %s\nwant %s", short(c.raw), e.Message, c.want)
		case len(e.Message) > 400 || strings.ContainsAny(e.Message, "\n\x00"):
			t.Errorf("%s: the message is not one short line: %q", short(c.raw), e.Message)
		}
	}
}

func TestSelectNeedsProperties(t *testing.T) {
	if _, err := Parse(url.Values{"$select": {"id"}}, testFields, Options{}); err == nil {
		t.Error("$select without properties was accepted")
	}
}

// FuzzFilter: whatever compiles, SQLite accepts.
func FuzzFilter(f *testing.F) {
	for _, s := range []string{
		"status eq 'Pending' and not (rbacGroupId in (1,2) or lastSeen gt 2018-08-01Z)", "machineTags/any(t: startswith(t,'a') eq false)",
		"contains(tolower(id),'''%_\\')", "isExcluded or true ne isExcluded", "machineTags/all(t:t ne null)", "lastSeen le firstSeen", "not not null eq id",
		"id eq 7f3b0c52-9d7e-4a6b-8c11-2e5f60a4d913", "machineTags/any()", "status in (null)",
	} {
		f.Add(s)
	}
	db := testDB(f)
	f.Fuzz(func(t *testing.T, filter string) {
		q, err := Parse(url.Values{"$filter": {filter}}, testFields, Options{})
		if err != nil {
			if api.CodeOf(err) != api.ODataError {
				t.Fatalf("%q: %v is not an ODataError", filter, err)
			}
			return
		}
		ids(t, db, q)
		// What stands beside it must stay outside: the filter can widen nothing.
		var n int
		if err := db.QueryRow("SELECT count(*) FROM m WHERE 1=0 AND "+q.Where, q.Args...).Scan(&n); err != nil || n != 0 {
			t.Fatalf("%q escapes from its AND: %d rows, %v; %s", filter, n, err, q.Where)
		}
		for i := range q.Args {
			if !strings.Contains(q.Where, fmt.Sprintf("$%d", i+1)) {
				t.Fatalf("%q: parameter %d is not used in %s", filter, i+1, q.Where)
			}
		}
	})
}

// FuzzQuery: no query string panics, and one that is accepted is in its bounds.
func FuzzQuery(f *testing.F) {
	for _, s := range []string{"$top=5&$skip=1&$count=true&$select=id&$orderby=id desc,status", "%24filter=id+eq+%27a%27", "$stop=1", "a=%zz", "$orderby=,", "&&="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		q, err := parse(t, raw)
		if err != nil {
			return
		}
		if q.Top < 0 || q.Top > MaxTop || q.Skip < 0 || len(q.Order) > maxOrder || len(q.Args) > maxTerms {
			t.Errorf("%q: out of bounds: %+v", raw, q)
		}
	})
}

func BenchmarkFilter(b *testing.B) {
	values := url.Values{"$filter": {"status eq 'Pending' and lastSeen gt 2026-02-10T00:00:00Z and startswith(computerDnsName,'fin-')"}}
	for b.Loop() {
		if _, err := Parse(values, testFields, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
