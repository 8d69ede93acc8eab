// SPDX-License-Identifier: Apache-2.0

// Package staunch is the root of the module and holds no code, only the tests
// that keep the project's habits: every package says what it is for, imports
// stay within their walls, and the documents name what is there.
//
//	cmd/staunch         control plane and command line
//	cmd/staunch-agent   the agent for Linux
//	api, client         the contract as Go types, and a client of it
//	internal/order      what server and agent say to each other
//	internal/server     the control plane
//	internal/agent      containment on the device
//
// ARCHITECTURE.md shows how they work together.
package staunch
