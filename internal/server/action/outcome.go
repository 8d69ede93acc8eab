// SPDX-License-Identifier: Apache-2.0

package action

import (
	"fmt"

	"staunch/api"
	"staunch/internal/order"
)

// The values of errorHResult.
const (
	hrTimeout      int32 = -2145844840 // 0x80190198 HTTP request time-out
	hrAbort        int32 = -2147467260 // 0x80004004 E_ABORT
	hrNotFound     int32 = -2147024894 // 0x80070002 file not found on the device
	hrAccessDenied int32 = -2147024891 // 0x80070005 access denied
	hrSharing      int32 = -2147024864 // 0x80070020 sharing violation: in use
	hrDiskFull     int32 = -2147024784 // 0x80070070 disk full
	hrNotSupported int32 = -2147024846 // 0x80070032 not supported on this file system or kernel
	hrPolicy       int32 = -2147023636 // 0x800704EC blocked by policy
	hrUnspecified  int32 = -2147467259 // 0x80004005 unspecified
)

// outcome is how an action ends by its receipt: the status, the errorHResult
// and the troubleshootInfo of the API.
func outcome(r order.Receipt) (status string, hresult int32, info string) {
	switch r.Outcome {
	case order.Proven:
		if left := contradiction(r); left != "" {
			// Succeeded means proven: a receipt that shows otherwise does not count as proof.
			return api.Failed, hrUnspecified, left
		}
		return api.Succeeded, 0, clip(string(r.Code), 64)
	case order.Cancelled:
		return api.Cancelled, hrAbort, ""
	}
	switch r.Code {
	case order.FileNotFound:
		return api.Failed, hrNotFound, string(r.Code)
	case order.Protected:
		return api.Failed, hrPolicy, string(r.Code)
	case order.ProcessRunning:
		return api.Failed, hrAccessDenied, string(r.Code)
	case order.Partial:
		sealed, errno := tally(r.Copies)
		return api.Failed, hresultOf(errno), fmt.Sprintf("Partial: %d of %d copies quarantined", sealed, len(r.Copies))
	case order.Expired:
		return api.TimeOut, hrTimeout, explain(r)
	case order.NoSpace:
		return api.Failed, hrDiskFull, explain(r)
	case order.AccessDenied:
		return api.Failed, hrAccessDenied, explain(r)
	case order.NotSupported:
		return api.Failed, hrNotSupported, explain(r)
	case order.ItemNotFound:
		return api.Failed, hrNotFound, explain(r)
	}
	return api.Failed, hrUnspecified, explain(r)
}

// explain is the code with the device's own words, for what the contract gives
// no text to.
func explain(r order.Receipt) string {
	code, reason := clip(string(r.Code), 64), clip(r.Reason, 500)
	switch {
	case code == "" && reason == "":
		return "Unspecified"
	case reason == "":
		return code
	case code == "":
		return reason
	}
	return code + ": " + reason
}

// contradiction says what in a receipt is at odds with its being proven.
func contradiction(r order.Receipt) string {
	for _, m := range r.Matches {
		if m.State == "running" {
			return string(order.ProcessRunning)
		}
	}
	for _, c := range r.Copies {
		if c.State == order.InPlace || c.State == order.PutBack {
			sealed, _ := tally(r.Copies)
			return fmt.Sprintf("Partial: %d of %d copies quarantined", sealed, len(r.Copies))
		}
	}
	return ""
}

// tally counts the sealed copies and finds the first error among the others.
func tally(copies []order.Copy) (sealed, errno int) {
	for _, c := range copies {
		if c.State == order.Sealed {
			sealed++
		} else if errno == 0 {
			errno = c.Errno
		}
	}
	return sealed, errno
}

// hresultOf turns a Linux error number into the API's. The numbers are spelt
// out: the server may run on another system than the device.
func hresultOf(errno int) int32 {
	switch errno {
	case 1, 13: // EPERM, EACCES
		return hrAccessDenied
	case 2: // ENOENT
		return hrNotFound
	case 16, 26: // EBUSY, ETXTBSY
		return hrSharing
	case 28, 122: // ENOSPC, EDQUOT
		return hrDiskFull
	case 30, 38, 95: // EROFS, ENOSYS, EOPNOTSUPP
		return hrNotSupported
	}
	return hrUnspecified
}
