// SPDX-License-Identifier: Apache-2.0

// Package storetest is the contract of the control plane's store as tests: one
// suite for every database. Each sentence of the comments on action.Store,
// device.Store and issuer.Store has a test here that fails without it.
//
//	func TestSQLite(t *testing.T) { storetest.Run(t, func(t *testing.T) *storetest.Harness { … }) }
package storetest

import (
	"context"
	"crypto/rand"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"staunch/internal/server/action"
	"staunch/internal/server/alert"
	"staunch/internal/server/audit"
	"staunch/internal/server/device"
	"staunch/internal/server/file"
	"staunch/internal/server/indicator"
	"staunch/internal/server/issuer"
	"staunch/internal/server/odata"
	"staunch/internal/server/people"
)

// Store is all that the control plane asks of its store.
type Store interface {
	action.Store
	device.Store
	issuer.Store
	people.Store
	indicator.Store
	file.Store
	alert.Store

	Setting(ctx context.Context, key string) (value string, ok bool, err error)
	SetSetting(ctx context.Context, key, value string, e audit.Entry) error

	AuditEntries(ctx context.Context, after int64, limit int) ([]audit.Entry, error)
	Checkpoint(ctx context.Context) ([]byte, error)
	InclusionProof(ctx context.Context, index, size int64) (tlog.RecordProof, error)
	ConsistencyProof(ctx context.Context, older, size int64) (tlog.TreeProof, error)
	VerifyAudit(ctx context.Context, key note.Verifier, elsewhere ...[]byte) (audit.Report, error)

	Ping(ctx context.Context) error
	Close() error
}

// Harness is an empty store to be tested.
type Harness struct {
	// Open opens the database, for the first time and again after a Close, or
	// beside itself as a second replica.
	Open func(t testing.TB) Store
	// Verifier knows the key that signs its audit log.
	Verifier note.Verifier
	// Replicas says that the database may be opened several times at once.
	Replicas bool
	// ActionFields and DeviceFields are what lists may be filtered by.
	ActionFields func() []odata.Field
	DeviceFields func(now time.Time) []odata.Field
	// IndicatorFields and AlertFields are the same of theirs.
	IndicatorFields, AlertFields func() []odata.Field
}

// test is one test of the suite.
type test struct {
	name string
	run  func(t *testing.T, h *Harness, s Store)
}

// Run runs the whole suite. harness makes a new, empty store for each test.
func Run(t *testing.T, harness func(t *testing.T) *Harness) {
	for _, test := range append([]test{
		{"action is kept whole", testActionKept},
		{"action that is active keeps others with its key out", testActionDuplicate},
		{"of 200 at once with one key exactly one is kept", testActionRace},
		{"two replicas keep at most one active", testActionReplicas},
		{"action id is used once", testActionID},
		{"change is kept with its entry", testActionChange},
		{"change that fails keeps nothing", testActionChangeAborted},
		{"change that panics keeps nothing", testActionChangePanics},
		{"what an action is about cannot be changed", testActionFixed},
		{"action that is not there", testActionMissing},
		{"failed changes do not harm those beside them", testNeighbours},
		{"outbox", testOutbox},
		{"overdue", testOverdue},
		{"lists of actions", testActionLists},
		{"pages never overlap", testPages},
		{"pages go on where the last one ended", testWalk},
		{"items are replaced", testItems},
		{"items page by cursor", testItemPages},
		{"item of another device is left alone", testItemForeign},
		{"devices enroll by token", testEnroll},
		{"token is used as often as it says", testEnrollRace},
		{"device changes", testDeviceChange},
		{"devices by name", testDevicesNamed},
		{"device by Entra id", testDeviceOfEntra},
		{"lists of devices", testDeviceLists},
		{"filters of devices agree with what is shown", testFieldsAgree},
		{"apps", testApps},
		{"settings", testSettings},
		{"users", testUsers},
		{"orders within a caller's reach", testReachOfOrders},
		{"tries to sign in", testTries},
		{"app names are taken once", testAppNames},
		{"users of issuers outside", testOutside},
		{"groups and members", testGroups},
		{"roles and access", testRoles},
		{"device groups by rule and rank", testDeviceGroups},
		{"devices are in their group whatever changes", testDeviceGroupsRace},
		{"lists show what may be seen", testReach},
		{"apps change", testAppChange},
		{"grants are redeemed once", testGrants},
		{"text that cannot be kept is refused", testBadText},
		{"any other text is kept", testGoodText},
		{"large values", testLimits},
		{"audit log has no gaps", testAuditGapless},
		{"audit log of two replicas has no gaps", testAuditReplicas},
		{"audit checkpoints and proofs", testAuditProofs},
		{"cancelled callers", testCancelled},
		{"closed store", testClosed},
		{"reopened store has everything", testReopen},
	}, append(indicatorTests(), fileTests()...)...) {
		t.Run(test.name, func(t *testing.T) {
			h := harness(t)
			s := h.Open(t)
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
			test.run(t, h, s)
			verify(t, h, s)
		})
	}
}

// verify runs after every test: whatever it did, the audit log is whole.
func verify(t *testing.T, h *Harness, s Store) {
	t.Helper()
	if s.Ping(t.Context()) != nil {
		return // closed by the test
	}
	if _, err := s.Checkpoint(t.Context()); err != nil {
		t.Errorf("Checkpoint: %v", err)
	}
	r, err := s.VerifyAudit(t.Context(), h.Verifier)
	if err != nil {
		t.Errorf("VerifyAudit: %v", err)
	}
	if r.Signed != r.Lines {
		t.Errorf("%d of %d audit lines are signed", r.Signed, r.Lines)
	}
}

// Signer makes a key for audit checkpoints.
func Signer(t testing.TB) (note.Signer, note.Verifier) {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, "staunch.test/audit")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	return signer, verifier
}
