// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"unicode/utf8"

	"staunch/api"
)

// maxBody bounds a request's body, in bytes.
const maxBody = 1 << 20

// fields are the properties of a JSON object by their exact names. A struct
// would not do: encoding/json matches names in any case and lets the last of
// several win, where the API tells "Comment" from "comment".
type fields map[string]json.RawMessage

// object reads the request's body as one JSON object. An empty body is an
// object without properties if that is allowed.
func (q *request) object(emptyAllowed bool) (fields, error) {
	b, err := io.ReadAll(http.MaxBytesReader(q.w, q.Body, maxBody))
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		return nil, api.Errorf(api.RequestTooLarge, "Request body is larger than %d bytes", maxBody)
	case err != nil:
		return nil, api.Errorf(api.InvalidRequestBody, "Request body is incorrect: it did not arrive whole")
	}
	b = bytes.TrimSpace(bytes.TrimPrefix(b, []byte("\uFEFF")))
	if len(b) == 0 && emptyAllowed {
		return fields{}, nil
	}
	f, err := parseObject(b)
	if err != nil {
		return nil, api.Errorf(api.InvalidRequestBody, "Request body is incorrect")
	}
	return f, nil
}

func parseObject(b []byte) (fields, error) {
	if !utf8.Valid(b) {
		return nil, errors.New("not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("not an object")
	}
	f := fields{}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		key, ok := name.(string)
		if _, twice := f[key]; twice || !ok {
			return nil, errors.New("a property stands twice")
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return nil, err
		}
		f[key] = v
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the object")
	}
	return f, nil
}

// texts reads string properties into their variables. One that is not there or
// null leaves "".
func (f fields) texts(into map[string]*string) error {
	for name, s := range into {
		if err := f.values(map[string]any{name: s}); err != nil {
			return err
		}
	}
	return nil
}

// values reads properties of any type into the variables pointed to. One that is
// not there or null leaves its variable as it is.
func (f fields) values(into map[string]any) error {
	for name, v := range into {
		raw, ok := f[name]
		if !ok || string(raw) == "null" {
			continue
		}
		if json.Unmarshal(raw, v) != nil {
			return api.Errorf(api.InvalidRequestBody, "Request body is incorrect")
		}
	}
	return nil
}

func missing(name, value string) error {
	if strings.TrimSpace(value) == "" {
		return api.Errorf(api.MissingRequiredParameter, "Parameter %s is missing", name)
	}
	return nil
}
