// SPDX-License-Identifier: Apache-2.0

package order

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// EnrollToken is what brings a new device to its server: where the server is,
// how to know that it is the right one, and the right to enroll. It travels as
// one line that survives copying, mail and shells:
//
//	staunch1.BASE64URL({"url":"https://…","ca":"64 hex digits","secret":"43 characters"})
//
// Who holds the line can enroll devices until its uses or its date run out, and
// nothing else.
type EnrollToken struct {
	URL    string `json:"url"`          // of the server, without a path
	CA     string `json:"ca,omitempty"` // hex SHA-256 of the DER of the certificate authority to trust; empty: the system's
	Secret string `json:"secret"`       // base64url of 32 random bytes
}

const (
	enrollPrefix = "staunch1."
	// maxEnrollToken is far above any real token, in bytes.
	maxEnrollToken = 4096
)

// String returns the line.
func (t EnrollToken) String() string {
	b, _ := json.Marshal(t) // three strings always encode
	return enrollPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// ParseEnrollToken reads a line that String wrote, with any white space around it.
func ParseEnrollToken(line string) (EnrollToken, error) {
	t, err := parseEnrollToken(strings.TrimSpace(line))
	if err != nil {
		return EnrollToken{}, fmt.Errorf("cannot read enrollment token: %w", err)
	}
	return t, nil
}

func parseEnrollToken(line string) (EnrollToken, error) {
	switch {
	case line == "":
		return EnrollToken{}, errors.New("it is empty")
	case len(line) > maxEnrollToken:
		return EnrollToken{}, fmt.Errorf("%d bytes are more than the %d a token can have", len(line), maxEnrollToken)
	}
	rest, ok := strings.CutPrefix(line, enrollPrefix)
	if !ok {
		if strings.HasPrefix(line, "staunch") && strings.Contains(line, ".") {
			return EnrollToken{}, fmt.Errorf("its version is not one this program knows (%s): use an agent as new as the server",
				strings.TrimSuffix(enrollPrefix, "."))
		}
		return EnrollToken{}, fmt.Errorf("it does not start with %q: copy the whole line that the server printed", enrollPrefix)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(rest)
	if err != nil {
		return EnrollToken{}, errors.New("it is damaged: copy the whole line that the server printed")
	}
	var t EnrollToken
	if err := decodeStrict(b, &t); err != nil {
		return EnrollToken{}, errors.New("it is damaged inside: copy the whole line that the server printed")
	}
	return t, t.validate()
}

func (t EnrollToken) validate() error {
	if err := validServerURL(t.URL); err != nil {
		return err
	}
	if ca, err := hex.DecodeString(t.CA); t.CA != "" && (err != nil || len(ca) != 32) {
		return errors.New("the fingerprint of the certificate authority is not 64 hex digits")
	}
	_, err := t.SecretBytes()
	return err
}

// SecretBytes returns the 32 bytes of the secret.
func (t EnrollToken) SecretBytes() ([32]byte, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(t.Secret)
	if err != nil || len(b) != 32 {
		return [32]byte{}, errors.New("the secret is not base64url of 32 bytes")
	}
	return [32]byte(b), nil
}

// validServerURL accepts https, and http to this machine alone: over anything
// else the secret would be read on the way.
func validServerURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("the server's URL %q is not of the form https://HOST[:PORT]", s)
	}
	switch {
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && isLoopback(u.Hostname()):
		return nil
	}
	return fmt.Errorf("the server's URL %q does not begin with https://", s)
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
