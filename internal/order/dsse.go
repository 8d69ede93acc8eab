// SPDX-License-Identifier: Apache-2.0

package order

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// Envelope is a DSSE envelope (Dead Simple Signing Envelope, secure-systems-lab,
// protocol version 1): a payload, its type, and one signature or more over both.
//
//	{"payloadType":"application/vnd.staunch.order.v1+json",
//	 "payload":"base64","signatures":[{"keyid":"hex","sig":"base64"}]}
//
// There is no algorithm field: every signature is Ed25519.
type Envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     []byte      `json:"payload"`
	Signatures  []Signature `json:"signatures"`
}

// Signature is one signer's.
type Signature struct {
	KeyID string `json:"keyid"`
	Sig   []byte `json:"sig"`
}

// MaxEnvelope bounds an encoded envelope, in bytes. A receipt of ten thousand
// copies fits; what is larger is refused unread.
const MaxEnvelope = 8 << 20

// ErrSignature says that no accepted key signed the envelope.
var ErrSignature = errors.New("no valid signature by a known key")

// KeyID names a public key: the first 16 bytes, in hex, of the SHA-256 of it.
func KeyID(pub ed25519.PublicKey) string {
	sum := sha256.Sum256(pub)
	return hex.EncodeToString(sum[:16])
}

// Digest is the SHA-256 of the payload: what a receipt says of its order.
func (e Envelope) Digest() [sha256.Size]byte { return sha256.Sum256(e.Payload) }

// pae is DSSE's pre-authentication encoding.
func pae(payloadType string, payload []byte) []byte {
	b := make([]byte, 0, len(payload)+len(payloadType)+40)
	b = append(b, "DSSEv1 "...)
	b = strconv.AppendInt(b, int64(len(payloadType)), 10)
	b = append(append(append(b, ' '), payloadType...), ' ')
	b = strconv.AppendInt(b, int64(len(payload)), 10)
	return append(append(b, ' '), payload...)
}

// seal encodes v and signs it.
func seal(payloadType string, v any, key ed25519.PrivateKey) (Envelope, error) {
	payload, err := json.Marshal(v)
	if err != nil {
		return Envelope{}, fmt.Errorf("cannot encode %s: %w", payloadType, err)
	}
	return Envelope{
		PayloadType: payloadType,
		Payload:     payload,
		Signatures: []Signature{{
			KeyID: KeyID(key.Public().(ed25519.PublicKey)),
			Sig:   ed25519.Sign(key, pae(payloadType, payload)),
		}},
	}, nil
}

// open verifies that one of keys signed e as payloadType and decodes the
// payload, whose every field must be known, into v.
func open(e Envelope, payloadType string, v any, keys ...ed25519.PublicKey) error {
	if e.PayloadType != payloadType {
		return fmt.Errorf("payload type is %q, want %q", e.PayloadType, payloadType)
	}
	if !signedBy(e, keys) {
		return ErrSignature
	}
	return decodeStrict(e.Payload, v)
}

func signedBy(e Envelope, keys []ed25519.PublicKey) bool {
	if len(e.Signatures) > 8 {
		return false
	}
	msg := pae(e.PayloadType, e.Payload)
	for _, s := range e.Signatures {
		for _, k := range keys {
			if s.KeyID == KeyID(k) && ed25519.Verify(k, msg, s.Sig) {
				return true
			}
		}
	}
	return false
}

// decodeStrict decodes exactly one JSON value without unknown fields.
func decodeStrict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more than one JSON value")
	}
	return nil
}

// ParseKey reads a public key as base64 of its 32 bytes.
func ParseKey(s string) (ed25519.PublicKey, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(b) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("cannot read key: want base64 of %d bytes", ed25519.PublicKeySize)
	}
	return b, nil
}

// FormatKey writes what ParseKey reads.
func FormatKey(k ed25519.PublicKey) string { return base64.StdEncoding.EncodeToString(k) }
