// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"staunch/internal/durable"
	"staunch/internal/order"
)

// State is the agent's folder. All that the agent knows lies in it, so several
// agents can live on one host, each in its own.
//
//	enrollment.json  who this device is and whom it obeys (Enrollment); public
//	device.key       the device's Ed25519 key, PKCS #8 PEM; whoever reads it can speak as this device
//	journal/         what was ordered, done and said: see docs/journal-format.md
//	vault/           sealed files and the key that opens them: see docs/vault-format.md
//	index.db         hash → paths; can be rebuilt
//	rules/           the standing rules of the organisation: see policy
//	sightings-….jsonl  what the server has to be told of files: see spool
//	gates.json       the contents whose start is refused until restored or allowed
//	agent.sock       where the agent that runs answers this command line
//	lock             held by the one process that may change the folder
type State struct{ Dir string }

// Enrollment is what enrolling left: enrollment.json.
type Enrollment struct {
	URL       string   `json:"url"`
	DeviceID  string   `json:"deviceId"`
	TenantID  string   `json:"tenantId"`
	OrderKeys []string `json:"orderKeys"` // as order.FormatKey writes them
	EscrowKey string   `json:"escrowKey,omitempty"`
	CA        string   `json:"ca"` // PEM
}

// ErrNotEnrolled says that the folder belongs to no device yet.
var ErrNotEnrolled = errors.New("this device is not enrolled: run staunch-agent enroll TOKEN first")

// OpenState makes the folder if need be and checks that nobody else can get at it.
func OpenState(dir string) (State, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return State{}, fmt.Errorf("cannot use state folder %s: %w", dir, err)
	}
	if err := durable.Mkdir(abs, 0o700); err != nil {
		return State{}, fmt.Errorf("cannot use state folder: %w; choose another with --state", err)
	}
	fi, err := os.Stat(abs)
	if err != nil {
		return State{}, fmt.Errorf("cannot use state folder: %w", err)
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return State{}, fmt.Errorf("cannot use state folder %s: it belongs to user %d, and this runs as user %d; run it as the owner, or choose another folder with --state",
			abs, st.Uid, os.Geteuid())
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return State{}, fmt.Errorf("cannot use state folder %s: others may enter it (mode %04o); run chmod 700 %s", abs, fi.Mode().Perm(), abs)
	}
	return State{Dir: abs}, nil
}

func (s State) path(name string) string { return filepath.Join(s.Dir, name) }

// maxState bounds a file of the state folder that is read as a whole, in bytes.
const maxState = 16 << 20

// readState reads a file of the state folder. What is not a regular file is
// refused: reading a pipe would wait for ever.
func readState(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	fi, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !fi.Mode().IsRegular():
		return nil, fmt.Errorf("it is not a regular file but %s", fi.Mode())
	case fi.Size() > maxState:
		return nil, fmt.Errorf("it has %d bytes, more than the %d allowed", fi.Size(), maxState)
	}
	return io.ReadAll(io.LimitReader(f, maxState))
}

// JournalDir is the journal's folder.
func (s State) JournalDir() string { return s.path("journal") }

// lockPatience is how long a lock is waited for: a command that is about to end
// gets out of the way of the agent.
const lockPatience = 3 * time.Second

// Lock makes this process the one that may change the folder.
func (s State) Lock(ctx context.Context) (unlock func(), err error) {
	deadline := time.Now().Add(lockPatience)
	for {
		unlock, err = durable.Lock(s.path("lock"))
		if err == nil {
			return unlock, nil
		}
		if !errors.Is(err, durable.ErrLocked) {
			return nil, fmt.Errorf("cannot use state folder: %w; if something else than a file is in its place, move that away", err)
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return nil, fmt.Errorf("cannot use state folder %s: another staunch-agent is at work in it: %w", s.Dir, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Enrollment reads who this device is, or returns ErrNotEnrolled.
func (s State) Enrollment() (Enrollment, error) {
	var e Enrollment
	b, err := readState(s.path("enrollment.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return e, ErrNotEnrolled
	}
	if err == nil {
		err = json.Unmarshal(b, &e)
	}
	if err == nil && !order.ValidDevice(e.DeviceID) {
		err = fmt.Errorf("device id %q is not 40 hex digits", e.DeviceID)
	}
	if err != nil {
		return Enrollment{}, fmt.Errorf("cannot read %s: %w; enroll this device again with --force", s.path("enrollment.json"), err)
	}
	return e, nil
}

// Enroll writes who this device is.
func (s State) Enroll(e Enrollment) error {
	b, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot enroll: %w", err)
	}
	return durable.WriteFile(s.path("enrollment.json"), append(b, '\n'), 0o600)
}

func (e Enrollment) orderKeys() ([]ed25519.PublicKey, error) {
	var keys []ed25519.PublicKey
	for _, s := range e.OrderKeys {
		k, err := order.ParseKey(s)
		if err != nil {
			return nil, fmt.Errorf("cannot read the server's order key: %w", err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// Roots are the authorities whose certificate the server must show.
func (e Enrollment) Roots() (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(e.CA)) {
		return nil, errors.New("cannot read the server's CA certificate: enroll this device again with --force")
	}
	return pool, nil
}

// DeviceKey reads the device's key, or makes one.
func (s State) DeviceKey() (ed25519.PrivateKey, error) {
	path := s.path("device.key")
	b, err := readState(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s.NewDeviceKey()
	}
	var key ed25519.PrivateKey
	if err == nil {
		key, err = parseDeviceKey(b)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read device key %s: %w; bring it back from a backup, or move it away and enroll this device again with --force", path, err)
	}
	return key, nil
}

func parseDeviceKey(b []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("it is not PEM")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("it is a %T, want Ed25519", k)
	}
	return key, nil
}

// NewDeviceKey makes a key in place of the one that may be there: what a new
// enrollment uses, so that nothing signed for the old device fits the new one.
func (s State) NewDeviceKey() (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make device key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("cannot make device key: %w", err)
	}
	return key, durable.WriteFile(s.path("device.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}
