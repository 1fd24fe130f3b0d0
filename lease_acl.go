// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/credential"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	secretTypeACL = "databricks_acl"

	aclStoragePrefix = "grant/"
)

// aclLeaseID identifies one leased permission.
type aclLeaseID struct {
	aclRef
	ID string `json:"id"`
}

// aclStale is how long Databricks may still return a permission that was changed since (Terraform provider for
// Databricks, which waits as long).
const aclStale = 5 * time.Minute

// aclRecord records the leased permissions of one principal on one scope. Leases may overlap and end in any order, and Databricks
// stores a single permission, so the permission of each lease is recorded: the latest remaining lease applies, and when none is
// left, Base is restored.
//
// The record stays for as long as Databricks' answers may be stale, even when no lease is left: a stale answer would become the base
// of the next lease, and its end would restore that permanently.
type aclRecord struct {
	aclRef
	Base   string     `json:"base"` // the permission before the first lease, "" for none
	Leases []aclLease `json:"leases"`

	Put     string    `json:"put"`     // the permission that was set last
	Pending []string  `json:"pending"` // what may apply instead of Put, if the outcome of setting it is unknown
	Past    []string  `json:"past"`    // earlier permissions, which an outdated answer may show
	At      time.Time `json:"at"`      // when Put was set
}

// aclLease is the permission of one lease.
type aclLease struct {
	ID         string `json:"id"`
	Permission string `json:"permission"`
}

// desired returns the permission that should apply now.
func (g *aclRecord) desired() string {
	if len(g.Leases) == 0 {
		return g.Base
	}
	return g.Leases[len(g.Leases)-1].Permission
}

// overridden reports whether somebody else has put the permission that is there.
func (g *aclRecord) overridden(has string, now time.Time) bool {
	return has != g.Put && !slices.Contains(g.Pending, has) && (now.Sub(g.At) > aclStale || !slices.Contains(g.Past, has))
}

// recordPut records that a permission is about to be set. Until the outcome is known, the previous one may apply instead.
func (g *aclRecord) recordPut(permission string, now time.Time) {
	if now.Sub(g.At) > aclStale {
		g.Past = nil
	}
	for _, past := range []string{g.Put, g.Base} {
		if !slices.Contains(g.Past, past) {
			g.Past = append(slices.Clone(g.Past), past)
		}
	}
	g.Pending = []string{g.Put}
	g.Put, g.At = permission, now.UTC()
}

// prepare returns the record for a next lease. Old is the stored record, nil for none, and has what Databricks returns.
func (old *aclRecord) prepare(ref aclRef, has string, now time.Time) *aclRecord {
	switch {
	case old == nil || old.overridden(has, now):
		// Somebody else has changed the permission, so earlier leases have nothing left to revoke.
		return &aclRecord{aclRef: ref, Base: has, Put: has}
	case len(old.Leases) == 0:
		next := *old
		next.Base = old.Put
		return &next
	default:
		next := *old
		return &next
	}
}

// aclRecordPrefix returns the storage prefix of a scope's records. It depends on the workspace, since the mount may be connected
// to another one later, and ignores the case of the scope, as Databricks does.
func aclRecordPrefix(made origin, scope string) string {
	workspace := made.WorkspaceID
	if workspace == "" {
		workspace = made.Host
	}
	return aclStoragePrefix + hashKey(workspace+"\x00"+strings.ToLower(scope)) + "/"
}

func aclRecordKey(made origin, ref aclRef) string {
	return aclRecordPrefix(made, ref.Scope) + hashKey(ref.Principal)
}

// readACLRecord returns nil when there is no record.
func readACLRecord(ctx context.Context, s logical.Storage, key string) (*aclRecord, error) {
	entry, err := s.Get(ctx, key)
	if err != nil || entry == nil {
		return nil, err
	}
	g := new(aclRecord)
	if err := entry.DecodeJSON(g); err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreadableACLRecord, err)
	}
	return g, nil
}

// errUnreadableACLRecord says that a stored record can't be read.
var errUnreadableACLRecord = errors.New("the stored leases of a permission cannot be read")

func (g *aclRecord) save(ctx context.Context, s logical.Storage, key string) error {
	entry, err := logical.StorageEntryJSON(key, g)
	if err != nil {
		return err
	}
	return s.Put(ctx, entry)
}

// forgetScope deletes the records of a deleted scope, so that their leases do not affect a new scope of the same name.
func forgetScope(ctx context.Context, s logical.Storage, made origin, scope string) error {
	prefix := aclRecordPrefix(made, scope)
	keys, err := s.List(ctx, prefix)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := s.Delete(ctx, prefix+key); err != nil {
			return err
		}
	}
	return nil
}

// aclSweepBudget limits one sweep.
const aclSweepBudget = 5 * time.Second

// sweepACLRecords deletes the records that have no leases and are older than aclStale. It is called about once a minute, and reads
// the storage only if there may be such records.
func (b *backend) sweepACLRecords(ctx context.Context, req *logical.Request) (err error) {
	if !b.WriteSafeReplicationState() || !b.aclRecordsSwept.CompareAndSwap(false, true) {
		return nil
	}
	defer func() {
		if err != nil {
			b.aclRecordsSwept.Store(false) // the next periodic call tries again
		}
	}()
	// A record may be locked by a request that is waiting for Databricks.
	ctx, cancel := context.WithTimeout(ctx, aclSweepBudget)
	defer cancel()
	keys, err := logical.CollectKeys(ctx, logical.NewStorageView(req.Storage, aclStoragePrefix))
	if err != nil {
		return err
	}
	var errs []error
	first := 0
	if len(keys) > 0 {
		first = rand.IntN(len(keys)) // a sweep that ends early leaves other records each time
	}
	for i := range keys {
		key := aclStoragePrefix + keys[(first+i)%len(keys)]
		if b.aclLocks.Waiting(key) > 0 {
			b.aclRecordsSwept.Store(false) // a request is at work on it
			continue
		}
		err := b.sweepACLRecord(ctx, req.Storage, key)
		if errors.Is(err, errUnreadableACLRecord) {
			// It will be as unreadable in a minute.
			b.reportUnreadable(key, "the leases of a permission can't be ended", err)
			continue
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// sweepACLRecord deletes one record. If it is not old enough yet, it requests another sweep.
func (b *backend) sweepACLRecord(ctx context.Context, s logical.Storage, key string) error {
	unlock, err := b.aclLocks.Lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	g, err := readACLRecord(ctx, s, key)
	if err != nil {
		return err
	}
	b.unreadable.Delete(key)
	if g == nil || len(g.Leases) > 0 {
		return nil
	}
	if b.now().Sub(g.At) <= aclStale {
		b.aclRecordsSwept.Store(false)
		return nil
	}
	return s.Delete(ctx, key)
}

// aclLeaseType returns the lease type of permissions.
func aclLeaseType() *framework.Secret {
	return &framework.Secret{Type: secretTypeACL, Fields: aclResponseFields, Renew: on((*backend).renewWrite), Revoke: on((*backend).revokeACL)}
}

// leaseACL sets a permission that is revoked when its lease ends. The record is stored before the permission is set, so that
// a rollback can revert it whatever fails afterwards.
func (b *backend) leaseACL(ctx context.Context, req *logical.Request, conn *connection, ref aclRef, permission string, requested time.Duration, wait bool) (*logical.Response, error) {
	t, err := decideTerms(b.host(), conn.config, &roleEntry{}, requested)
	if err != nil {
		return nil, err
	}
	in, err := b.newIntent(ctx, conn)
	if err != nil {
		return nil, err
	}
	id := aclLeaseID{aclRef: ref, ID: in.Nonce}
	in.Grant = &id
	key := aclRecordKey(in.origin, ref)
	unlock, err := b.aclLocks.Lock(ctx, key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	has, err := permissionOf(ctx, conn, ref)
	if err != nil {
		return nil, err
	}
	in.start(b.now(), conn) // waiting for the lock is no part of the operation

	old, err := readACLRecord(ctx, req.Storage, key)
	if err != nil {
		return nil, err
	}
	g := old.prepare(ref, has, b.now())
	before := *g
	g.recordPut(permission, b.now())
	g.Leases = append(slices.Clone(g.Leases), aclLease{ID: id.ID, Permission: permission})

	var resp *logical.Response
	err = b.perform(ctx, req.Storage, in, func(lasting context.Context, op *pendingOperation) error {
		op.undo = func(ctx context.Context) error {
			_, err := b.endACLLeaseLocked(ctx, req.Storage, conn, key, id)
			return err
		}
		// The response is made first, so that nothing can fail once the permission is set.
		l := &writeLease{origin: in.origin, Grant: &id, TTL: int64(t.ttl / time.Second), Record: op.keepRecord(conn, t.ttl, nil, &id)}
		if resp, err = b.leaseOfWrite(secretTypeACL, l, t); err != nil {
			return err
		}
		b.aclRecordsSwept.Store(false)
		if err := g.save(lasting, req.Storage, key); err != nil {
			return err
		}
		if err := setPermission(lasting, conn, ref, permission); err != nil {
			switch {
			case !credential.NotApplied(err):
				op.uncertain = true // it may take effect only now
			case before.save(lasting, req.Storage, key) == nil:
				op.undo = nil
			}
			return err
		}
		if wait {
			// It ends with the operation's time, and with the caller.
			waiting, stop := context.WithCancel(lasting)
			defer stop()
			defer context.AfterFunc(ctx, stop)()
			awaitPermission(waiting, conn, ref, permission, resp)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	b.event("acl-write", req.Path, "scope", ref.Scope, "principal", ref.Principal, "permission", permission)
	return resp, nil
}

// setUnleased sets a permission, "" for none, without a lease. Existing leases of the permission lose their effect.
func (b *backend) setUnleased(ctx context.Context, s logical.Storage, conn *connection, ref aclRef, permission string) error {
	made, err := conn.origin(ctx)
	if err != nil {
		return err
	}
	key := aclRecordKey(made, ref)
	unlock, err := b.aclLocks.Lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	has, err := permissionOf(ctx, conn, ref)
	if err != nil {
		return err
	}
	old, err := readACLRecord(ctx, s, key)
	if err != nil {
		return err
	}
	if err := setPermission(ctx, conn, ref, permission); err != nil {
		return err
	}
	g := old.prepare(ref, has, b.now())
	g.recordPut(permission, b.now())
	g.Base, g.Leases, g.Pending = permission, nil, nil
	b.aclRecordsSwept.Store(false)
	return g.save(context.WithoutCancel(ctx), s, key)
}

func (b *backend) revokeACL(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	l, conn, err := b.leaseConnection(ctx, req)
	if err != nil {
		return nil, err
	}
	if l.Grant == nil {
		return nil, fmt.Errorf("the lease's internal data lacks grant")
	}
	if _, err := b.endACLLease(ctx, req.Storage, conn, l.origin, *l.Grant); err != nil {
		return nil, fmt.Errorf("take back the leased permission of %s: %w", l.Grant.aclRef, err)
	}
	b.closeRecord(ctx, req.Storage, l.Record)
	b.event("acl-revoke", req.Path, "scope", l.Grant.Scope, "principal", l.Grant.Principal)
	return &logical.Response{}, nil
}

// endACLLease revokes a leased permission: it sets what applies without that lease, unless somebody else has changed the
// permission. It reports whether the lease was recorded, and can be repeated after a failure at any point.
func (b *backend) endACLLease(ctx context.Context, s logical.Storage, conn *connection, made origin, id aclLeaseID) (ended bool, err error) {
	key := aclRecordKey(made, id.aclRef)
	unlock, err := b.aclLocks.Lock(ctx, key)
	if err != nil {
		return false, err
	}
	defer unlock()
	return b.endACLLeaseLocked(ctx, s, conn, key, id)
}

// endACLLeaseLocked is endACLLease for a caller that holds the lock.
func (b *backend) endACLLeaseLocked(ctx context.Context, s logical.Storage, conn *connection, key string, id aclLeaseID) (ended bool, err error) {
	g, err := readACLRecord(ctx, s, key)
	if err != nil {
		return false, err
	}
	if g == nil || !slices.ContainsFunc(g.Leases, func(l aclLease) bool { return l.ID == id.ID }) {
		// Overridden by a permission without a lease, or ended already.
		return false, nil
	}
	given := g.desired()
	left := slices.DeleteFunc(slices.Clone(g.Leases), func(l aclLease) bool { return l.ID == id.ID })
	b.aclRecordsSwept.Store(false)
	if after := (&aclRecord{Base: g.Base, Leases: left}).desired(); after == given && after == g.Put && len(left) > 0 {
		// Another lease gives the same permission: there is nothing to put, and what somebody else removed stays removed.
		g.Leases = left
		return true, g.save(ctx, s, key)
	}
	has, err := permissionOf(ctx, conn, id.aclRef)
	if err != nil {
		return false, err
	}
	if g.overridden(has, b.now()) {
		b.Logger().Warn("a leased permission was changed since, so it is left alone", "scope", id.Scope, "principal", id.Principal, "given", given, "now", permissionWord(has))
		return true, s.Delete(ctx, key)
	}
	after := (&aclRecord{Base: g.Base, Leases: left}).desired()
	g.recordPut(after, b.now())
	if err := g.save(ctx, s, key); err != nil {
		return false, err
	}
	// Set even if Databricks shows it already, since its answer may be outdated. If the scope or the principal no longer
	// exists, there is nothing to revoke.
	err = setPermission(ctx, conn, id.aclRef, after)
	if err != nil && !client.IsGone(err) && !unknownPrincipal(err) {
		return false, err
	}
	g.Leases, g.Pending = left, nil
	return true, g.save(ctx, s, key)
}
