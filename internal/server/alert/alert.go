// SPDX-License-Identifier: Apache-2.0

// Package alert is what people are told of: a device met a content that an
// indicator with generateAlert is about. As long as an alert is open, further
// meetings of that device and indicator count towards it. It knows no HTTP, no
// SQL and no bus.
package alert

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"staunch/api"
	"staunch/internal/order"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/indicator"
	"staunch/internal/server/odata"
)

// Alert is one alert.
type Alert struct {
	ID             string
	Seq            int64
	Title          string
	Description    string
	Severity       string
	Status         string // New, InProgress, Resolved
	Category       string
	Classification string // "": none
	Determination  string // "": none
	AssignedTo     string // "": nobody

	Created    time.Time
	FirstEvent time.Time
	LastEvent  time.Time
	Updated    time.Time
	Resolved   time.Time // zero: not resolved

	MachineID    string
	MachineName  string
	MachineGroup string // name of the device group that it is in now; "": none
	Indicator    string // id
	SHA1         string
	SHA256       string
	Path         string
	Events       int64
	Comments     []Comment
}

// Comment is what somebody wrote about an alert.
type Comment struct {
	Text string    `json:"comment"`
	By   string    `json:"createdBy"`
	At   time.Time `json:"createdTime"`
}

// Subject is what there is one open alert for.
func (a Alert) Subject() string { return a.MachineID + " " + a.Indicator }

// The statuses that an alert may be given.
const (
	StatusNew        = "New"
	StatusInProgress = "InProgress"
	StatusResolved   = "Resolved"
)

// Store keeps alerts. Each method is one transaction.
type Store interface {
	// RaiseAlert keeps a with its entry, setting its Seq; or, when one with its
	// Subject is open, adds a's event to that one and keeps no entry.
	RaiseAlert(ctx context.Context, a *Alert, e audit.Entry) error
	// Alert returns one, or an api.Error ResourceNotFound.
	Alert(ctx context.Context, id string) (Alert, error)
	// Alerts returns a page and, when q asks for it, the count of all that match.
	Alerts(ctx context.Context, q odata.Query) ([]Alert, int64, error)
	// ChangeAlert loads, changes and keeps an alert, as action.Store's ChangeAction does.
	ChangeAlert(ctx context.Context, id string, change func(*Alert) (*audit.Entry, error)) (Alert, error)
	// Record appends an entry that stands alone: a refusal.
	Record(ctx context.Context, e audit.Entry) error
}

// Config is what a Service works with.
type Config struct {
	Store Store // required
	// Indicator returns the indicator with the id, or an api.Error ResourceNotFound. Required.
	Indicator func(ctx context.Context, id int64, now time.Time) (indicator.Indicator, error)
	// MachineName returns the DNS name of a device. Required.
	MachineName func(ctx context.Context, device string) (string, error)
	// Visible reports whether the caller may know of a device. Required.
	Visible func(ctx context.Context, c auth.Caller, device string) (bool, error)

	Log *slog.Logger     // nil: nowhere
	Now func() time.Time // nil: time.Now
}

// Service is the life of alerts. Make one with New.
type Service struct{ cfg Config }

// New checks the configuration.
func New(c Config) (*Service, error) {
	if c.Store == nil || c.Indicator == nil || c.MachineName == nil || c.Visible == nil {
		return nil, errors.New("cannot make the alert service: store, indicators, names and visibility of devices are required")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Service{c}, nil
}

func (s *Service) now() time.Time { return s.cfg.Now().UTC().Truncate(time.Microsecond) }

// Met raises an alert for a sighting if the indicator that it names asks for
// one and is about this content. A device cannot raise any other.
func (s *Service) Met(ctx context.Context, device string, f order.Sighting) error {
	id, err := strconv.ParseInt(f.Blocked, 10, 64)
	if err != nil {
		return nil // an order's gate, not an indicator's
	}
	now := s.now()
	in, err := s.cfg.Indicator(ctx, id, now)
	switch {
	case api.CodeOf(err) == api.ResourceNotFound:
		return nil // deleted meanwhile
	case err != nil:
		return fmt.Errorf("cannot look up indicator: %w", err)
	}
	if in.Value != f.SHA1.String() && in.Value != f.SHA256.String() {
		s.cfg.Log.Warn("a device met a file that its rule is not about", "device", device, "indicator", id)
		return nil
	}
	if !in.GenerateAlert && in.Action != indicator.Alert && in.Action != indicator.AlertAndBlock {
		return nil
	}
	name, err := s.cfg.MachineName(ctx, device)
	if err != nil {
		return fmt.Errorf("cannot look up device: %w", err)
	}
	seen := f.Seen.UTC().Truncate(time.Microsecond)
	if seen.After(now) || seen.Before(now.Add(-30*24*time.Hour)) {
		seen = now
	}
	a := Alert{
		ID: newID(now), Title: in.Title, Description: in.Description, Severity: in.Severity, Status: StatusNew, Category: "Malware",
		Created: now, Updated: now, FirstEvent: seen, LastEvent: seen, MachineID: device, MachineName: name,
		Indicator: f.Blocked, SHA1: f.SHA1.String(), SHA256: f.SHA256.String(), Path: clip(string(f.Path), 4096), Events: min(max(f.Times, 1), 1_000_000),
	}
	e := audit.By(auth.Caller{Kind: auth.Device, ID: device, Name: name}, audit.RaiseAlert, a.ID, "accepted")
	e.Detail = mustJSON(map[string]string{"indicator": a.Indicator, "sha256": a.SHA256, "path": clip(a.Path, 512), "what": f.What})
	if err := s.cfg.Store.RaiseAlert(ctx, &a, e); err != nil {
		return fmt.Errorf("cannot raise alert: %w", err)
	}
	return nil
}

// newID makes an id of the form that the Defender API's have: the time in
// ticks of 100 ns since the year 1, and a number.
func newID(now time.Time) string {
	const unixTicks = 621_355_968_000_000_000
	var b [4]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails
	return fmt.Sprintf("da%d_%d", unixTicks+now.UnixMicro()*10, binary.BigEndian.Uint32(b[:])>>1)
}

func readers(c auth.Caller) error {
	return auth.Allow(c, []auth.Permission{auth.AlertReadAll, auth.AlertReadWriteAll, auth.AlertRead, auth.AlertReadWrite})
}

// List returns a page of alerts and, when q asks for it, the count of all.
func (s *Service) List(ctx context.Context, c auth.Caller, q odata.Query) ([]Alert, int64, error) {
	if err := readers(c); err != nil {
		return nil, 0, err
	}
	q.Groups = c.Groups(auth.ViewData)
	return s.cfg.Store.Alerts(ctx, q)
}

// Get returns one alert that the caller may see.
func (s *Service) Get(ctx context.Context, c auth.Caller, id string) (Alert, error) {
	if err := readers(c); err != nil {
		return Alert{}, err
	}
	return s.visible(ctx, c, id)
}

func (s *Service) visible(ctx context.Context, c auth.Caller, id string) (Alert, error) {
	missing := api.Errorf(api.ResourceNotFound, "Alert %s was not found", clip(id, 128))
	a, err := s.cfg.Store.Alert(ctx, id)
	if api.CodeOf(err) == api.ResourceNotFound {
		return Alert{}, missing
	}
	if err != nil {
		return Alert{}, err
	}
	ok, err := s.cfg.Visible(ctx, c, a.MachineID)
	switch {
	case err != nil:
		return Alert{}, err
	case !ok:
		return Alert{}, missing
	}
	return a, nil
}

// Change is what an update asks; "" leaves as it is.
type Change struct {
	Status         string
	AssignedTo     *string
	Classification string
	Determination  string
	Comment        string
}

// Classifications lists the classifications as the API spells them.
func Classifications() []string {
	return []string{"Unknown", "FalsePositive", "TruePositive", "InformationalExpectedActivity"}
}

// Determinations lists the determinations as the API spells them.
func Determinations() []string {
	return []string{
		"NotAvailable", "Apt", "Malware", "SecurityPersonnel", "SecurityTesting", "UnwantedSoftware", "Other", "MultiStagedAttack",
		"CompromisedAccount", "CompromisedUser", "Phishing", "MaliciousUserActivity", "NotMalicious", "NotEnoughDataToValidate",
		"ConfirmedActivity", "ConfirmedUserActivity", "LineOfBusinessApplication", "Clean", "InsufficientData",
	}
}

// Update changes an alert as people work on it.
func (s *Service) Update(ctx context.Context, c auth.Caller, id string, ch Change) (Alert, error) {
	a, err := s.update(ctx, c, id, ch)
	if err != nil {
		return Alert{}, s.refused(ctx, c, id, err)
	}
	return a, nil
}

func (s *Service) update(ctx context.Context, c auth.Caller, id string, ch Change) (Alert, error) {
	if err := auth.Allow(c, []auth.Permission{auth.AlertReadWriteAll, auth.AlertReadWrite}); err != nil {
		return Alert{}, err
	}
	if err := auth.AllowRight(c, auth.AlertsInvestigation); err != nil {
		return Alert{}, err
	}
	if err := ch.check(); err != nil {
		return Alert{}, err
	}
	if _, err := s.visible(ctx, c, id); err != nil {
		return Alert{}, err
	}
	now := s.now()
	return s.cfg.Store.ChangeAlert(ctx, id, func(a *Alert) (*audit.Entry, error) {
		detail := ch.apply(a, c, now)
		if len(detail) == 0 {
			return nil, api.Errorf(api.InvalidRequestBody, "Request body is incorrect: it changes nothing; it may have status, assignedTo, classification, determination and comment")
		}
		if len(a.Comments) > 1000 {
			return nil, api.Errorf(api.InvalidInput, "The alert has 1000 comments already")
		}
		a.Updated = now
		e := audit.By(c, audit.UpdateAlert, a.ID, "accepted")
		e.Detail = mustJSON(detail)
		return &e, nil
	})
}

func (ch *Change) check() error {
	for _, p := range []struct {
		name  string
		value *string
		words []string
	}{
		{"status", &ch.Status, []string{StatusNew, StatusInProgress, StatusResolved}},
		{"classification", &ch.Classification, Classifications()},
		{"determination", &ch.Determination, Determinations()},
	} {
		if *p.value == "" {
			continue
		}
		at := slices.IndexFunc(p.words, func(w string) bool { return strings.EqualFold(w, *p.value) })
		if at < 0 {
			return api.Errorf(api.InvalidInput, "Invalid input %.64q for %s: want one of %s", *p.value, p.name, strings.Join(p.words, ", "))
		}
		*p.value = p.words[at]
	}
	texts := map[string]string{"comment": ch.Comment}
	if ch.AssignedTo != nil {
		texts["assignedTo"] = *ch.AssignedTo
	}
	for name, v := range texts {
		most := 4096
		if name == "assignedTo" {
			most = 256
		}
		if utf8.RuneCountInString(v) > most || !utf8.ValidString(v) || strings.ContainsRune(v, 0) {
			return api.Errorf(api.InvalidInput, "%s must be text of at most %d characters, without NUL", name, most)
		}
	}
	return nil
}

// apply changes a and returns what was changed.
func (ch Change) apply(a *Alert, c auth.Caller, now time.Time) map[string]string {
	detail := map[string]string{}
	set := func(name, value string, field *string) {
		if value != "" {
			*field, detail[name] = value, value
		}
	}
	set("status", ch.Status, &a.Status)
	set("classification", ch.Classification, &a.Classification)
	set("determination", ch.Determination, &a.Determination)
	if ch.AssignedTo != nil {
		a.AssignedTo, detail["assignedTo"] = *ch.AssignedTo, *ch.AssignedTo
	}
	if strings.TrimSpace(ch.Comment) != "" {
		a.Comments = append(slices.Clone(a.Comments), Comment{Text: ch.Comment, By: c.Name, At: now})
		detail["comment"] = clip(ch.Comment, 512)
	}
	switch {
	case a.Status != StatusResolved:
		a.Resolved = time.Time{}
	case a.Resolved.IsZero():
		a.Resolved = now
	}
	return detail
}

func (s *Service) refused(ctx context.Context, c auth.Caller, target string, err error) error {
	var refusal *api.Error
	if !errors.As(err, &refusal) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	e := audit.By(c, audit.UpdateAlert, clip(target, 128), "refused: "+string(refusal.Code))
	e.Detail = mustJSON(map[string]string{"reason": clip(refusal.Message, 512)})
	if rerr := s.cfg.Store.Record(ctx, e); rerr != nil {
		return fmt.Errorf("cannot record that an update was refused: %w", rerr)
	}
	return err
}

func mustJSON(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil { // strings always encode
		panic(err)
	}
	return b
}

// clip makes s safe to keep, and short.
func clip(s string, n int) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "\uFFFD"), "\uFFFD")
	if r := []rune(s); len(r) > n {
		return string(r[:n]) + "…"
	}
	return s
}
