// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
)

// request is one call on its way through the steps.
type request struct {
	*http.Request
	w      http.ResponseWriter // for handlers that must touch it; answers go through answer
	id     string              // GUID: the target of an error
	base   string              // scheme and host for links
	route  *route              // nil until found
	args   map[string]string   // what the path captured
	caller auth.Caller         // zero on open routes
}

// answer is what a handler gives back on success.
type answer struct {
	status   int    // 0: the route's
	body     any    // as JSON
	raw      []byte // in place of body
	kind     string // Content-Type of raw
	location string
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := &request{Request: r, w: w, id: auth.NewGUID(), base: h.realm.Base(r.TLS != nil, r.Host)}
	started := h.cfg.Now()
	w.Header().Set("X-Request-Id", q.id)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	if len(r.TransferEncoding) > 0 && r.ProtoMajor == 1 {
		// A Content-Length beside it may have told a proxy of another end; net/http
		// hides that there was one. RFC 9112, 6.3 has such a connection closed.
		w.Header().Set("Connection", "close")
	}
	defer func() {
		if v := recover(); v != nil {
			if v == http.ErrAbortHandler { //nolint:errorlint // a panic value, compared as net/http does
				panic(v)
			}
			h.fail(q, fmt.Errorf("panic: %v\n%s", v, debug.Stack()), started)
		}
	}()

	parts, ok := segments(r.URL.EscapedPath())
	if ok && h.cfg.Issuer != nil && isIssuerPath(parts) {
		h.cfg.Issuer.ServeHTTP(w, r)
		return
	}
	var methods []string
	if ok {
		q.route, q.args, methods = find(h.routes, r.Method, parts)
	}
	switch {
	case q.route == nil && methods != nil:
		slices.Sort(methods)
		w.Header().Set("Allow", strings.Join(slices.Compact(methods), ", "))
		h.fail(q, api.Errorf(api.MethodNotAllowed, "The requested resource does not support http method '%s'.", clip(r.Method)), started)
	case q.route == nil:
		h.fail(q, api.Errorf(api.NotFound, "No resource was found that matches the request URI '%s'.", clip(r.URL.Path)), started)
	case q.route.pass != nil:
		if to := q.route.pass(h); to != nil {
			to.ServeHTTP(w, r)
			return
		}
		h.fail(q, api.Errorf(api.NotFound, "This server takes no links."), started)
	default:
		a, err := h.steps(q)
		if err != nil {
			h.fail(q, err, started)
			return
		}
		h.write(q, a, started)
	}
}

// steps takes a request that has a route through who, how often, may they, and
// the handler, which decodes and calls the domain.
func (h *Handler) steps(q *request) (answer, error) {
	ctx, cancel := context.WithTimeout(q.Context(), handleTime)
	defer cancel()
	if k := q.route.access.kind; k == byToken || k == byAdmin {
		var err error
		if q.caller, err = h.identify(ctx, q); err != nil {
			return answer{}, err
		}
	}
	if err := h.limit(ctx, q, 1); err != nil {
		return answer{}, err
	}
	if err := h.allow(ctx, q); err != nil {
		return answer{}, err
	}
	a, err := q.route.handle(h, ctx, q)
	if err != nil && q.route.rate == byRefusals && httpStatus(api.CodeOf(err)) < 500 {
		if lerr := h.countRefusal(ctx, q); lerr != nil {
			return answer{}, lerr
		}
	}
	return a, err
}

// identify tells who is calling.
func (h *Handler) identify(ctx context.Context, q *request) (auth.Caller, error) {
	if h.admin {
		return auth.Caller{Kind: auth.Admin, ID: "admin", Name: "admin"}, nil
	}
	bearer, err := auth.Bearer(q.Header.Get("Authorization"))
	if err != nil {
		return auth.Caller{}, err
	}
	return h.cfg.Verifier.Verify(ctx, bearer)
}

// limit refuses a caller that calls too often. Refusals for want of permission
// are counted too: each of them costs a line of the audit log.
func (h *Handler) limit(ctx context.Context, q *request, n int) error {
	var wait time.Duration
	var err error
	switch q.route.rate {
	case uncounted:
		return nil
	case perCaller:
		if q.caller.Kind == auth.Admin {
			return nil
		}
		key := q.caller.Tenant + " " + q.caller.AppID + " " + q.route.method + " " + q.route.path
		wait, err = h.cfg.Limiter.Take(ctx, key, h.cfg.Limits().Within(q.route.most), n)
	case byRefusals:
		wait, err = h.addresses.Take(ctx, clientNetwork(q.RemoteAddr), enrollRefusals(), 0)
	}
	return h.tooMany(wait, err)
}

func (h *Handler) countRefusal(ctx context.Context, q *request) error {
	return h.tooMany(h.addresses.Take(ctx, clientNetwork(q.RemoteAddr), enrollRefusals(), 1))
}

func (h *Handler) tooMany(wait time.Duration, err error) error {
	switch {
	case err != nil:
		// Counting protects the service; it must not be what takes it down.
		h.cfg.Log.Error("rate_limit_failed", "error", err)
		return nil
	case wait > 0:
		seconds := int(math.Ceil(wait.Seconds()))
		e := api.Errorf(api.TooManyRequests, "Too many requests: try again in %d seconds", seconds)
		e.RetryAfter = seconds
		return e
	}
	return nil
}

// allow refuses a caller without permission, and records that of an attempt to
// change something.
func (h *Handler) allow(ctx context.Context, q *request) error {
	var err error
	switch {
	case q.route.access.kind == byAdmin && q.caller.Kind != auth.Admin:
		err = api.Errorf(api.Forbidden, "Only an administrator may do this: use staunch admin on the server's own host.")
	case q.route.access.kind == byToken && q.caller.Kind == auth.User:
		if err = auth.Allow(q.caller, q.route.access.delegated); err == nil {
			err = auth.AllowRight(q.caller, q.route.access.rights...)
		}
	case q.route.access.kind == byToken:
		err = auth.Allow(q.caller, q.route.access.app)
	}
	if err == nil || q.route.records == "" {
		return err
	}
	skipped, ok := h.refusals.Take()
	if !ok {
		return err
	}
	e := audit.By(q.caller, q.route.records, clip(q.args["id"]+q.args["item"]+q.args["key"]), "refused: "+string(api.CodeOf(err)))
	e.Detail = mustJSON(refusedDetail{Reason: err.Error(), Skipped: skipped})
	if rerr := h.cfg.Audit.Record(ctx, e); rerr != nil {
		return fmt.Errorf("cannot record a refusal: %w", rerr)
	}
	return err
}

type refusedDetail struct {
	Reason  string `json:"reason"`
	Skipped int    `json:"refusalsNotRecordedBefore,omitempty"`
}

// write sends a success.
func (h *Handler) write(q *request, a answer, started time.Time) {
	if a.status == 0 {
		a.status = q.route.status
	}
	if a.status == http.StatusNoContent {
		q.w.WriteHeader(a.status)
		h.log(q, slog.LevelDebug, a.status, started)
		return
	}
	if a.raw == nil {
		b, err := encode(a.body)
		if err != nil {
			h.fail(q, fmt.Errorf("cannot encode the answer: %w", err), started)
			return
		}
		a.raw, a.kind = b, "application/json"
		q.w.Header().Set("OData-Version", "4.0")
	}
	if a.location != "" {
		q.w.Header().Set("Location", a.location)
	}
	h.send(q, a.status, a.kind, a.raw)
	h.log(q, slog.LevelDebug, a.status, started)
}

// fail sends an error: a refusal as it is, anything else as an internal error
// whose cause only the log has.
func (h *Handler) fail(q *request, err error, started time.Time) {
	var e *api.Error
	level, cause := slog.LevelInfo, slog.Attr{}
	switch refusal := (*api.Error)(nil); {
	case errors.As(err, &refusal) && httpStatus(refusal.Code) != 0 && refusal.Code != api.InternalServerError:
		c := *refusal
		e = &c
	case errors.Is(err, context.Canceled) && q.Context().Err() != nil:
		e = api.Errorf(api.ServiceUnavailable, "The client went away.")
	case errors.Is(err, context.DeadlineExceeded):
		e = api.Errorf(api.ServiceUnavailable, "The server did not answer in time: try again.")
		level, cause = slog.LevelError, slog.Any("error", err)
	default:
		e = api.Errorf(api.InternalServerError, "An internal error occurred. The server's log has its cause under the target.")
		level, cause = slog.LevelError, slog.Any("error", err)
	}
	e.Target = q.id
	code := httpStatus(e.Code)
	header := q.w.Header()
	switch code {
	case http.StatusUnauthorized:
		header.Set("WWW-Authenticate", `Bearer error="invalid_token"`)
	case http.StatusServiceUnavailable:
		e.RetryAfter = max(e.RetryAfter, 1)
	}
	if e.RetryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(e.RetryAfter))
	}
	h.send(q, code, "application/json", mustJSON(errorBody(e)))
	h.log(q, level, code, started, slog.String("code", string(e.Code)), slog.String("message", e.Message), cause)
}

func (h *Handler) send(q *request, code int, kind string, body []byte) {
	q.w.Header().Set("Content-Type", kind)
	q.w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	q.w.WriteHeader(code)
	// A client that is gone is no fault of ours, and there is nobody to tell.
	_, _ = q.w.Write(body)
}

func (h *Handler) log(q *request, level slog.Level, code int, started time.Time, more ...slog.Attr) {
	attrs := append([]slog.Attr{
		slog.String("target", q.id), slog.String("method", q.Method), slog.String("path", q.URL.Path), slog.Int("status", code),
		slog.Duration("took", h.cfg.Now().Sub(started)), slog.String("remote", q.RemoteAddr), slog.String("caller", q.caller.ID),
	}, more...)
	h.cfg.Log.LogAttrs(q.Context(), level, "request", attrs...)
}

// clip keeps what a client sent from filling an answer or the log.
func clip(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if r := []rune(s); len(r) > 128 {
		return string(r[:128]) + "…"
	}
	return s
}
