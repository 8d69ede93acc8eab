// SPDX-License-Identifier: Apache-2.0

package audit

// The operations about people, what they may reach, and what applications are.
const (
	CreateUser        Operation = "CreateUser"
	ChangeUser        Operation = "ChangeUser"
	DeleteUser        Operation = "DeleteUser"
	CreateGroup       Operation = "CreateGroup"
	ChangeGroup       Operation = "ChangeGroup" // its members
	DeleteGroup       Operation = "DeleteGroup"
	CreateRole        Operation = "CreateRole"
	AssignRole        Operation = "AssignRole" // to a group, or taken from it
	DeleteRole        Operation = "DeleteRole"
	CreateDeviceGroup Operation = "CreateDeviceGroup"
	ChangeDeviceGroup Operation = "ChangeDeviceGroup"
	DeleteDeviceGroup Operation = "DeleteDeviceGroup"
	ChangeApp         Operation = "ChangeApp" // secrets, certificates, redirects, permissions, on and off
	RotateKeys        Operation = "RotateKeys"
	SignIn            Operation = "SignIn" // of a person: accepted or refused
)
