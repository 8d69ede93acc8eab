// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"
	"time"

	"staunch/api"
	"staunch/internal/server/odata"
)

// ActiveFor is how long a device counts as Active after it was last seen.
const ActiveFor = 7 * 24 * time.Hour

// Health is a device's healthStatus at the time now.
func Health(lastSeen, now time.Time) string {
	if lastSeen.Before(activeSince(now)) {
		return "Inactive"
	}
	return "Active"
}

// activeSince is cut to the minute, so that a list's SQL text, which holds it,
// stays the same for that long.
func activeSince(now time.Time) time.Time { return now.Truncate(time.Minute).Add(-ActiveFor) }

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
// at the time now, from which their health follows.
func DeviceFields(now time.Time) []odata.Field {
	health := fmt.Sprintf("(CASE WHEN devices.last_seen >= %d THEN 'Active' ELSE 'Inactive' END)", activeSince(now).UnixMicro())
	const null = "(CAST(NULL AS TEXT))"
	return []odata.Field{
		{Name: "id", Column: "devices.id", Type: odata.String},
		{Name: "computerDnsName", Column: "devices.name", Type: odata.Folded},
		{Name: "osPlatform", Column: "devices.os_platform", Type: odata.Folded},
		{Name: "version", Column: "devices.os_version", Type: odata.Folded},
		{Name: "lastSeen", Column: "devices.last_seen", Type: odata.DateTime},
		{Name: "firstSeen", Column: "devices.first_seen", Type: odata.DateTime},
		{Name: "healthStatus", Column: health, Type: odata.Folded, Values: []string{"Active", "Inactive"}},
		{Name: "machineTags", Column: "(SELECT device_tags.tag AS value FROM device_tags WHERE device_tags.device = devices.id)", Type: odata.Strings},
		{Name: "deviceValue", Column: "devices.value", Type: odata.Folded},
		{Name: "rbacGroupId", Column: "devices.group_id", Type: odata.Number},
		{Name: "onboardingStatus", Column: "(CAST('Onboarded' AS TEXT))", Type: odata.Folded},
		{Name: "lastIpAddress", Column: "nullif(devices.last_ip, '')", Type: odata.String},
		{Name: "aadDeviceId", Column: null, Type: odata.String},
		{Name: "riskScore", Column: null, Type: odata.Folded},
		{Name: "exposureLevel", Column: null, Type: odata.Folded},
		{Name: "agentVersion", Column: "devices.agent_version", Type: odata.Folded},
		{Name: "osArchitecture", Column: "(CASE WHEN devices.arch IN ('x86', 'arm') THEN '32-bit' ELSE '64-bit' END)", Type: odata.Folded, Values: []string{"32-bit", "64-bit"}},
	}
}
