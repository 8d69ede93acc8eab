// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"staunch/internal/agent/gate"
	"staunch/internal/agent/gate/pin"
	"staunch/internal/agent/index"
	"staunch/internal/agent/process"
	"staunch/internal/filehash"
	"staunch/internal/order"
)

// Service is what the command line asks of an agent: of the one that runs, over
// its socket, or of one opened for the occasion.
type Service interface {
	Contain(context.Context, Request) (order.Receipt, error)
	Find(context.Context, FindRequest) (Found, error)
	Items(context.Context) ([]order.Item, error)
	Restore(context.Context, RestoreRequest) (order.Receipt, error)
	Purge(context.Context, PurgeRequest) (order.Receipt, error)
	Recover(context.Context, RecoverRequest) (order.Receipt, error)
	Enable(context.Context, EnableRequest) (Enabled, error)
	Status(context.Context) (Status, error)
}

// FindRequest asks for the files and processes with a content.
type FindRequest struct {
	File filehash.Hash
	Scan []string // search these trees and do not ask the index
}

// Found is the answer: files, processes, and how far it can be trusted.
type Found struct {
	Files      []order.Copy  `json:"files"`
	Processes  []order.Match `json:"processes"`
	Complete   bool          `json:"complete"` // nothing was left out that could have it
	Why        string        `json:"why,omitempty"`
	Searched   []string      `json:"searched,omitempty"`
	NotCovered []string      `json:"notCovered,omitempty"`
}

// RestoreRequest names an item to put back.
type RestoreRequest struct {
	Item        string // vault item id
	Destination string // another path; empty: where it was
}

// PurgeRequest names an item to delete for good.
type PurgeRequest struct{ Item string }

// RecoverRequest carries a restore order that came by hand.
type RecoverRequest struct{ Code string }

// EnableRequest names the containment whose disabled things are to be enabled.
type EnableRequest struct{ Order string }

// Enabled is how many there were.
type Enabled struct {
	Enabled int `json:"enabled"`
}

// Status is how the agent is.
type Status struct {
	Version    string               `json:"version"`
	Running    bool                 `json:"running"` // false: told by the command line from the folder alone
	StateDir   string               `json:"stateDir"`
	DeviceID   string               `json:"deviceId,omitempty"`
	Server     string               `json:"server,omitempty"`
	Connected  bool                 `json:"connected"`
	Privileged bool                 `json:"privileged"`
	Off        []string             `json:"off,omitempty"` // what does not work here, with the reason
	Index      IndexStatus          `json:"index"`
	Gate       *gate.Status         `json:"gate,omitempty"`
	Processes  *process.TableStatus `json:"processes,omitempty"` // the standing table of what runs
	Gates      []Gated              `json:"gates,omitempty"`     // contents whose start is refused
	Pinned     *pin.Status          `json:"pinned,omitempty"`    // what stays refused when the agent is dead; null: nothing, and off says why
	Rung       string               `json:"rung,omitempty"`      // how processes are held
	RungWhy    string               `json:"rungWhy,omitempty"`
	Unread     []string             `json:"unread,omitempty"` // records of packages that cannot be read: their files are not spared
	Orders     int                  `json:"orders"`           // at work
	Unsent     int                  `json:"unsent"`           // receipts the server has not taken yet
	Items      int                  `json:"items"`            // sealed in the vault
}

// IndexStatus is the state of the index.
type IndexStatus struct {
	Complete bool    `json:"complete"`
	Progress float64 `json:"progress"` // 0 to 1
	Files    int64   `json:"files"`
	index.Status
}

// socketLimit bounds a request on the socket, in bytes.
const socketLimit = 1 << 20

// Listen opens the agent's socket: only its owner may connect.
func (s State) Listen() (net.Listener, error) {
	path := s.path("agent.sock")
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot open the agent's socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("cannot open the agent's socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil { // the folder is 0700 already
		return nil, errors.Join(fmt.Errorf("cannot open the agent's socket: %w", err), l.Close())
	}
	return l, nil
}

// Serve answers on the socket until ctx ends.
func Serve(ctx context.Context, l net.Listener, s Service) error {
	mux := http.NewServeMux()
	handle(mux, "contain", s.Contain)
	handle(mux, "find", s.Find)
	handle(mux, "items", func(ctx context.Context, _ struct{}) ([]order.Item, error) { return s.Items(ctx) })
	handle(mux, "restore", s.Restore)
	handle(mux, "purge", s.Purge)
	handle(mux, "recover", s.Recover)
	handle(mux, "enable", s.Enable)
	handle(mux, "status", func(ctx context.Context, _ struct{}) (Status, error) { return s.Status(ctx) })
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stopped := make(chan error, 1)
	go func() { stopped <- srv.Serve(l) }()
	select {
	case err := <-stopped:
		return err
	case <-ctx.Done():
	}
	bounded, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := srv.Shutdown(bounded); err != nil {
		_ = srv.Close() // a caller that does not hang up does not keep us
	}
	<-stopped
	return nil
}

func handle[Q, A any](mux *http.ServeMux, name string, do func(context.Context, Q) (A, error)) {
	mux.HandleFunc("POST /"+name, func(w http.ResponseWriter, r *http.Request) {
		var q Q
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, socketLimit))
		d.DisallowUnknownFields()
		if err := d.Decode(&q); err != nil {
			http.Error(w, fmt.Sprintf("cannot read the request: %v", err), http.StatusBadRequest)
			return
		}
		a, err := do(r.Context(), q)
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(a) // the caller has gone
	})
}

// Remote is the agent that runs, over its socket.
type Remote struct{ http http.Client }

// Dial returns the agent that runs in the folder, or an error when none does.
func (s State) Dial(ctx context.Context) (*Remote, error) {
	var d net.Dialer
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return d.DialContext(ctx, "unix", s.path("agent.sock"))
	}
	c, err := dial(ctx, "", "")
	if err != nil {
		return nil, fmt.Errorf("no agent runs in %s: %w", s.Dir, err)
	}
	_ = c.Close() // it answered
	return &Remote{http.Client{Transport: &http.Transport{DialContext: dial}}}, nil
}

func call[A any](ctx context.Context, r *Remote, name string, q any) (a A, err error) {
	body, err := json.Marshal(q)
	if err != nil {
		return a, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent/"+name, bytes.NewReader(body))
	if err != nil {
		return a, err
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return a, fmt.Errorf("cannot ask the agent: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // as much as came
		return a, errors.New(string(bytes.TrimSpace(text)))
	}
	return a, json.NewDecoder(resp.Body).Decode(&a)
}

// Contain implements Service.
func (r *Remote) Contain(ctx context.Context, q Request) (order.Receipt, error) {
	return call[order.Receipt](ctx, r, "contain", q)
}

// Find implements Service.
func (r *Remote) Find(ctx context.Context, q FindRequest) (Found, error) {
	return call[Found](ctx, r, "find", q)
}

// Items implements Service.
func (r *Remote) Items(ctx context.Context) ([]order.Item, error) {
	return call[[]order.Item](ctx, r, "items", struct{}{})
}

// Restore implements Service.
func (r *Remote) Restore(ctx context.Context, q RestoreRequest) (order.Receipt, error) {
	return call[order.Receipt](ctx, r, "restore", q)
}

// Purge implements Service.
func (r *Remote) Purge(ctx context.Context, q PurgeRequest) (order.Receipt, error) {
	return call[order.Receipt](ctx, r, "purge", q)
}

// Recover implements Service.
func (r *Remote) Recover(ctx context.Context, q RecoverRequest) (order.Receipt, error) {
	return call[order.Receipt](ctx, r, "recover", q)
}

// Enable implements Service.
func (r *Remote) Enable(ctx context.Context, q EnableRequest) (Enabled, error) {
	return call[Enabled](ctx, r, "enable", q)
}

// Status implements Service.
func (r *Remote) Status(ctx context.Context) (Status, error) {
	return call[Status](ctx, r, "status", struct{}{})
}
