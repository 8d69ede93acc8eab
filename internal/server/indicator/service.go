// SPDX-License-Identifier: Apache-2.0

package indicator

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/odata"
	"staunch/internal/server/periodic"
)

// MaxBatch is how many indicators one import or one batch delete may name.
const MaxBatch = 500

// Config is what a Service works with.
type Config struct {
	Store    Store              // required
	OrderKey ed25519.PrivateKey // required: signs the devices' sets
	// GroupOf returns the name of the device group that a device is in, "" for
	// none. Required.
	GroupOf func(ctx context.Context, device string) (string, error)
	// Group looks up a device group by name. nil: names are taken as they are.
	Group func(ctx context.Context, name string) (id int64, ok bool, err error)
	// Limit is how many indicators there may be. nil: 15,000.
	Limit func() int
	// Changed is told that the devices' sets may have changed. It must not
	// block. nil: devices learn of it when they are next looked at.
	Changed func()

	SweepEvery time.Duration    // between looks for expired ones; 0: 5 seconds
	Log        *slog.Logger     // nil: nowhere
	Now        func() time.Time // nil: time.Now
}

// Service is the life of indicators. Make one with New.
type Service struct {
	cfg  Config
	loop *periodic.Loop // the sweep; set by Start

	mu   sync.Mutex
	sets map[string]*set // by device group, of the newest version; guarded by mu
}

// New checks the configuration. Start makes expired indicators go away.
func New(c Config) (*Service, error) {
	if c.Store == nil || c.GroupOf == nil || len(c.OrderKey) != ed25519.PrivateKeySize {
		return nil, errors.New("cannot make the indicator service: store, group of devices and order key are required")
	}
	if c.Limit == nil {
		c.Limit = func() int { return 15_000 }
	}
	if c.SweepEvery == 0 {
		c.SweepEvery = 5 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Service{cfg: c, sets: map[string]*set{}}, nil
}

// Start looks after expiry until Stop.
func (s *Service) Start(ctx context.Context) {
	s.loop = periodic.Start(ctx, s.cfg.SweepEvery, func(ctx context.Context) {
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Error("cannot take expired indicators away", "error", err)
		}
	})
}

// Stop ends what Start began.
func (s *Service) Stop() { s.loop.Stop() }

// Sweep deletes what has expired.
func (s *Service) Sweep(ctx context.Context) error {
	system := auth.Caller{Kind: auth.System, ID: "system", Name: "system"}
	const batch = 500
	for {
		n, err := s.cfg.Store.ExpireIndicators(ctx, s.now(), batch, func(in Indicator) audit.Entry {
			return entry(system, audit.ExpireIndicator, in)
		})
		if err != nil {
			return err
		}
		if n > 0 {
			s.changed()
		}
		if n < batch {
			return nil
		}
	}
}

func (s *Service) now() time.Time { return s.cfg.Now().UTC().Truncate(time.Microsecond) }

func (s *Service) changed() {
	if s.cfg.Changed != nil {
		s.cfg.Changed()
	}
}

// need is the permission check of every operation; all tells whether the caller
// may see and change what others made.
func need(c auth.Caller) (all bool, err error) {
	if c.Kind == auth.User {
		if err := auth.Allow(c, []auth.Permission{auth.TiReadWrite, auth.TiReadWriteAll}); err != nil {
			return false, err
		}
		return true, nil // what a person may see is what their roles and groups let them
	}
	return c.Holds(auth.TiReadWriteAll), auth.Allow(c, []auth.Permission{auth.TiReadWrite, auth.TiReadWriteAll})
}

// mayChange also asks a person for the right that indicators go with.
func mayChange(c auth.Caller) (all bool, err error) {
	if all, err = need(c); err != nil {
		return false, err
	}
	if c.Has(auth.ActiveRemediation) || c.Has(auth.ManageSecurity) {
		return all, nil
	}
	return false, auth.AllowRight(c, auth.ActiveRemediation)
}

// Submit makes an indicator, or changes the one with the same type, value and groups.
func (s *Service) Submit(ctx context.Context, c auth.Caller, r Request) (Indicator, error) {
	in, err := s.submit(ctx, c, r)
	if err != nil {
		return Indicator{}, s.refused(ctx, c, audit.SubmitIndicator, r.Value, err)
	}
	s.changed()
	return in, nil
}

func (s *Service) submit(ctx context.Context, c auth.Caller, r Request) (Indicator, error) {
	all, err := mayChange(c)
	if err != nil {
		return Indicator{}, err
	}
	in, err := s.prepare(ctx, c, r)
	if err != nil {
		return Indicator{}, err
	}
	done, err := s.put(ctx, c, all, []Indicator{in})
	if err != nil {
		return Indicator{}, err
	}
	return done[0].Indicator, done[0].Err
}

// prepare checks a request and fills in who asks and which groups are meant.
func (s *Service) prepare(ctx context.Context, c auth.Caller, r Request) (Indicator, error) {
	in, err := r.check(s.now())
	if err != nil {
		return in, err
	}
	in.Creator = Creator{Kind: c.Kind, ID: c.ID, Name: c.Name}
	ids, err := s.groupIDs(ctx, in.Groups)
	if err != nil {
		return in, err
	}
	for i, id := range ids {
		in.Groups[i].ID = id
	}
	if len(in.Groups) == 0 && !c.Can(auth.ActiveRemediation, auth.Everywhere) && !c.Can(auth.ManageSecurity, auth.Everywhere) {
		return in, api.Errorf(api.Forbidden, "The user %s is not exposed to all devices: name the device groups of the indicator.", c.Name)
	}
	return in, s.exposed(c, in)
}

func (s *Service) groupIDs(ctx context.Context, groups []Group) ([]string, error) {
	ids := make([]string, len(groups))
	if s.cfg.Group == nil {
		return ids, nil
	}
	for i, g := range groups {
		id, ok, err := s.cfg.Group(ctx, g.Name)
		if err != nil {
			return nil, fmt.Errorf("cannot look up device group: %w", err)
		}
		if !ok {
			return nil, api.Errorf(api.InvalidInput, "Invalid input %.64q for rbacGroupNames: there is no device group of that name", g.Name)
		}
		ids[i] = strconv.FormatInt(id, 10)
	}
	return ids, nil
}

// exposed refuses a person the indicators of device groups that they do not
// reach.
func (s *Service) exposed(c auth.Caller, in Indicator) error {
	if c.Kind != auth.User {
		return nil
	}
	for _, g := range in.Groups {
		id, err := strconv.ParseInt(g.ID, 10, 64)
		if err != nil || !c.Can(auth.ActiveRemediation, id) && !c.Can(auth.ManageSecurity, id) {
			return api.Errorf(api.Forbidden, "The user %s is not exposed to the device group %s of the indicator.", c.Name, g.Name)
		}
	}
	return nil
}

// put keeps a list and decides for each against the one that it replaces.
func (s *Service) put(ctx context.Context, c auth.Caller, all bool, list []Indicator) ([]Put, error) {
	now := s.now()
	return s.cfg.Store.PutIndicators(ctx, list, now, s.cfg.Limit(), func(old, in *Indicator) (audit.Entry, error) {
		in.Created, in.Updated = now, now
		if old != nil {
			if !all && old.Creator.ID != c.ID {
				return audit.Entry{}, api.Errorf(api.Forbidden,
					"Indicator %d is of another application: to change it takes the application permission Ti.ReadWrite.All.", old.Seq)
			}
			in.Created, in.Creator, in.Application, in.Source = old.Created, old.Creator, old.Application, old.Source
			in.UpdatedBy = c.ID
		}
		return entry(c, audit.SubmitIndicator, *in), nil
	})
}

// Result is what became of one row of an import.
type Result struct {
	ID     int64  // 0: it failed
	Value  string // as it was written
	Reason string // why it failed
}

// Row is one row of an import: what it asks, or why it could not be read.
type Row struct {
	Request Request
	Err     error
}

// Import is Submit for many: each row is kept or fails by itself.
func (s *Service) Import(ctx context.Context, c auth.Caller, rows []Row) ([]Result, error) {
	all, err := mayChange(c)
	if err == nil {
		err = checkBatch(len(rows), "Indicators")
	}
	if err != nil {
		return nil, s.refused(ctx, c, audit.SubmitIndicator, "import", err)
	}
	results := make([]Result, len(rows))
	var list []Indicator
	var at []int // of list in rows
	for i, row := range rows {
		results[i].Value = row.Request.Value
		in, err := Indicator{}, row.Err
		if err == nil {
			in, err = s.prepare(ctx, c, row.Request)
		}
		if err := results[i].fail(err); err != nil {
			return nil, err
		}
		if err == nil {
			list, at = append(list, in), append(at, i)
		}
	}
	done, err := s.put(ctx, c, all, list)
	if err != nil {
		return nil, err
	}
	for i, p := range done {
		results[at[i]].ID = p.Indicator.Seq
		if err := results[at[i]].fail(p.Err); err != nil {
			return nil, err
		}
	}
	s.changed()
	return results, nil
}

// fail notes a refusal; what is none is returned.
func (r *Result) fail(err error) error {
	var refusal *api.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refusal):
		r.ID, r.Reason = 0, refusal.Message
		return nil
	}
	return err
}

func checkBatch(n int, name string) error {
	switch {
	case n == 0:
		return api.Errorf(api.MissingRequiredParameter, "Parameter %s is missing", name)
	case n > MaxBatch:
		return api.Errorf(api.MaximumBatchSizeExceeded, "Maximum batch size exceeded. Received: %d, allowed: %d", n, MaxBatch)
	}
	return nil
}

// Get returns one indicator that the caller may see.
func (s *Service) Get(ctx context.Context, c auth.Caller, id string) (Indicator, error) {
	all, err := need(c)
	if err != nil {
		return Indicator{}, err
	}
	seq, err := parseID(id)
	if err != nil {
		return Indicator{}, err
	}
	in, err := s.cfg.Store.Indicator(ctx, seq, s.now())
	if err == nil && (!all && in.Creator.ID != c.ID || !visible(c, in)) {
		err = notFound(id)
	}
	return in, err
}

// visible tells whether an indicator is of all devices, or of a group that the
// caller can see.
func visible(c auth.Caller, in Indicator) bool {
	if c.Kind != auth.User || len(in.Groups) == 0 {
		return true
	}
	for _, g := range in.Groups {
		if id, err := strconv.ParseInt(g.ID, 10, 64); err == nil && c.Can(auth.ViewData, id) {
			return true
		}
	}
	return false
}

// List returns a page of active indicators and, when q asks for it, the count of all.
func (s *Service) List(ctx context.Context, c auth.Caller, q odata.Query) ([]Indicator, int64, error) {
	all, err := need(c)
	if err != nil {
		return nil, 0, err
	}
	scope := Scope{Now: s.now(), Groups: c.Groups(auth.ViewData)}
	if !all {
		scope.CreatedBy = c.ID
	}
	return s.cfg.Store.Indicators(ctx, scope, q)
}

// Delete takes one indicator away.
func (s *Service) Delete(ctx context.Context, c auth.Caller, id string) error {
	err := s.remove(ctx, c, []string{id})
	if err != nil {
		return s.refused(ctx, c, audit.DeleteIndicator, id, err)
	}
	s.changed()
	return nil
}

// BatchDelete takes all of them away, or none.
func (s *Service) BatchDelete(ctx context.Context, c auth.Caller, ids []string) error {
	err := checkBatch(len(ids), "IndicatorIds")
	if err == nil {
		for _, id := range ids {
			if !digits(id) { // a batch with what is no id is a bad request, not a miss
				err = api.Errorf(api.InvalidInput, "Invalid input %.64q for IndicatorIds: an id is a number", id)
				break
			}
		}
	}
	if err == nil {
		err = s.remove(ctx, c, ids)
	}
	if err != nil {
		return s.refused(ctx, c, audit.DeleteIndicator, "batch", err)
	}
	s.changed()
	return nil
}

func (s *Service) remove(ctx context.Context, c auth.Caller, ids []string) error {
	all, err := mayChange(c)
	if err != nil {
		return err
	}
	seqs := make([]int64, 0, len(ids))
	seen := map[int64]bool{}
	for _, id := range ids {
		seq, err := parseID(id)
		if err != nil {
			return err
		}
		if !seen[seq] {
			seen[seq] = true
			seqs = append(seqs, seq)
		}
	}
	return s.cfg.Store.DeleteIndicators(ctx, seqs, s.now(), func(list []Indicator) ([]audit.Entry, error) {
		var entries []audit.Entry
		for _, in := range list {
			if !all && in.Creator.ID != c.ID {
				return nil, notFound(strconv.FormatInt(in.Seq, 10))
			}
			if err := s.exposed(c, in); err != nil {
				return nil, err
			}
			entries = append(entries, entry(c, audit.DeleteIndicator, in))
		}
		return entries, nil
	})
}

func digits(id string) bool {
	n, err := strconv.ParseInt(id, 10, 64)
	return err == nil && n > 0 && id[0] != '+'
}

func parseID(id string) (int64, error) {
	if !digits(id) {
		return 0, notFound(id)
	}
	return strconv.ParseInt(id, 10, 64)
}

func notFound(id string) error {
	return api.Errorf(api.ResourceNotFound, "Indicator %s was not found", clip(id, 128))
}

// entry begins the audit line of what was done to an indicator. The store fills
// in the target of one that has no id yet.
func entry(c auth.Caller, op audit.Operation, in Indicator) audit.Entry {
	target := ""
	if in.Seq != 0 {
		target = strconv.FormatInt(in.Seq, 10)
	}
	e := audit.By(c, op, target, "accepted")
	detail := map[string]any{"type": in.Type, "value": in.Shown, "action": in.Action, "title": in.Title}
	if len(in.Groups) > 0 {
		detail["groups"] = strings.Split(in.Scope(), "\n")
	}
	if !in.Expires.IsZero() {
		detail["expires"] = in.Expires.UTC().Format(time.RFC3339)
	}
	if in.GenerateAlert {
		detail["generateAlert"] = true
	}
	e.Detail = mustJSON(detail)
	return e
}

// refused records that c was refused. What is not a refusal but a fault of ours
// passes unrecorded: nothing was decided.
func (s *Service) refused(ctx context.Context, c auth.Caller, op audit.Operation, target string, err error) error {
	var refusal *api.Error
	if !errors.As(err, &refusal) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	e := audit.By(c, op, clip(target, 128), "refused: "+string(refusal.Code))
	e.Detail = mustJSON(map[string]string{"reason": clip(refusal.Message, 512)})
	if rerr := s.cfg.Store.Record(ctx, e); rerr != nil {
		return fmt.Errorf("cannot record that %s was refused: %w", op, rerr)
	}
	return err
}

func mustJSON(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil { // strings, numbers and booleans always encode
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
