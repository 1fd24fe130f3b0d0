// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/keylock"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// unnamedMount is the id of a mount whose host tells none.
const unnamedMount = "unnamed"

// backend is one mount. It is safe for concurrent use.
type backend struct {
	*framework.Backend

	// clock is the time. Tests move it.
	clock func() time.Time

	// mountID marks what this mount makes at Databricks, so that it can be told from what others made.
	mountID string

	// sensitive has the request fields that carry secrets. It does not change.
	sensitive map[string]framework.FieldType

	// counters outlive the client, so that status keeps counting when the connection is replaced.
	counters client.Counters

	// connections holds at most one connection, under configStorageKey.
	connections cache[*connection]
	roles       cache[*roleEntry]
	statics     cache[*staticEntry]

	// configWrite and roleWrite make read-modify-write on storage atomic. They are never held over a remote call.
	configWrite sync.Mutex
	roleWrite   sync.Mutex

	// underway has the nonces of the undertakings of this process, which no rollback may undo; complaints has what was
	// complained of already, and tried when a rollback last tried to undo one.
	underway, complaints, tried sync.Map

	// aclLocks orders changes of the same permission, secretLocks writes of the same secret; stepSecretLocks bounds the secrets
	// that a service principal has for the sake of access tokens.
	aclLocks, secretLocks, stepSecretLocks keylock.Map

	// rotationLocks lets one request or tick at a time work on a credential that is rotated, by the key of its storage entry;
	// agenda says when the next of them is due.
	rotationLocks keylock.Map
	agenda        agenda

	// lifetimes outlive the client, too: they tell secrets apart whichever connection made them.
	lifetimes lifetimes

	// grantsSwept is false when there may be records of permissions to be deleted.
	grantsSwept atomic.Bool

	tidy tidying
}

func (b *backend) recoverPanic(where string, resp **logical.Response, err *error) {
	v := recover()
	if v == nil {
		return
	}
	// Only what the runtime itself says is logged: another panic's value might carry a secret.
	cause := "panic"
	if re, ok := v.(runtime.Error); ok {
		cause = re.Error()
	}
	b.Logger().Error("recovered from a panic; please report it with this stack", "in", where, "cause", cause, "stack", string(debug.Stack()))
	if resp != nil {
		*resp = nil
	}
	*err = logical.CodedError(500, "the Databricks secrets engine failed on this request; the stack is in Vault's log, please report it")
}

// invalidate drops what is remembered of a storage entry that was written on another node.
func (b *backend) invalidate(_ context.Context, key string) {
	switch {
	case key == configStorageKey:
		b.dropConnection()
		b.agenda.touch()
	case strings.HasPrefix(key, roleStoragePrefix):
		b.roles.drop(key)
	case strings.HasPrefix(key, staticStoragePrefix):
		b.statics.drop(key)
		b.agenda.touch()
	case key == tidyStorageKey:
		b.forgetTidy()
	}
}

func (b *backend) clean(context.Context) {
	b.stopTidy()
	b.dropConnection()
}

// now is the time of whatever is written down. Time-outs go by the real one.
func (b *backend) now() time.Time { return b.clock() }

// mayWrite tells whether this node may write the mount's local storage, as a rollback must.
func (b *backend) mayWrite() bool {
	state := b.System().ReplicationState()
	return !state.HasState(consts.ReplicationPerformanceStandby) && !state.HasState(consts.ReplicationDRSecondary)
}

// event tells Vault's event bus of a change; pairs are metadata keys and values, never secrets. A host without an event
// bus is no error, and an event that can't be sent must not undo what has happened.
func (b *backend) event(ctx context.Context, kind, path string, pairs ...string) {
	pairs = append(pairs, logical.EventMetadataPath, path, logical.EventMetadataModified, "true")
	err := logical.SendEvent(ctx, b, "databricks/"+kind, pairs...)
	if err != nil && !errors.Is(err, framework.ErrNoEvents) {
		b.Logger().Debug("an event was not sent", "event", kind, "error", err)
	}
}

// safely turns a panic into an error.
func (b *backend) safely(where string, do func() error) (err error) {
	defer b.recoverPanic(where, nil, &err)
	return do()
}

// sleep waits, or returns the context's error as soon as it ends.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
