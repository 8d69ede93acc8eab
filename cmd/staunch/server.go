// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"

	"staunch/internal/server"
)

type serverCmd struct {
	Data         string   `help:"The server's folder." default:"/var/lib/staunch" env:"STAUNCH_DATA" placeholder:"DIR"`
	Listen       string   `help:"Address to serve HTTPS on." default:"127.0.0.1:8443" env:"STAUNCH_LISTEN" placeholder:"HOST:PORT"`
	PublicURL    string   `name:"public-url" help:"What clients and devices call the server by. Default: https:// and the listen address." env:"STAUNCH_PUBLIC_URL" placeholder:"URL"`
	Name         []string `help:"Further host names that clients use." env:"STAUNCH_NAMES" placeholder:"HOST"`
	Database     string   `help:"A PostgreSQL database (postgres://…). Default: embedded." env:"STAUNCH_DATABASE" placeholder:"URL"`
	Bus          string   `help:"A NATS cluster (nats://…) that joins replicas. Default: in process." env:"STAUNCH_BUS" placeholder:"URL"`
	TLSCert      string   `name:"tls-cert" help:"PEM file of a certificate of your own. Default: one of the server's own authority." env:"STAUNCH_TLS_CERT" placeholder:"FILE"`
	TLSKey       string   `name:"tls-key" help:"PEM file of its key." env:"STAUNCH_TLS_KEY" placeholder:"FILE"`
	OIDCIssuer   []string `name:"oidc-issuer" help:"An issuer outside whose tokens are accepted too, exactly as their iss has it, as in https://login.microsoftonline.com/TENANT/v2.0 (repeatable)." env:"STAUNCH_OIDC_ISSUERS" placeholder:"URL"`
	OIDCAudience []string `name:"oidc-audience" help:"What their tokens must be for (repeatable). Default: what the server's own may be for." env:"STAUNCH_OIDC_AUDIENCES" placeholder:"AUDIENCE"`
	LogFormat    string   `help:"text or json." enum:"text,json" default:"text" env:"STAUNCH_LOG_FORMAT"`
}

// Run serves until told to stop (SIGTERM).
func (c serverCmd) Run(ctx context.Context) error {
	s, err := server.New(ctx, server.Config{
		Data: c.Data, Listen: c.Listen, PublicURL: c.PublicURL, Names: c.Name, Database: c.Database, Bus: c.Bus,
		TLSCert: c.TLSCert, TLSKey: c.TLSKey, Issuers: c.OIDCIssuer, IssuerAudiences: c.OIDCAudience, Log: logger(c.LogFormat),
	})
	if err != nil {
		return err
	}
	if err := s.Start(ctx); err != nil {
		return errors.Join(err, s.Stop())
	}
	select {
	case <-ctx.Done():
		return s.Stop()
	case err := <-s.Failed():
		return errors.Join(err, s.Stop())
	}
}
