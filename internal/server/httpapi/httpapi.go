// SPDX-License-Identifier: Apache-2.0

// Package httpapi is the server's HTTP door: one table of routes, and for each
// request the same steps in the same order: who is calling, how often, may they,
// what exactly do they say; then one call of the domain, and its answer or
// refusal as JSON.
//
// It promises that whatever comes in gets an answer in the API's own shape, that
// no cause of a fault leaves the server (it is logged under the error's target),
// and that nothing a client does holds more than its own bounded share.
package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"staunch/api"
	"staunch/internal/server/action"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/device"
	"staunch/internal/server/limit"
	"staunch/internal/server/odata"
)

// Verifier tells who calls with a bearer token, or returns an api.Error Unauthorized.
type Verifier interface {
	Verify(ctx context.Context, token string) (auth.Caller, error)
}

// Actions is what the routes ask of machine actions and vaults.
type Actions interface {
	StopAndQuarantine(ctx context.Context, c auth.Caller, machine string, r action.StopRequest) (action.Action, error)
	Get(ctx context.Context, c auth.Caller, id string) (action.Action, error)
	List(ctx context.Context, c auth.Caller, q odata.Query) ([]action.Action, int64, error)
	Cancel(ctx context.Context, c auth.Caller, id, comment string) (action.Action, error)
	Downloadable(ctx context.Context, c auth.Caller, id string, rights ...auth.Right) (action.Action, error)
	Evidence(ctx context.Context, c auth.Caller, id string) (api.Evidence, error)
	Items(ctx context.Context, c auth.Caller, f action.ItemFilter) ([]action.Item, string, error)
	Item(ctx context.Context, c auth.Caller, id string) (action.Item, error)
	Restore(ctx context.Context, c auth.Caller, item string, r action.RestoreRequest) (action.Action, error)
	Purge(ctx context.Context, c auth.Caller, item, comment string) (action.Action, error)
}

// Devices is what the routes ask of devices.
type Devices interface {
	action.Devices
	DeviceGroups
	Find(ctx context.Context, c auth.Caller, nameOrID string) (device.Device, error)
	Update(ctx context.Context, c auth.Caller, nameOrID string, tags *[]string, value *string) (device.Device, error)
	SetEntraID(ctx context.Context, c auth.Caller, nameOrID, id string) (device.Device, error)
	Tag(ctx context.Context, c auth.Caller, nameOrID, value string, add bool) (device.Device, error)
	TagMany(ctx context.Context, c auth.Caller, ids []string, value string, add bool) ([]device.Device, error)
	At(ctx context.Context, c auth.Caller, address string, at time.Time, q odata.Query) ([]device.Device, int64, error)
	Machines(ctx context.Context, c auth.Caller, q odata.Query) ([]device.Device, int64, error)
	Enroll(ctx context.Context, r api.EnrollRequest, address string) (device.Device, error)
}

// Audit is what the routes ask of the audit log.
type Audit interface {
	// AuditEntries returns up to limit entries with an index greater than after, by index.
	AuditEntries(ctx context.Context, after int64, limit int) ([]audit.Entry, error)
	// Checkpoint returns the signed checkpoint of the log as it stands.
	Checkpoint(ctx context.Context) ([]byte, error)
	// Record appends an entry that stands alone: a refusal.
	Record(ctx context.Context, e audit.Entry) error
}

// Config is what a Handler works with.
type Config struct {
	Verifier Verifier // required
	Actions  Actions  // required
	Devices  Devices  // required
	Audit    Audit    // required
	Admin    Admin    // required
	People   People   // required

	Indicators Indicators // required
	Files      Files      // required
	Alerts     Alerts     // required

	Link   http.Handler // serves GET /v1/link to devices; nil: not found
	Issuer http.Handler // serves the token service's paths; nil: not found

	PublicURL string   // required: scheme and host under which clients know the server
	Names     []string // further host names the server answers for; links then use the one the client used

	ActionFields    []odata.Field                     // what lists of actions may be filtered and ordered by
	IndicatorFields []odata.Field                     // the same of indicators
	AlertFields     []odata.Field                     // and of alerts
	DeviceFields    func(now time.Time) []odata.Field // the same for machines; their health depends on the time. nil: nothing

	// Welcome is what a newly enrolled device is told beside its id. Required.
	Welcome func() api.EnrollResponse
	// Ready reports why the server cannot serve at the moment. nil: it always can.
	Ready func(ctx context.Context) error

	Limits  func() Limit     // looked up at each request; nil: 100 a minute, 1,500 an hour
	Limiter limit.Limiter    // nil: counts in this process's memory
	Log     *slog.Logger     // nil: nowhere
	Now     func() time.Time // nil: time.Now
}

// Handler serves the API. Make one with New.
type Handler struct {
	cfg       Config
	realm     auth.Realm // for the base of links
	routes    []route
	document  []byte // openapi.json
	refusals  *audit.Refusals
	addresses limit.Limiter // of refused enrollments, by client address
	admin     bool          // every caller is the administrator
}

// New checks the configuration.
func New(c Config) (*Handler, error) {
	switch u, err := url.Parse(c.PublicURL); {
	case c.Verifier == nil || c.Actions == nil || c.Devices == nil || c.Audit == nil || c.Admin == nil || c.People == nil || c.Welcome == nil:
		return nil, errors.New("cannot make the API: verifier, actions, devices, audit, admin, people and welcome are all required")
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("cannot make the API: the public URL must be http(s)://HOST[:PORT]")
	}
	if c.Indicators == nil || c.Files == nil || c.Alerts == nil {
		return nil, errors.New("cannot make the API: indicators, files and alerts are required")
	}
	if c.DeviceFields == nil {
		c.DeviceFields = func(time.Time) []odata.Field { return nil }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Limits == nil {
		c.Limits = func() Limit { return Limit{PerMinute: 100, PerHour: 1500} }
	}
	if c.Limiter == nil {
		c.Limiter = &limit.Memory{Now: c.Now}
	}
	h := &Handler{
		cfg: c, routes: routes(), realm: auth.Realm{PublicURL: c.PublicURL, Names: c.Names},
		refusals: &audit.Refusals{Now: c.Now}, addresses: &limit.Memory{Now: c.Now},
	}
	h.document = mustJSON(openAPI(h.routes))
	return h, nil
}

// Admin is the same API to the server's administrator: it takes everybody who can
// reach it for them, so it is for a socket that only they can open.
func (h *Handler) Admin() http.Handler {
	a := *h
	a.admin = true
	return &a
}

// Limits of a connection: a client that is slower than these is cut off, so
// that many of them together hold little.
const (
	headerTime = 10 * time.Second
	readTime   = 30 * time.Second // header and body together
	writeTime  = 2 * time.Minute  // from the header's end to the last byte out; ten thousand actions are some 8 MB
	idleTime   = 2 * time.Minute
	headerSize = 64 << 10 // bytes; a token may have 16 KiB
	handleTime = 30 * time.Second
)

// Server returns an http.Server for h with the time-outs and sizes it needs.
func Server(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTime,
		ReadTimeout:       readTime,
		WriteTimeout:      writeTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    headerSize,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug), // broken handshakes of strangers
	}
}
