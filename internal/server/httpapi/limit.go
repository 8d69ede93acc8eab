// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"net"
	"net/netip"

	"staunch/internal/server/limit"
)

// Limit is how many calls a minute and an hour hold; 0 is no limit.
type Limit = limit.Limit

// enrollRefusals bounds refused enrollments of one client address. Good ones
// are bounded by their token.
func enrollRefusals() Limit { return Limit{PerMinute: 10, PerHour: 100} }

// clientNetwork is what enrollments are counted by: the address, and of IPv6 the
// network of which one client has all addresses.
func clientNetwork(remote string) string {
	a, err := netip.ParseAddr(hostname(remote))
	if err != nil {
		return remote
	}
	if a = a.Unmap(); a.Is6() {
		if p, err := a.WithZone("").Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}

// hostname is the address without its port.
func hostname(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	return host
}
