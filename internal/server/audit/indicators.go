// SPDX-License-Identifier: Apache-2.0

package audit

// Operations on indicators, alerts and what is written down about devices.
const (
	SubmitIndicator Operation = "SubmitIndicator" // made or changed
	DeleteIndicator Operation = "DeleteIndicator"
	ExpireIndicator Operation = "ExpireIndicator" // its date has come
	RaiseAlert      Operation = "RaiseAlert"      // by a device
	UpdateAlert     Operation = "UpdateAlert"
	UpdateDevice    Operation = "UpdateDevice" // its value, with or without tags
)
