// SPDX-License-Identifier: Apache-2.0

package order

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"time"

	"staunch/internal/filehash"
)

// Message is one message of the link, in either direction: a JSON object with
// exactly one of its fields set. Each travels as one WebSocket text message of
// at most MaxMessage bytes. Unknown fields are an error: server and agent agree
// on a version in the challenge.
//
//	device                         server
//	  │  GET /v1/link (WebSocket)     │
//	  │ ◄──────────────── challenge ──│
//	  │── hello ────────────────────► │  signature over the challenge
//	  │ ◄────────────────── welcome ──│
//	  │ ◄────────────────────order  ──│  every pending one, then as they come
//	  │── ack ──────────────────────► │  journalled: InProgress
//	  │── receipt ──────────────────► │
//	  │ ◄────────────── receiptKept ──│  now the device may forget it
//	  │ ◄────────────────────── ask ──│  have you this file?
//	  │── answer ───────────────────► │
//	  │── facts, inventory ─────────► │
//	  │ ◄───────────────────── block──│  the signed list of standing rules
//	  │── blockWant ────────────────► │  the parts of it that are missing; none: it is in force
//	  │ ◄───────────────── blockPart──│
//	  │── sightings ────────────────► │  files first seen, executed or refused
//	  │ ◄────────────── sightingsKept─│  now the device may forget them
type Message struct {
	Challenge   *Challenge   `json:"challenge,omitempty"`
	Hello       *Hello       `json:"hello,omitempty"`
	Welcome     *Welcome     `json:"welcome,omitempty"`
	Order       *Envelope    `json:"order,omitempty"`
	Ack         *Ack         `json:"ack,omitempty"`
	Receipt     *ReceiptOf   `json:"receipt,omitempty"`
	ReceiptKept *Ack         `json:"receiptKept,omitempty"`
	Ask         *Ask         `json:"ask,omitempty"`
	Answer      *Answer      `json:"answer,omitempty"`
	Facts       *Facts       `json:"facts,omitempty"`
	Inventory   *Inventory   `json:"inventory,omitempty"`
	Block       *Indicators  `json:"block,omitempty"`
	BlockWant   *RulesWanted `json:"blockWant,omitempty"`
	BlockPart   *RulesPart   `json:"blockPart,omitempty"`
	Bye         *Bye         `json:"bye,omitempty"`
	Sightings   *SightingsOf `json:"sightings,omitempty"`

	SightingsKept *SightingsKept `json:"sightingsKept,omitempty"`
}

// LinkVersion is the version of the messages, sent in the challenge.
const LinkVersion = 1

// MaxMessage bounds an encoded message, in bytes.
const MaxMessage = MaxEnvelope + 64<<10

// Challenge is the server's first word.
type Challenge struct {
	Version int       `json:"version"`
	Nonce   []byte    `json:"nonce"` // 32 random bytes
	Server  string    `json:"server"`
	Time    time.Time `json:"time"` // the server's clock, so that a device notices that its own is wrong
}

// Hello is the device's answer to a challenge.
type Hello struct {
	Device    string `json:"device"`
	Signature []byte `json:"signature"` // Ed25519 over ChallengeText
	Facts     Facts  `json:"facts"`
}

// ChallengeText is what a device signs to prove that it holds its key: no text
// it ever signs elsewhere begins so.
func ChallengeText(device string, c Challenge) []byte {
	return fmt.Appendf(nil, "staunch link v%d\n%s\n%s\n%x", c.Version, device, c.Server, c.Nonce)
}

// Proves reports whether h answers c with the key pub.
func (h Hello) Proves(c Challenge, pub ed25519.PublicKey) bool {
	return len(pub) == ed25519.PublicKeySize && ed25519.Verify(pub, ChallengeText(h.Device, c), h.Signature)
}

// Welcome opens the link for orders.
type Welcome struct {
	// OrderKeys are the keys that sign orders now, as FormatKey writes them,
	// each signed by one the device already trusts. Empty: no change.
	OrderKeys []string `json:"orderKeys,omitempty"`
}

// Ack names an order.
type Ack struct {
	Order string `json:"order"`
	// Refused is why the device will not carry the order out, when it could
	// not even be accepted (forged, foreign, expired); such an order has no receipt.
	Refused string `json:"refused,omitempty"`
}

// ReceiptOf carries a receipt's envelope with the order's id in the clear, so
// that it can be found before it is verified.
type ReceiptOf struct {
	Order    string   `json:"order"`
	Envelope Envelope `json:"envelope"`
}

// Ask asks whether the device holds or runs a file.
type Ask struct {
	ID   string        `json:"id"`
	File filehash.Hash `json:"file"`
}

// Answer answers an Ask.
type Answer struct {
	ID       string `json:"id"`
	Has      string `json:"has"` // yes, no (surely not), unknown
	Paths    []Text `json:"paths,omitempty"`
	Running  int    `json:"running,omitempty"` // processes executing it
	SHA1     string `json:"sha1,omitempty"`
	SHA256   string `json:"sha256,omitempty"`
	Size     int64  `json:"size,omitempty"`
	Progress string `json:"progress,omitempty"` // why unknown
}

// Facts is what a device says of itself.
type Facts struct {
	Hostname     string      `json:"hostname"`
	FQDN         string      `json:"fqdn,omitempty"`
	OS           string      `json:"os"`        // "linux"
	OSPlatform   string      `json:"platform"`  // as the API shows it: Ubuntu, Debian, RedHatEnterpriseLinux, …
	OSVersion    string      `json:"osVersion"` // "24.4", "12"
	Kernel       string      `json:"kernel"`
	Arch         string      `json:"arch"` // x64, arm64
	AgentVersion string      `json:"agentVersion"`
	Addresses    []Address   `json:"addresses,omitempty"`
	Can          []Kind      `json:"can"` // the kinds of order this agent carries out
	Privileged   bool        `json:"privileged"`
	Users        []LogonUser `json:"users,omitempty"`
}

// LogonUser is somebody who logged on to the device.
type LogonUser struct {
	Name  string    `json:"name"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}

// Address is one of a device's network addresses.
type Address struct {
	IP   string `json:"ip"`
	MAC  string `json:"mac,omitempty"` // 12 hex digits
	Type string `json:"type"`          // Ethernet, SoftwareLoopback, Other
	Up   bool   `json:"up"`
}

// Inventory is all that lies in the device's vault.
type Inventory struct {
	Items []Item `json:"items"`
}

// Item is one sealed file, as its vault describes it.
type Item struct {
	ID      string          `json:"id"`
	Order   string          `json:"order,omitzero"` // that sealed it; empty for a containment by hand
	SHA1    filehash.SHA1   `json:"sha1"`
	SHA256  filehash.SHA256 `json:"sha256"`
	Size    int64           `json:"size"`
	Paths   []Text          `json:"paths"`
	UID     uint32          `json:"uid"`
	GID     uint32          `json:"gid"`
	Mode    uint32          `json:"mode"`
	Sealed  time.Time       `json:"sealed"`
	State   string          `json:"state"` // sealed, restored, purged
	Comment string          `json:"comment,omitzero"`
}

// Indicators is the whole set of standing rules of a device: a RuleSet, signed
// like an order.
type Indicators struct {
	Version  int64    `json:"version"`
	Envelope Envelope `json:"envelope"`
}

// SightingsOf reports files first seen, executed or refused on the device.
type SightingsOf struct {
	Seq   int64      `json:"seq"` // the device's number of this message, for the answer
	Files []Sighting `json:"files"`
}

// SightingsKept says that the sightings of one message are on record, or why
// they never will be: the device need not send them again.
type SightingsKept struct {
	Seq     int64  `json:"seq"`
	Refused string `json:"refused,omitempty"`
}

// Sighting is one file met on the device.
type Sighting struct {
	SHA1    filehash.SHA1   `json:"sha1"`
	SHA256  filehash.SHA256 `json:"sha256"`
	Size    int64           `json:"size"`
	Path    Text            `json:"path"`
	Seen    time.Time       `json:"seen"`
	What    string          `json:"what"`              // executed, blocked, found
	Blocked string          `json:"blocked,omitempty"` // the rule it met: the indicator's id
	Times   int64           `json:"times,omitempty"`   // so often since it was last told of; 0: once
}

// MaxSightings is how many files one SightingsOf holds at most.
const MaxSightings = 500

// Bye says why the sender closes the link.
type Bye struct {
	Reason string `json:"reason"`
	Retry  bool   `json:"retry"`
}

// DecodeMessage reads one message; it must have exactly one field.
func DecodeMessage(b []byte) (Message, error) {
	if len(b) > MaxMessage {
		return Message{}, fmt.Errorf("cannot read message: %d bytes are more than the %d allowed", len(b), MaxMessage)
	}
	var m Message
	if err := decodeStrict(b, &m); err != nil {
		return Message{}, fmt.Errorf("cannot read message: %w", err)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return Message{}, fmt.Errorf("cannot read message: %w", err)
	}
	if len(fields) != 1 {
		return Message{}, fmt.Errorf("cannot read message: it has %d parts, want exactly one", len(fields))
	}
	return m, nil
}
