// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"
	"time"

	"staunch/api"
	"staunch/internal/server/odata"
)

// activeFor is package device's rule for healthStatus, said in SQL below.
const activeFor = 7 * 24 * time.Hour

// ActionFields are the properties by which actions may be filtered and ordered.
func ActionFields() []odata.Field {
	return []odata.Field{
		{Name: "id", Column: "actions.id", Type: odata.String},
		{Name: "type", Column: "actions.type", Type: odata.Folded},
		{Name: "status", Column: "actions.status", Type: odata.Folded, Values: []string{
			api.Pending, api.InProgress, api.Succeeded, api.Failed, api.TimeOut, api.Cancelled}},
		{Name: "machineId", Column: "actions.machine_id", Type: odata.Folded},
		{Name: "computerDnsName", Column: "actions.machine_name", Type: odata.Folded},
		{Name: "requestor", Column: "actions.requestor", Type: odata.Folded},
		{Name: "creationDateTimeUtc", Column: "actions.created", Type: odata.DateTime},
		{Name: "lastUpdateDateTimeUtc", Column: "actions.updated", Type: odata.DateTime},
		{Name: "externalId", Column: "nullif(actions.external_id, '')", Type: odata.String},
		{Name: "requestSource", Column: "actions.source", Type: odata.Folded},
		{Name: "errorHResult", Column: "actions.error_hresult", Type: odata.Number},
		{Name: "cancellationRequestor", Column: "nullif(actions.canceller, '')", Type: odata.Folded},
	}
}

// DeviceFields are the properties by which devices may be filtered and ordered
// at the time now, from which their health follows. Each has the value that
// device.Machine shows; a test holds the two together.
func DeviceFields(now time.Time) []odata.Field {
	active := fmt.Sprintf("devices.last_seen > %d", now.Add(-activeFor).UnixMicro())
	inactive := fmt.Sprintf("devices.last_seen <= %d", now.Add(-activeFor).UnixMicro())
	health := "(CASE WHEN " + active + " THEN 'Active' ELSE 'Inactive' END)"
	constant := func(name, v string) odata.Field {
		return odata.Field{Name: name, Column: "(CAST('" + v + "' AS TEXT))", Type: odata.Folded, Cases: map[string]string{v: "TRUE"}}
	}
	return []odata.Field{
		{Name: "id", Column: "devices.id", Type: odata.String},
		{Name: "computerDnsName", Column: "devices.name", Type: odata.Folded},
		{Name: "osPlatform", Column: "devices.os_platform", Type: odata.Folded},
		{Name: "version", Column: "devices.os_version", Type: odata.Folded},
		{Name: "lastSeen", Column: "devices.last_seen", Type: odata.DateTime},
		{Name: "firstSeen", Column: "devices.first_seen", Type: odata.DateTime},
		{Name: "healthStatus", Column: health, Type: odata.Folded, Values: []string{"Active", "Inactive"},
			Cases: map[string]string{"Active": active, "Inactive": inactive}},
		{Name: "machineTags", Column: "(SELECT device_tags.device AS owner, device_tags.tag AS value FROM device_tags)", Owner: "devices.id", Type: odata.Strings},
		{Name: "deviceValue", Column: "(CASE WHEN devices.value = '' THEN 'Normal' ELSE devices.value END)", Type: odata.Folded},
		{Name: "rbacGroupId", Column: "devices.group_id", Type: odata.Number},
		constant("onboardingStatus", "Onboarded"),
		{Name: "lastIpAddress", Column: "nullif(devices.internal_ip, '')", Type: odata.String},
		{Name: "aadDeviceId", Column: "nullif(devices.entra_id, '')", Type: odata.Folded},
		constant("riskScore", "None"),
		constant("exposureLevel", "None"),
		{Name: "agentVersion", Column: "devices.agent_version", Type: odata.Folded},
		{Name: "osArchitecture", Column: "devices.architecture", Type: odata.Folded, Values: []string{"32-bit", "64-bit"}},
	}
}
