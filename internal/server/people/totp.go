// SPDX-License-Identifier: Apache-2.0

package people

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // what RFC 6238 and every authenticator app use
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// Time-based one-time passwords, RFC 6238: six digits, SHA-1, 30 s.
const (
	totpStep   = 30 // seconds
	totpSecret = 20 // bytes
	totpSkew   = 1  // steps that the two clocks may be apart
)

func newTOTP() []byte {
	b := make([]byte, totpSecret)
	rand.Read(b)
	return b
}

// totpURI is what authenticator apps read, as text or as a QR code.
func totpURI(upn string, secret []byte) string {
	q := url.Values{"secret": {base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(secret)}, "issuer": {"Staunch"}}
	return "otpauth://totp/" + url.PathEscape("Staunch:"+upn) + "?" + q.Encode()
}

// totpCode is the code of one time step.
func totpCode(secret []byte, step int64) string {
	var counter [8]byte
	binary.BigEndian.PutUint64(counter[:], uint64(step)) //nolint:gosec // times are after 1970
	mac := hmac.New(sha1.New, secret)
	mac.Write(counter[:])
	sum := mac.Sum(nil)
	at := sum[len(sum)-1] & 0xf
	n := binary.BigEndian.Uint32(sum[at:at+4]) & 0x7fffffff
	return fmt.Sprintf("%06d", n%1_000_000)
}

// totpAt returns the time step of which code is the code at now, if that is a
// later one than the last that was used: a code that somebody saw is of no use.
func totpAt(secret []byte, code string, last int64, now time.Time) (step int64, ok bool) {
	code = strings.ReplaceAll(strings.TrimSpace(code), " ", "")
	current := now.Unix() / totpStep
	for s := current - totpSkew; s <= current+totpSkew; s++ {
		if subtle.ConstantTimeCompare([]byte(totpCode(secret, s)), []byte(code)) == 1 && s > last {
			step, ok = s, true
		}
	}
	return step, ok
}
