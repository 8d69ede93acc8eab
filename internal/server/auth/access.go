// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"slices"
	"strings"

	"staunch/api"
)

// Right is a permission of a person's role, as Defender for Endpoint names them.
// An application has Permissions instead; a person's token needs both: the
// application's delegated Permission and the person's own Right.
type Right string

// The rights that a role may hold. Any of them brings ViewData with it: nobody
// can act on what they cannot see.
const (
	ViewData             Right = "View data"
	ActiveRemediation    Right = "Active remediation actions"
	AlertsInvestigation  Right = "Alerts investigation"
	SecurityBaselines    Right = "Security baselines"
	ManageSecurity       Right = "Manage security settings"
	ManageSystem         Right = "Manage portal system settings"
	LiveResponseBasic    Right = "Live response capabilities basic"
	LiveResponseAdvanced Right = "Live response capabilities advanced"
)

// Rights is the catalogue: what a role may be given.
func Rights() []Right {
	return []Right{
		ViewData, ActiveRemediation, AlertsInvestigation, SecurityBaselines, ManageSecurity, ManageSystem, LiveResponseBasic, LiveResponseAdvanced,
	}
}

// ParseRight reads a right in any case, also by the names that Microsoft's own
// portals have for it, with or without "Security operations" behind.
func ParseRight(name string) (Right, bool) {
	folded := strings.ToLower(strings.Join(strings.Fields(name), " "))
	for _, tail := range []string{" - security operations", " – security operations"} {
		folded = strings.TrimSuffix(folded, tail)
	}
	for _, r := range Rights() {
		if strings.ToLower(string(r)) == folded {
			return r, true
		}
	}
	r, ok := map[string]Right{
		"manage security settings in security center": ManageSecurity,
		"security data basics (read)":                 ViewData,
		"response (manage)":                           ActiveRemediation,
		"alerts (manage)":                             AlertsInvestigation,
		"live response basic":                         LiveResponseBasic,
		"live response advanced":                      LiveResponseAdvanced,
	}[folded]
	return r, ok
}

// Ungrouped is the device group of the devices that no rule puts into another.
const Ungrouped int64 = 0

// Everywhere stands, beside the device groups themselves, for all that there
// are and will be: who reaches each of them reaches it.
const Everywhere int64 = -1

// Access is what a person may do: for each right, the device groups it holds in.
// A right that is not there is not held at all; one with no groups is held, on
// no device. The zero Access allows nothing.
type Access map[Right][]int64

// A UserGroup is one of a person's groups, with what its roles give it.
type UserGroup struct {
	ID     int64
	Rights []Right
}

// A DeviceGroup says who may reach its devices.
type DeviceGroup struct {
	ID   int64
	Open bool    // to every group with a role
	To   []int64 // else to these user groups alone
}

// AccessOf computes a person's access. It holds each right against each device
// group for one user group at a time: that one group can act and another one see
// does not make a third that can act where the other sees. deviceGroups must
// have an entry for Ungrouped, or nobody reaches its devices.
func AccessOf(groups []UserGroup, deviceGroups []DeviceGroup) Access {
	a := Access{}
	for _, g := range groups {
		rights := g.Rights
		if len(rights) > 0 && !slices.Contains(rights, ViewData) {
			rights = append([]Right{ViewData}, rights...)
		}
		for _, r := range rights {
			reached, all := a[r], true
			for _, d := range deviceGroups {
				switch reaches := d.Open || slices.Contains(d.To, g.ID); {
				case !reaches:
					all = false
				case !slices.Contains(reached, d.ID):
					reached = append(reached, d.ID)
				}
			}
			if all && !slices.Contains(reached, Everywhere) {
				reached = append(reached, Everywhere)
			}
			a[r] = reached
		}
	}
	for r := range a {
		slices.Sort(a[r])
	}
	return a
}

// Holds reports whether the right is held, be it on no device at all.
func (a Access) Holds(r Right) bool {
	_, ok := a[r]
	return ok
}

// Can reports whether the right is held on the devices of a device group.
func (a Access) Can(r Right, deviceGroup int64) bool {
	_, ok := slices.BinarySearch(a[r], deviceGroup)
	return ok
}

// Has reports whether the caller has the right at all: a person by their roles,
// everybody else by what they are. Applications have Permissions, and see all devices.
func (c Caller) Has(r Right) bool { return c.Kind != User || c.Access.Holds(r) }

// Can reports whether the caller has the right on the devices of a device group.
func (c Caller) Can(r Right, deviceGroup int64) bool {
	return c.Kind != User || c.Access.Can(r, deviceGroup)
}

// Groups are the device groups that a list for this caller is limited to: nil
// means none is left out, empty means that nothing is to be listed. For every
// group, being in the list and Can are the same.
func (c Caller) Groups(r Right) []int64 {
	if c.Kind != User {
		return nil
	}
	return append([]int64{}, c.Access[r]...)
}

// AllowRight returns nil when the caller has one of the rights on some device
// group, else an api.Error Forbidden. No rights at all are had by everybody.
func AllowRight(c Caller, anyOf ...Right) error {
	if len(anyOf) == 0 || slices.ContainsFunc(anyOf, c.Has) {
		return nil
	}
	return forbidden(c, anyOf, "")
}

// AllowOn is AllowRight for the devices of one group: what must be asked before
// a device is acted on. Whether the caller may know of it is for the lookup,
// which must come first and say that there is no such device.
func AllowOn(c Caller, deviceGroup int64, anyOf ...Right) error {
	if len(anyOf) == 0 || slices.ContainsFunc(anyOf, func(r Right) bool { return c.Can(r, deviceGroup) }) {
		return nil
	}
	return forbidden(c, anyOf, " on this device")
}

func forbidden(c Caller, anyOf []Right, where string) error {
	names := make([]string, len(anyOf))
	for i, r := range anyOf {
		names[i] = string(r)
	}
	return api.Errorf(api.Forbidden, "The user %s does not have any of the required role permissions (%s)%s to access the resource.", c.Name, strings.Join(names, ", "), where)
}
