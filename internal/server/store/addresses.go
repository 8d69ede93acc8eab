// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"staunch/internal/server/device"
	"staunch/internal/server/odata"
)

const (
	// sameSpan is how long a device may be silent about an address that it goes
	// on to have: it is heard every few minutes.
	sameSpan = 30 * time.Minute
	// addressesFor is how far back addresses are known.
	addressesFor = 31 * 24 * time.Hour
	// maxAddresses of one device: a host of many containers has countless.
	maxAddresses = 16
)

// noteAddresses keeps that the device has its addresses as of when it was last seen.
func noteAddresses(t *tx, d *device.Device) error {
	noted := 0
	for _, a := range d.Facts.Addresses {
		ip, err := netip.ParseAddr(a.IP)
		if err != nil || !a.Up || ip.IsLoopback() || ip.IsLinkLocalUnicast() {
			continue
		}
		if noted++; noted > maxAddresses {
			break
		}
		seen := d.LastSeen.UnixMicro()
		n, err := t.execCount("UPDATE device_addresses SET until = $3 WHERE device = $1 AND ip = $2 AND until <= $3 AND until >= $4",
			d.ID, ip.String(), seen, d.LastSeen.Add(-sameSpan).UnixMicro())
		if err == nil && n == 0 {
			err = t.exec("INSERT INTO device_addresses (device, ip, since, until) VALUES ($1, $2, $3, $3) ON CONFLICT DO NOTHING", d.ID, ip.String(), seen)
			if err == nil {
				err = t.exec("DELETE FROM device_addresses WHERE device = $1 AND until < $2", d.ID, d.LastSeen.Add(-addressesFor).UnixMicro())
			}
		}
		if err != nil {
			return fmt.Errorf("cannot keep the addresses of device %s: %w", d.ID, err)
		}
	}
	return nil
}

// DevicesAt is device.Store's: those that had the address at some time between the two.
func (s *Store) DevicesAt(ctx context.Context, ip string, from, to time.Time, q odata.Query) ([]device.Device, int64, error) {
	return s.Devices(ctx, q.And(odata.Query{
		Where: "devices.id IN (SELECT device_addresses.device FROM device_addresses WHERE device_addresses.ip = $1 AND device_addresses.until >= $2 AND device_addresses.since <= $3)",
		Args:  []any{ip, from.UnixMicro(), to.UnixMicro()},
	}))
}
