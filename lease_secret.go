// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"
	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/credential"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const secretTypeSecret = "databricks_secret"

// storeSecret stores the value of an operation that is to write a secret, and returns what it takes to delete it again. From then on, the
// undoing of the operation removes it, too, after what was to be undone before. The caller holds the secret's lock.
func (b *backend) storeSecret(ctx context.Context, op *pendingOperation, conn *connection, value secretValue) (written *writtenSecret, err error) {
	in, before := op.intent.Secret, op.undo
	known := mayExist
	if in.Before.IsZero() {
		known = wasAbsent
	}
	if in.IfAbsent {
		known = mustBeAbsent
	}
	stored, err := value.put(ctx, conn, in.secretRef, known)
	if err != nil && credential.NotApplied(err) {
		return nil, err
	}
	in.Contested = in.UC != "" && client.IsTurnedAway(err)
	var confirmed *writtenSecret
	op.undo = func(ctx context.Context) error {
		if before != nil {
			if err := before(ctx); err != nil {
				return err
			}
		}
		if confirmed != nil {
			return b.removeWrittenLocked(ctx, conn, confirmed)
		}
		return b.removeUnconfirmed(ctx, conn, &op.intent, value)
	}
	if err == nil {
		confirmed, err = confirmWrite(ctx, conn, in, stored)
	}
	if err == nil {
		err = b.supersede(ctx, op.storage, conn, in.secretRef)
	}
	return confirmed, err
}

// lockForWrite takes the secret's lock for a write. Before anything is stored it must be known which entries of the write-ahead log
// earlier writes have left, so it fails if that can't be read.
func (b *backend) lockForWrite(ctx context.Context, s logical.Storage, ref secretRef) (unlock func(), err error) {
	if err := b.intents.load(ctx, s, b.now()); err != nil {
		return nil, err
	}
	return b.secretLocks.Lock(ctx, ref.canonical())
}

// putUnleased stores a value that no lease and no rollback deletes. Where there must be none, it refuses to overwrite one.
func (b *backend) putUnleased(ctx context.Context, s logical.Storage, conn *connection, ref secretRef, value secretValue, known presence) error {
	unlock, err := b.lockForWrite(ctx, s, ref)
	if err != nil {
		return err
	}
	defer unlock()
	if known == mustBeAbsent && ref.UC == "" {
		if err := checkAbsent(ctx, conn, ref); err != nil {
			return err
		}
	}
	if ref.UC != "" && len(b.intents.of(ref, &b.inFlight)) > 0 {
		// It takes the place of a leased one, whose end must be able to tell them apart.
		if _, err := b.lookBefore(ctx, s, conn, ref); err != nil {
			return ref.explain(err, permissionRead)
		}
	}
	if _, err := value.put(ctx, conn, ref, known); err != nil {
		return err
	}
	return b.supersede(context.WithoutCancel(ctx), s, conn, ref)
}

// supersede takes the secret out of the entries that earlier writes of it left in the write-ahead log: whatever they stored is gone, and
// their rollback could not tell the new value from it. Entries of operations in flight, such as the caller's, stay. The caller holds
// the secret's lock by lockForWrite, and has just stored a value.
func (b *backend) supersede(ctx context.Context, s logical.Storage, conn *connection, ref secretRef) error {
	for _, id := range b.intents.of(ref, &b.inFlight) {
		if err := b.supersedeIntent(ctx, s, conn, id); err != nil {
			return fmt.Errorf("secret %s was stored, but the write-ahead log of an earlier write could not be corrected, so the rollback may delete it; write it again: %w", ref, err)
		}
	}
	return nil
}

// supersedeIntent takes the secret out of one entry.
func (b *backend) supersedeIntent(ctx context.Context, s logical.Storage, conn *connection, id string) error {
	in, err := readIntent(ctx, s, id)
	if err != nil {
		return err
	}
	if in == nil {
		b.intents.remove(id)
		return nil
	}
	if access, err := conn.accessTo(ctx, in.origin); err != nil || access == credential.AccessNone {
		return err
	}
	if in.Credential == nil {
		return b.deleteIntent(ctx, s, id)
	}
	in.Secret = nil
	return b.putIntent(ctx, s, id, in)
}

// leasedSecretType returns the lease type of secrets.
func leasedSecretType() *framework.Secret {
	return &framework.Secret{Type: secretTypeSecret, Fields: secretWriteFields, Renew: on((*backend).renewWrite), Revoke: on((*backend).revokeSecret)}
}

// writeLease is what Vault keeps with the lease of a secret or a permission.
type writeLease struct {
	origin
	writtenSecret
	Grant *aclLeaseID `json:"grant,omitempty"`
	TTL   int64       `json:"lease_ttl"` // seconds

	// Record is the id of the lease's record; empty for a lease of v0.1.0 that was not renewed since.
	Record string `json:"record,omitempty"`
}

func (l *writeLease) internalData() (map[string]any, error) {
	data := map[string]any{}
	return data, decodeMap(l, &data)
}

// leaseSecret stores a secret that is deleted when its lease ends. The intent has the timestamp of the secret before the write,
// so that a rollback can determine whether it was stored. With ifAbsent it refuses to overwrite one.
func (b *backend) leaseSecret(ctx context.Context, req *logical.Request, conn *connection, ref secretRef, value secretValue, requested time.Duration, ifAbsent bool) (*logical.Response, error) {
	t, err := decideTerms(b.host(), conn.config, &roleEntry{}, requested)
	if err != nil {
		return nil, err
	}
	in, err := b.newIntent(ctx, conn)
	if err != nil {
		return nil, err
	}
	unlock, err := b.lockForWrite(ctx, req.Storage, ref)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := b.checkNotStatic(ctx, req.Storage, ref.nameField(), ref); err != nil {
		return nil, err
	}
	in.Secret = &secretIntent{secretRef: ref, IfAbsent: ifAbsent}
	before, err := b.prepareWrite(ctx, req.Storage, conn, in.Secret)
	if err != nil {
		return nil, err
	}
	if ifAbsent {
		if err := refuseOverwrite(ref, before); err != nil {
			return nil, err
		}
	}
	in.start(b.now(), conn)

	var resp *logical.Response
	err = b.perform(ctx, req.Storage, in, func(ctx context.Context, op *pendingOperation) error {
		written, err := b.storeSecret(ctx, op, conn, value)
		if err != nil {
			return err
		}
		t.warnings = append(t.warnings, written.warnings(conn)...)
		l := &writeLease{origin: in.origin, writtenSecret: *written, TTL: int64(t.ttl / time.Second), Record: op.keepRecord(conn, t.ttl, written, nil)}
		resp, err = b.leaseOfWrite(secretTypeSecret, l, t)
		return err
	})
	if err != nil {
		return nil, err
	}
	b.event(ref.eventKind("write"), req.Path, ref.names()...)
	return resp, nil
}

// leaseOfWrite returns the response with the lease of a secret or a permission.
func (b *backend) leaseOfWrite(secretType string, l *writeLease, t terms) (*logical.Response, error) {
	internal, err := l.internalData()
	if err != nil {
		return nil, err
	}
	var data map[string]any
	if l.Grant == nil {
		data = updatedTimes(l.Updated)
		maps.Copy(data, l.answer())
	}
	resp := b.Secret(secretType).Response(data, internal)
	resp.Secret.TTL, resp.Secret.MaxTTL, resp.Warnings = t.ttl, t.maxTTL, t.warnings
	return resp, nil
}

// renewWrite extends the lease of a secret or a permission, up to the config's max_ttl and the mount's maximum.
func (b *backend) renewWrite(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	var l writeLease
	if err := decodeMap(req.Secret.InternalData, &l); err != nil {
		return nil, fmt.Errorf("the lease's internal data cannot be read: %w", err)
	}
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	longest := effectiveMaxTTL(b.host(), conn.config, &roleEntry{})
	ttl, _, err := framework.CalculateTTL(b.host(), req.Secret.Increment, seconds(l.TTL), 0, longest, 0, req.Secret.IssueTime)
	if err != nil {
		return nil, badField("lease", "%s; write it again", err)
	}
	undo := intent{origin: l.origin, Grant: l.Grant}
	if l.Grant == nil {
		undo.Written = &l.writtenSecret
	}
	if l.Record, err = b.renewRecord(ctx, req.Storage, conn, l.Record, ttl, undo); err != nil {
		return nil, err
	}
	resp := &logical.Response{Secret: req.Secret}
	resp.Secret.TTL, resp.Secret.MaxTTL = ttl, longest
	resp.Secret.InternalData["record"] = l.Record
	return resp, nil
}

// leaseConnection decodes the lease of a secret or a permission and returns the connection, if it leads to where the lease was made.
// Identities may have changed since: permissions on scopes decide what the present one may do.
func (b *backend) leaseConnection(ctx context.Context, req *logical.Request) (*writeLease, *connection, error) {
	l := new(writeLease)
	if err := decodeMap(req.Secret.InternalData, l); err != nil {
		return nil, nil, fmt.Errorf("the lease's internal data cannot be read: %w", err)
	}
	if l.Grant == nil && (!l.complete() || l.Updated.IsZero()) {
		return nil, nil, errors.New("the lease's internal data lacks the name of the secret, or when it was written")
	}
	conn, err := b.endingConnection(ctx, req.Storage)
	if err != nil {
		return nil, nil, err
	}
	access, err := conn.accessTo(ctx, l.origin)
	if err != nil {
		return nil, nil, err
	}
	if access == credential.AccessNone {
		return nil, nil, badField(keyHost, "the lease was made at %s, but the mount is now connected to %s; connect it to the first again", l.Host, conn.config.Host)
	}
	return l, conn, nil
}

func (b *backend) revokeSecret(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	l, conn, err := b.leaseConnection(ctx, req)
	if err != nil {
		return nil, err
	}
	if err := b.removeWritten(ctx, conn, &l.writtenSecret); err != nil {
		return nil, fmt.Errorf("remove the leased secret %s: %w", l.secretRef, err)
	}
	b.closeRecord(ctx, req.Storage, l.Record)
	b.event(l.eventKind("revoke"), req.Path, l.names()...)
	return &logical.Response{}, nil
}
