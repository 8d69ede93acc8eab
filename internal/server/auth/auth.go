// SPDX-License-Identifier: Apache-2.0

// Package auth answers two questions about a request: who is calling, and may
// they. It reads bearer tokens, holds the permission catalogue, and computes
// what a caller can reach; it stores nothing and knows no HTTP.
package auth

import (
	"slices"
	"strings"

	"staunch/api"
)

// Kind says what a caller is.
type Kind string

// The kinds of caller.
const (
	App    Kind = "app"    // an application token (roles)
	User   Kind = "user"   // a token of a person through an application (scp)
	Admin  Kind = "admin"  // the admin socket on the server's own host
	Device Kind = "device" // an enrolled device, on its link
	System Kind = "system" // the server itself: expiry, retention
)

// Permission is an application role or delegated scope of the Defender API.
type Permission string

// The permissions that routes ask for.
const (
	MachineRead              Permission = "Machine.Read"
	MachineReadAll           Permission = "Machine.Read.All"
	MachineReadWrite         Permission = "Machine.ReadWrite"
	MachineReadWriteAll      Permission = "Machine.ReadWrite.All"
	MachineStopAndQuarantine Permission = "Machine.StopAndQuarantine"
	MachineForce             Permission = "Machine.StopAndQuarantine.Force" // Staunch's own: past the distribution-package rule
	MachineIsolate           Permission = "Machine.Isolate"
	MachineRestrictExecution Permission = "Machine.RestrictExecution"
	MachineScan              Permission = "Machine.Scan"
	MachineCollectForensics  Permission = "Machine.CollectForensics"
	MachineOffboard          Permission = "Machine.Offboard"
	MachineLiveResponse      Permission = "Machine.LiveResponse"
	FileReadAll              Permission = "File.Read.All"
	UserReadAll              Permission = "User.Read.All"
	AlertRead                Permission = "Alert.Read"
	AlertReadAll             Permission = "Alert.Read.All"
	AlertReadWrite           Permission = "Alert.ReadWrite"
	AlertReadWriteAll        Permission = "Alert.ReadWrite.All"
	TiReadWrite              Permission = "Ti.ReadWrite"
	TiReadWriteAll           Permission = "Ti.ReadWrite.All"

	// These open nothing here. Scripts that set up clients of the Defender API
	// give them along with the others.
	AdvancedQueryReadAll          Permission = "AdvancedQuery.Read.All"
	IPReadAll                     Permission = "Ip.Read.All"
	URLReadAll                    Permission = "Url.Read.All"
	LibraryManage                 Permission = "Library.Manage"
	VulnerabilityReadAll          Permission = "Vulnerability.Read.All"
	SoftwareReadAll               Permission = "Software.Read.All"
	SecurityRecommendationReadAll Permission = "SecurityRecommendation.Read.All"
)

// Permissions is the catalogue: what an app may be given.
func Permissions() []Permission {
	return []Permission{
		MachineRead, MachineReadAll, MachineReadWrite, MachineReadWriteAll, MachineStopAndQuarantine, MachineForce,
		MachineIsolate, MachineRestrictExecution, MachineScan, MachineCollectForensics, MachineOffboard, MachineLiveResponse,
		FileReadAll, UserReadAll, AlertRead, AlertReadAll, AlertReadWrite, AlertReadWriteAll, TiReadWrite, TiReadWriteAll,
		AdvancedQueryReadAll, IPReadAll, URLReadAll, LibraryManage, VulnerabilityReadAll, SoftwareReadAll, SecurityRecommendationReadAll,
	}
}

// Caller is who a request comes from and what they hold. Every operation of the
// domain takes one.
type Caller struct {
	Kind        Kind
	ID          string // app id GUID; the UPN of a user; the device's id; "admin"; "system"
	Name        string // shown as requestor: the app's display name or the UPN
	AppID       string // the application, also of a user's token; with Tenant the rate-limit key
	Tenant      string
	Permissions []Permission // roles of an app, scopes of a user's token
	Access      Access       // of a user: what their roles allow, and on which devices
}

// Holds reports whether the caller has one of the permissions. The admin socket
// and the server itself hold all.
func (c Caller) Holds(anyOf ...Permission) bool {
	if c.Kind == Admin || c.Kind == System {
		return true
	}
	return slices.ContainsFunc(anyOf, func(p Permission) bool { return slices.Contains(c.Permissions, p) })
}

// Allow returns nil when the caller holds one of the permissions, else an
// api.Error Forbidden that names them, in the Defender API's own words for an
// application.
func Allow(c Caller, anyOf []Permission) error {
	if c.Holds(anyOf...) {
		return nil
	}
	names := make([]string, len(anyOf))
	for i, p := range anyOf {
		names[i] = string(p)
	}
	list := strings.Join(names, ", ")
	switch {
	case c.Kind == App:
		return api.Errorf(api.Forbidden, "The application does not have any of the required application permissions (%s) to access the resource.", list)
	case c.Kind == User:
		return api.Errorf(api.Forbidden, "The token does not have any of the required delegated permissions (%s) to access the resource.", list)
	}
	return api.Errorf(api.Forbidden, "This is not open to a %s: it needs one of the permissions (%s).", c.Kind, list)
}
