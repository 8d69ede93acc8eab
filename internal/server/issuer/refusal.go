// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"time"

	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
)

// refusal is an answer of the token service that is not a token: RFC 6749
// section 5.2 with what Entra adds. Text never holds a secret.
type refusal struct {
	status int    // HTTP
	code   string // invalid_client, …
	number int    // AADSTSnnn
	text   string

	client string // the client id it is about, if known to be a GUID
	name   string // and that app's name
	record bool   // of an application, so for the audit log
}

func (r *refusal) Error() string { return fmt.Sprintf("AADSTS%d: %s", r.number, r.text) }

func invalidRequest(number int, format string, args ...any) *refusal {
	return &refusal{status: http.StatusBadRequest, code: "invalid_request", number: number, text: fmt.Sprintf(format, args...)}
}

func missing(parameter string) *refusal {
	return invalidRequest(900144, "The request body must contain the following parameter: '%s'.", parameter)
}

// denied refuses an application, which is recorded.
func denied(status int, code string, number int, a App, format string, args ...any) *refusal {
	return &refusal{status: status, code: code, number: number, text: fmt.Sprintf(format, args...), client: a.ID, name: a.Name, record: true}
}

// errorBody is Entra's error answer.
type errorBody struct {
	Error         string `json:"error"`
	Description   string `json:"error_description"`
	Codes         []int  `json:"error_codes"`
	Timestamp     string `json:"timestamp"`
	TraceID       string `json:"trace_id"`
	CorrelationID string `json:"correlation_id"`
}

// refuse answers with r, and records it where it is an application's.
func (s *Service) refuse(w http.ResponseWriter, req *http.Request, r *refusal) {
	correlation := correlationID(req)
	trace := auth.NewGUID()
	stamp := s.cfg.Now().UTC().Format("2006-01-02 15:04:05Z")
	s.cfg.Log.Info("token_refused", "code", r.number, "client", r.client, "remote", remoteIP(req), "trace_id", trace)
	if r.record {
		e := audit.By(auth.Caller{Kind: auth.App, ID: r.client, Name: r.name}, audit.IssueToken, r.client, fmt.Sprintf("refused: AADSTS%d", r.number))
		s.recordRefusal(req.Context(), e, map[string]any{"ip": remoteIP(req), "traceId": trace})
	}
	if _, _, ok := req.BasicAuth(); ok && r.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="staunch"`)
	}
	writeJSON(w, r.status, errorBody{
		Error:         r.code,
		Description:   fmt.Sprintf("%s Trace ID: %s Correlation ID: %s Timestamp: %s", r.Error(), trace, correlation, stamp),
		Codes:         []int{r.number},
		Timestamp:     stamp,
		TraceID:       trace,
		CorrelationID: correlation,
	})
}

// recordRefusal puts a refusal into the audit log, within the bound for them.
// The refusal stands whether or not that succeeds.
func (s *Service) recordRefusal(ctx context.Context, e audit.Entry, detail map[string]any) {
	skipped, ok := s.refusals.Take()
	if !ok {
		return
	}
	if skipped > 0 {
		if detail == nil {
			detail = map[string]any{}
		}
		detail["notRecordedBefore"] = skipped
	}
	if detail != nil {
		e.Detail, _ = json.Marshal(detail) // strings and numbers always encode
	}
	// A client that hangs up must not keep its refusal out of the log.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := s.cfg.Store.Record(ctx, e); err != nil {
		s.cfg.Log.Error("refusal_not_recorded", "operation", e.Operation, "outcome", e.Outcome, "error", err)
	}
}

// correlationID is the caller's own name for the request, if it is a GUID.
func correlationID(r *http.Request) string {
	for _, id := range []string{r.Header.Get("client-request-id"), r.URL.Query().Get("client-request-id")} {
		if auth.IsGUID(id) {
			return id
		}
	}
	return auth.NewGUID()
}

func remoteIP(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil { // what we answer always encodes
		http.Error(w, "{}", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if w.Header().Get("Cache-Control") == "" {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Pragma", "no-cache")
	}
	w.WriteHeader(status)
	_, _ = w.Write(b) // a client that is gone cannot be told
}
