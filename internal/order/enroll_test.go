// SPDX-License-Identifier: Apache-2.0

package order

import (
	"encoding/base64"
	"strings"
	"testing"
)

func validEnrollToken() EnrollToken {
	return EnrollToken{
		URL:    "https://staunch.example:8443",
		CA:     strings.Repeat("ab", 32),
		Secret: base64.RawURLEncoding.EncodeToString(make([]byte, 32)),
	}
}

func TestEnrollTokenRoundTrip(t *testing.T) {
	for _, want := range []EnrollToken{
		validEnrollToken(),
		{URL: "http://127.0.0.1:9000", Secret: validEnrollToken().Secret},
		{URL: "http://[::1]:9000", Secret: validEnrollToken().Secret},
	} {
		line := want.String()
		if strings.ContainsAny(line, " \n\"'$\\") {
			t.Errorf("token %q holds a character that a shell would touch", line)
		}
		got, err := ParseEnrollToken("  " + line + "\r\n")
		if err != nil || got != want {
			t.Errorf("ParseEnrollToken(%q) = %+v, %v, want %+v", line, got, err, want)
		}
	}
}

func TestParseEnrollTokenRefuses(t *testing.T) {
	with := func(change func(*EnrollToken)) string {
		tok := validEnrollToken()
		change(&tok)
		return tok.String()
	}
	raw := func(json string) string { return enrollPrefix + base64.RawURLEncoding.EncodeToString([]byte(json)) }
	good := validEnrollToken().String()

	for name, c := range map[string]struct{ line, want string }{
		"empty":          {" \n", "it is empty"},
		"something else": {"eyJhbGciOi", `does not start with "staunch1."`},
		"next version":   {"staunch2.abc", "use an agent as new as the server"},
		"cut off":        {good[:len(good)-7], "copy the whole line"},
		"odd character":  {good + "*", "it is damaged"},
		"two joined":     {good + good, "it is damaged"},
		"too long":       {enrollPrefix + strings.Repeat("a", maxEnrollToken), "are more than the 4096"},
		"not an object":  {raw(`[1]`), "damaged inside"},
		"unknown field":  {raw(`{"url":"https://a","secret":"","admin":true}`), "damaged inside"},
		"no URL":         {with(func(e *EnrollToken) { e.URL = "" }), `URL "" is not of the form`},
		"plain http":     {with(func(e *EnrollToken) { e.URL = "http://staunch.example" }), "does not begin with https://"},
		"other scheme":   {with(func(e *EnrollToken) { e.URL = "file://a/etc" }), "does not begin with https://"},
		"user in URL":    {with(func(e *EnrollToken) { e.URL = "https://u:p@a" }), "is not of the form"},
		"short CA":       {with(func(e *EnrollToken) { e.CA = "abcd" }), "not 64 hex digits"},
		"short secret":   {with(func(e *EnrollToken) { e.Secret = "AAAA" }), "not base64url of 32 bytes"},
		"no secret":      {with(func(e *EnrollToken) { e.Secret = "" }), "not base64url of 32 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseEnrollToken(c.line)
			if err == nil || !strings.HasPrefix(err.Error(), "cannot read enrollment token: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("ParseEnrollToken = %+v, %v, want an error with %q", got, err, c.want)
			}
		})
	}
}

// What parses is whole, and parses again to the same from what it prints.
func FuzzParseEnrollToken(f *testing.F) {
	f.Add(validEnrollToken().String())
	f.Add("staunch1.e30")
	f.Add("staunch1.")
	f.Add(strings.Repeat("staunch1.", 3))
	f.Fuzz(func(t *testing.T, line string) {
		tok, err := ParseEnrollToken(line)
		if err != nil {
			return
		}
		if _, err := tok.SecretBytes(); err != nil {
			t.Errorf("parsed a token without a secret: %v", err)
		}
		again, err := ParseEnrollToken(tok.String())
		if err != nil || again != tok {
			t.Errorf("ParseEnrollToken(%q) = %+v, %v, want %+v", tok.String(), again, err, tok)
		}
	})
}
