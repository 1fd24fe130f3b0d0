// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
	"vault-plugin-secrets-databricks/internal/credential"

	"github.com/hashicorp/vault/sdk/logical"
)

// What is added to a credential's lifetime to make it distinct is a fiftieth of the lifetime at most, within these bounds. The longer
// a secret lives, the less a longer life matters, and the less likely it must be that two mounts choose the same one.
const (
	minLifetimeOffset = time.Minute
	maxLifetimeOffset = time.Hour
)

// offsetRange returns what may be added to a lifetime of at least the given one.
func offsetRange(least time.Duration) time.Duration {
	most := min(max(least/50, minLifetimeOffset), maxLifetimeOffset, maxLifetime-least)
	return most.Truncate(time.Second)
}

// reservation is a lifetime that a create for a service principal asked for. A lifetime of 0 stands for none.
type reservation struct {
	principalID string
	lifetime    time.Duration
	started     time.Time // by Vault's clock
}

// reservation returns the lifetime by which a credential of the intent can be identified.
func (in *intent) reservation() reservation {
	if in.Credential == nil {
		return reservation{}
	}
	return reservation{in.Credential.ServicePrincipalID, seconds(in.Credential.Lifetime), in.Started}
}

// lifetimes allocates distinct lifetimes to OAuth secrets. These can't carry a nonce, so a rollback identifies one by its
// service principal, its exact lifetime and its creation time. It is safe for concurrent use.
type lifetimes struct {
	mu   sync.Mutex
	used map[string]time.Time // service principal and lifetime: until when another create could be confused with it

	// loaded is set once the lifetimes that an earlier process used are in used.
	loaded atomic.Bool
}

// reserve records a lifetime. The caller holds mu.
func (l *lifetimes) reserve(r reservation) {
	if l.used == nil {
		l.used = make(map[string]time.Time)
	}
	l.used[r.principalID+" "+r.lifetime.String()] = r.started.Add(mintBudget + 2*clockNear)
}

// loadLifetimes adds the lifetimes of the intents in the write-ahead log, once per process. Otherwise a restart could reuse
// the lifetime of a secret that is yet to be rolled back.
func (b *backend) loadLifetimes(ctx context.Context, s logical.Storage) error {
	l := &b.lifetimes
	if l.loaded.Load() {
		return nil
	}
	if err := b.intents.load(ctx, s, b.now()); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range b.intents.reservations() {
		l.reserve(r)
	}
	l.loaded.Store(true)
	return nil
}

// distinct returns a lifetime of at least the given one, or a little less where that is the longest there is. Unless all are
// taken, no create for the service principal has asked for it lately.
func (l *lifetimes) distinct(now time.Time, principalID string, least time.Duration) (lifetime time.Duration, unique bool) {
	least = min(least, maxLifetime-minLifetimeOffset)
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, until := range l.used {
		if now.After(until) {
			delete(l.used, key)
		}
	}
	// The first is random, so that neither this mount after a restart nor another mount is likely to choose it, too.
	choices := int(offsetRange(least) / time.Second)
	first := rand.IntN(choices)
	for i := range choices {
		lifetime := least + seconds(int64((first+i)%choices))
		key := principalID + " " + lifetime.String()
		if _, taken := l.used[key]; !taken {
			l.reserve(reservation{principalID, lifetime, now})
			return lifetime, true
		}
	}
	return least + seconds(int64(first)), false
}

// makeDistinct gives a credential that can't carry text a lifetime that distinguishes it from others of its service principal, and
// records that in the intent.
func (b *backend) makeDistinct(ctx context.Context, s logical.Storage, r *credential.Request, in *intent) error {
	if err := b.loadLifetimes(ctx, s); err != nil {
		return err
	}
	lifetime, unique := b.lifetimes.distinct(b.now(), r.ServicePrincipalID, r.Lifetime)
	r.Lifetime = lifetime
	in.Credential.ServicePrincipalID = r.ServicePrincipalID
	if unique {
		in.Credential.Lifetime = int64(lifetime / time.Second)
	}
	return nil
}
