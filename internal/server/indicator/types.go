// SPDX-License-Identifier: Apache-2.0

// Package indicator is the standing rules of the Defender API: who may set
// which, what they say of a content, and the signed set of them that each
// device gets.
//
// It promises that a rule which was answered is kept, that an expired one is
// gone from every answer, and that every device's set holds one rule for each
// hash: the one that precedence leaves. It knows no HTTP, no SQL and no bus.
package indicator

import (
	"context"
	"time"

	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/odata"
)

// Indicator is one standing rule.
type Indicator struct {
	Seq    int64  // the API's id
	Type   string // FileSha1, …
	Value  string // as it is compared: hashes and names in lower case
	Shown  string // as the client wrote it
	Action string // Allowed, …
	Groups []Group

	Severity           string
	Title              string
	Description        string
	RecommendedActions string
	Application        string
	EducateURL         string
	ExternalID         string
	GenerateAlert      bool

	Expires   time.Time // zero: never
	Created   time.Time
	Updated   time.Time
	Creator   Creator
	UpdatedBy string // id; "": nobody
	Source    string // PublicApi, Portal
}

// Creator is who made it.
type Creator struct {
	Kind auth.Kind
	ID   string
	Name string
}

// Group is a device group that an indicator is limited to. None: all devices.
type Group struct {
	Name string `json:"name"`
	ID   string `json:"id,omitempty"` // digits; "": not known
}

// Types of indicator. The first two are what agents enforce.
const (
	FileSHA1              = "FileSha1"
	FileSHA256            = "FileSha256"
	FileMD5               = "FileMd5"
	CertificateThumbprint = "CertificateThumbprint"
	IPAddress             = "IpAddress"
	DomainName            = "DomainName"
	URL                   = "Url"
)

// Actions. Alert and AlertAndBlock are older names for Audit and Block.
const (
	Allowed           = "Allowed"
	Audit             = "Audit"
	Warn              = "Warn"
	Block             = "Block"
	BlockAndRemediate = "BlockAndRemediate"
	Alert             = "Alert"
	AlertAndBlock     = "AlertAndBlock"
)

// Types lists the types as the API spells them.
func Types() []string {
	return []string{FileSHA1, FileSHA256, FileMD5, CertificateThumbprint, IPAddress, DomainName, URL}
}

// Actions lists the actions as the API spells them.
func Actions() []string {
	return []string{Allowed, Audit, Warn, Block, BlockAndRemediate, Alert, AlertAndBlock}
}

// Severities lists the severities as the API spells them.
func Severities() []string { return []string{"Informational", "Low", "Medium", "High"} }

// Scope says what of the indicators a call is about.
type Scope struct {
	Now       time.Time // expired ones are not there
	CreatedBy string    // only those of this creator; "": of all
	Groups    []int64   // only those of all devices or of one of these device groups; nil: any
}

// Put is what became of one indicator of PutIndicators.
type Put struct {
	Indicator Indicator
	Err       error // an api.Error: this one was not kept
}

// Store keeps indicators. Each method is one transaction.
type Store interface {
	// PutIndicators keeps each of list, in the place of the one with the same
	// type, value and groups. change is told of that one (nil: there is none, or
	// its date has come), completes the new one and returns its audit entry,
	// whose Target the store fills in; an api.Error of change, or that limit
	// indicators are kept already, is that one's alone. Seq is set.
	PutIndicators(ctx context.Context, list []Indicator, now time.Time, limit int, change func(old *Indicator, new *Indicator) (audit.Entry, error)) ([]Put, error)
	// DeleteIndicators deletes those with the ids, once check has agreed and has
	// returned an audit entry for each. An api.Error ResourceNotFound if one is not there.
	DeleteIndicators(ctx context.Context, ids []int64, now time.Time, check func([]Indicator) ([]audit.Entry, error)) error
	// ExpireIndicators deletes up to limit indicators whose date has come, with an
	// entry for each, and returns how many.
	ExpireIndicators(ctx context.Context, now time.Time, limit int, entry func(Indicator) audit.Entry) (int, error)
	// Indicator returns one, or an api.Error ResourceNotFound.
	Indicator(ctx context.Context, id int64, now time.Time) (Indicator, error)
	// Indicators returns a page and, when q asks for it, the count of all that match.
	Indicators(ctx context.Context, s Scope, q odata.Query) ([]Indicator, int64, error)
	// FileIndicators returns all of the two file types that agents enforce, with
	// the version of the whole set, in one snapshot: of each its Seq, Type, Value,
	// Groups, Action, GenerateAlert and Expires.
	FileIndicators(ctx context.Context, now time.Time) ([]Indicator, int64, error)
	// IndicatorVersion rises with every change.
	IndicatorVersion(ctx context.Context) (int64, error)
	// Record appends an entry that stands alone: a refusal.
	Record(ctx context.Context, e audit.Entry) error
}
