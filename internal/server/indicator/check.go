// SPDX-License-Identifier: Apache-2.0

package indicator

import (
	"encoding/hex"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"staunch/api"
	"staunch/internal/filehash"
	"staunch/internal/server/odata"
)

// Request asks for one indicator. Texts are as the client wrote them.
type Request struct {
	Value              string
	Type               string
	Action             string
	Title              string
	Description        string
	Severity           string // "": Informational
	RecommendedActions string
	Application        string
	EducateURL         string
	ExternalID         string
	Expiration         string // RFC 3339; "": never
	GenerateAlert      bool
	Groups             []string // names of device groups; none: all devices
	Source             string   // "": PublicApi
}

// Bounds of texts, in characters.
const (
	maxTitle  = 200
	maxText   = 4096
	maxName   = 256
	maxURL    = 2000
	maxGroups = 100
)

// check makes an indicator of the request, or says what is wrong with it.
func (r Request) check(now time.Time) (Indicator, error) {
	in := Indicator{
		Shown: strings.TrimSpace(r.Value), Title: r.Title, Description: r.Description, RecommendedActions: r.RecommendedActions,
		Application: r.Application, EducateURL: r.EducateURL, ExternalID: r.ExternalID, GenerateAlert: r.GenerateAlert, Source: r.Source,
	}
	if in.Source == "" {
		in.Source = "PublicApi"
	}
	if err := r.required(); err != nil {
		return in, err
	}
	if err := r.texts(); err != nil {
		return in, err
	}
	var err error
	if in.Type, err = spelled("indicatorType", r.Type, Types()); err != nil {
		return in, err
	}
	action := r.Action
	if strings.EqualFold(action, "Allow") {
		action = Allowed
	}
	if in.Action, err = spelled("action", action, Actions()); err != nil {
		return in, err
	}
	if in.Severity, err = spelled("severity", orDefault(r.Severity, "Informational"), Severities()); err != nil {
		return in, err
	}
	if in.Value, err = value(in.Type, in.Shown); err != nil {
		return in, err
	}
	if err := in.allowed(); err != nil {
		return in, err
	}
	if in.Groups, err = groups(r.Groups); err != nil {
		return in, err
	}
	in.Expires, err = expiration(r.Expiration, now)
	return in, err
}

func (r Request) required() error {
	for _, p := range []struct{ name, value string }{
		{"indicatorValue", r.Value}, {"indicatorType", r.Type}, {"action", r.Action}, {"title", r.Title}, {"description", r.Description},
	} {
		if strings.TrimSpace(p.value) == "" {
			return api.Errorf(api.MissingRequiredParameter, "Parameter %s is missing", p.name)
		}
	}
	return nil
}

func (r Request) texts() error {
	for _, p := range []struct {
		name, value string
		most        int
	}{
		{"indicatorValue", r.Value, maxURL}, {"title", r.Title, maxTitle}, {"description", r.Description, maxText},
		{"recommendedActions", r.RecommendedActions, maxText}, {"application", r.Application, maxName},
		{"educateUrl", r.EducateURL, maxURL}, {"externalId", r.ExternalID, maxName},
	} {
		if err := checkText(p.name, p.value, p.most); err != nil {
			return err
		}
	}
	return nil
}

func checkText(name, s string, most int) error {
	switch {
	case utf8.RuneCountInString(s) > most:
		return api.Errorf(api.InvalidInput, "%s is %d characters long, at most %d are allowed", name, utf8.RuneCountInString(s), most)
	case !utf8.ValidString(s) || strings.ContainsRune(s, 0):
		return api.Errorf(api.InvalidInput, "%s contains characters that are not allowed (NUL, or bytes that are not UTF-8)", name)
	}
	return nil
}

// spelled returns the word of a list that s is in any case.
func spelled(name, s string, words []string) (string, error) {
	at := slices.IndexFunc(words, func(w string) bool { return strings.EqualFold(w, strings.TrimSpace(s)) })
	if at < 0 {
		return "", api.Errorf(api.InvalidInput, "Invalid input %.64q for %s: want one of %s", s, name, strings.Join(words, ", "))
	}
	return words[at], nil
}

// value returns the value as it is compared, or what is wrong with it.
func value(kind, s string) (string, error) {
	switch kind {
	case FileSHA1, CertificateThumbprint:
		return digest(s, 40)
	case FileSHA256:
		return digest(s, 64)
	case FileMD5:
		return digest(s, 32)
	case IPAddress:
		ip, err := netip.ParseAddr(s)
		if err != nil || ip.Zone() != "" {
			return "", api.Errorf(api.InvalidIPAddress, "IP address %.64q is invalid. Ranges are not supported.", s)
		}
		return ip.String(), nil
	case DomainName:
		name := strings.TrimSuffix(odata.Fold(s), ".")
		if !domain(name) {
			return "", api.Errorf(api.InvalidDomainName, "Domain name %.64q is invalid.", s)
		}
		return name, nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", api.Errorf(api.InvalidURL, "URL %.64q is invalid.", s)
	}
	return odata.Fold(s), nil
}

func digest(s string, digits int) (string, error) {
	s2 := odata.Fold(s)
	if _, err := hex.DecodeString(s2); err != nil || len(s2) != digits {
		return "", api.Errorf(api.InvalidHashValue, "Hash value %.128s is invalid.", s)
	}
	if strings.Trim(s2, "0") == "" {
		return "", api.Errorf(api.InvalidHashValue, "Hash value %s is invalid.", s)
	}
	if h, err := filehash.Parse(s2); err == nil && h.Empty() {
		return "", api.Errorf(api.DisallowedOperation, "%s names the empty file, which countless harmless files are: there can be no rule about it.", s2)
	}
	return s2, nil
}

func domain(name string) bool {
	if len(name) > 253 || !strings.Contains(name, ".") {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, r := range label {
			if r < 0x80 && r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') {
				return false
			}
		}
	}
	return true
}

// allowed holds type and action, alert and teaching against one another.
func (in Indicator) allowed() error {
	may := []string{Allowed, Audit, Warn, Block, Alert, AlertAndBlock}
	switch in.Type {
	case FileSHA1, FileSHA256, FileMD5:
		may = append(may, BlockAndRemediate)
	case CertificateThumbprint:
		may = []string{Allowed, BlockAndRemediate}
	}
	web := in.Type == URL || in.Type == DomainName
	switch {
	case !slices.Contains(may, in.Action):
		return api.Errorf(api.InvalidInput, "Action %s isn't supported for indicator type %s: want one of %s", in.Action, in.Type, strings.Join(may, ", "))
	case in.Action == Audit && !in.GenerateAlert:
		return api.Errorf(api.InvalidInput, "generateAlert must be true when action is Audit")
	case in.EducateURL != "" && (!web || in.Action != Block && in.Action != Warn):
		return api.Errorf(api.InvalidInput, "educateUrl goes with indicators of type Url or DomainName and action Block or Warn alone")
	}
	if in.EducateURL == "" {
		return nil
	}
	_, err := value(URL, in.EducateURL)
	return err
}

// groups returns the names trimmed, sorted and each once in any case.
func groups(names []string) ([]Group, error) {
	var all []Group
	for _, n := range names {
		n = strings.TrimSpace(n)
		if n == "" || slices.ContainsFunc(all, func(g Group) bool { return strings.EqualFold(g.Name, n) }) {
			continue
		}
		if err := checkText("rbacGroupNames", n, maxName); err != nil {
			return nil, err
		}
		all = append(all, Group{Name: n})
	}
	if len(all) > maxGroups {
		return nil, api.Errorf(api.InvalidInput, "rbacGroupNames has %d names, at most %d are allowed", len(all), maxGroups)
	}
	slices.SortFunc(all, func(a, b Group) int { return strings.Compare(odata.Fold(a.Name), odata.Fold(b.Name)) })
	return all, nil
}

func expiration(s string, now time.Time) (time.Time, error) {
	if strings.TrimSpace(s) == "" {
		return time.Time{}, nil
	}
	t, err := odata.ParseTime(strings.TrimSpace(s))
	switch {
	case err != nil || t.Year() > 9999:
		return t, api.Errorf(api.InvalidInput, "expirationTime %.64q is not a time, as in 2027-02-10T00:00:00Z", s)
	case !t.After(now):
		return t, api.Errorf(api.InvalidInput, "expirationTime %s has passed", t.UTC().Format(time.RFC3339))
	}
	return t.UTC(), nil
}

func orDefault(s, fallback string) string {
	if strings.TrimSpace(s) == "" {
		return fallback
	}
	return s
}

// Scope is the key of the device groups: lower-case names, sorted; "" for all devices.
func (in Indicator) Scope() string {
	names := make([]string, len(in.Groups))
	for i, g := range in.Groups {
		names[i] = odata.Fold(g.Name)
	}
	return strings.Join(names, "\n")
}
