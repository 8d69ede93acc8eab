// SPDX-License-Identifier: Apache-2.0

package device_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"staunch/internal/order"
	"staunch/internal/server/device"
)

// The property set and order of the Defender API, with every value in its form.
func TestMachineJSON(t *testing.T) {
	seen := time.Date(2026, 2, 11, 2, 30, 10, 440_000_000, time.UTC)
	d := device.Device{
		ID: strings.Repeat("c3", 20), Name: "fin-lt-014.corp.example", FirstSeen: time.Date(2025, 11, 3, 9, 12, 44, 810_112_399, time.UTC), LastSeen: seen,
		LastIP: "198.51.100.9", Tags: []string{"finance"}, Value: "High", GroupID: 12, GroupName: "Finance",
		Facts: order.Facts{OSPlatform: "Ubuntu", OSVersion: "24.4", Arch: "x64", AgentVersion: "1.4.0", Addresses: []order.Address{
			{IP: "127.0.0.1", Type: "SoftwareLoopback", Up: true},
			{IP: "10.9.9.9", MAC: "02005E10A0B0", Type: "Ethernet"},
			{IP: "fd00::7", Up: true},
			{IP: "10.20.30.14", MAC: "02005E10A0B1", Type: "Ethernet", Up: true},
		}},
	}
	got, err := json.Marshal(device.Machine(d, seen))
	want := `{"id":"c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3","mergedIntoMachineId":null,"isPotentialDuplication":false,"isExcluded":false,"exclusionReason":null,` +
		`"computerDnsName":"fin-lt-014.corp.example","firstSeen":"2025-11-03T09:12:44.8101123Z","lastSeen":"2026-02-11T02:30:10.44Z","osPlatform":"Ubuntu",` +
		`"osVersion":null,"osProcessor":"x64","version":"24.4","lastIpAddress":"10.20.30.14","lastExternalIpAddress":"198.51.100.9","agentVersion":"1.4.0",` +
		`"osBuild":null,"healthStatus":"Active","deviceValue":"High","rbacGroupId":12,"rbacGroupName":"Finance","riskScore":"None","exposureLevel":"None",` +
		`"isAadJoined":false,"aadDeviceId":null,"machineTags":["finance"],"onboardingStatus":"Onboarded","osArchitecture":"64-bit","managedBy":null,` +
		`"managedByStatus":null,"ipAddresses":[{"ipAddress":"127.0.0.1","macAddress":null,"type":"SoftwareLoopback","operationalStatus":"Up"},` +
		`{"ipAddress":"10.9.9.9","macAddress":"02005E10A0B0","type":"Ethernet","operationalStatus":"Down"},` +
		`{"ipAddress":"fd00::7","macAddress":null,"type":"Other","operationalStatus":"Up"},` +
		`{"ipAddress":"10.20.30.14","macAddress":"02005E10A0B1","type":"Ethernet","operationalStatus":"Up"}],"vmMetadata":null}`
	if err != nil || string(got) != want {
		t.Errorf("%v\n got %s\nwant %s", err, got, want)
	}
}

// A device that has said nothing has empty lists and nulls, never missing keys.
func TestMachineEmpty(t *testing.T) {
	got, err := json.Marshal(device.Machine(device.Device{}, time.Unix(0, 0)))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{
		`"machineTags":[]`, `"ipAddresses":[]`, `"rbacGroupId":0`, `"rbacGroupName":null`, `"lastIpAddress":null`, `"lastExternalIpAddress":null`,
		`"deviceValue":"Normal"`, `"aadDeviceId":null`,
	} {
		if !strings.Contains(string(got), part) {
			t.Errorf("%s is not in %s", part, got)
		}
	}
}

func TestMachineHealth(t *testing.T) {
	now := time.Date(2026, 2, 11, 2, 30, 0, 0, time.UTC)
	for ago, want := range map[time.Duration]string{
		0: "Active", 7*24*time.Hour - time.Second: "Active", 7 * 24 * time.Hour: "Inactive", 400 * 24 * time.Hour: "Inactive",
	} {
		if m := device.Machine(device.Device{LastSeen: now.Add(-ago)}, now); m.HealthStatus != want {
			t.Errorf("seen %s ago: %s, want %s", ago, m.HealthStatus, want)
		}
	}
	for arch, want := range map[string]string{"x64": "64-bit", "arm64": "64-bit", "x86": "32-bit", "arm": "32-bit", "": "64-bit"} {
		if m := device.Machine(device.Device{Facts: order.Facts{Arch: arch}}, now); m.OSArchitecture != want {
			t.Errorf("%q: %s, want %s", arch, m.OSArchitecture, want)
		}
	}
}
