// SPDX-License-Identifier: Apache-2.0

package api

// AppRequest is the body of POST /v1/apps.
type AppRequest struct {
	Name        string   `json:"name"`
	Permissions []string `json:"permissions"`

	// For people who sign in through it.
	Delegated    []string `json:"delegated,omitempty"`    // what it may do for them
	RedirectURIs []string `json:"redirectUris,omitempty"` // where it gets its codes
	Public       bool     `json:"public,omitempty"`       // it cannot keep a secret, and gets none

	Certificate string `json:"certificate,omitempty"` // PEM: its key signs the app's assertions

	ID string `json:"id,omitempty"` // of an application of an issuer outside: to limit it or shut it out here

	OrdersPerHour *int `json:"ordersPerHour,omitempty"` // in place of the setting limits.ordersPerHour; 0: no bound
	DevicesPerDay *int `json:"devicesPerDay,omitempty"` // in place of the setting limits.devicesPerDay; 0: no bound
}

// AppChange is the body of PATCH /v1/apps/{id}; what is not there stays.
type AppChange struct {
	Disabled          *bool    `json:"disabled,omitempty"`
	Public            *bool    `json:"public,omitempty"`
	Permissions       []string `json:"permissions,omitzero"` // these lists come in place of those it has
	Delegated         []string `json:"delegated,omitzero"`
	RedirectURIs      []string `json:"redirectUris,omitzero"`
	AddSecret         string   `json:"addSecret,omitempty"`         // how long a further secret is to be good, as in 4380h
	RemoveSecret      string   `json:"removeSecret,omitempty"`      // its id
	AddCertificate    string   `json:"addCertificate,omitempty"`    // PEM
	RemoveCertificate string   `json:"removeCertificate,omitempty"` // its SHA-256, in hex

	OrdersPerHour *int `json:"ordersPerHour,omitempty"` // 0: no bound; -1: as the setting limits.ordersPerHour says
	DevicesPerDay *int `json:"devicesPerDay,omitempty"` // 0: no bound; -1: as the setting limits.devicesPerDay says
}

// AppSecret is one of an app's secrets, without itself.
type AppSecret struct {
	ID      string `json:"id"`
	Expires Time   `json:"expires"`
}

// AppCertificate is one of an app's certificates.
type AppCertificate struct {
	SHA256  string `json:"sha256"`
	Subject string `json:"subject"`
	Expires Time   `json:"expires"`
}

// SigningKey names a key that signs tokens.
type SigningKey struct {
	ID string `json:"kid"`
}

// EnrollmentTokenRequest is the body of POST /v1/enrollment-tokens.
type EnrollmentTokenRequest struct {
	Uses int      `json:"uses"`           // how many devices may enroll with it; 0: one
	TTL  string   `json:"ttl,omitempty"`  // as in 24h; "": 24h
	Tags []string `json:"tags,omitempty"` // given to each device that enrolls with it
}

// EnrollmentToken is the answer: the token is shown once.
type EnrollmentToken struct {
	Token   string `json:"token"`
	Uses    int    `json:"uses"`
	Expires Time   `json:"expires"`
}

// DeviceChange is the body of PATCH /v1/devices/{id}.
type DeviceChange struct {
	AadDeviceID string `json:"aadDeviceId"` // a GUID; "": none
}

// Setting is one setting: the body of PUT /v1/settings/{key} and every answer.
type Setting struct {
	Key   string `json:"key,omitempty"`
	Value string `json:"value"`
}

// BackupRequest is the body of POST /v1/backup, on the admin socket only.
type BackupRequest struct {
	File string `json:"file"` // absolute path on the server's host; must not exist
}

// AuditReport says whether the audit log holds.
type AuditReport struct {
	Entries int64  `json:"entries"`
	OK      bool   `json:"ok"`
	Problem string `json:"problem,omitempty"` // the first line that is wrong, and how
}
