// SPDX-License-Identifier: Apache-2.0

package people

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"

	"staunch/api"
)

// Bounds of a password, in characters and bytes. Long ones are welcome; nothing
// is asked of what they are made of (NIST SP 800-63B, 3.1.1.2).
const (
	minPassword = 8
	maxPassword = 1024
)

// params of argon2id (RFC 9106). They are kept with each digest, so that they
// can be raised without anybody's password ending.
type params struct {
	memory  uint32 // KiB
	passes  uint32
	threads uint8
}

// strength is for new digests: OWASP's second choice, which lets a server of 1
// GiB check a dozen at once.
var strength = params{memory: 19 << 10, passes: 2, threads: 1}

// Bounds of what a digest may ask for: whoever writes the database must not be
// able to have one check eat the machine.
const (
	maxMemory = 256 << 10 // KiB
	maxPasses = 16
)

const (
	saltSize   = 16
	digestSize = 32
)

// digest makes the PHC string of a password:
//
//	$argon2id$v=19$m=19456,t=2,p=1$SALT$DIGEST     base64 without padding
func digest(password string) string {
	salt := make([]byte, saltSize)
	rand.Read(salt)
	return encode(strength, salt, strength.of(password, salt, digestSize))
}

func (p params) of(password string, salt []byte, size uint32) []byte {
	return argon2.IDKey([]byte(password), salt, p.passes, p.memory, p.threads, size)
}

func encode(p params, salt, sum []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.memory, p.passes, p.threads, b64.EncodeToString(salt), b64.EncodeToString(sum))
}

var errDigest = errors.New("the kept password digest is damaged: set a new password")

func decode(phc string) (p params, salt, sum []byte, err error) {
	parts := strings.Split(phc, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return p, nil, nil, errDigest
	}
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &p.memory, &p.passes, &p.threads); err != nil || n != 3 {
		return p, nil, nil, errDigest
	}
	salt, errSalt := base64.RawStdEncoding.Strict().DecodeString(parts[4])
	sum, errSum := base64.RawStdEncoding.Strict().DecodeString(parts[5])
	switch {
	case errSalt != nil || errSum != nil, len(salt) < 8 || len(salt) > 64, len(sum) < 16 || len(sum) > 64:
		return p, nil, nil, errDigest
	case p.threads < 1, p.passes < 1 || p.passes > maxPasses, p.memory < 8*uint32(p.threads) || p.memory > maxMemory:
		return p, nil, nil, errDigest
	case encode(p, salt, sum) != phc: // one way to write it
		return p, nil, nil, errDigest
	}
	return p, salt, sum, nil
}

// matches reports whether the password is the digest's, and whether the digest
// should be made anew with today's strength.
func matches(phc, password string) (ok, old bool, err error) {
	p, salt, sum, err := decode(phc)
	if err != nil {
		return false, false, err
	}
	got := p.of(password, salt, uint32(len(sum)))
	return subtle.ConstantTimeCompare(got, sum) == 1, p != strength, nil
}

func checkPassword(upn, password string) error {
	switch n := utf8.RuneCountInString(password); {
	case n == 0:
		return api.Errorf(api.MissingRequiredParameter, "The password is empty")
	case n < minPassword:
		return api.Errorf(api.InvalidInput, "The password has %d characters, at least %d are needed", n, minPassword)
	case len(password) > maxPassword:
		return api.Errorf(api.InvalidInput, "The password has %d bytes, %d are allowed", len(password), maxPassword)
	case !utf8.ValidString(password), strings.ContainsRune(password, 0):
		return api.Errorf(api.InvalidInput, "The password is not text in UTF-8")
	}
	user, _, _ := strings.Cut(upn, "@")
	if folded := strings.ToLower(password); folded == upn || folded == user {
		return api.Errorf(api.InvalidInput, "The password is the user's own name: choose another one")
	}
	return nil
}
