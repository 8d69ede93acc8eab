// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bufio"
	"bytes"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"staunch/internal/order"
)

// Version is the agent's, as a device reports it.
const Version = "0.1.0"

// facts is what the device says of itself. What cannot be read is left out.
func facts() order.Facts {
	host, _ := os.Hostname() // "" shows as an unnamed device
	f := order.Facts{
		Hostname:     host,
		OS:           runtime.GOOS,
		Kernel:       readLine("/proc/sys/kernel/osrelease"),
		Arch:         map[string]string{"amd64": "x64", "386": "x86", "arm64": "arm64"}[runtime.GOARCH],
		AgentVersion: Version,
		Can:          []order.Kind{order.StopAndQuarantine, order.Restore, order.Purge, order.Cancel},
		Privileged:   os.Geteuid() == 0,
	}
	if domain := readLine("/proc/sys/kernel/domainname"); strings.Contains(host, ".") {
		f.FQDN = host
	} else if domain != "" && domain != "(none)" {
		f.FQDN = host + "." + domain
	}
	release, _ := os.ReadFile("/etc/os-release") // os-release(5); missing: an unknown Linux
	f.OSPlatform, f.OSVersion = platform(release)
	f.Addresses, f.Users = addresses(), logonUsers()
	return f
}

func readLine(path string) string {
	b, _ := os.ReadFile(path)
	return strings.TrimSpace(string(b))
}

// platform turns os-release(5) into the API's osPlatform and version, where
// "22.04" is written "22.4".
func platform(release []byte) (name, version string) {
	v := map[string]string{}
	for s := bufio.NewScanner(bytes.NewReader(release)); s.Scan(); {
		if key, val, ok := strings.Cut(s.Text(), "="); ok {
			v[key] = strings.Trim(val, `"'`)
		}
	}
	names := map[string]string{
		"ubuntu": "Ubuntu", "debian": "Debian", "rhel": "RedHatEnterpriseLinux", "centos": "CentOS", "fedora": "Fedora",
		"sles": "SUSELinuxEnterpriseServer", "opensuse-leap": "openSUSE", "amzn": "AmazonLinux", "ol": "OracleLinux",
		"rocky": "RockyLinux", "almalinux": "AlmaLinux", "arch": "ArchLinux", "alpine": "AlpineLinux",
	}
	name = names[v["ID"]]
	if name == "" {
		name = "Linux"
	}
	var parts []string
	for part := range strings.SplitSeq(v["VERSION_ID"], ".") {
		if n, err := strconv.Atoi(part); err == nil {
			part = strconv.Itoa(n)
		}
		parts = append(parts, part)
	}
	return name, strings.Join(parts, ".")
}

// maxAddresses bounds what a device with countless virtual interfaces reports.
const maxAddresses = 64

func addresses() []order.Address {
	var all []order.Address
	interfaces, _ := net.Interfaces() // none readable: none reported
	for _, i := range interfaces {
		kind := "Other"
		switch {
		case i.Flags&net.FlagLoopback != 0:
			kind = "SoftwareLoopback"
		case len(i.HardwareAddr) == 6:
			kind = "Ethernet"
		}
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			ip, _, err := net.ParseCIDR(a.String())
			if err != nil || ip.IsLinkLocalUnicast() {
				continue
			}
			all = append(all, order.Address{
				IP:   ip.String(),
				MAC:  strings.ToUpper(strings.ReplaceAll(i.HardwareAddr.String(), ":", "")),
				Type: kind,
				Up:   i.Flags&net.FlagUp != 0,
			})
		}
	}
	// Real interfaces first: the first address is shown as the device's own.
	slices.SortStableFunc(all, func(a, b order.Address) int { return rank(a) - rank(b) })
	return all[:min(len(all), maxAddresses)]
}

func rank(a order.Address) int {
	switch {
	case a.Type == "Ethernet" && a.Up:
		return 0
	case a.Type == "SoftwareLoopback":
		return 2
	}
	return 1
}
