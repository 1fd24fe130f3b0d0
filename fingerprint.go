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

// maxLifetimeOffset bounds what is added to a credential's lifetime to tell it apart, in seconds.
const maxLifetimeOffset = 60

// lifetimes gives out lifetimes by which OAuth secrets can be told apart.
type lifetimes struct {
	mu   sync.Mutex
	used map[string]time.Time // service principal and lifetime: until when another create might be confused with it

	// learned is set when what an earlier process asked for has been taken into account.
	loaded atomic.Bool
}

// reserve notes that a create which began at the moment asked for the lifetime. The caller holds the mutex.
func (l *lifetimes) reserve(started time.Time, principalID string, lifetime time.Duration) {
	if l.used == nil {
		l.used = make(map[string]time.Time)
	}
	l.used[principalID+" "+lifetime.String()] = started.Add(mintBudget + 2*clockSkew)
}

// loadLifetimes takes into account what open intents asked for, once a process.
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
	// The first is drawn at random, so that it isn't the same again after a restart.
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

// makeDistinct gives a credential that bears no text a lifetime that tells it from others of its service principal.
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
