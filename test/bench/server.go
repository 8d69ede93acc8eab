// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"staunch/client"
	"staunch/internal/server/odata"
	"staunch/internal/server/store"
	"staunch/internal/server/storetest"
)

// reads asks the server, over HTTPS and as clients do, for one action and for
// lists of the orders that throughput has left, by as many callers.
func (b *bench) reads(ctx context.Context) error {
	token, err := b.token(ctx, "reads")
	if err != nil {
		return err
	}
	roots, err := b.roots()
	if err != nil {
		return err
	}
	newest, err := b.client.MachineActions(ctx, client.Query{Top: 1})
	if err != nil || len(newest.Value) == 0 {
		return fmt.Errorf("there is no order to read: %w", err)
	}
	fmt.Printf("reads, %d callers for %s each\n", callers, b.load/2)
	for _, path := range []string{
		"/api/machineactions/" + newest.Value[0].ID,
		"/api/machineactions?$top=100",
		"/api/machineactions?$filter=status eq 'Pending'&$top=100",
		"/api/machineactions?$filter=lastUpdateDateTimeUtc gt 2026-01-01Z&$orderby=lastUpdateDateTimeUtc asc&$top=100",
		"/api/machines?$top=100",
	} {
		before := cpu(b.server.Process.PID())
		begun := time.Now()
		all, err := b.read(ctx, roots, token, path)
		if err != nil {
			return err
		}
		took := time.Since(begun).Seconds()
		used := cpu(b.server.Process.PID()) - before
		fmt.Printf("  %6.0f/s · p50 %5s p95 %5s p99 %5s max %6s · server used %.2f cores · %s\n", float64(len(all))/took,
			ms(quantile(all, 0.5)), ms(quantile(all, 0.95)), ms(quantile(all, 0.99)), ms(quantile(all, 1)), used.Seconds()/took, path)
	}
	fmt.Println()
	return nil
}

func (b *bench) read(ctx context.Context, roots *x509.CertPool, token, path string) (all []time.Duration, err error) {
	u, err := url.Parse(b.server.Ready.URL)
	if err != nil {
		return nil, err
	}
	at, query, _ := strings.Cut(path, "?")
	u.Path, u.RawQuery = at, strings.ReplaceAll(query, " ", "+")
	ctx, cancel := context.WithTimeout(ctx, b.load/2)
	defer cancel()
	results, failures := make([][]time.Duration, callers), make([]error, callers)
	var work sync.WaitGroup
	for i := range callers {
		work.Go(func() {
			c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
			defer c.CloseIdleConnections()
			for ctx.Err() == nil && failures[i] == nil {
				begun := time.Now()
				failures[i] = get(ctx, c, u.String(), token)
				if ctx.Err() != nil {
					failures[i] = nil // the time was up
					return
				}
				results[i] = append(results[i], time.Since(begun))
			}
		})
	}
	work.Wait()
	for i := range callers {
		if failures[i] != nil {
			return nil, failures[i]
		}
		all = append(all, results[i]...)
	}
	return all, nil
}

func get(ctx context.Context, c *http.Client, address, token string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("a read was answered %s", resp.Status)
	}
	return nil
}

// lists reads lists from tables of 100,000 actions and ten times as many until
// b.rows, past HTTP, and says how each grows: 1.0 is not at all.
func (b *bench) lists(ctx context.Context) error {
	now := time.Now()
	since := now.Add(-2 * time.Minute).UTC().Format(time.RFC3339)
	queries := []string{
		"$top=100",
		"$filter=status eq 'Pending'&$top=100",
		"$filter=status eq 'Succeeded'&$orderby=lastUpdateDateTimeUtc desc&$top=100",
		"$filter=machineId eq '" + storetest.MachineID(42) + "' and status eq 'Succeeded'&$top=10",
		"$filter=type eq 'RestoreFile'&$top=100",
		"$filter=requestor eq 'nobody'&$top=100",
		"$filter=lastUpdateDateTimeUtc gt " + since,
		"$top=100&$skip=90000",
		"", // a page of 10,000, the first
		"nextLink to the last",
	}
	fmt.Printf("lists of machine actions, past HTTP, by the rows of the table; medians of %d in ms, and their growth\n", listReads)
	table := make([][]time.Duration, len(queries))
	for rows := 100_000; rows <= b.rows; rows *= 10 {
		if err := b.listsOf(ctx, rows, now, queries, table); err != nil {
			return err
		}
	}
	for i, q := range queries {
		if q == "" {
			q = "a page of 10,000"
		}
		for _, d := range table[i] {
			fmt.Printf("  %8s", ms(d))
		}
		fmt.Printf("  growth %4.1f  %s\n", table[i][len(table[i])-1].Seconds()/table[i][0].Seconds(), q)
	}
	fmt.Println()
	return nil
}

const listReads = 20

func (b *bench) listsOf(ctx context.Context, rows int, now time.Time, queries []string, table [][]time.Duration) error {
	secret, _, err := note.GenerateKey(rand.Reader, "bench")
	if err != nil {
		return err
	}
	signer, err := note.NewSigner(secret)
	if err != nil {
		return err
	}
	c := store.Config{Path: filepath.Join(b.dir, "lists.db"), Checkpoint: signer, Log: slog.New(slog.DiscardHandler)}
	defer func() {
		for _, tail := range []string{"", "-wal", "-shm"} {
			_ = os.Remove(c.Path + tail) // gigabytes
		}
	}()
	s, err := store.Open(ctx, c) // for its schema
	if err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	begun := time.Now()
	if err := storetest.FillSQLite(ctx, c.Path, rows, now); err != nil {
		return err
	}
	fi, err := os.Stat(c.Path)
	if err != nil {
		return err
	}
	fmt.Printf("  %d rows: %.1f GB, written in %.0f s\n", rows, float64(fi.Size())/1e9, time.Since(begun).Seconds())
	if s, err = store.Open(ctx, c); err != nil {
		return err
	}
	defer func() { _ = s.Close() }() // only read
	for i, text := range queries {
		took, err := readList(ctx, s, text, rows)
		if err != nil {
			return err
		}
		table[i] = append(table[i], median(took))
	}
	return nil
}

// readList reads a list again and again, or, where text is no query, the last
// pages of all by their place.
func readList(ctx context.Context, s *store.Store, text string, rows int) (took []time.Duration, err error) {
	last := text == "nextLink to the last"
	if last {
		text = ""
	}
	values, err := odata.Split(text)
	if err != nil {
		return nil, err
	}
	q, err := odata.Parse(values, store.ActionFields(), odata.Options{})
	if err != nil {
		return nil, err
	}
	if last { // where the one before the last ends
		q.Skip, q.Mark = rows-2*odata.MaxTop, &odata.Mark{Row: odata.MaxTop}
		if _, _, err := s.Actions(ctx, q); err != nil {
			return nil, err
		}
		q.After, q.Mark = q.Mark.Place, nil
	}
	for range listReads {
		begun := time.Now()
		if _, _, err := s.Actions(ctx, q); err != nil {
			return nil, err
		}
		took = append(took, time.Since(begun))
	}
	return took, nil
}
