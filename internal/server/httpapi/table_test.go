// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"staunch/internal/order"
	"staunch/internal/server/auth"
)

// The rows of the contract's table for StopAndQuarantineFile, one test each.
// Rows 4, 9 and 14 need people, device groups and policies; of those only what
// a token can show is here.
func TestStopAndQuarantineFile(t *testing.T) {
	k := newKit(t)
	machine := k.enroll("fin-lt-014.corp.example")
	mac := k.enroll("mac-01.corp.example", func(f *order.Facts) { f.OSPlatform, f.Can = "macOS", nil })
	old := k.enroll("old-01.corp.example", func(f *order.Facts) { f.AgentVersion, f.Can = "0.0.9", nil })
	clean := k.enroll("clean-01.corp.example")
	k.set(func() { k.answers[clean] = order.Answer{Has: "no"} })
	token := k.token("soc", auth.MachineStopAndQuarantine)
	readOnly := k.token("reader", auth.MachineReadWriteAll)
	good := `{"Comment":"Case 4711","Sha1":"` + testSHA1 + `"}`
	other := `{"Comment":"Case 4711","Sha1":"` + strings.Repeat("ab", 20) + `"}`

	type row struct {
		name, machine, token, body string
		status                     int
		code, message              string // message: "" any, else exact
	}
	bad := func(name, body string) row {
		return row{name, machine, token, body, 400, "InvalidRequestBody", "Request body is incorrect"}
	}
	lacks := func(name, parameter, body string) row {
		return row{name, machine, token, body, 400, "MissingRequiredParameter", "Parameter " + parameter + " is missing"}
	}
	wrongHash := func(name, value string) row {
		return row{name, machine, token, `{"Comment":"c","Sha1":"` + value + `"}`, 400, "InvalidHashValue", "Hash value " + value + " is invalid."}
	}
	for _, c := range []row{
		{"1 no token", machine, "", good, 401, "Unauthorized", ""},
		{"1 garbled token", machine, "eyJ.x.y", good, 401, "Unauthorized", ""},
		{"3 app token lacks the role", machine, readOnly, good, 403, "Forbidden", "The application does not have any of the required application permissions (Machine.StopAndQuarantine) to access the resource."},
		{"3 before the body is looked at", machine, readOnly, `{`, 403, "Forbidden", ""},
		bad("5 body missing", ""),
		bad("5 body only blanks", " \n"),
		bad("5 not JSON", "Comment=c"),
		bad("5 cut off", `{"Comment":"c"`),
		bad("5 not an object", `["Comment"]`),
		bad("5 null", `null`),
		bad("5 two objects", good+good),
		bad("5 Comment of the wrong type", `{"Comment":7,"Sha1":"`+testSHA1+`"}`),
		bad("5 Sha1 of the wrong type", `{"Comment":"c","Sha1":["`+testSHA1+`"]}`),
		bad("5 ExternalId of the wrong type", `{"Comment":"c","ExternalId":{},"Sha1":"`+testSHA1+`"}`),
		bad("5 duplicate keys", `{"Comment":"c","Comment":"d","Sha1":"`+testSHA1+`"}`),
		bad("5 not UTF-8", "{\"Comment\":\"\xff\",\"Sha1\":\""+testSHA1+"\"}"),
		bad("5 deep JSON", `{"Comment":`+strings.Repeat("[", 100_000)+strings.Repeat("]", 100_000)+`}`),
		lacks("6 Comment absent", "Comment", `{"Sha1":"`+testSHA1+`"}`),
		lacks("6 Comment null", "Comment", `{"Comment":null,"Sha1":"`+testSHA1+`"}`),
		lacks("6 Comment empty", "Comment", `{"Comment":"","Sha1":"`+testSHA1+`"}`),
		lacks("6 Comment whitespace", "Comment", `{"Comment":" \t ","Sha1":"`+testSHA1+`"}`),
		lacks("6 Comment spelt in another case", "Comment", `{"comment":"c","Sha1":"`+testSHA1+`"}`),
		lacks("6 Sha1 absent", "Sha1", `{"Comment":"c"}`),
		lacks("6 Sha1 empty", "Sha1", `{"Comment":"c","Sha1":""}`),
		lacks("6 Sha1 spelt in another case", "Sha1", `{"Comment":"c","SHA1":"`+testSHA1+`"}`),
		lacks("6 both absent", "Comment", `{}`),
		wrongHash("7 SHA-256 in Sha1", testSHA256),
		wrongHash("7 MD5", strings.Repeat("0", 32)),
		wrongHash("7 not hex", strings.Repeat("g", 40)),
		wrongHash("7 blanks around", " "+testSHA1),
		{"7 Sha256 that is none", machine, token, `{"Comment":"c","Sha256":"` + testSHA1 + `"}`, 400, "InvalidHashValue", "Hash value " + testSHA1 + " is invalid."},
		{"5.4 Comment longer than 4,096 characters", machine, token, `{"Comment":"` + strings.Repeat("ä", 4097) + `","Sha1":"` + testSHA1 + `"}`, 400, "InvalidInput", ""},
		{"5.4 NUL in the comment", machine, token, `{"Comment":"a\u0000b","Sha1":"` + testSHA1 + `"}`, 400, "InvalidInput", ""},
		{"5.4 body larger than 1 MiB", machine, token, `{"Comment":"` + strings.Repeat("x", 1<<20) + `"}`, 413, "RequestEntityTooLarge", "Request body is larger than 1048576 bytes"},
		{"8 machine unknown", strings.Repeat("0", 40), token, good, 404, "ResourceNotFound", "Machine " + strings.Repeat("0", 40) + " was not found"},
		{"8 machine id of the wrong shape", "elastic-connector-test", token, good, 404, "ResourceNotFound", "Machine elastic-connector-test was not found"},
		{"10 OS cannot do it", mac, token, good, 400, "OsPlatformNotSupported", "OS Platform macOS isn't supported for this action."},
		{"11 agent too old", old, token, good, 400, "ClientVersionNotSupported", "StopAndQuarantineFile is supported on client version 0.1.0 and above."},
		{"12 file never observed on that machine", clean, token, good, 404, "ResourceNotFound", "Sha1 " + testSHA1 + " was not found in machine " + clean},
		{"15 OK", machine, token, good, 201, "", ""},
		{"13 already Pending", machine, token, good, 400, "ActiveRequestAlreadyExists", "Action is already in progress"},
		{"13 already Pending, hash in upper case", machine, token, strings.ToUpper(testSHA1[:0]) + `{"Comment":"c","Sha1":"` + strings.ToUpper(testSHA1) + `"}`, 400, "ActiveRequestAlreadyExists", "Action is already in progress"},
		{"15 another hash at the same time", machine, token, other, 201, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, body := k.raw("POST", "/api/machines/"+c.machine+"/StopAndQuarantineFile", c.token, c.body, "Content-Type", "application/json")
			if resp.StatusCode != c.status {
				t.Fatalf("status %d, want %d: %s", resp.StatusCode, c.status, body)
			}
			if ct := resp.Header.Get("Content-Type"); ct != "application/json" {
				t.Errorf("Content-Type %q", ct)
			}
			if c.code != "" {
				checkError(t, body, c.code, c.message)
			}
		})
	}

	t.Run("2 over the rate limit", func(t *testing.T) {
		k.set(func() {
			k.now, k.limit = time.Date(2026, 2, 11, 8, 0, 0, 0, time.UTC), Limit{PerMinute: 1, PerHour: 10}
		})
		defer k.set(func() { k.now, k.limit = time.Time{}, Limit{} })
		k.raw("POST", "/api/machines/x/StopAndQuarantineFile", token, good)
		resp, body := k.raw("POST", "/api/v1.0/machines/y/stopAndQuarantineFile", token, good)
		if resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "60" {
			t.Errorf("status %d, Retry-After %q: %s", resp.StatusCode, resp.Header.Get("Retry-After"), body)
		}
		checkError(t, body, "TooManyRequests", "")
	})
	t.Run("1 says how to authenticate", func(t *testing.T) {
		resp, _ := k.raw("POST", "/api/machines/x/StopAndQuarantineFile", "", good)
		if got := resp.Header.Get("WWW-Authenticate"); got != `Bearer error="invalid_token"` {
			t.Errorf("WWW-Authenticate %q", got)
		}
	})
}

var guidForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// checkError looks at an error as the clients do: some parse it, some search its text.
func checkError(t *testing.T, body, code, message string) {
	t.Helper()
	var e struct {
		Error struct{ Code, Message, Target string }
	}
	if err := json.Unmarshal([]byte(body), &e); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	if !strings.HasPrefix(body, `{"error":{"code":"`+code+`","message":"`) {
		t.Errorf("not the compact envelope of %s: %s", code, body)
	}
	if message != "" && e.Error.Message != message {
		t.Errorf("message %q, want %q", e.Error.Message, message)
	}
	if e.Error.Message == "" || !guidForm.MatchString(e.Error.Target) {
		t.Errorf("message %q, target %q", e.Error.Message, e.Error.Target)
	}
	if message == "Action is already in progress" && !strings.Contains(body, `"message":"Action is already in progress"`) {
		t.Errorf("a client searches the raw text: %s", body)
	}
}
