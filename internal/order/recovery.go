// SPDX-License-Identifier: Apache-2.0

package order

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// A recovery code is a signed restore order that travels by hand, to a device
// that cannot reach its server: because what was taken from it is its network
// driver, say. It is good for one device, one item, one time, until its date,
// like any other order. As one line:
//
//	staunch-recovery1.BASE64URL(envelope in JSON)
const recoveryPrefix = "staunch-recovery1."

// maxRecoveryCode is far above any real code, in bytes.
const maxRecoveryCode = 16 << 10

// RecoveryCode writes a signed restore order as a line.
func RecoveryCode(e Envelope) (string, error) {
	b, err := json.Marshal(e)
	if err != nil {
		return "", fmt.Errorf("cannot write recovery code: %w", err)
	}
	return recoveryPrefix + base64.RawURLEncoding.EncodeToString(b), nil
}

// ParseRecoveryCode reads what RecoveryCode wrote, with any white space in it:
// long lines are broken on their way. Nothing is verified yet.
func ParseRecoveryCode(line string) (Envelope, error) {
	line = strings.Join(strings.Fields(line), "")
	rest, ok := strings.CutPrefix(line, recoveryPrefix)
	if !ok || len(line) > maxRecoveryCode {
		return Envelope{}, errors.New("cannot read recovery code: it begins with " + recoveryPrefix + " and is one line of letters and digits")
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(rest)
	if err != nil {
		return Envelope{}, errors.New("cannot read recovery code: a part of it is missing or mistyped")
	}
	var e Envelope
	if err := decodeStrict(b, &e); err != nil {
		return Envelope{}, errors.New("cannot read recovery code: a part of it is missing or mistyped")
	}
	return e, nil
}
