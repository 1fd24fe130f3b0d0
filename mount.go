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

// unnamedMount is the mount id if Vault provides none.
const unnamedMount = "unnamed"

// backend is one mount. It is safe for concurrent use.
type backend struct {
	*framework.Backend

	// vault is what Vault tells of itself and of the mount.
	vault logical.SystemView

	// clock returns the current time. Tests replace it.
	clock func() time.Time

	// mountID is in the mark of everything that this mount creates at Databricks, and distinguishes it from what others
	// created.
	mountID string

	// instance is what the nonces of this process begin with, and splitBrain the evidence of another engine with the same mount id, nil for
	// none.
	instance   string
	splitBrain atomic.Pointer[splitBrainError]

	// counters outlive the client, so that status keeps counting when the connection is replaced.
	counters client.Counters

	// credentials counts what was minted and revoked, since the time started.
	credentials credentialCounts
	started     time.Time

	// connections holds the connection under configStorageKey, and under retainedStorageKey that of a config which was deleted.
	connections cache[*connection]
	roles       cache[*roleEntry]
	statics     cache[*staticEntry]

	// intents indexes the write-ahead log, and inFlight has the nonces of the pending operations of this process, which a rollback must
	// not undo.
	intents  intentIndex
	inFlight sync.Map

	// shared has the entries of the log that mints in flight share.
	shared sharedLog

	// unreadable has the keys of the storage entries that reportUnreadable has reported.
	unreadable sync.Map

	// reportedTemplates has the keys of the roles, static ones among them, whose template was logged as failing since they were written.
	reportedTemplates sync.Map

	// The locks of the mount, in the order in which they may be taken: a holder may take only locks below it, and none twice.
	// Those by key may be held over calls to Databricks, which knows no compare-and-set; a wait for one ends with its request. The
	// mutexes make read-modify-write on storage atomic and are never held over a call. The tests fail when the order is broken.
	rotationLocks orderedLocks // a credential that is rotated, by the key of its storage entry: one request or periodic run at a time
	jobLocks      orderedLocks // the job at Vault's rotation manager, together with the config that it follows: one writer at a time
	deliveryLocks orderedLocks // a secret that a static role is about to deliver to, by its ref: no other role takes it meanwhile
	slotLocks     orderedLocks // a slot of a service principal: bounds the secrets that it has for the sake of access tokens
	secretLocks   orderedLocks // a secret, by its ref: one writer at a time, so that each knows what was there before
	aclLocks      orderedLocks // a permission, by the key of its record: one change at a time
	recordLocks   orderedLocks // the record of a lease, by its id: one change at a time. Not held over calls to Databricks either
	roleWrite     orderedMutex // the stored roles
	configWrite   orderedMutex // the stored config, and the connection that is made from it
	// Below them are the mutexes inside credentials, events, hostCache, intents, shared, nextRun, lifetimes, tidy, the caches and connections: while one is held, no other lock
	// is taken. Only intents and tidy have two, of which reading and saving come first.

	// hostCache has what Vault answered about the mount and about entities in the last seconds.
	hostCache hostCache

	// events are the events that wait to be sent to Vault.
	events eventQueue

	// nextRun says when the next rotation is due.
	nextRun nextRun

	// lifetimes outlive the client, too: they are distinct for all connections of the mount.
	lifetimes lifetimes

	// aclRecordsSwept is false if there may be records of permissions to delete.
	aclRecordsSwept atomic.Bool

	tidy tidying
}

// The ranks of the mount's locks: one may be taken only while all that are held have lower ranks.
const (
	rankRotation = iota + 1
	rankJob
	rankDelivery
	rankSlot
	rankSecret
	rankACL
	rankRecord
	rankRole
	rankConfig
)

// traceLock is called before a lock is taken and after it was released. It is for tests only, and nil otherwise.
var traceLock func(rank int, taken bool)

// orderedLocks are locks by key that have a rank.
type orderedLocks struct {
	keylock.Map
	rank int
}

// Lock waits for the lock of the key, as keylock.Map does.
func (l *orderedLocks) Lock(ctx context.Context, key string) (unlock func(), err error) {
	if traceLock == nil {
		return l.Map.Lock(ctx, key)
	}
	traceLock(l.rank, true)
	release, err := l.Map.Lock(ctx, key)
	if err != nil {
		traceLock(l.rank, false)
		return nil, err
	}
	return func() { release(); traceLock(l.rank, false) }, nil
}

// orderedMutex is a mutex that has a rank.
type orderedMutex struct {
	sync.Mutex
	rank int
}

func (m *orderedMutex) Lock() {
	if traceLock != nil {
		traceLock(m.rank, true)
	}
	m.Mutex.Lock()
}

func (m *orderedMutex) Unlock() {
	m.Mutex.Unlock()
	if traceLock != nil {
		traceLock(m.rank, false)
	}
}

// rankLocks gives the locks their ranks.
func (b *backend) rankLocks() {
	b.rotationLocks.rank = rankRotation
	b.jobLocks.rank = rankJob
	b.deliveryLocks.rank = rankDelivery
	b.slotLocks.rank = rankSlot
	b.secretLocks.rank = rankSecret
	b.aclLocks.rank = rankACL
	b.recordLocks.rank = rankRecord
	b.roleWrite.rank = rankRole
	b.configWrite.rank = rankConfig
}

// recoverPanic logs a panic with its stack and turns it into an error without its value. It must be called by defer.
func (b *backend) recoverPanic(where string, resp **logical.Response, err *error) {
	v := recover()
	if v == nil {
		return
	}
	// Only errors of the runtime are logged: the value of another panic might contain a secret.
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

// invalidate drops the cached value of a storage entry that was written on another node.
func (b *backend) invalidate(_ context.Context, key string) {
	b.reportedTemplates.Delete(key)
	switch {
	case key == configStorageKey:
		b.dropConnection()
		b.nextRun.touch()
	case key == retainedStorageKey:
		b.dropRetainedConnection()
		b.nextRun.touch()
	case strings.HasPrefix(key, roleStoragePrefix):
		b.roles.drop(key)
	case strings.HasPrefix(key, staticStoragePrefix):
		b.statics.drop(key)
		b.nextRun.touch()
	case key == tidyStorageKey:
		b.forgetTidy()
	case strings.HasPrefix(key, framework.WALPrefix):
		b.intents.remove(strings.TrimPrefix(key, framework.WALPrefix)) // the next rollback reads it
	}
}

// clean is called when Vault unloads the backend. It waits for a tidy run to stop, for tidyStopPatience at most, and then for the events
// that are left, for eventFlushPatience.
func (b *backend) clean(context.Context) {
	b.stopTidy()
	b.stopEvents()
	b.dropConnection()
	b.dropRetainedConnection()
}

// now returns the time to use in storage entries, leases and marks. Time-outs use the real clock.
func (b *backend) now() time.Time { return b.clock() }

// mayWrite reports whether this node may write the mount's local storage, as a rollback must.
func (b *backend) mayWrite() bool {
	state := b.System().ReplicationState()
	return !state.HasState(consts.ReplicationPerformanceStandby) && !state.HasState(consts.ReplicationDRSecondary)
}

// reportUnreadable logs at error level, once until the entry was read again, that a storage entry can't be read.
func (b *backend) reportUnreadable(key, consequence string, err error) {
	if _, reported := b.unreadable.LoadOrStore(key, true); !reported {
		b.Logger().Error(consequence, "error", err)
	}
}

// logFailure logs a mint, a rotation by hand and a renewal that failed: one line each, as Vault does for a failed revocation. What the
// caller has done wrong is left to the answer and to Vault's audit log, which hides the values of requests.
func (b *backend) logFailure(req *logical.Request, err error) {
	if err == nil {
		return
	}
	var what string
	request := req.Operation == logical.ReadOperation || req.Operation == logical.UpdateOperation
	switch {
	case req.Operation == logical.RenewOperation && !errors.Is(err, logical.ErrReadOnly):
		what = "a renewal failed"
	case !request || isCallersMistake(req, err):
		return
	case strings.HasPrefix(req.Path, mintPrefix):
		what = "a mint failed"
		if role, found := b.roles.peek(roleStoragePrefix + strings.TrimPrefix(req.Path, mintPrefix)); found {
			b.credentials.mintFailed(role.CredentialType, b.now(), err)
		}
	case req.Path == "config/rotate-root", strings.HasPrefix(req.Path, "rotate-role/"):
		what = "a rotation by hand failed"
	default:
		return
	}
	b.Logger().Warn(what, "path", req.Path, "request_id", req.ID, "error", err)
}

// safely calls do and turns a panic into an error.
func (b *backend) safely(where string, do func() error) (err error) {
	defer b.recoverPanic(where, nil, &err)
	return do()
}
