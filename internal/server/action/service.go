// SPDX-License-Identifier: Apache-2.0

package action

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"

	"staunch/api"
	"staunch/internal/filehash"
	"staunch/internal/order"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/periodic"
)

// Config is what a Service works with.
type Config struct {
	Store    Store              // required
	Devices  Devices            // required
	Bell     Bell               // nil: devices learn of orders when they next look
	Asker    Asker              // nil: every device counts as not connected
	OrderKey ed25519.PrivateKey // required: signs orders
	Settings Settings           //
	// Observed says whether the record knows the file on the device, for
	// requireObserved=strict while the device is away. nil: nothing is on record.
	Observed func(ctx context.Context, device string, file filehash.Hash) (bool, error)
	// Reach says what the caller's orders may reach. nil: there is no limit.
	Reach func(ctx context.Context, c auth.Caller) (Reach, error)
	// Changed is told of every action that was made or has changed, after it
	// was kept. It must not block. nil: nobody listens.
	Changed func(Action)

	SweepEvery time.Duration    // between looks for expired and waiting actions; 0: 30 seconds
	Log        *slog.Logger     // nil: nowhere
	Now        func() time.Time // nil: time.Now
}

// Settings are looked up at each use, so that they can change while the server
// runs. A nil func is the default.
type Settings struct {
	Expiry             func() time.Duration // actions.expiry; 72 hours
	RequireObserved    func() string        // actions.requireObserved: auto, strict or off; auto
	RequireMachineRead func() bool          // auth.requireMachineRead; false
	// CancelAnyOf lets any of the action permissions cancel any action, as the
	// Defender service does, instead of the one of the action's own type; false.
	CancelAnyOf func() bool
}

// Service is the life of machine actions. Make one with New.
type Service struct {
	cfg  Config
	loop *periodic.Loop // the sweep; set by Start
}

// askTimeout bounds how long a submission waits for a device's answer.
const askTimeout = 2 * time.Second

// MaxComment is the longest comment, in characters.
const MaxComment = 4096

// New checks the configuration and returns a Service that answers calls; Start
// makes it look after time-outs and forgotten deliveries too.
func New(c Config) (*Service, error) {
	switch {
	case c.Store == nil:
		return nil, errors.New("cannot make the action service: no store")
	case c.Devices == nil:
		return nil, errors.New("cannot make the action service: no devices")
	case len(c.OrderKey) != ed25519.PrivateKeySize:
		return nil, errors.New("cannot make the action service: no order key")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.SweepEvery == 0 {
		c.SweepEvery = 30 * time.Second
	}
	if c.Settings.Expiry == nil {
		c.Settings.Expiry = func() time.Duration { return 72 * time.Hour }
	}
	if c.Settings.RequireObserved == nil {
		c.Settings.RequireObserved = func() string { return "auto" }
	}
	if c.Settings.RequireMachineRead == nil {
		c.Settings.RequireMachineRead = func() bool { return false }
	}
	if c.Settings.CancelAnyOf == nil {
		c.Settings.CancelAnyOf = func() bool { return false }
	}
	return &Service{cfg: c}, nil
}

// now is the clock at the precision the store keeps, so that what a create
// answers and what a later get answers are the same.
func (s *Service) now() time.Time { return s.cfg.Now().UTC().Truncate(time.Microsecond) }

func (s *Service) ring(device string) {
	if s.cfg.Bell != nil {
		s.cfg.Bell.Ring(device)
	}
}

func (s *Service) changed(a Action) {
	if s.cfg.Changed != nil {
		s.cfg.Changed(a)
	}
}

// need is the permission check of every operation. The route table has made it
// already; a caller that came another way is stopped here.
func need(c auth.Caller, anyOf ...auth.Permission) error {
	if c.Holds(anyOf...) {
		return nil
	}
	names := make([]string, len(anyOf))
	for i, p := range anyOf {
		names[i] = string(p)
	}
	if c.Kind == auth.App {
		return api.Errorf(api.Forbidden, "The application does not have any of the required application permissions (%s) to access the resource.", strings.Join(names, ", "))
	}
	return api.Errorf(api.Forbidden, "The caller does not have any of the required permissions (%s) to access the resource.", strings.Join(names, ", "))
}

// machineRead are the permissions that open actions and vault items for reading.
func machineRead() []auth.Permission {
	return []auth.Permission{auth.MachineReadAll, auth.MachineReadWriteAll, auth.MachineRead, auth.MachineReadWrite}
}

// refused records that c was refused and returns the refusal. What is not a
// refusal but a fault of ours passes unrecorded: nothing was decided.
func (s *Service) refused(ctx context.Context, c auth.Caller, op audit.Operation, target string, err error) error {
	var refusal *api.Error
	if !errors.As(err, &refusal) {
		return err
	}
	// The caller may have hung up; that must not keep the attempt off the record.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	e := audit.By(c, op, clip(target, 128), "refused: "+string(refusal.Code))
	e.Detail = detail(map[string]any{"reason": clip(refusal.Message, 512)})
	if rerr := s.cfg.Store.Record(ctx, e); rerr != nil {
		return fmt.Errorf("cannot record that %s was refused: %w", op, rerr)
	}
	return err
}

// detail encodes the small print of an audit entry, leaving out what is empty.
func detail(fields map[string]any) json.RawMessage {
	for k, v := range fields {
		if v == "" || v == nil || v == false {
			delete(fields, k)
		}
	}
	b, err := json.Marshal(fields)
	if err != nil { // strings, numbers and booleans always encode
		return nil
	}
	return b
}

// clip makes s safe to keep: valid UTF-8, no NUL (PostgreSQL takes none), at
// most n bytes.
func clip(s string, n int) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "\uFFFD"), "\uFFFD")
	if len(s) <= n {
		return s
	}
	s = s[:n]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s + "…"
}

// checkText refuses a text that is too long or cannot be kept.
func checkText(name, s string, most int) error {
	switch {
	case utf8.RuneCountInString(s) > most:
		return api.Errorf(api.InvalidInput, "%s is %d characters long, at most %d are allowed", name, utf8.RuneCountInString(s), most)
	case !utf8.ValidString(s) || strings.ContainsRune(s, 0):
		return api.Errorf(api.InvalidInput, "%s contains characters that are not allowed (NUL, or bytes that are not UTF-8)", name)
	}
	return nil
}

// newID makes a GUID of version 4.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// The order that cancels an action has the action's id with the version digit 8
// (free for private use, RFC 9562) in the place of 4: one can be told from the
// other, neither is ever used twice, and nothing more need be kept.
const versionDigit = 14

func cancelID(action string) string {
	return action[:versionDigit] + "8" + action[versionDigit+1:]
}

// splitID tells of an order's id which action it belongs to and whether it is
// the order itself or its cancel.
func splitID(id string) (action string, isCancel bool, ok bool) {
	if !order.ValidID(id) {
		return "", false, false
	}
	switch id[versionDigit] {
	case '4':
		return id, false, true
	case '8':
		return id[:versionDigit] + "4" + id[versionDigit+1:], true, true
	}
	return "", false, false
}
