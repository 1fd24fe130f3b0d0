// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
	"vault-plugin-secrets-databricks/internal/credential"

	"github.com/hashicorp/vault/sdk/logical"
)

// maxLifetimeOffset limits what is added to a credential's lifetime to make it distinct, in seconds.
const maxLifetimeOffset = 60

// lifetimes allocates distinct lifetimes to OAuth secrets. These can't carry a nonce, so a rollback identifies one by its
// service principal, its exact lifetime and its creation time. It is safe for concurrent use.
type lifetimes struct {
	mu   sync.Mutex
	used map[string]time.Time // service principal and lifetime: until when another create could be confused with it

	// learned is set once the lifetimes that an earlier process used are in used.
	loaded atomic.Bool
}

// reserve records that a create that began at started uses the lifetime. The caller holds mu.
func (l *lifetimes) reserve(started time.Time, principalID string, lifetime time.Duration) {
	if l.used == nil {
		l.used = make(map[string]time.Time)
	}
	l.used[principalID+" "+lifetime.String()] = started.Add(mintBudget + 2*clockSkew)
}

// loadLifetimes adds the lifetimes of the intents in the write-ahead log, once per process. Otherwise a restart could reuse
// the lifetime of a secret that is yet to be rolled back.
func (b *backend) loadLifetimes(ctx context.Context, s logical.Storage) error {
	l := &b.lifetimes
	if l.loaded.Load() {
		return nil
	}
	err := eachIntent(ctx, s, func(_ string, in *intent) error {
		if c := in.Credential; c != nil && c.Lifetime > 0 {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.reserve(in.Started, c.ServicePrincipalID, seconds(c.Lifetime))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the write-ahead log: %w", err)
	}
	l.loaded.Store(true)
	return nil
}

// distinct returns a lifetime of at least the given one, or a little less where that is the longest there is. Unless all are
// taken, no create for the service principal has asked for it lately.
func (l *lifetimes) distinct(now time.Time, principalID string, least time.Duration) (lifetime time.Duration, unique bool) {
	least = min(least, maxLifetime-maxLifetimeOffset*time.Second)
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, until := range l.used {
		if now.After(until) {
			delete(l.used, key)
		}
	}
	// The first is random, so that it isn't the same again after a restart.
	first := rand.IntN(maxLifetimeOffset)
	for i := range maxLifetimeOffset {
		lifetime := least + seconds(int64((first+i)%maxLifetimeOffset))
		key := principalID + " " + lifetime.String()
		if _, taken := l.used[key]; !taken {
			l.reserve(now, principalID, lifetime)
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
