// SPDX-License-Identifier: Apache-2.0

package main

// outlives is filled in below.
func outlives() {}
