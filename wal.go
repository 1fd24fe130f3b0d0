// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/credential"
	"vault-plugin-secrets-databricks/internal/marker"
)

const (
	walKind = "intent"

	// walMinAge is how old an entry must be before a rollback touches it: more than the longest operation takes, so that no
	// rollback undoes one that is in flight on another node. Vault rolls back about once a minute, so what was orphaned is removed
	// within about 4 minutes.
	walMinAge = 2 * time.Minute

	// mintBudget is how long an operation takes at most to do what it does, even after its caller is gone.
	mintBudget = client.CallBudget + 10*time.Second

	// undoBudget limits the end of an operation: its commit, or its immediate undo.
	undoBudget = 25 * time.Second

	// intentLife is how long a rollback tries to undo what has no expiry.
	intentLife = 24 * time.Hour
)

// An operation, its commit and its undoing end before a rollback on another node would undo it.
const _ = uint(walMinAge - mintBudget - 2*undoBudget)

// intent is what is written to the write-ahead log before something is done at Databricks that a lease or a storage entry is to
// hold, and all that undoing it takes. It holds no secret.
type intent struct {
	origin
	Nonce   string    `json:"nonce"`
	Started time.Time `json:"started"` // by Vault's clock
	Expires time.Time `json:"expires"` // after this time nothing is left to undo, or retrying is pointless

	// Keeper is the key of the storage entry that will hold the credential; empty where a lease will.
	OwnerKey string `json:"keeper,omitempty"`

	Credential *credentialIntent `json:"credential,omitempty"`
	Secret     *secretIntent     `json:"secret,omitempty"` // alone, or where the credential is delivered to
	Grant      *aclLeaseID       `json:"grant,omitempty"`
}

// credentialIntent is a credential to be created, which will carry the intent's nonce.
type credentialIntent struct {
	Type string `json:"credential_type"`
	Role string `json:"role"`

	// ServicePrincipalID and Lifetime, in seconds, identify a credential that can't carry a nonce. A Lifetime of 0 means that
	// others have the same one, so that it can't be identified.
	ServicePrincipalID string `json:"service_principal_id,omitempty"`
	Lifetime           int64  `json:"lifetime,omitempty"`

	// Keep is set if the create was repeated: the object with the nonce and this id is held by a lease, and any other with the
	// nonce is a duplicate.
	KeepID string `json:"keep,omitempty"`
}

// newIntent returns an intent for the connection, which expires after intentLife. The caller adds what is to be done, and may
// change when it expires.
func (b *backend) newIntent(ctx context.Context, conn *connection) (intent, error) {
	made, err := conn.origin(ctx)
	if err != nil {
		return intent{}, err
	}
	now := b.now().UTC()
	return intent{origin: made, Nonce: marker.NewNonce(), Started: now, Expires: now.Add(intentLife)}, nil
}

// what returns what the intent does, for a message.
func (in *intent) what() string {
	switch {
	case in.Credential != nil:
		return "a credential was created"
	case in.Secret != nil:
		return "a secret was stored"
	default:
		return "a permission was set"
	}
}

// pendingOperation is something that is being done at Databricks. Between begin and release it has an entry in the write-ahead log,
// by which a rollback undoes it if the process dies.
type pendingOperation struct {
	b       *backend
	storage logical.Storage
	id      string // of the entry
	intent  intent // as a rollback is to find it if the operation fails

	// undo is set as soon as it is known what was done. It is called at most once.
	undo func(ctx context.Context) error

	// uncertain is set when it isn't known what was done, or may be done yet, so that only the rollback can tell, later.
	uncertain bool

	// duplicate is set where other objects may bear the nonce, which the rollback removes, and keep is the id that it must keep then.
	duplicate bool
	keep      string

	released bool
}

// perform carries an operation from the write-ahead log to what holds its outcome, a lease or, where the intent has an owner key, a
// storage entry. It alone owns the order of steps that crash safety depends on:
//
//  1. begin: the intent is in the log before anything is done at Databricks;
//  2. do: creates and delivers, sets op.undo to what reverts that, and sends the event, so that nothing is left to do between
//     commit and release. For a storage entry, saving it is the last step;
//  3. commit: the entry is deleted from the log, or stays only for a duplicate;
//  4. release: the lease is returned to the caller, if that is still connected.
//
// However else it ends, by an error, a panic or because the caller is gone, what is known to have been done is undone at once, and
// what is not, or can't be undone now, is left in the log for the rollback. The context of do ends after mintBudget and
// not with the caller's, so that no cancellation separates a create from its record.
func (b *backend) perform(ctx context.Context, s logical.Storage, in intent, do func(ctx context.Context, op *pendingOperation) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	lasting, cancel := context.WithTimeout(context.WithoutCancel(ctx), mintBudget)
	defer cancel()
	op, err := b.begin(lasting, s, in)
	if err != nil {
		return err
	}
	defer op.end(lasting)
	if err := do(lasting, op); err != nil {
		if !op.uncertain && op.undo == nil && credential.NotApplied(err) {
			op.discard(lasting)
		}
		return err
	}
	if in.OwnerKey != "" {
		op.released = true
		if !op.duplicate { // else the rollback looks for the duplicate, and keeps what the storage entry holds
			op.discard(lasting)
		}
		return nil
	}
	if err := op.commit(lasting); err != nil {
		return fmt.Errorf("%s but could not be recorded, so it is undone; try again: %w", in.what(), err)
	}
	// If the caller has disconnected, nobody would receive the lease, so the deferred end undoes the operation.
	if err := ctx.Err(); err != nil {
		return err
	}
	op.released = true
	return nil
}

// begin writes the intent to the log.
func (b *backend) begin(ctx context.Context, s logical.Storage, in intent) (*pendingOperation, error) {
	b.inFlight.Store(in.Nonce, true)
	id, err := framework.PutWAL(ctx, s, walKind, in)
	if err != nil {
		b.inFlight.Delete(in.Nonce)
		return nil, fmt.Errorf("write to the write-ahead log: %w", err)
	}
	return &pendingOperation{b: b, storage: s, id: id, intent: in}, nil
}

// commit says that a lease will hold what was done. Where there may be a duplicate, the entry is replaced in one write by one that
// keeps the lease's, so that no crash can leave one by which a rollback removes it. It has its own timeout, so that a slow create isn't
// undone for lack of time.
func (op *pendingOperation) commit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoBudget)
	defer cancel()
	if !op.duplicate {
		return deleteIntent(ctx, op.storage, op.id)
	}
	kept := op.intent
	created := *kept.Credential
	created.KeepID = op.keep
	kept.Credential, kept.Secret = &created, nil
	return op.b.putIntent(ctx, op.storage, op.id, &kept)
}

// discard deletes an entry by which a rollback would find nothing to undo, so that a failure to do so is not an error.
func (op *pendingOperation) discard(ctx context.Context) {
	if err := deleteIntent(ctx, op.storage, op.id); err != nil {
		op.b.Logger().Warn("an entry of the write-ahead log was left behind; the rollback will find nothing to undo", "error", err)
	}
}

// end undoes what is known to have been done, unless that was released. It must be deferred, so that it runs after a panic,
// too.
func (op *pendingOperation) end(ctx context.Context) {
	defer op.b.inFlight.Delete(op.intent.Nonce)
	if op.released || op.uncertain || op.undo == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoBudget)
	defer cancel()
	err := op.undo(ctx)
	if err == nil && !op.duplicate {
		op.discard(ctx)
		return
	}
	left := op.intent
	if err == nil {
		left.Secret = nil // it was removed by undo, and only a duplicate of the credential may be left
	}
	// The entry may have been deleted, or changed to keep a credential that was not released.
	if putErr := op.b.putIntent(ctx, op.storage, op.id, &left); putErr != nil {
		op.b.reportOnce(left, errors.Join(err, putErr))
		return
	}
	if err != nil {
		op.b.Logger().Warn("what a failed request did at Databricks could not be undone immediately; the rollback will", append(op.intent.fields(), "error", err)...)
	}
}

// putIntent writes the entry of the log that has the id.
func (b *backend) putIntent(ctx context.Context, s logical.Storage, id string, in *intent) error {
	value, err := json.Marshal(&framework.WALEntry{Kind: walKind, Data: in, CreatedAt: b.now().UTC().Unix()})
	if err != nil {
		return err
	}
	if err := s.Put(ctx, &logical.StorageEntry{Key: framework.WALPrefix + id, Value: value}); err != nil {
		return fmt.Errorf("write to the write-ahead log: %w", err)
	}
	return nil
}

// deleteIntent deletes the entry of the log that has the id.
func deleteIntent(ctx context.Context, s logical.Storage, id string) error {
	if err := framework.DeleteWAL(ctx, s, id); err != nil {
		return fmt.Errorf("delete from the write-ahead log: %w", err)
	}
	return nil
}

// eachIntent shows every intent of the write-ahead log, with the id of its entry. What can't be read is left out: the
// rollback reports it.
func eachIntent(ctx context.Context, s logical.Storage, show func(id string, in *intent) error) error {
	ids, err := framework.ListWAL(ctx, s)
	if err != nil {
		return err
	}
	for _, id := range ids {
		entry, err := framework.GetWAL(ctx, s, id)
		if err != nil {
			return err
		}
		var in intent
		if entry == nil || entry.Kind != walKind || decodeMap(entry.Data, &in) != nil {
			continue
		}
		if err := show(id, &in); err != nil {
			return err
		}
	}
	return nil
}

// fields returns the intent as key-value pairs for the log.
func (in *intent) fields() []any {
	fields := []any{"host", in.Host, "nonce", in.Nonce}
	if in.Credential != nil {
		fields = append(fields, "credential_type", in.Credential.Type, "role", in.Credential.Role, "keep", in.Credential.KeepID)
		if in.OwnerKey != "" {
			fields = append(fields, "keeper", in.OwnerKey)
		}
		if in.Credential.ServicePrincipalID != "" {
			fields = append(fields, "service_principal_id", in.Credential.ServicePrincipalID, "lifetime", in.Credential.Lifetime)
		}
	}
	if in.Secret != nil {
		fields = append(fields, "scope", in.Secret.Scope, "key", in.Secret.Key)
	}
	if in.Grant != nil {
		fields = append(fields, "scope", in.Grant.Scope, "principal", in.Grant.Principal)
	}
	return fields
}
