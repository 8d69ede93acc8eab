// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"staunch/api"
	"staunch/internal/agent"
	"staunch/internal/order"
	"staunch/test/rig"
)

// callers is how many send orders at once.
const callers = 64

// throughput sends orders to a device that is away, each for another file: every
// 201 is an order that is durable.
func (b *bench) throughput(ctx context.Context) error {
	device, err := b.absent(ctx)
	if err != nil {
		return err
	}
	token, err := b.token(ctx, "load")
	if err != nil {
		return err
	}
	roots, err := b.roots()
	if err != nil {
		return err
	}

	before := cpu(b.server.Process.PID())
	ctx, cancel := context.WithTimeout(ctx, b.load)
	defer cancel()
	results := make([][]time.Duration, callers)
	failures := make([]error, callers)
	var work sync.WaitGroup
	start := time.Now()
	for i := range callers {
		work.Go(func() {
			// Each caller has a connection of its own.
			c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
			defer c.CloseIdleConnections()
			results[i], failures[i] = b.send(ctx, c, device, token)
		})
	}
	work.Wait()
	took := time.Since(start)
	var all []time.Duration
	for i := range callers {
		all = append(all, results[i]...)
		if failures[i] != nil {
			return failures[i]
		}
	}
	used := cpu(b.server.Process.PID()) - before
	fmt.Printf("orders accepted durably, %d callers for %s\n", callers, b.load)
	fmt.Printf("  %.0f orders/s · 201 after p50 %s p95 %s p99 %s max %s · one durable line alone %.0f/s · server used %.2f cores, %s ms an order\n\n",
		float64(len(all))/took.Seconds(), ms(quantile(all, 0.5)), ms(quantile(all, 0.95)), ms(quantile(all, 0.99)), ms(quantile(all, 1)),
		1/b.floor.sync.Seconds(), used.Seconds()/took.Seconds(), ms(used/time.Duration(max(1, len(all)))))
	return nil
}

// send sends orders until ctx ends and returns how long each took.
func (b *bench) send(ctx context.Context, c *http.Client, device, token string) (took []time.Duration, err error) {
	for ctx.Err() == nil {
		var sha1 [20]byte
		_, _ = rand.Read(sha1[:]) // never fails
		body := fmt.Sprintf(`{"Comment":"bench","Sha1":"%s"}`, hex.EncodeToString(sha1[:]))
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.server.Ready.URL+"/api/machines/"+device+"/StopAndQuarantineFile", strings.NewReader(body))
		if err != nil {
			return took, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
		start := time.Now()
		resp, err := c.Do(req)
		if ctx.Err() != nil {
			return took, nil
		}
		if err != nil {
			return took, err
		}
		text, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if ctx.Err() != nil {
			return took, nil
		}
		if err != nil || resp.StatusCode != http.StatusCreated {
			return took, fmt.Errorf("an order was answered %s: %s (%w)", resp.Status, bytes.TrimSpace(text), err)
		}
		took = append(took, time.Since(start))
	}
	return took, nil
}

// absent enrolls a device that never connects.
func (b *bench) absent(ctx context.Context) (string, error) {
	var made api.EnrollmentToken
	if err := b.server.Admin(ctx, &made, "enroll-token", "create"); err != nil {
		return "", err
	}
	token, err := order.ParseEnrollToken(made.Token)
	if err != nil {
		return "", err
	}
	pub, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		return "", err
	}
	facts, err := json.Marshal(agent.Facts())
	if err != nil {
		return "", err
	}
	enrolled, err := b.client.Enroll(ctx, api.EnrollRequest{Secret: token.Secret, PublicKey: order.FormatKey(pub), Facts: facts})
	return enrolled.DeviceID, err
}

// roots are who signed the server's certificate.
func (b *bench) roots() (*x509.CertPool, error) {
	pem, err := os.ReadFile(b.server.Ready.CAFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return roots, nil
}

// token gets an access token of an app of its own, of that name.
func (b *bench) token(ctx context.Context, name string) (string, error) {
	_, app, err := b.server.Client(ctx, name)
	if err != nil {
		return "", err
	}
	roots, err := b.roots()
	if err != nil {
		return "", err
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
	defer c.CloseIdleConnections()
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {app.ClientID}, "client_secret": {app.ClientSecret},
		"scope": {"https://api.securitycenter.microsoft.com/.default"},
	}
	resp, err := c.PostForm(b.server.Ready.URL+"/"+app.TenantID+"/oauth2/v2.0/token", form)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var answer struct {
		Token string `json:"access_token"`
	}
	return answer.Token, json.NewDecoder(resp.Body).Decode(&answer)
}

// cpu is the processor time a process has used.
func cpu(pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	var user, system int64
	if len(f) > 12 {
		_, _ = fmt.Sscan(f[11]+" "+f[12], &user, &system) // the kernel wrote them
	}
	return time.Duration(user+system) * time.Second / 100 // USER_HZ is 100 on every Linux that Go runs on
}

// largeSize is of the file that is sealed.
const largeSize = 128 << 20

// seal compares sealing a large file with copying it.
func (b *bench) seal(ctx context.Context) error {
	a, stop, err := b.device(ctx, "seal")
	if err != nil {
		return err
	}
	path := filepath.Join(b.disk, "large")
	var takes, copies []time.Duration
	for range 3 {
		if err := large(path); err != nil {
			return err
		}
		start := time.Now()
		if err := copyOne(path, b.dir, 0); err != nil {
			return err
		}
		copies = append(copies, time.Since(start))
		if err := os.Remove(filepath.Join(b.dir, "0")); err != nil {
			return err
		}
		sum, err := rig.SumOf(path)
		if err != nil {
			return err
		}
		r, err := agent.State{Dir: a.State}.Dial(ctx)
		if err != nil {
			return err
		}
		receipt, err := r.Contain(ctx, agent.Request{File: sum.Hash(), Comment: "bench"})
		if err != nil {
			return err
		}
		if receipt.Outcome != order.Proven {
			return fmt.Errorf("sealing ended as %s: %s", receipt.Outcome, receipt.Reason)
		}
		for _, s := range receipt.Steps {
			if s.Name == "take" {
				takes = append(takes, time.Duration(s.EndNs-s.StartNs))
			}
		}
	}
	take, plain := median(takes), median(copies)
	rate := func(d time.Duration) float64 { return largeSize / d.Seconds() / 1e6 }
	fmt.Printf("seal a file of %d MB: grab, hash, encrypt, sync, read back and compare, remove\n", largeSize>>20)
	fmt.Printf("  %.0f MB/s · copied durably %.0f MB/s · %s of the copy's time\n\n", rate(take), rate(plain), ratio(take, plain))
	_ = os.Remove(path) // scratch
	return stop()
}

func large(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.CopyN(f, rand.Reader, largeSize); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Close()
}
