// SPDX-License-Identifier: Apache-2.0

package device

import (
	"net/netip"
	"time"

	"staunch/api"
	"staunch/internal/order"
)

// activeFor is how long after it was last heard from a device counts as Active.
const activeFor = 7 * 24 * time.Hour

// Machine is the device as the API shows it at now. What the agent does not know
// (risk, exposure, Entra, Intune, clouds) has the value that says so.
func Machine(d Device, now time.Time) api.Machine {
	m := api.Machine{
		ID:               d.ID,
		ComputerDNSName:  d.Name,
		FirstSeen:        api.Time{Time: d.FirstSeen},
		LastSeen:         api.Time{Time: d.LastSeen},
		OSPlatform:       d.Facts.OSPlatform,
		OSProcessor:      firstOf(d.Facts.Arch, "x64"),
		Version:          d.Facts.OSVersion,
		LastIPAddress:    orNull(internalIP(d.Facts.Addresses)),
		AgentVersion:     d.Facts.AgentVersion,
		HealthStatus:     "Inactive",
		DeviceValue:      orNull(firstOf(d.Value, "Normal")),
		RbacGroupID:      d.GroupID,
		RbacGroupName:    orNull(d.GroupName),
		RiskScore:        orNull("None"),
		ExposureLevel:    orNull("None"),
		MachineTags:      append([]string{}, d.Tags...), // [], never null
		OnboardingStatus: "Onboarded",
		OSArchitecture:   "64-bit",
		IPAddresses:      []api.IPAddress{},
	}
	m.LastExternalIPAddress = orNull(d.LastIP)
	m.AadDeviceID, m.IsAadJoined = orNull(d.EntraID), d.EntraID != ""
	if now.Sub(d.LastSeen) < activeFor {
		m.HealthStatus = "Active"
	}
	switch d.Facts.Arch {
	case "x86", "arm":
		m.OSArchitecture = "32-bit"
	}
	for _, a := range d.Facts.Addresses {
		m.IPAddresses = append(m.IPAddresses, api.IPAddress{
			IPAddress: a.IP, MACAddress: orNull(a.MAC), Type: firstOf(a.Type, "Other"), OperationalStatus: upOrDown(a.Up),
		})
	}
	return m
}

// internalIP is the device's own address: the first IPv4 one of an interface
// that is up, else the first IPv6 one.
func internalIP(addresses []order.Address) string {
	v6 := ""
	for _, a := range addresses {
		ip, err := netip.ParseAddr(a.IP)
		if err != nil || !a.Up || ip.IsLoopback() || ip.IsLinkLocalUnicast() {
			continue
		}
		if ip.Is4() {
			return a.IP
		}
		v6 = firstOf(v6, a.IP)
	}
	return v6
}

func upOrDown(up bool) string {
	if up {
		return "Up"
	}
	return "Down"
}

// orNull is JSON null for "".
func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func firstOf(ss ...string) string {
	for _, s := range ss {
		if s != "" {
			return s
		}
	}
	return ""
}
