// SPDX-License-Identifier: Apache-2.0

package order

import (
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"time"

	"staunch/internal/filehash"
)

// ReceiptType is the payload type of a receipt's envelope.
const ReceiptType = "application/vnd.staunch.receipt.v1+json"

// Outcome is how an order ended on the device.
type Outcome string

// The outcomes.
const (
	Proven    Outcome = "proven"    // done, and seen to be done after the last step
	Failed    Outcome = "failed"    // Code and Reason say why
	Cancelled Outcome = "cancelled" // given up before the point of no return
)

// Code is the machine-readable reason of a receipt that is not Proven, or a
// remark on one that is.
type Code string

// The codes. The server maps them to errorHResult and troubleshootInfo.
const (
	AlreadyQuarantined Code = "AlreadyQuarantined"   // proven: an earlier order had done it
	FileNotFound       Code = "FileNotFoundOnDevice" // no copy and no process
	Partial            Code = "Partial"              // some copies could not be sealed; Errno of the first
	Protected          Code = "ProtectedFile"        // the guard refused; Reason names the rule
	ProcessRunning     Code = "ProcessStillRunning"  // a match outlived the kill
	NoSpace            Code = "NoSpace"              // the vault has no room; nothing was moved
	AccessDenied       Code = "AccessDenied"         // the agent lacks the right; Reason says which
	NotSupported       Code = "NotSupported"         // this kernel or file system cannot do it
	NotProven          Code = "NotProven"            // all that was found is stopped and sealed, but the method does not exclude more
	Reappeared         Code = "Reappeared"           // a copy or match came back between the last step and the last look
	HashConflict       Code = "HashConflict"         // copies with one SHA-1 and several SHA-256
	ItemNotFound       Code = "ItemNotFound"         // no such vault item
	PlaceTaken         Code = "PlaceTaken"           // restored into a side folder: its place was taken or had changed
	Expired            Code = "Expired"              // past its date on the device's clock
	Interrupted        Code = "Interrupted"          // the agent died in the middle and undid what was under way
	Internal           Code = "Internal"             // a defect of ours
)

// Receipt is the device's signed account of one order.
type Receipt struct {
	Order   string  `json:"order"`         // id
	Digest  string  `json:"digest"`        // SHA-256 of the order's payload, hex
	Device  string  `json:"device"`        //
	Kind    Kind    `json:"kind"`          //
	Outcome Outcome `json:"outcome"`       //
	Code    Code    `json:"code,omitzero"` //
	Reason  string  `json:"reason,omitzero"`

	Accepted time.Time `json:"accepted"` // the device's wall clock
	Finished time.Time `json:"finished"` //

	Rung        string        `json:"rung,omitzero"`        // how processes were held: bpf, freeze, connector, besteffort
	HeldProven  bool          `json:"heldProven,omitzero"`  // the rung excludes that a match escaped by forking
	PauseNs     int64         `json:"pauseNs,omitzero"`     // longest pause of any process that is not a match
	Gate        string        `json:"gate,omitzero"`        // what refuses a new start: filesystem+inode, inode, none; with the reason in Notes
	Steps       []Step        `json:"steps,omitzero"`       //
	Copies      []Copy        `json:"copies,omitzero"`      //
	Matches     []Match       `json:"matches,omitzero"`     //
	Persistence []Persistence `json:"persistence,omitzero"` // what would bring the file back
	Searched    []string      `json:"searched,omitzero"`    // trees looked through, when the index could not vouch for them
	NotCovered  []string      `json:"notCovered,omitzero"`  // what could not be looked at, with the reason
	Notes       []string      `json:"notes,omitzero"`       //
	Restored    *Restored     `json:"restored,omitzero"`    // of a restore
}

// Step is one step of the work with its own clock: nanoseconds since the order
// was accepted, from the monotonic clock.
type Step struct {
	Name    string `json:"name"`
	StartNs int64  `json:"startNs"`
	EndNs   int64  `json:"endNs"`
	Error   string `json:"error,omitzero"`
}

// Text is a name the kernel gave: any bytes. It travels as a string when it is
// valid UTF-8 without control characters, else with the odd bytes as \xHH and
// every backslash doubled, so that it can be shown and still be turned back.
type Text string // made by TextOf, undone by Bytes

// CopyState is what became of one copy.
type CopyState string

// The states of a copy.
const (
	Sealed   CopyState = "sealed"   // in the vault, verified, and gone from its place
	InPlace  CopyState = "inPlace"  // left where it is; Error says why
	Gated    CopyState = "gated"    // left where it is, open and exec refused (a lower image layer)
	PutBack  CopyState = "putBack"  // grabbed, found changed, and put back
	Vanished CopyState = "vanished" // somebody else removed it meanwhile
)

// Copy is one inode with the content.
type Copy struct {
	Paths  []Text          `json:"paths"` // every name found; empty for a file that has none
	Dev    uint64          `json:"dev"`
	Ino    uint64          `json:"ino"`
	SHA1   filehash.SHA1   `json:"sha1"`
	SHA256 filehash.SHA256 `json:"sha256"`
	Size   int64           `json:"size"`
	UID    uint32          `json:"uid"`
	GID    uint32          `json:"gid"`
	Mode   uint32          `json:"mode"`
	State  CopyState       `json:"state"`
	Item   string          `json:"item,omitzero"`  // vault item id, when sealed
	Error  string          `json:"error,omitzero"` //
	Errno  int             `json:"errno,omitzero"`
	DoneNs int64           `json:"doneNs"` // since the order was accepted
}

// Match is one process that ran or mapped a copy.
type Match struct {
	PID     int    `json:"pid"`
	Start   uint64 `json:"start"` // clock ticks since boot: with PID the process's identity
	UID     uint32 `json:"uid"`
	Exe     Text   `json:"exe"`
	Command Text   `json:"command,omitzero"`
	How     string `json:"how"`   // executes, maps, interprets
	State   string `json:"state"` // killed, gone, running
	Error   string `json:"error,omitzero"`
	DoneNs  int64  `json:"doneNs"`
}

// Persistence is one thing that would start the file again.
type Persistence struct {
	Kind     string `json:"kind"` // unit, timer, cron, at, autostart, profile, preload, udev, module, init, pam, hook, container, parent
	Where    Text   `json:"where"`
	Line     int    `json:"line,omitzero"` // in the file Where, from 1
	Detail   Text   `json:"detail,omitzero"`
	Disabled bool   `json:"disabled,omitzero"`
}

// Restored says where a restore put the file.
type Restored struct {
	Item  string   `json:"item"`
	Paths []Text   `json:"paths"`
	Side  bool     `json:"side,omitzero"` // into a side folder, because the place was taken or had changed
	Lost  []string `json:"lost,omitzero"` // metadata that could not be set, by name with the reason
}

// SignReceipt seals a receipt with the device's key.
func SignReceipt(r Receipt, key ed25519.PrivateKey) (Envelope, error) {
	return seal(ReceiptType, r, key)
}

// VerifyReceipt returns the receipt in e if key signed it and it answers the
// order in ord on device.
func VerifyReceipt(e Envelope, ord Envelope, device string, key ed25519.PublicKey) (Receipt, error) {
	var r Receipt
	if err := open(e, ReceiptType, &r, key); err != nil {
		return Receipt{}, fmt.Errorf("cannot accept receipt: %w", err)
	}
	digest := ord.Digest()
	switch {
	case r.Device != device:
		return Receipt{}, fmt.Errorf("cannot accept receipt: it speaks for device %q, the link is of %s", r.Device, device)
	case r.Digest != hex.EncodeToString(digest[:]):
		return Receipt{}, fmt.Errorf("cannot accept receipt of order %s: it answers another order of that id", r.Order)
	}
	switch r.Outcome {
	case Proven, Failed, Cancelled:
		return r, nil
	}
	return Receipt{}, fmt.Errorf("cannot accept receipt of order %s: outcome %q is not known", r.Order, r.Outcome)
}
