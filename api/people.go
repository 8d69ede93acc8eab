// SPDX-License-Identifier: Apache-2.0

package api

// User is a person who may sign in.
type User struct {
	ID           string   `json:"id"`  // GUID: the oid of their tokens
	UPN          string   `json:"upn"` // as in ana@corp.example
	Name         string   `json:"name,omitempty"`
	Disabled     bool     `json:"disabled"`
	SecondFactor bool     `json:"secondFactor"` // a code is asked for beside the password
	Groups       []string `json:"groups"`
	Created      Time     `json:"created"`

	Issuer  string `json:"issuer,omitempty"`  // outside, that signs them in
	Subject string `json:"subject,omitempty"` // who they are to it

	// SecondFactorURI is otpauth://…, for an authenticator app: in the answer
	// that made it, and nowhere else.
	SecondFactorURI string `json:"secondFactorUri,omitempty"`
}

// UserRequest is the body of POST /v1/users.
type UserRequest struct {
	UPN      string `json:"upn"`
	Name     string `json:"name,omitempty"`
	Password string `json:"password,omitempty"` // required of a user without issuer
	Issuer   string `json:"issuer,omitempty"`   // outside, as --oidc-issuer names it
	Subject  string `json:"subject,omitempty"`  // the oid that it gives them, or the sub
}

// UserChange is the body of PATCH /v1/users/{id}; what is not there stays.
type UserChange struct {
	Name         *string `json:"name,omitempty"`
	Password     *string `json:"password,omitempty"`
	Disabled     *bool   `json:"disabled,omitempty"`
	SecondFactor *bool   `json:"secondFactor,omitempty"` // true: a new one in place of any
}

// Group is a group of users.
type Group struct {
	Name    string   `json:"name"`
	Members []string `json:"members"` // UPNs

	Issuer   string `json:"issuer,omitempty"`   // outside, one of whose groups this stands for
	External string `json:"external,omitempty"` // that group, as the claim groups names it
}

// GroupRequest is the body of POST /v1/groups.
type GroupRequest struct {
	Name     string `json:"name"`
	Issuer   string `json:"issuer,omitempty"`
	External string `json:"external,omitempty"`
}

// Role gives permissions to the groups it is assigned to.
type Role struct {
	Name        string   `json:"name"`
	Permissions []string `json:"permissions"` // as in Active remediation actions
	Groups      []string `json:"groups"`
}

// RoleRequest is the body of POST /v1/roles.
type RoleRequest struct {
	Name        string   `json:"name"`
	Permissions []string `json:"permissions"`
}

// DeviceGroup is a set of devices by rules, and who reaches it.
type DeviceGroup struct {
	ID          int64    `json:"id"` // rbacGroupId of its machines
	Name        string   `json:"name"`
	Description string   `json:"description,omitempty"`
	Rank        int      `json:"rank"` // 1 is the highest; 0 for the ungrouped devices
	Rules       []string `json:"rules"`
	Access      []string `json:"access"` // user groups; empty: every group with a role
}

// DeviceGroupRequest is the body of POST /v1/device-groups.
type DeviceGroupRequest struct {
	Name        string   `json:"name"`
	Description string   `json:"description,omitempty"`
	Rank        int      `json:"rank,omitempty"` // 0: below all others
	Rules       []string `json:"rules"`          // tag=V, name=GLOB, domain=GLOB, os=GLOB
	Access      []string `json:"access,omitempty"`
}

// DeviceGroupChange is the body of PATCH /v1/device-groups/{id}; what is not
// there stays, an empty access opens the group to every group with a role.
type DeviceGroupChange struct {
	Description *string   `json:"description,omitempty"`
	Rank        *int      `json:"rank,omitempty"`
	Rules       *[]string `json:"rules,omitempty"`
	Access      *[]string `json:"access,omitempty"`
}

// CommandLineApp is the id of the application that staunch login signs people in
// through. Every server knows it without registration: it is public, it has no
// permission of its own, and it gets codes by device code alone.
const CommandLineApp = "57a0c4c1-1e00-4000-8000-00c11a4d1e00"

// DeviceCode is the answer of the token service's devicecode endpoint.
type DeviceCode struct {
	DeviceCode string `json:"device_code"`
	UserCode   string `json:"user_code"`
	URI        string `json:"verification_uri"`
	ExpiresIn  int64  `json:"expires_in"` // seconds
	Interval   int64  `json:"interval"`   // seconds between two polls
	Message    string `json:"message"`
}

// Tokens is the answer of the token service's v2.0 token endpoint.
type Tokens struct {
	AccessToken  string `json:"access_token"`
	ExpiresIn    int64  `json:"expires_in"` // seconds
	RefreshToken string `json:"refresh_token"`
	IDToken      string `json:"id_token"`
	Scope        string `json:"scope"`
}
