// SPDX-License-Identifier: Apache-2.0

// Package audit is the record of who did what: an append-only Merkle log (RFC
// 6962 hashes, as golang.org/x/mod/sumdb/tlog computes them) whose signed
// checkpoints let anyone with the public key tell whether a line was changed,
// dropped or slipped in. The store writes a line in the transaction of the
// change that it records; what cannot be recorded does not happen.
package audit

import (
	"encoding/json"
	"time"

	"staunch/internal/server/auth"
)

// Entry is what one line says. Index and Time are the store's to set.
type Entry struct {
	Index     int64           `json:"index"` // from 0, without gaps
	Time      time.Time       `json:"time"`
	Kind      auth.Kind       `json:"kind"`
	ActorID   string          `json:"actorId"`
	Actor     string          `json:"actor"`
	Operation Operation       `json:"operation"`
	Target    string          `json:"target"`  // the device, action, item or app it is about
	Outcome   string          `json:"outcome"` // accepted, refused: CODE, or the status it ended with
	Detail    json.RawMessage `json:"detail,omitempty"`
}

// Operation names what was done, as Microsoft's audit log does where it has a name.
type Operation string

// The operations.
const (
	StopAndQuarantineFile Operation = "StopAndQuarantineFile"
	ReleaseFromQuarantine Operation = "ReleaseFromQuarantine"
	DeleteFromQuarantine  Operation = "DeleteFromQuarantine"
	CancelMachineAction   Operation = "CancelMachineAction"
	FinishMachineAction   Operation = "FinishMachineAction" // receipt, expiry
	EnrollDevice          Operation = "EnrollDevice"
	RevokeDevice          Operation = "RevokeDevice"
	CreateApp             Operation = "CreateApp"
	CreateEnrollmentToken Operation = "CreateEnrollmentToken"
	ChangeSetting         Operation = "ChangeSetting"
	IssueToken            Operation = "IssueToken" // refused ones only
	TagDevice             Operation = "TagDevice"
	BackUp                Operation = "BackUp"
)

// By begins an entry for what caller did to target.
func By(c auth.Caller, op Operation, target, outcome string) Entry {
	return Entry{Kind: c.Kind, ActorID: c.ID, Actor: c.Name, Operation: op, Target: target, Outcome: outcome}
}
