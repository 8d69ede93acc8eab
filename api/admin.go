// SPDX-License-Identifier: Apache-2.0

package api

// AppRequest is the body of POST /v1/apps.
type AppRequest struct {
	Name        string   `json:"name"`
	Permissions []string `json:"permissions"`
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
