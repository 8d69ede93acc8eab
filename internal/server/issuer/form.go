// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// maxForm bounds the body of a token request, in bytes.
const maxForm = 64 << 10

// form is a token request's body.
type form struct {
	values    map[string]string
	malformed map[string]bool // fields that could not be read, or came twice with two values
}

// readForm reads the body as a form whatever the method and the Content-Type:
// shipped clients send it with GET and without any type, where the standard
// library's ParseForm would read nothing.
func readForm(w http.ResponseWriter, r *http.Request) (form, *refusal) {
	body, ref := readBody(w, r)
	if ref != nil {
		return form{}, ref
	}
	return parseForm(body), nil
}

func readBody(w http.ResponseWriter, r *http.Request) (string, *refusal) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return "", &refusal{status: http.StatusRequestEntityTooLarge, code: "invalid_request", number: 90013,
			text: "Invalid input received from the user: the request body is larger than 65536 bytes."}
	case err != nil:
		return "", invalidRequest(90013, "Invalid input received from the user: the request body could not be read to its end.")
	}
	return string(bytes.TrimSpace(b)), nil
}

// parseForm is tolerant of fields it does not know, strict on those it is asked
// for. Unlike url.ParseQuery it takes a semicolon for a character.
func parseForm(body string) form {
	f := form{values: map[string]string{}, malformed: map[string]bool{}}
	for pair := range strings.SplitSeq(body, "&") {
		rawKey, rawValue, _ := strings.Cut(pair, "=")
		key, err := url.QueryUnescape(rawKey)
		if err != nil || key == "" {
			continue
		}
		value, err := url.QueryUnescape(rawValue)
		if was, twice := f.values[key]; err != nil || twice && was != value {
			f.malformed[key] = true
			continue
		}
		f.values[key] = value
	}
	return f
}

// get returns the fields' values, or what is wrong with the first bad one. A
// field that is not there is "".
func (f form) get(keys ...string) ([]string, *refusal) {
	values := make([]string, len(keys))
	for i, k := range keys {
		if f.malformed[k] {
			return nil, invalidRequest(90014, "The parameter '%s' is sent twice with two values, or is not form-encoded.", k)
		}
		values[i] = f.values[k]
	}
	return values, nil
}
