// SPDX-License-Identifier: Apache-2.0

package people

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/pki/pkitest"
)

// shelf is a store of users in memory; the rest of Store is the real one's, which
// storetest proves.
type shelf struct {
	Store
	mu    sync.Mutex
	users map[string]User
	lines []audit.Entry
	tries map[string]Tries
}

func (s *shelf) CreateUser(_ context.Context, u User, e audit.Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[u.UPN] = u
	s.lines = append(s.lines, e)
	return nil
}

func (s *shelf) User(_ context.Context, id string) (User, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.users {
		if u.ID == id || u.UPN == id {
			return u, nil
		}
	}
	return User{}, api.Errorf(api.ResourceNotFound, "User %s was not found", id)
}

func (s *shelf) ChangeUser(ctx context.Context, id string, change func(*User) (*audit.Entry, error)) (User, error) {
	u, err := s.User(ctx, id)
	if err != nil {
		return User{}, err
	}
	e, err := change(&u)
	if err != nil {
		return User{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[u.UPN] = u
	if e != nil {
		s.lines = append(s.lines, *e)
	}
	return u, nil
}

func (s *shelf) ChangeTries(_ context.Context, names []string, change func([]Tries)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := make([]Tries, len(names))
	for i, n := range names {
		t[i] = s.tries[n]
	}
	change(t)
	for i, n := range names {
		s.tries[n] = t[i]
	}
	return nil
}

func (s *shelf) Users(context.Context) ([]User, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.users)), nil
}

func (s *shelf) Record(_ context.Context, e audit.Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, e)
	return nil
}

var root = auth.Caller{Kind: auth.Admin, ID: "admin", Name: "admin"}

const (
	ana  = "ana@corp.example"
	good = "correct horse battery staple"
)

func newService(t testing.TB) (*Service, *shelf) {
	t.Helper()
	kept := &shelf{users: map[string]User{}, tries: map[string]Tries{}}
	s, err := New(Config{Store: kept, Sealer: pkitest.Sealer(t)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateUser(t.Context(), root, ana, "Ana", good, Outside{}); err != nil {
		t.Fatal(err)
	}
	return s, kept
}

func try(t testing.TB, s *Service, name, password, code, address string) error {
	t.Helper()
	u, err := s.SignIn(t.Context(), Credentials{Name: name, Password: password, Code: code, Address: address, AppID: "app"})
	if err == nil && u.UPN != ana {
		t.Errorf("signed in as %q", u.UPN)
	}
	return err
}

func TestSignIn(t *testing.T) {
	s, kept := newService(t)
	if err := try(t, s, "ANA@corp.example", good, "", "192.0.2.1"); err != nil {
		t.Error(err)
	}
	for name, cr := range map[string][2]string{
		"wrong password": {ana, "correct horse"}, "unknown user": {"bob@corp.example", good}, "no name": {"", good}, "no password": {ana, ""},
		"name that is none": {"ana'--", good}, "longer than any password": {ana, strings.Repeat("x", 5000)},
	} {
		err := try(t, s, cr[0], cr[1], "", "192.0.2.2")
		if api.CodeOf(err) != api.Unauthorized || !strings.HasSuffix(err.Error(), "The user name or password is wrong") {
			t.Errorf("%s: %v", name, err)
		}
	}
	yes := true
	if _, _, err := s.ChangeUser(t.Context(), root, ana, UserChange{Disabled: &yes}); err != nil {
		t.Fatal(err)
	}
	if err := try(t, s, ana, good, "", "192.0.2.3"); api.CodeOf(err) != api.Unauthorized {
		t.Errorf("disabled: %v", err)
	}
	accepted, refused := 0, 0
	for _, e := range kept.lines {
		if strings.Contains(string(e.Detail), good) || strings.Contains(e.Target, good) {
			t.Error("a password in the audit log")
		}
		if e.Operation == audit.SignIn && e.Outcome == "accepted" {
			accepted++
		}
		if e.Operation == audit.SignIn && e.Outcome == "refused: Unauthorized" {
			refused++
		}
	}
	if accepted != 1 || refused != 7 {
		t.Errorf("on record: %d accepted, %d refused", accepted, refused)
	}
}

// Guessing is slowed down where it comes from, and the owner elsewhere does not notice.
func TestDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t)
		const attacker, owner = "198.51.100.7", "192.0.2.1"
		wrong := 0
		var last error
		for range 200 {
			last = try(t, s, ana, "guess", "", attacker)
			if api.CodeOf(last) == api.Unauthorized {
				wrong++
			}
		}
		var e *api.Error
		if wrong != freeTries || !errors.As(last, &e) || e.Code != api.TooManyRequests || e.RetryAfter < 1 {
			t.Errorf("%d guesses at once, then %v", wrong, last)
		}
		if err := try(t, s, ana, good, "", attacker); api.CodeOf(err) != api.TooManyRequests {
			t.Errorf("the right password during the delay: %v", err)
		}
		if err := try(t, s, ana, good, "", owner); err != nil {
			t.Errorf("the owner, elsewhere: %v", err)
		}
		// In a day the attacker gets few guesses, and never waits longer than the longest delay.
		wrong = 0
		for end := time.Now().Add(24 * time.Hour); time.Now().Before(end); {
			err := try(t, s, ana, "guess", "", attacker)
			if errors.As(err, &e) && e.Code == api.TooManyRequests {
				if wait := time.Duration(e.RetryAfter) * time.Second; wait > longestDelay {
					t.Fatalf("wait %s", wait)
				}
				time.Sleep(time.Duration(e.RetryAfter) * time.Second)
				continue
			}
			wrong++
		}
		if wrong > 120 {
			t.Errorf("%d guesses in a day", wrong)
		}
		time.Sleep(longestDelay)
		if err := try(t, s, ana, good, "", attacker); err != nil {
			t.Errorf("after the delay: %v", err)
		}
		// Many accounts from one network are slowed down too; an IPv6 host has a whole /64.
		for i := range 2 * networkTries {
			last = try(t, s, fmt.Sprintf("u%d@corp.example", i), "guess", "", fmt.Sprintf("2001:db8::%x", i))
		}
		if api.CodeOf(last) != api.TooManyRequests {
			t.Errorf("spraying: %v", last)
		}
	})
}

// Two replicas on one store give an attacker no more tries than one.
func TestDelaysOfReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, kept := newService(t)
		two, err := New(Config{Store: kept, Sealer: one.cfg.Sealer})
		if err != nil {
			t.Fatal(err)
		}
		wrong := 0
		for i := range 20 {
			if err := try(t, []*Service{one, two}[i%2], ana, "guess", "", "198.51.100.7"); api.CodeOf(err) == api.Unauthorized {
				wrong++
			}
		}
		if wrong != freeTries {
			t.Errorf("%d guesses at once, want %d", wrong, freeTries)
		}
		if err := try(t, two, ana, good, "", "192.0.2.1"); err != nil {
			t.Errorf("the owner, elsewhere: %v", err)
		}
	})
}

// What a server before this one kept in the clear is sealed, once, and works on.
func TestSealAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, kept := newService(t)
		secret := newTOTP()
		u := kept.users[ana]
		u.TOTP = secret
		kept.users[ana] = u
		for range 2 {
			if err := s.SealAll(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		sealed := kept.users[ana].TOTP
		if bytes.Contains(sealed, secret) || len(sealed) == totpSecret {
			t.Errorf("still in the clear: %x", sealed)
		}
		if err := try(t, s, ana, good, totpCode(secret, time.Now().Unix()/totpStep), "192.0.2.1"); err != nil {
			t.Errorf("signing in with it: %v", err)
		}
		stranger, err := New(Config{Store: kept, Sealer: pkitest.Sealer(t)})
		if err != nil {
			t.Fatal(err)
		}
		if err := stranger.SealAll(t.Context()); err == nil || !strings.Contains(err.Error(), "from another replica") {
			t.Errorf("a server with another key: %v", err)
		}
		// One that is put into another user's row opens nothing.
		other, err := s.CreateUser(t.Context(), root, "bob@corp.example", "", good, Outside{})
		if err != nil {
			t.Fatal(err)
		}
		other.TOTP = sealed
		kept.users[other.UPN] = other
		_, err = s.SignIn(t.Context(), Credentials{Name: other.UPN, Password: good, Code: totpCode(secret, time.Now().Unix()/totpStep), Address: "192.0.2.1"})
		if err == nil || !strings.Contains(err.Error(), "seal.key") {
			t.Errorf("with another's second factor: %v", err)
		}
	})
}

func TestSecondFactor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, kept := newService(t)
		yes := true
		_, uri, err := s.ChangeUser(t.Context(), root, ana, UserChange{TOTP: &yes})
		if err != nil || !strings.HasPrefix(uri, "otpauth://totp/") {
			t.Fatal(uri, err)
		}
		secret, err := s.cfg.Sealer.Open(kept.users[ana].TOTP, kept.users[ana].ID)
		if err != nil || len(secret) != totpSecret || bytes.Contains(kept.users[ana].TOTP, secret) {
			t.Fatalf("the secret is not sealed: %v", err)
		}
		code := func(steps int64) string { return totpCode(secret, time.Now().Unix()/totpStep+steps) }
		if err := try(t, s, ana, good, "", "192.0.2.1"); !errors.Is(err, ErrCodeNeeded) {
			t.Errorf("without a code: %v", err)
		}
		if err := try(t, s, ana, "wrong", code(0), "192.0.2.1"); api.CodeOf(err) != api.Unauthorized {
			t.Errorf("wrong password, right code: %v", err)
		}
		first := code(-1)
		if err := try(t, s, ana, good, first[:3]+" "+first[3:], "192.0.2.1"); err != nil {
			t.Errorf("a late clock: %v", err)
		}
		if err := try(t, s, ana, good, first, "192.0.2.1"); err == nil || !strings.Contains(err.Error(), "used before") {
			t.Errorf("replayed: %v", err)
		}
		if err := try(t, s, ana, good, code(5), "192.0.2.1"); err == nil {
			t.Error("a code of another time")
		}
		if err := try(t, s, ana, good, code(0), "192.0.2.1"); err != nil {
			t.Errorf("the next one: %v", err)
		}
		// Who has the password cannot try codes without end.
		tries := 0
		for range 100 {
			_ = try(t, s, ana, good, "", "203.0.113.5")
			if err := try(t, s, ana, good, "000000", "203.0.113.5"); api.CodeOf(err) == api.Unauthorized {
				tries++
			}
		}
		if tries > freeTries {
			t.Errorf("%d codes tried", tries)
		}
	})
}

// RFC 6238, appendix B, cut to six digits.
func TestTOTPVectors(t *testing.T) {
	for at, want := range map[int64]string{59: "287082", 1111111109: "081804", 1111111111: "050471", 1234567890: "005924", 2000000000: "279037", 20000000000: "353130"} {
		if got := totpCode([]byte("12345678901234567890"), at/totpStep); got != want {
			t.Errorf("at %d: %s, want %s", at, got, want)
		}
	}
}

func TestPasswordDigest(t *testing.T) {
	phc := digest(good)
	if ok, old, err := matches(phc, good); !ok || old || err != nil {
		t.Errorf("%v, %v, %v for %s", ok, old, err, phc)
	}
	if ok, _, _ := matches(phc, good+" "); ok || digest(good) == phc {
		t.Error("another password matches, or there is no salt")
	}
	// One of a weaker time still opens, and is made anew at the sign-in.
	weak := params{memory: 64, passes: 1, threads: 1}
	s, kept := newService(t)
	u := kept.users[ana]
	u.Password = encode(weak, []byte("saltsalt"), weak.of(good, []byte("saltsalt"), 32))
	kept.users[ana] = u
	if err := try(t, s, ana, good, "", "192.0.2.1"); err != nil {
		t.Fatal(err)
	}
	if got := kept.users[ana].Password; got == u.Password || !strings.Contains(got, "$m=19456,t=2,p=1$") {
		t.Errorf("not made anew: %s", got)
	}
	for _, damaged := range []string{
		"", "x", "$argon2i$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$" + strings.Repeat("A", 43), "$argon2id$v=19$m=99999999,t=1,p=1$c2FsdHNhbHQ$" + strings.Repeat("A", 43),
		"$argon2id$v=19$m=64,t=99999,p=1$c2FsdHNhbHQ$" + strings.Repeat("A", 43), "$argon2id$v=19$m=64,t=1,p=0$c2FsdHNhbHQ$" + strings.Repeat("A", 43),
		"$argon2id$v=19$m=64,t=1,p=1 $c2FsdHNhbHQ$" + strings.Repeat("A", 43), "$argon2id$v=19$m=64,t=1,p=1$$",
	} {
		if _, _, err := matches(damaged, good); err == nil {
			t.Errorf("%q was taken for a digest", damaged)
		}
	}
}

func TestRefusals(t *testing.T) {
	s, _ := newService(t)
	ctx := t.Context()
	for want, do := range map[string]func() error{
		"Only an administrator": func() error { _, err := s.CreateGroup(ctx, auth.Caller{Kind: auth.User}, "g", Outside{}); return err },
		"Forbidden: Only an administrator": func() error {
			_, err := s.CreateUser(ctx, auth.Caller{Kind: auth.App}, "b@x", "", good, Outside{})
			return err
		},
		"is not a user name":    func() error { _, err := s.CreateUser(ctx, root, "ana smith@x", "", good, Outside{}); return err },
		"is not a user name of": func() error { _, err := s.CreateUser(ctx, root, "a\u202e@x", "", good, Outside{}); return err },
		`"a/b@x" is not`:        func() error { _, err := s.CreateUser(ctx, root, "a/b@x", "", good, Outside{}); return err },
		"The user has no name":  func() error { _, err := s.CreateUser(ctx, root, " ", "", good, Outside{}); return err },
		"at least 8 are needed": func() error { _, err := s.CreateUser(ctx, root, "b@x", "", "1234567", Outside{}); return err },
		"1024 are allowed": func() error {
			_, err := s.CreateUser(ctx, root, "b@x", "", strings.Repeat("x", 1025), Outside{})
			return err
		},
		"the user's own name":               func() error { _, err := s.CreateUser(ctx, root, "benjamin@x", "", "Benjamin", Outside{}); return err },
		"The password is empty":             func() error { _, err := s.CreateUser(ctx, root, "b@x", "", "", Outside{}); return err },
		"not text in UTF-8":                 func() error { _, err := s.CreateUser(ctx, root, "b@x", "", "abcdefgh\xff", Outside{}); return err },
		"There is no role permission 'Fly'": func() error { _, err := s.CreateRole(ctx, root, "r", []string{"Fly"}); return err },
		"The role has no permission":        func() error { _, err := s.CreateRole(ctx, root, "r", nil); return err },
		"The group has no name":             func() error { _, err := s.CreateGroup(ctx, root, " ", Outside{}); return err },
		"121 characters":                    func() error { _, err := s.CreateGroup(ctx, root, strings.Repeat("x", 121), Outside{}); return err },
		"cannot be printed":                 func() error { _, err := s.CreateGroup(ctx, root, "a\nb", Outside{}); return err },
		"only dots":                         func() error { _, err := s.CreateGroup(ctx, root, "..", Outside{}); return err },
	} {
		if err := do(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := New(Config{}); err == nil || !strings.Contains(err.Error(), "Store is not set") {
		t.Errorf("New = %v", err)
	}
}

// Whatever a digest says, it is refused or costs a bounded time; what is read is
// written the same.
func FuzzDecode(f *testing.F) {
	f.Add(digest(good))
	f.Add("$argon2id$v=19$m=65536,t=1,p=255$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, phc string) {
		p, salt, sum, err := decode(phc)
		if err == nil && (encode(p, salt, sum) != phc || p.memory > maxMemory || p.passes > maxPasses || p.threads == 0) {
			t.Errorf("decode(%q) = %+v", phc, p)
		}
	})
}

func FuzzParseUPN(f *testing.F) {
	for _, s := range []string{ana, "ANA@Corp.Example", "a@b@c", "é@x", "a\u202e@x", "@", strings.Repeat("a", 300) + "@x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		upn, err := ParseUPN(s)
		if err != nil {
			return
		}
		if again, err := ParseUPN(upn); err != nil || again != upn || strings.ContainsAny(upn, " /\\\"<>\n") || strings.Count(upn, "@") != 1 {
			t.Errorf("ParseUPN(%q) = %q, then %q, %v", s, upn, again, err)
		}
	})
}

func BenchmarkSignIn(b *testing.B) {
	s, _ := newService(b)
	for b.Loop() {
		if err := try(b, s, ana, good, "", "192.0.2.1"); err != nil {
			b.Fatal(err)
		}
	}
}
