// SPDX-License-Identifier: Apache-2.0

//go:build !race

package index

// raceEnabled makes tests that work the database hard do it less often.
const raceEnabled = false
