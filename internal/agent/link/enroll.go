// SPDX-License-Identifier: Apache-2.0

package link

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"staunch/api"
	"staunch/internal/order"
)

const (
	enrollTime = time.Minute
	maxEnroll  = 1 << 20 // bytes of the answer
)

// Enroll offers the device's public key to the server the token names, and
// returns what the device must keep: the answer, and the certificate of the
// authority that the token pins, in PEM (nil when it pins none and the system's
// authorities are trusted). Nothing is sent to a server that does not show a
// chain up to that authority for the token's host.
//
// A refusal by the server is an api.Error.
func Enroll(ctx context.Context, t order.EnrollToken, key ed25519.PrivateKey, facts order.Facts) (api.EnrollResponse, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, enrollTime)
	defer cancel()
	answer, ca, err := enroll(ctx, t, key, facts)
	if err != nil {
		return api.EnrollResponse{}, nil, fmt.Errorf("cannot enroll with %s: %w", t.URL, err)
	}
	return answer, ca, nil
}

func enroll(ctx context.Context, t order.EnrollToken, key ed25519.PrivateKey, facts order.Facts) (a api.EnrollResponse, ca []byte, err error) {
	u, err := url.Parse(t.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return a, nil, errors.New("the token's address is not an https URL")
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	var found *x509.Certificate
	if t.CA != "" {
		pin, err := hex.DecodeString(t.CA)
		if err != nil || len(pin) != sha256.Size {
			return a, nil, errors.New("the token's authority is not a SHA-256")
		}
		conf.InsecureSkipVerify = true // verified against the pin instead
		conf.VerifyConnection = func(cs tls.ConnectionState) error {
			found, err = pinned(cs, pin, u.Hostname())
			return err
		}
	}
	tr := transport(conf)
	defer tr.CloseIdleConnections()
	if a, err = post(ctx, &http.Client{Transport: tr, CheckRedirect: noRedirect}, t, key, facts); err != nil {
		return a, nil, err
	}
	if found != nil {
		ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: found.Raw})
	}
	return a, ca, nil
}

// noRedirect keeps the token's secret where the token says.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// pinned finds the pinned authority among the certificates shown and verifies
// the server's own under it.
func pinned(cs tls.ConnectionState, pin []byte, host string) (*x509.Certificate, error) {
	var ca *x509.Certificate
	between := x509.NewCertPool()
	for _, c := range cs.PeerCertificates {
		if sum := sha256.Sum256(c.Raw); bytes.Equal(sum[:], pin) {
			ca = c
		} else {
			between.AddCert(c)
		}
	}
	if ca == nil {
		return nil, errors.New("this is not the server the token was made for: it does not show the pinned certificate authority (an inspecting proxy on the way, a new certificate, or an impostor)")
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	if _, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: host, Roots: roots, Intermediates: between}); err != nil {
		return nil, fmt.Errorf("the server's certificate is not good for %s: %w", host, err)
	}
	return ca, nil
}

func post(ctx context.Context, c *http.Client, t order.EnrollToken, key ed25519.PrivateKey, facts order.Facts) (a api.EnrollResponse, err error) {
	f, err := json.Marshal(facts)
	if err != nil {
		return a, fmt.Errorf("cannot encode facts: %w", err)
	}
	body, err := json.Marshal(api.EnrollRequest{Secret: t.Secret, PublicKey: order.FormatKey(key.Public().(ed25519.PublicKey)), Facts: f})
	if err != nil {
		return a, fmt.Errorf("cannot encode request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(t.URL, "/")+"/v1/enroll", bytes.NewReader(body))
	if err != nil {
		return a, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		return a, err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end or given up
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxEnroll))
	if err != nil {
		return a, fmt.Errorf("cannot read the answer: %w", err)
	}
	if resp.StatusCode/100 != 2 {
		var e api.ErrorBody
		if json.Unmarshal(raw, &e) == nil && e.Error != nil {
			return a, e.Error
		}
		return a, fmt.Errorf("the server answered %s", resp.Status)
	}
	if err := json.Unmarshal(raw, &a); err != nil {
		return a, fmt.Errorf("cannot read the answer: %w", err)
	}
	return a, checkAnswer(a)
}

// checkAnswer refuses an answer that a device could not live with.
func checkAnswer(a api.EnrollResponse) error {
	if !order.ValidDevice(a.DeviceID) {
		return fmt.Errorf("the server's answer names the device %q, which is not 40 hex digits", a.DeviceID)
	}
	if len(a.OrderKeys) == 0 {
		return errors.New("the server's answer has no order key")
	}
	for _, k := range a.OrderKeys {
		if _, err := order.ParseKey(k); err != nil {
			return err
		}
	}
	return nil
}

// message is the text of an API error body, "" for anything else.
func message(body []byte) string {
	var e api.ErrorBody
	if json.Unmarshal(body, &e) != nil || e.Error == nil {
		return ""
	}
	return e.Error.Message
}
