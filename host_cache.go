// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	// hostFresh is how long an answer of Vault's about the mount or about an entity is used again. Each takes a round trip to Vault, as long
	// as a fifth of a mint.
	hostFresh = 5 * time.Second

	// maxEntities limits how many entities are remembered.
	maxEntities = 1000
)

// hostCache has answers of Vault's of the last seconds. It is safe for concurrent use.
type hostCache struct {
	mu       sync.Mutex
	usual    answered[time.Duration]
	longest  answered[time.Duration]
	state    answered[consts.ReplicationState]
	entities map[string]answered[*logical.Entity]
}

// answered is an answer and when it was given, by the process's own clock: Vault's clock may be set.
type answered[T any] struct {
	value T
	at    time.Time
}

func (a answered[T]) fresh() bool { return !a.at.IsZero() && time.Since(a.at) < hostFresh }

// hostView is what Vault answers, the mount's TTLs, the names of entities and the replication state from the cache. A TTL of some seconds ago
// does not make a lease longer than it may be: Vault itself caps each lease by the mount's present maximum when it registers or renews it. The
// credential at Databricks may then live longer than the lease, by a maximum that was in force when the caller asked.
type hostView struct {
	logical.SystemView
	cache *hostCache
}

// Setup gives the framework the cached view: it asks for the replication state at every request, to know whether another node is to carry it
// out.
func (b *backend) Setup(ctx context.Context, conf *logical.BackendConfig) error {
	b.vault = conf.System
	cached := *conf
	cached.System = b.host()
	return b.Backend.Setup(ctx, &cached)
}

// System returns Vault's own view, which is never stale: for what is to be told to an operator, and for work in the background.
func (b *backend) System() logical.SystemView { return b.vault }

// host returns Vault's view for mints and renewals.
func (b *backend) host() logical.SystemView { return hostView{b.vault, &b.hostCache} }

func (v hostView) DefaultLeaseTTL() time.Duration {
	return v.cache.duration(&v.cache.usual, v.SystemView.DefaultLeaseTTL)
}

func (v hostView) MaxLeaseTTL() time.Duration {
	return v.cache.duration(&v.cache.longest, v.SystemView.MaxLeaseTTL)
}

func (c *hostCache) duration(of *answered[time.Duration], ask func() time.Duration) time.Duration {
	c.mu.Lock()
	known := *of
	c.mu.Unlock()
	if known.fresh() {
		return known.value
	}
	value := ask() // without the lock: a wait for Vault must not hold up those who know the answer
	if value <= 0 {
		return value // Vault could not be asked
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	*of = answered[time.Duration]{value, time.Now()}
	return value
}

// ReplicationState remembers no more than that this node is no standby. If it has become one since, the mint ends where it writes to the
// write-ahead log, before anything is done at Databricks: Vault refuses the write. Requests of other paths call forgetState first.
func (v hostView) ReplicationState() consts.ReplicationState {
	c := v.cache
	c.mu.Lock()
	known := c.state
	c.mu.Unlock()
	if known.fresh() {
		return known.value
	}
	state := v.SystemView.ReplicationState()
	if state == consts.ReplicationUnknown || state.HasState(consts.ReplicationPerformanceStandby) {
		return state // unknown is what the SDK says when Vault could not be asked
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = answered[consts.ReplicationState]{state, time.Now()}
	return state
}

// forgetState makes the next question for the replication state one to Vault.
func (c *hostCache) forgetState() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = answered[consts.ReplicationState]{}
}

func (v hostView) EntityInfo(id string) (*logical.Entity, error) {
	c := v.cache
	c.mu.Lock()
	known := c.entities[id]
	c.mu.Unlock()
	if known.fresh() {
		return known.value, nil
	}
	entity, err := v.SystemView.EntityInfo(id)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entities == nil || len(c.entities) >= maxEntities {
		c.entities = make(map[string]answered[*logical.Entity])
	}
	c.entities[id] = answered[*logical.Entity]{entity, time.Now()}
	return entity, nil
}
