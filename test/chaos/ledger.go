// SPDX-License-Identifier: MPL-2.0

package main

import (
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
)

// doubt is how long after a request without an answer its effect may still come: a node can go on with what another one, which was
// killed, had forwarded to it.
const doubt = time.Minute

// ref is a secret in a scope, or a principal's permission on it. With the scope unity, it is a secret in Unity Catalog.
type ref struct{ scope, key string }

// unity is the schema of Unity Catalog that the load writes to, as it stands in paths of the mount.
const unity = "main/app"

// kind is the area of the mount that the secret is in.
func (r ref) kind() string {
	if r.scope == unity {
		return "uc-secrets"
	}
	return "secrets"
}

// path is that of the secret in the mount.
func (r ref) path() string { return r.kind() + "/" + r.scope + "/" + r.key }

// delivery are the parameters by which a credential is delivered there.
func (r ref) delivery() map[string]any {
	if r.scope == unity {
		return map[string]any{"deliver_uc": strings.ReplaceAll(r.scope, "/", ".") + "." + r.key}
	}
	return map[string]any{"deliver_scope": r.scope, "deliver_key": r.key}
}

// lease is what a client got.
type lease struct {
	id, what string
	promised time.Time // Vault has said that it lives until then
	latest   time.Time // it can't live longer
	ended    bool      // Vault has said that it is revoked
	doubtful bool      // a revocation got no answer
	busy     bool      // a client works on it
	long     bool

	token        string   // token or access token
	clientID     string   // with clientSecret
	clientSecret string   //
	objects      []string // ids of what it is for at Databricks
	copied       *ref     // where the secret part was delivered to
	secret       *shared  // leased secret
	permission   *permission
}

// attempt is one write of a leased secret or permission. Without a lease it got no answer.
type attempt struct {
	at    time.Time
	value string
	lease *lease
}

// shared is a key that leases write to one after the other.
type shared struct {
	ref
	mu       sync.Mutex // held over the request
	attempts []attempt
}

// permission is a principal's permission on a scope.
type permission struct {
	ref
	before   string     // any lease; "" is none
	mu       sync.Mutex // held over the request
	attempts []attempt
}

// unsure reports whether a write without an answer may have come after the latest one that has a lease.
func unsure(attempts []attempt) bool {
	for i := len(attempts) - 1; i >= 0; i-- {
		if attempts[i].lease == nil && attempts[len(attempts)-1].at.Sub(attempts[i].at) < doubt {
			return true
		}
	}
	return false
}

// copied is a delivery, and until when its lease may live: even if Vault has lost that, the engine leaves the copy until then.
type copied struct {
	from  role
	until time.Time
}

// ledger is what the clients know.
type ledger struct {
	mu          sync.Mutex
	leases      map[string]*lease
	secrets     map[ref]*shared
	permissions map[ref]*permission
	copies      map[ref]copied // keys that something was or may have been delivered to
}

func (l *ledger) init() {
	l.leases, l.secrets, l.permissions, l.copies = map[string]*lease{}, map[ref]*shared{}, map[ref]*permission{}, map[ref]copied{}
}

// add notes a lease from an answer to a request that was sent at began.
func (l *ledger) add(secret *api.Secret, began time.Time, entry *lease) *lease {
	entry.id = secret.LeaseID
	entry.promised = began.Add(time.Duration(secret.LeaseDuration)*time.Second - time.Second)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leases[entry.id] = entry
	return entry
}

// pick chooses a lease that should be alive and fits, for a client that releases it afterwards. It returns nil where there is none.
func (l *ledger) pick(random *rand.Rand, fits func(*lease) bool) *lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	var chosen *lease
	seen := 0
	for _, entry := range l.leases {
		if entry.ended || entry.doubtful || entry.busy || time.Now().After(entry.promised) || fits != nil && !fits(entry) {
			continue
		}
		if seen++; random.IntN(seen) == 0 {
			chosen = entry
		}
	}
	if chosen != nil {
		chosen.busy = true
	}
	return chosen
}

func (l *ledger) release(entry *lease, change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	entry.busy = false
	change()
}

// held is the number of leases that should be alive.
func (l *ledger) held() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, entry := range l.leases {
		if !entry.ended && time.Now().Before(entry.promised) {
			n++
		}
	}
	return n
}

// shared returns the entry of a key that leases write to.
func (l *ledger) shared(r ref) *shared {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.secrets[r] == nil {
		l.secrets[r] = &shared{ref: r}
	}
	return l.secrets[r]
}

func (l *ledger) delivers(r ref, from role) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.copies[r] = copied{from, time.Now().Add(from.longest())}
}

// values are the secrets that are written without a lease, and what each may be now.
type values struct {
	mu      sync.Mutex
	may     map[ref]map[string]time.Time // by value, when it was last written without an answer; zero is with one
	writing map[ref]*sync.Mutex
}

// absent is the value of a secret that isn't there.
const absent = "\x00absent"

func newValues() *values {
	return &values{may: map[ref]map[string]time.Time{}, writing: map[ref]*sync.Mutex{}}
}

// lock makes the caller the only writer of a secret, or of all secrets of a scope with the key "".
func (v *values) lock(r ref) *sync.Mutex {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.writing[r] == nil {
		v.writing[r] = &sync.Mutex{}
	}
	return v.writing[r]
}

func (v *values) begin(r ref, value string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.may[r] == nil {
		v.may[r] = map[string]time.Time{absent: {}}
	}
	v.may[r][value] = time.Now()
}

// commit says that the value was written. Those that were written shortly before without an answer may still come.
func (v *values) commit(r ref, value string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for other, at := range v.may[r] {
		if time.Since(at) > doubt {
			delete(v.may[r], other)
		}
	}
	v.may[r][value] = time.Time{}
}

func (v *values) all() map[ref]map[string]time.Time {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.may
}
