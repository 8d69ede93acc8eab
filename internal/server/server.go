// SPDX-License-Identifier: Apache-2.0

// Package server wires the control plane together and gives it a life: New
// opens everything and serves nothing, Start serves, Stop ends what was begun
// in the reverse order. It promises that nothing is left running or half
// written after Stop, and that ready.json is there exactly while it serves.
package server

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"staunch/api"
	"staunch/internal/durable"
	"staunch/internal/order"
	"staunch/internal/server/action"
	"staunch/internal/server/alert"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/bus"
	"staunch/internal/server/device"
	"staunch/internal/server/file"
	"staunch/internal/server/gateway"
	"staunch/internal/server/httpapi"
	"staunch/internal/server/indicator"
	"staunch/internal/server/issuer"
	"staunch/internal/server/oidc"
	"staunch/internal/server/people"
	"staunch/internal/server/periodic"
	"staunch/internal/server/pki"
	"staunch/internal/server/store"
)

// Config says how a server works.
type Config struct {
	Data      string       // required: the server's folder
	Listen    string       // required: address of the HTTPS listener, as in 127.0.0.1:8443
	PublicURL string       // what clients and devices call it by; "": https://LISTEN
	Names     []string     // further host names that clients may use
	Database  string       // postgres://…; "": embedded SQLite in Data
	Bus       string       // nats://…; "": in this process
	TLSCert   string       // PEM files of a certificate of your own; "": the server's own authority
	TLSKey    string       //
	Log       *slog.Logger // required

	Issuers         []string // issuers outside whose tokens are accepted beside the server's own
	IssuerAudiences []string // what their tokens must be for; none: as the server's own
}

// Server is a control plane. Make one with New.
type Server struct {
	cfg      Config
	url      string
	listener net.Listener
	keys     pki.Dir
	cert     tls.Certificate
	store    *store.Store
	settings *Settings
	bus      *bus.Bus
	issuer   *issuer.Service
	devices  *device.Service
	people   *people.Service
	issuers  *oidc.Issuers
	actions  *action.Service
	gateway  *gateway.Gateway

	indicators *indicator.Service
	files      *file.Service
	alerts     *alert.Service

	https   *http.Server
	admin   *http.Server
	cleanup []cleanup
	failed  chan error // a listener that ended on its own
	wait    sync.WaitGroup
}

// A cleanup undoes one thing that New or Start did.
type cleanup struct {
	name string
	do   func() error
}

// stopTime bounds a graceful stop.
const stopTime = 15 * time.Second

// New opens the folder, the port, the database, the bus and the keys. It serves
// nothing, and closes what it opened when it fails.
func New(ctx context.Context, cfg Config) (_ *Server, err error) {
	s := &Server{cfg: cfg, failed: make(chan error, 2)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.cfg.Data, err = filepath.Abs(cfg.Data); err != nil {
		return nil, fmt.Errorf("cannot use --data: %w", err)
	}
	if err := durable.Mkdir(s.cfg.Data, 0o700); err != nil {
		return nil, fmt.Errorf("cannot use --data: %w", err)
	}
	unlock, err := durable.Lock(s.path("lock"))
	if err != nil {
		return nil, fmt.Errorf("cannot use --data %s: is another server running on it? %w", cfg.Data, err)
	}
	s.onStop("lock", func() error { unlock(); return nil })
	if s.listener, err = net.Listen("tcp", cfg.Listen); err != nil {
		return nil, fmt.Errorf("cannot use --listen %s: %w", cfg.Listen, err)
	}
	s.onStop("listener", s.listener.Close)
	if err := s.openURL(); err != nil {
		return nil, err
	}
	if err := s.openKeys(ctx); err != nil {
		return nil, err
	}
	if s.bus, err = bus.New(bus.Config{URL: cfg.Bus, Log: cfg.Log}); err != nil {
		return nil, err
	}
	s.onStop("bus", func() error { s.bus.Close(); return nil })
	return s, s.openServices(ctx)
}

func (s *Server) path(name string) string { return filepath.Join(s.cfg.Data, name) }

func (s *Server) onStop(name string, do func() error) {
	s.cleanup = append(s.cleanup, cleanup{name, do})
}

// openURL settles what the server is called.
func (s *Server) openURL() error {
	s.url = strings.TrimSuffix(s.cfg.PublicURL, "/")
	if s.url == "" {
		host, port, err := net.SplitHostPort(s.listener.Addr().String())
		if err != nil {
			return fmt.Errorf("cannot use --listen %q: want HOST:PORT: %w", s.cfg.Listen, err)
		}
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			if host, err = os.Hostname(); err != nil {
				return fmt.Errorf("cannot tell this host's name; give --public-url: %w", err)
			}
		}
		s.url = "https://" + net.JoinHostPort(host, port)
	}
	u, err := url.Parse(s.url)
	if err != nil || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.Scheme != "https" {
		return fmt.Errorf("cannot use --public-url %q: want https://HOST[:PORT] and nothing more", s.cfg.PublicURL)
	}
	return nil
}

// names are what the certificate must be valid for.
func (s *Server) names() []string {
	names := []string{"localhost", "127.0.0.1", "::1"}
	add := func(n string) {
		if n = strings.ToLower(n); n != "" && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	if u, err := url.Parse(s.url); err == nil {
		add(u.Hostname())
	}
	if host, _, err := net.SplitHostPort(s.cfg.Listen); err == nil {
		if ip := net.ParseIP(host); ip == nil || !ip.IsUnspecified() {
			add(host)
		}
	}
	if host, err := os.Hostname(); err == nil {
		add(host)
	}
	for _, n := range s.cfg.Names {
		add(n)
	}
	return names
}

// origin names the audit log in its checkpoints.
const origin = "staunch-audit"

func (s *Server) openKeys(ctx context.Context) (err error) {
	if s.keys, err = pki.Open(s.path("keys")); err != nil {
		return err
	}
	if s.cert, err = s.keys.ServerCertificate(s.cfg.TLSCert, s.cfg.TLSKey, s.names()); err != nil {
		return err
	}
	signer, err := s.keys.AuditSigner(origin)
	if err != nil {
		return err
	}
	s.store, err = store.Open(ctx, store.Config{URL: s.cfg.Database, Path: s.path("server.db"), Checkpoint: signer, Log: s.cfg.Log})
	if err != nil {
		return err
	}
	s.onStop("store", s.store.Close)
	s.settings = &Settings{store: s.store}
	return s.settings.Load(ctx)
}

// tenant is the GUID that names this installation, made at the first start.
func (s *Server) tenant(ctx context.Context) (string, error) {
	const key = "tenant.id"
	id, ok, err := s.store.Setting(ctx, key)
	if err != nil || ok {
		return id, err
	}
	id = auth.NewGUID()
	system := auth.Caller{Kind: auth.System, ID: "system", Name: "system"}
	if err := s.store.SetSetting(ctx, key, id, audit.By(system, audit.ChangeSetting, key, "accepted")); err != nil {
		return "", err
	}
	return id, nil
}

func (s *Server) openServices(ctx context.Context) error {
	tenant, err := s.tenant(ctx)
	if err != nil {
		return err
	}
	realm := auth.Realm{Tenant: tenant, PublicURL: s.url, Names: s.names(), Audiences: func() []string {
		return strings.Fields(s.settings.value("auth.audiences"))
	}}
	if err := s.openIssuers(realm); err != nil {
		return err
	}
	if err := s.openPeople(ctx); err != nil {
		return err
	}
	s.issuer, err = issuer.New(issuer.Config{
		Store: s.store, Realm: realm, KeysDir: s.path("keys/jwt"), Log: s.cfg.Log,
		Lifetime: func() time.Duration { return s.settings.duration("auth.tokenLifetime") },
		People:   s.people, PasswordGrant: func() bool { return s.settings.value("auth.passwordGrant") == "true" },
	})
	if err != nil {
		return err
	}
	verifier, err := auth.New(s.verifying(realm))
	if err != nil {
		return err
	}
	s.devices, err = device.New(device.Config{
		Store: s.store, URL: s.url, CA: s.pin(), Log: s.cfg.Log,
		Revoked:   func(id string) { s.bus.Kick(id, "") },
		Regrouped: func(id string) { s.bus.Publish(bus.Event{Type: rulesEvent, Device: id}) },
	})
	if err != nil {
		return err
	}
	orderKey, err := s.keys.OrderKey()
	if err != nil {
		return err
	}
	if err := s.openRules(orderKey); err != nil {
		return err
	}
	door := gateway.Door{Bus: s.bus}
	s.actions, err = action.New(action.Config{
		Store: s.store, Devices: s.devices, Bell: door, Asker: door, OrderKey: orderKey, Observed: s.files.Observed, Reach: s.reach, Log: s.cfg.Log,
		Settings: action.Settings{
			Expiry:             func() time.Duration { return s.settings.duration("actions.expiry") },
			RequireObserved:    func() string { return s.settings.value("actions.requireObserved") },
			RequireMachineRead: func() bool { return s.settings.value("auth.requireMachineRead") == "true" },
		},
	})
	if err != nil {
		return err
	}
	s.gateway, err = gateway.New(gateway.Config{
		Actions: vaults{s.actions, s.files}, Bus: s.bus, Server: s.url, Still: s.devices.Still, Log: s.cfg.Log,
		Sightings: s.files.Met, Rules: s.indicators,
		Authenticate: func(ctx context.Context, h order.Hello, c order.Challenge, ip string) error {
			_, err := s.devices.Authenticate(ctx, h, c, ip)
			return err
		},
		Facts: func(ctx context.Context, id string, f order.Facts, ip string) error {
			return s.devices.Seen(ctx, id, ip, f)
		},
	})
	if err != nil {
		return err
	}
	s.onStop("gateway", func() error { s.gateway.Close(); return nil })
	handler, err := httpapi.New(httpapi.Config{
		Verifier: verifier, Actions: s.actions, Devices: s.devices, Audit: s.store, Admin: admin{s, tenant}, People: s.people, Link: s.gateway, Issuer: s.issuer.Handler(),
		PublicURL: s.url, Names: s.names(), Ready: s.store.Ping, Log: s.cfg.Log,
		Indicators: s.indicators, Files: s.files, Alerts: s.alerts,
		ActionFields: store.ActionFields(), DeviceFields: store.DeviceFields, IndicatorFields: store.IndicatorFields(), AlertFields: store.AlertFields(),
		Limiter: s.limiter(),
		Welcome: func() api.EnrollResponse { return welcome(tenant, orderKey) },
		Limits: func() httpapi.Limit {
			return httpapi.Limit{PerMinute: s.settings.number("limits.perMinute"), PerHour: s.settings.number("limits.perHour")}
		},
	})
	if err != nil {
		return err
	}
	s.https = httpapi.Server(handler, s.cfg.Log)
	s.admin = httpapi.Server(handler.Admin(), s.cfg.Log)
	return nil
}

// welcome is what a new device is told beside its id.
func welcome(tenant string, orderKey ed25519.PrivateKey) api.EnrollResponse {
	return api.EnrollResponse{TenantID: tenant, OrderKeys: []string{order.FormatKey(orderKey.Public().(ed25519.PublicKey))}}
}

// URL is what clients and devices call the server by.
func (s *Server) URL() string { return s.url }

// Start serves: the HTTPS listener, the admin socket, the sweeps. It returns
// once ready.json says so.
func (s *Server) Start(ctx context.Context) error {
	s.actions.Start(ctx)
	s.onStop("actions", func() error { s.actions.Stop(); return nil })
	s.startSettings(ctx)
	if err := s.startRules(ctx); err != nil {
		return err
	}

	socket, err := s.listenAdmin()
	if err != nil {
		return err
	}
	s.serve("https", s.https, tls.NewListener(s.listener, &tls.Config{
		Certificates: []tls.Certificate{s.cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
	}))
	s.serve("admin socket", s.admin, socket)

	ready, err := json.Marshal(api.Ready{URL: s.url, CAFile: s.caFile(), PID: os.Getpid()})
	if err != nil {
		return fmt.Errorf("cannot say that the server is ready: %w", err)
	}
	if err := durable.WriteFile(s.path("ready.json"), append(ready, '\n'), 0o644); err != nil {
		return err
	}
	s.onStop("ready.json", func() error { return durable.Remove(s.path("ready.json")) })
	s.cfg.Log.Info("server ready", "url", s.url, "data", s.cfg.Data)
	return nil
}

// pin is what enrollment tokens say of our authority; "" for a certificate of
// the operator's own, which devices check against their system's authorities.
func (s *Server) pin() string {
	if s.cfg.TLSCert != "" {
		return ""
	}
	return pki.Pin(s.cert)
}

// caFile is the certificate that clients check ours against.
func (s *Server) caFile() string {
	if s.cfg.TLSCert != "" {
		return s.cfg.TLSCert
	}
	return s.keys.CAFile()
}

// listenAdmin opens DIR/admin.sock. Who may open it is admin, so the folder and
// the socket are the owner's alone.
func (s *Server) listenAdmin() (net.Listener, error) {
	path := s.path("admin.sock")
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot open the admin socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("cannot open the admin socket: %w; a socket's path has at most 107 bytes, choose a shorter --data", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open the admin socket: %w", err), l.Close())
	}
	return l, nil
}

func (s *Server) serve(name string, srv *http.Server, l net.Listener) {
	s.wait.Go(func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			select {
			case s.failed <- fmt.Errorf("the %s ended: %w", name, err):
			default:
			}
		}
	})
	s.onStop(name, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), stopTime)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			return errors.Join(fmt.Errorf("calls were cut off: %w", err), srv.Close())
		}
		return nil
	})
}

// startSettings reads the settings again now and then: another replica may have
// changed them.
func (s *Server) startSettings(ctx context.Context) {
	loop := periodic.Start(ctx, 5*time.Second, func(ctx context.Context) {
		if err := s.settings.Load(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.Error("cannot read settings; the old ones stay in force", "error", err)
		}
	})
	s.onStop("settings", func() error { loop.Stop(); return nil })
}

// Failed yields the error of a listener that ended on its own.
func (s *Server) Failed() <-chan error { return s.failed }

// Stop takes no more calls, finishes what was begun, and closes everything, in
// the reverse order of the start.
func (s *Server) Stop() error { return s.close() }

func (s *Server) close() error {
	var errs []error
	for _, c := range slices.Backward(s.cleanup) {
		if c.name == "store" {
			s.wait.Wait() // nobody uses the database any more
		}
		if err := c.do(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, fmt.Errorf("cannot stop %s: %w", c.name, err))
		}
	}
	s.cleanup = nil
	return errors.Join(errs...)
}
