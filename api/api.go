// SPDX-License-Identifier: Apache-2.0

// Package api is the contract in Go types: what clients send to a Staunch
// server and what it answers, under /api (the Microsoft Defender for Endpoint
// machine-action API) and /v1 (what that API does not offer).
//
// Property names and their order are the contract's; see docs/api.md. A field
// that is null there is a pointer or a nil slice here, never omitted.
package api

import (
	"encoding/json"
	"time"
)

// Time is a time as the API writes it: UTC with "Z" and at most seven digits of
// fraction, trailing zeros cut.
type Time struct{ time.Time }

const timeLayout = "2006-01-02T15:04:05.9999999Z"

// At converts t; a nil result is JSON null.
func At(t time.Time) *Time {
	if t.IsZero() {
		return nil
	}
	return &Time{t}
}

// MarshalJSON writes the time as above, in a string.
func (t Time) MarshalJSON() ([]byte, error) {
	return []byte(`"` + t.UTC().Truncate(100*time.Nanosecond).Format(timeLayout) + `"`), nil
}

// UnmarshalJSON reads RFC 3339.
func (t *Time) UnmarshalJSON(b []byte) error { return json.Unmarshal(b, &t.Time) }

// MachineAction is one order to one device, as the API shows it.
type MachineAction struct {
	Context                 string           `json:"@odata.context,omitempty"`
	ID                      string           `json:"id"`
	Type                    string           `json:"type"`
	Title                   *string          `json:"title"`
	Requestor               string           `json:"requestor"`
	RequestorComment        string           `json:"requestorComment"`
	Status                  string           `json:"status"`
	MachineID               string           `json:"machineId"`
	ComputerDNSName         *string          `json:"computerDnsName"`
	CreationDateTimeUTC     Time             `json:"creationDateTimeUtc"`
	LastUpdateDateTimeUTC   Time             `json:"lastUpdateDateTimeUtc"`
	CancellationRequestor   *string          `json:"cancellationRequestor"`
	CancellationComment     *string          `json:"cancellationComment"`
	CancellationDateTimeUTC *Time            `json:"cancellationDateTimeUtc"`
	ErrorHResult            int32            `json:"errorHResult"`
	Scope                   *string          `json:"scope"`
	ExternalID              *string          `json:"externalId"`
	RequestSource           string           `json:"requestSource"`
	RelatedFileInfo         *RelatedFileInfo `json:"relatedFileInfo"`
	Commands                []any            `json:"commands"`
	TroubleshootInfo        *string          `json:"troubleshootInfo"`
}

// RelatedFileInfo names the file of a file action.
type RelatedFileInfo struct {
	FileIdentifier     string `json:"fileIdentifier"`
	FileIdentifierType string `json:"fileIdentifierType"` // Sha1, Sha256
}

// The statuses of a machine action. The last four are final.
const (
	Pending    = "Pending"
	InProgress = "InProgress"
	Succeeded  = "Succeeded"
	Failed     = "Failed"
	TimeOut    = "TimeOut"
	Cancelled  = "Cancelled"
)

// Final reports whether an action of this status will not change any more.
func Final(status string) bool {
	return status == Succeeded || status == Failed || status == TimeOut || status == Cancelled
}

// The types of machine action that Staunch carries out itself. The last two
// are Staunch's own: the Defender API has no way back from quarantine.
const (
	StopAndQuarantineFile = "StopAndQuarantineFile"
	RestoreFile           = "ReleaseFromQuarantine"
	PurgeFile             = "DeleteFromQuarantine"
)

// StopAndQuarantineRequest is the body of POST /api/machines/{id}/StopAndQuarantineFile.
// Sha256 and ExternalId are Staunch's additions; beside Sha1, Sha256 must match too.
type StopAndQuarantineRequest struct {
	Comment    string `json:"Comment"`
	Sha1       string `json:"Sha1,omitempty"`
	Sha256     string `json:"Sha256,omitempty"`
	ExternalID string `json:"ExternalId,omitempty"`
	Force      bool   `json:"Force,omitempty"` // past the distribution-package rule; needs Machine.StopAndQuarantine.Force
}

// ActionRequest is the body of the device actions that no agent carries out.
type ActionRequest struct {
	Comment       string        `json:"Comment"`
	IsolationType string        `json:"IsolationType,omitempty"` // of isolate: Full, Selective, UnManagedDevice
	ScanType      string        `json:"ScanType,omitempty"`      // of runAntiVirusScan: Quick, Full
	Commands      []interface{} `json:"Commands,omitempty"`      // of runliveresponse
}

// CommentRequest is the body of POST /api/machineactions/{id}/cancel.
type CommentRequest struct {
	Comment string `json:"Comment,omitempty"`
}

// Machine is a device, as the API shows it.
type Machine struct {
	Context               string       `json:"@odata.context,omitempty"`
	ID                    string       `json:"id"`
	MergedIntoMachineID   *string      `json:"mergedIntoMachineId"`
	IsPotentialDup        bool         `json:"isPotentialDuplication"`
	IsExcluded            bool         `json:"isExcluded"`
	ExclusionReason       *string      `json:"exclusionReason"`
	ComputerDNSName       string       `json:"computerDnsName"`
	FirstSeen             Time         `json:"firstSeen"`
	LastSeen              Time         `json:"lastSeen"`
	OSPlatform            string       `json:"osPlatform"`
	OSVersion             *string      `json:"osVersion"`
	OSProcessor           string       `json:"osProcessor"`
	Version               string       `json:"version"`
	LastIPAddress         *string      `json:"lastIpAddress"`
	LastExternalIPAddress *string      `json:"lastExternalIpAddress"`
	AgentVersion          string       `json:"agentVersion"`
	OSBuild               *int64       `json:"osBuild"`
	HealthStatus          string       `json:"healthStatus"`
	DeviceValue           *string      `json:"deviceValue"`
	RbacGroupID           int64        `json:"rbacGroupId"`
	RbacGroupName         *string      `json:"rbacGroupName"`
	RiskScore             *string      `json:"riskScore"`
	ExposureLevel         *string      `json:"exposureLevel"`
	IsAadJoined           bool         `json:"isAadJoined"`
	AadDeviceID           *string      `json:"aadDeviceId"`
	MachineTags           []string     `json:"machineTags"`
	OnboardingStatus      string       `json:"onboardingStatus"`
	OSArchitecture        string       `json:"osArchitecture"`
	ManagedBy             *string      `json:"managedBy"`
	ManagedByStatus       *string      `json:"managedByStatus"`
	IPAddresses           []IPAddress  `json:"ipAddresses"`
	VMMetadata            *interface{} `json:"vmMetadata"`
}

// IPAddress is one network address of a Machine.
type IPAddress struct {
	IPAddress         string  `json:"ipAddress"`
	MACAddress        *string `json:"macAddress"` // 12 hex digits
	Type              string  `json:"type"`
	OperationalStatus string  `json:"operationalStatus"` // Up, Down
}

// List is an OData collection under /api.
type List[T any] struct {
	Context  string `json:"@odata.context"`
	Count    *int64 `json:"@odata.count,omitempty"`
	Value    []T    `json:"value"`
	NextLink string `json:"@odata.nextLink,omitempty"`
}

// Page is a collection under /v1.
type Page[T any] struct {
	Value    []T    `json:"value"`
	NextLink string `json:"nextLink,omitempty"`
}

// QuarantineItem is one sealed file in one device's vault.
type QuarantineItem struct {
	ID              string   `json:"id"`
	MachineID       string   `json:"machineId"`
	ComputerDNSName string   `json:"computerDnsName"`
	ActionID        string   `json:"actionId,omitempty"` // the machine action that sealed it
	SHA1            string   `json:"sha1"`
	SHA256          string   `json:"sha256"`
	Size            int64    `json:"size"`
	Paths           []string `json:"paths"`
	UID             uint32   `json:"uid"`
	GID             uint32   `json:"gid"`
	Mode            string   `json:"mode"` // octal, as in 0755
	Sealed          Time     `json:"sealed"`
	State           string   `json:"state"` // sealed, restored, purged
	Comment         string   `json:"comment,omitempty"`
}

// RestoreRequest is the body of POST /v1/quarantine/{item}/restore.
type RestoreRequest struct {
	Comment     string `json:"comment,omitempty"`
	Destination string `json:"destination,omitempty"` // another path; empty: where it was
	ExternalID  string `json:"externalId,omitempty"`
}

// RecoveryCode puts one file back on a device that cannot reach its server:
// staunch-agent quarantine recover CODE.
type RecoveryCode struct {
	ActionID string `json:"actionId"`
	Code     string `json:"code"`    // one line; good once, on that device
	Expires  Time   `json:"expires"` //
}

// Evidence is what GET /v1/machineactions/{id}/evidence answers: the device's
// signed receipt, decoded and as it came.
type Evidence struct {
	ActionID  string          `json:"actionId"`
	Receipt   json.RawMessage `json:"receipt"`   // see docs/orders.md
	Envelope  json.RawMessage `json:"envelope"`  // DSSE, signed by the device
	Order     json.RawMessage `json:"order"`     // DSSE, signed by the server's order key
	DeviceKey string          `json:"deviceKey"` // base64 Ed25519, to check Envelope with
}

// EnrollRequest is the body of POST /v1/enroll: what a new device offers.
type EnrollRequest struct {
	Secret    string          `json:"secret"`    // from the enrollment token
	PublicKey string          `json:"publicKey"` // base64 of the device's Ed25519 public key
	Facts     json.RawMessage `json:"facts"`     // as in the link protocol
}

// EnrollResponse is what a device must keep.
type EnrollResponse struct {
	DeviceID  string   `json:"deviceId"`
	TenantID  string   `json:"tenantId"`
	OrderKeys []string `json:"orderKeys"`           // base64 Ed25519
	EscrowKey string   `json:"escrowKey,omitempty"` // age recipient of the organisation
}

// AuditEntry is one line of the audit log.
type AuditEntry struct {
	Index     int64           `json:"index"` // from 0, without gaps
	Time      Time            `json:"time"`
	Actor     string          `json:"actor"`     // display name
	ActorID   string          `json:"actorId"`   // app id, user id, device id, or "admin"
	ActorKind string          `json:"actorKind"` // app, user, admin, device, system
	Operation string          `json:"operation"` // StopAndQuarantineFile, CancelMachineAction, …
	Target    string          `json:"target"`    // device, action, item or app it is about
	Outcome   string          `json:"outcome"`   // accepted, refused, or how it ended
	Detail    json.RawMessage `json:"detail,omitempty"`
	Leaf      string          `json:"leaf"` // the line as the log hashes it, for CheckInclusion
}

// App is the answer to making an app.
type App struct {
	TenantID     string   `json:"tenantId"`
	ClientID     string   `json:"clientId"`
	ClientSecret string   `json:"clientSecret,omitempty"` // shown once
	Name         string   `json:"name,omitempty"`
	Permissions  []string `json:"permissions,omitempty"`
	Delegated    []string `json:"delegated,omitempty"`
	RedirectURIs []string `json:"redirectUris,omitempty"`
	Public       bool     `json:"public,omitempty"`
	Disabled     bool     `json:"disabled,omitempty"`

	OrdersPerHour *int `json:"ordersPerHour,omitempty"` // in place of the settings
	DevicesPerDay *int `json:"devicesPerDay,omitempty"`

	Secrets      []AppSecret      `json:"secrets,omitempty"`
	Certificates []AppCertificate `json:"certificates,omitempty"`
}

// Ready is DIR/ready.json, written once the server serves.
type Ready struct {
	URL    string `json:"url"`
	CAFile string `json:"caFile"`
	PID    int    `json:"pid"`
}
