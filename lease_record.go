// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// A leased secret, a leased permission and a delivered copy have no end at Databricks: only the revocation of their lease ends them. But
// a lease can be lost, since Vault stores it only after the engine has answered, and since an operator can forget it with
// lease revoke -force or restore a snapshot from before it. So the engine keeps a record of each such lease: the entry of the
// write-ahead log that began the operation stays, with the end of the lease, until the revocation deletes it. What is still there
// recordGrace after the end of its lease is undone by the rollback, by the rules of a revocation.

// leaseRecordGrace is how long after the end of its lease a record is left for Vault, which revokes leases a little late, tries six times
// within about ten minutes, and has to catch up after an outage. It is a duration in text so that a build can set it (go build -ldflags -X):
// tests that kill processes at random would have to wait for it.
var leaseRecordGrace = "10m"

// recordGrace is leaseRecordGrace. It is at least a second, so that a record never counts as lost while its lease lives.
var recordGrace = func() time.Duration {
	grace, err := time.ParseDuration(leaseRecordGrace)
	if err != nil || grace < time.Second {
		panic("leaseRecordGrace was built with " + leaseRecordGrace)
	}
	return grace
}()

// renewRecord moves the end in the record of a lease to ttl from now, and never to an earlier time: Vault may fail to store the
// renewal. It must come before the renewal is answered. A lease without a record, since v0.1.0 wrote none, gets one of what undo has, which
// is its origin and either Written or Grant. It returns the id of the record.
func (b *backend) renewRecord(ctx context.Context, s logical.Storage, conn *connection, id string, ttl time.Duration, undo intent) (string, error) {
	if id == "" {
		id = undo.recordID()
	}
	unlock, err := b.recordLocks.Lock(ctx, id)
	if err != nil {
		return "", err
	}
	defer unlock()
	record, err := readIntent(ctx, s, id)
	if err != nil {
		return "", fmt.Errorf("the lease's record: %w", err)
	}
	now := b.now()
	if record == nil {
		record = &undo
		record.Nonce, record.Started = b.newNonce(), now.UTC()
	}
	until := now.Add(ttl)
	if !until.After(record.Until) {
		b.intents.put(id, record) // an earlier renewal may have stored it, although it failed
		return id, nil
	}
	record.setUntil(until, now, conn)
	if err := b.putIntent(ctx, s, id, record); err != nil {
		return "", fmt.Errorf("the lease's record: %w", err)
	}
	return id, nil
}

// recordID returns the id of the record of a lease that began without one. It is the same each time: Vault may not have stored the renewal
// that wrote the record.
func (in *intent) recordID() string {
	if in.Grant != nil {
		return hashKey(in.Host + "\x00" + in.WorkspaceID + "\x00" + in.Grant.ID)
	}
	return hashKey(in.Host + "\x00" + in.WorkspaceID + "\x00" + in.Written.canonical() + "\x00" + in.Written.Updated.UTC().Format(time.RFC3339Nano))
}

// closeRecord deletes the record of a lease that was revoked, "" for none. A failure is not an error: the rollback will find nothing to
// undo.
func (b *backend) closeRecord(ctx context.Context, s logical.Storage, id string) {
	if id == "" {
		return
	}
	if err := b.deleteIntent(ctx, s, id); err != nil {
		b.Logger().Warn("the record of a revoked lease was left behind; the rollback will find nothing to undo", "error", err)
	}
}
