// SPDX-License-Identifier: Apache-2.0

package device

import (
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"staunch/api"
	"staunch/internal/order"
	"staunch/internal/server/auth"
)

// Bounds of what a device may say of itself. A device is not trusted: it may be
// in an attacker's hands, and what it says is shown to people and compared with
// what callers ask for.
const (
	maxFactsJSON = 256 << 10 // bytes
	maxText      = 255       // bytes of one name or version
	maxListed    = 256       // addresses and users kept; a container host has more, which nobody needs
	maxKinds     = 64
)

// decodeFacts reads an enrollment's facts. Fields it does not know are passed
// over: an agent newer than the server must be able to enroll.
func decodeFacts(raw json.RawMessage) (order.Facts, error) {
	if len(raw) > maxFactsJSON {
		return order.Facts{}, api.Errorf(api.InvalidInput, "facts has %d bytes, %d are allowed", len(raw), maxFactsJSON)
	}
	var f order.Facts
	if len(raw) == 0 {
		return order.Facts{}, api.Errorf(api.MissingRequiredParameter, "Parameter facts is missing")
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		return order.Facts{}, api.Errorf(api.InvalidInput, "facts is not what a device says of itself: %v", err)
	}
	return checkFacts(f)
}

// checkFacts returns the facts bounded, or what is wrong with them.
func checkFacts(f order.Facts) (order.Facts, error) {
	if f.Hostname == "" {
		return order.Facts{}, api.Errorf(api.InvalidInput, "facts.hostname is empty: give the machine a host name")
	}
	for _, name := range []struct{ what, value string }{{"hostname", f.Hostname}, {"fqdn", f.FQDN}} {
		if err := checkHost(name.what, name.value); err != nil {
			return order.Facts{}, err
		}
	}
	texts := map[string]string{
		"os": f.OS, "platform": f.OSPlatform, "osVersion": f.OSVersion, "kernel": f.Kernel, "arch": f.Arch, "agentVersion": f.AgentVersion,
	}
	for what, value := range texts {
		if err := checkText(what, value); err != nil {
			return order.Facts{}, err
		}
	}
	if len(f.Can) > maxKinds {
		return order.Facts{}, api.Errorf(api.InvalidInput, "facts.can lists %d kinds of order, %d are allowed", len(f.Can), maxKinds)
	}
	for _, k := range f.Can {
		if err := checkText("can", string(k)); err != nil {
			return order.Facts{}, err
		}
	}
	if f.OSPlatform == "" {
		f.OSPlatform = "Linux" // here and not where it is shown, so that filters find it too
	}
	f.Addresses = f.Addresses[:min(len(f.Addresses), maxListed)]
	f.Users = f.Users[:min(len(f.Users), maxListed)]
	return checkLists(f)
}

func checkLists(f order.Facts) (order.Facts, error) {
	addresses := make([]order.Address, 0, len(f.Addresses))
	for _, a := range f.Addresses {
		ip, err := netip.ParseAddr(a.IP)
		if err != nil || len(a.IP) > maxText {
			return order.Facts{}, api.Errorf(api.InvalidInput, "facts.addresses holds %s, which is no IP address", shown(a.IP))
		}
		if err := checkText("addresses.type", a.Type); err != nil {
			return order.Facts{}, err
		}
		if mac, err := hex.DecodeString(a.MAC); err != nil || len(mac) != 6 {
			a.MAC = "" // InfiniBand and tunnels have others; the API knows twelve digits alone
		}
		a.IP, a.MAC = ip.WithZone("").String(), strings.ToUpper(a.MAC)
		addresses = append(addresses, a)
	}
	for _, u := range f.Users {
		if err := checkText("users.name", u.Name); err != nil {
			return order.Facts{}, err
		}
	}
	if f.Addresses = addresses; len(addresses) == 0 {
		f.Addresses = nil
	}
	return f, nil
}

func checkText(what, s string) error {
	switch {
	case len(s) > maxText:
		return api.Errorf(api.InvalidInput, "facts.%s has %d bytes, %d are allowed", what, len(s), maxText)
	case !utf8.ValidString(s), strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return api.Errorf(api.InvalidInput, "facts.%s holds characters that cannot be printed", what)
	}
	return nil
}

// checkHost also keeps out what would make a name look like something else:
// another device's id, a path, a query.
func checkHost(what, s string) error {
	if err := checkText(what, s); err != nil {
		return err
	}
	lower := strings.ToLower(s)
	if strings.ContainsAny(s, " /\\?#%&<>\"'`") || order.ValidDevice(lower) || auth.IsGUID(lower) || strings.HasPrefix(s, ".") {
		return api.Errorf(api.InvalidInput, "facts.%s %s is not a host name: change it and enroll again", what, shown(s))
	}
	return nil
}

// nameOf is the device's DNS name: the FQDN it reports, else its host name.
func nameOf(f order.Facts) string {
	name := f.FQDN
	if name == "" {
		name = f.Hostname
	}
	return strings.ToLower(strings.TrimSuffix(name, "."))
}

// shown quotes what a stranger sent, cut to a length that fits a message.
func shown(s string) string {
	if len(s) > 100 {
		s = s[:100] + "…"
	}
	return `"` + strings.ToValidUTF8(s, "�") + `"`
}
