// SPDX-License-Identifier: Apache-2.0

package api

// MachineUpdate is the body of PATCH /api/machines/{id}. What is not there stays as it is.
type MachineUpdate struct {
	MachineTags []string `json:"machineTags,omitempty"` // in the place of those there are
	DeviceValue string   `json:"deviceValue,omitempty"` // Normal, Low, High
}

// TagRequest is the body of POST /api/machines/{id}/tags.
type TagRequest struct {
	Value  string `json:"Value"`
	Action string `json:"Action"` // Add, Remove
}

// TagManyRequest is the body of POST /api/machines/AddOrRemoveTagForMultipleMachines.
type TagManyRequest struct {
	Value      string   `json:"Value"`
	Action     string   `json:"Action"`     // Add, Remove
	MachineIDs []string `json:"MachineIds"` // at most 500
}

// AvailableAction says whether a machine can carry out a type of action.
type AvailableAction struct {
	Action      string `json:"action"`
	IsAvailable bool   `json:"isAvailable"`
}

// Link is where something can be downloaded.
type Link struct {
	Context string `json:"@odata.context,omitempty"`
	Value   string `json:"value"`
}

// LogonUser is somebody who logged on to a machine.
type LogonUser struct {
	ID                string  `json:"id"` // domain\user
	AccountName       string  `json:"accountName"`
	AccountDomain     *string `json:"accountDomain"`
	FirstSeen         Time    `json:"firstSeen"`
	LastSeen          Time    `json:"lastSeen"`
	LogonTypes        string  `json:"logonTypes"`
	IsDomainAdmin     bool    `json:"isDomainAdmin"`
	IsOnlyNetworkUser *bool   `json:"isOnlyNetworkUser"`
}
