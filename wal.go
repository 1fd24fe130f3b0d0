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
)

const (
	walKind = "intent"

	// recordKind is the kind of entries that record a lease. It differs from walKind so that v0.1.0 does not undo them.
	recordKind = "lease"

	// walMinAge is how old a pending operation must be before a rollback touches it: more than the longest operation takes, so that
	// no rollback undoes one that is in flight on another node. Vault rolls back about once a minute, so what was orphaned is
	// removed within about 4 minutes.
	walMinAge = 2 * time.Minute

	// mintBudget is how long an operation takes at most to do what it does, even after its caller is gone.
	mintBudget = client.CallBudget + 10*time.Second

	// undoBudget limits the end of an operation: its commit, or its immediate undo.
	undoBudget = 25 * time.Second

	// intentLife is how long a rollback tries to undo what tidy would remove later, and after how long it tries to undo anything else
	// only once every intentRetry.
	intentLife  = 24 * time.Hour
	intentRetry = time.Hour
)

// An operation, its commit and its undoing end before a rollback on another node would undo it.
const _ = uint(walMinAge - mintBudget - 2*undoBudget)

// intent is what is written to the write-ahead log before something is done at Databricks that a lease or a storage entry is to
// hold, and all that undoing it takes. Where nothing at Databricks would end what was done, committing the operation turns the entry
// into the record of the lease (see lease_record.go). It holds no secret.
type intent struct {
	origin
	Nonce   string    `json:"nonce"`
	Started time.Time `json:"started"` // by Vault's clock
	Expires time.Time `json:"expires"` // of what ends by itself: after this time nothing is left to undo

	// StartedRemote is Started by Databricks' clock, and zero where its offset was not known.
	StartedRemote time.Time `json:"started_remote,omitzero"`

	// Ended is when, by Vault's clock, the create was over whose outcome is unknown or that may have left a duplicate; zero if the process
	// died before that.
	Ended time.Time `json:"ended,omitzero"`

	// OwnerKey is the key of the storage entry that will hold the credential; empty where a lease will.
	OwnerKey string `json:"keeper,omitempty"`

	Credential *credentialIntent `json:"credential,omitempty"`
	Secret     *secretIntent     `json:"secret,omitempty"` // alone, or where the credential is delivered to
	Grant      *aclLeaseID       `json:"grant,omitempty"`

	// Until is set in the record of a lease: when the lease ends, by Vault's clock, and UntilRemote the same by Databricks' clock, zero
	// where its offset was not known. The record has either a Grant or Written.
	Until       time.Time      `json:"until,omitzero"`
	UntilRemote time.Time      `json:"until_remote,omitzero"`
	Written     *writtenSecret `json:"written,omitempty"`

	// Delivered is set in a record whose Written is the copy of a credential.
	Delivered bool `json:"delivered,omitempty"`
}

// credentialIntent is a credential to be created, which will carry the intent's nonce.
type credentialIntent struct {
	Type string `json:"credential_type"`
	Role string `json:"role"`

	// ServicePrincipalID and Lifetime, in seconds, identify a credential that can't carry a nonce. A Lifetime of 0 means that
	// others have the same one, so that it can't be identified.
	ServicePrincipalID string `json:"service_principal_id,omitempty"`
	Lifetime           int64  `json:"lifetime,omitempty"`

	// KeepID is set if the create was repeated: the object with the nonce and this id is held by a lease, and any other with the
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
	in := intent{origin: made, Nonce: b.newNonce()}
	in.start(b.now(), conn)
	in.Expires = in.Started.Add(intentLife)
	return in, nil
}

// start sets when the operation began, by both clocks.
func (in *intent) start(now time.Time, conn *connection) {
	in.Started, in.StartedRemote = now.UTC(), conn.remote(now, now)
}

// setUntil sets the end of a lease, by both clocks. Where the offset isn't known, an end by Databricks' clock is moved as that by Vault's.
func (in *intent) setUntil(until, now time.Time, conn *connection) {
	remote := conn.remote(until, now)
	if remote.IsZero() && !in.UntilRemote.IsZero() {
		remote = in.UntilRemote.Add(until.Sub(in.Until))
	}
	in.Until, in.UntilRemote = until.UTC(), remote
}

// dueTime says when an entry is to be undone if it is still in the log.
type dueTime struct {
	at     time.Time // by Vault's clock
	record bool      // of a lease, and no pending operation
}

func (in *intent) dueTime() dueTime {
	if in.Until.IsZero() {
		return dueTime{at: in.Started.Add(walMinAge)}
	}
	return dueTime{at: in.Until.Add(recordGrace), record: true}
}

// passed reports whether the time has come. since is when this process began to watch the log: leases that ended while no engine ran are
// Vault's to revoke first. A pending operation that begins in the future was begun while the clock was ahead.
func (d dueTime) passed(now, since time.Time) bool {
	if d.record {
		return !now.Before(d.at) && now.Sub(since) >= recordGrace
	}
	return !now.Before(d.at) || d.at.Sub(now) > 2*walMinAge
}

// endsByItself reports whether what the intent leaves ends at Databricks without anybody's doing.
func (in *intent) endsByItself() bool {
	return !in.lasts() && (in.Credential == nil || credential.Lookup(in.Credential.Type) == nil || !credential.Lookup(in.Credential.Type).Traits().Lasting)
}

// lasts reports whether the intent may leave something that nothing but this engine will ever end: a secret, or a permission.
func (in *intent) lasts() bool { return in.Secret != nil || in.Grant != nil || in.Written != nil }

// ref returns the secret that the operation writes or wrote, nil for none.
func (in *intent) ref() *secretRef {
	switch {
	case in.Secret != nil:
		return &in.Secret.secretRef
	case in.Written != nil:
		return &in.Written.secretRef
	default:
		return nil
	}
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

	// record is what the commit leaves in the log under recordID, nil for nothing: the record of a lease of the given ttl.
	record   *intent
	recordID string
	ttl      time.Duration
	conn     *connection

	released bool
}

// perform carries an operation from the write-ahead log to what holds its outcome, a lease or, where the intent has an owner key, a
// storage entry. It alone owns the order of steps that crash safety depends on:
//
//  1. begin: the intent is in the log before anything is done at Databricks;
//  2. do: creates and delivers, sets op.undo to what reverts that, and sends the event, so that nothing is left to do between
//     commit and release. For a storage entry, saving it is the last step;
//  3. commit: the entry is deleted from the log, or becomes the record of the lease, or stays only for a duplicate;
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
	err = do(lasting, op)
	op.intent.Ended = b.now().UTC()
	if err != nil {
		switch {
		case op.uncertain || op.undo != nil:
		case credential.NotApplied(err):
			op.discard(lasting)
		default:
			op.noteFailure(lasting)
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
	id := b.newNonce()
	if err := b.putIntent(ctx, s, id, &in); err != nil {
		b.inFlight.Delete(in.Nonce)
		return nil, err
	}
	return &pendingOperation{b: b, storage: s, id: id, intent: in}, nil
}

// keepRecord makes the commit leave a record of the lease, with its ttl and either a secret or a permission, and returns the record's
// id. The record takes the place of the entry, so that it costs no further write, unless a duplicate needs that.
func (op *pendingOperation) keepRecord(conn *connection, ttl time.Duration, written *writtenSecret, grant *aclLeaseID) (id string) {
	op.recordID = op.id
	if op.duplicate {
		op.recordID = op.b.newNonce()
	}
	op.ttl, op.conn = ttl, conn
	op.record = &intent{origin: op.intent.origin, Nonce: op.intent.Nonce, Started: op.intent.Started, Written: written, Grant: grant, Delivered: op.intent.Credential != nil}
	return op.recordID
}

// commit says that a lease will hold what was done. Where there may be a duplicate, the entry is replaced in one write by one that
// keeps the lease's, so that no crash can leave one by which a rollback removes it. It has its own timeout, so that a slow create isn't
// undone for lack of time.
func (op *pendingOperation) commit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoBudget)
	defer cancel()
	if op.record != nil {
		op.record.setUntil(op.b.now().Add(op.ttl), op.b.now(), op.conn)
		if err := op.b.putIntent(ctx, op.storage, op.recordID, op.record); err != nil {
			return err
		}
	}
	switch {
	case op.duplicate:
		kept := op.intent
		created := *kept.Credential
		created.KeepID = op.keep
		kept.Credential, kept.Secret = &created, nil
		return op.b.putIntent(ctx, op.storage, op.id, &kept)
	case op.record != nil:
		return nil
	default:
		return op.b.deleteIntent(ctx, op.storage, op.id)
	}
}

// noteFailure adds to the entry when the operation failed, if what it left can be identified by its time only: nothing that was
// created later is its.
func (op *pendingOperation) noteFailure(ctx context.Context) {
	if op.intent.reservation().lifetime == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoBudget)
	defer cancel()
	if err := op.b.putIntent(ctx, op.storage, op.id, &op.intent); err != nil {
		op.b.Logger().Warn("the time of a failure could not be added to the write-ahead log", append(op.intent.fields(), "error", err)...)
	}
}

// discard deletes an entry by which a rollback would find nothing to undo, so that a failure to do so is not an error.
func (op *pendingOperation) discard(ctx context.Context) {
	if err := op.b.deleteIntent(ctx, op.storage, op.id); err != nil {
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
	if op.record != nil && op.recordID != op.id {
		op.b.closeRecord(ctx, op.storage, op.recordID)
	}
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
		op.b.reportOnce(op.id, &left, errors.Join(err, putErr))
		return
	}
	if err != nil {
		op.b.Logger().Warn("what a failed request did at Databricks could not be undone immediately; the rollback will", append(op.intent.fields(), "error", err)...)
	}
}

// putIntent writes the entry of the log that has the id. After an error it may have been written all the same.
func (b *backend) putIntent(ctx context.Context, s logical.Storage, id string, in *intent) error {
	kind := walKind
	if !in.Until.IsZero() {
		kind = recordKind
	}
	value, err := json.Marshal(&framework.WALEntry{Kind: kind, Data: in, CreatedAt: b.now().UTC().Unix()})
	if err != nil {
		return err
	}
	if err := s.Put(ctx, &logical.StorageEntry{Key: framework.WALPrefix + id, Value: value}); err != nil {
		b.intents.add(id, in)
		return fmt.Errorf("write to the write-ahead log: %w", err)
	}
	b.intents.put(id, in)
	return nil
}

// deleteIntent deletes the entry of the log that has the id.
func (b *backend) deleteIntent(ctx context.Context, s logical.Storage, id string) error {
	if err := framework.DeleteWAL(ctx, s, id); err != nil {
		return fmt.Errorf("delete from the write-ahead log: %w", err)
	}
	b.intents.remove(id)
	return nil
}

// errUnreadableIntent says that an entry of the log is not one that this version writes.
var errUnreadableIntent = errors.New("an entry of the write-ahead log can't be read; was it written by another version of the plugin?")

// readIntent reads an entry of the log. It returns nil when there is none, and errUnreadableIntent for one that makes no sense.
func readIntent(ctx context.Context, s logical.Storage, id string) (*intent, error) {
	stored, err := s.Get(ctx, framework.WALPrefix+id)
	if err != nil {
		return nil, fmt.Errorf("read entry %s of the write-ahead log: %w", id, err)
	}
	if stored == nil {
		return nil, nil
	}
	in := new(intent)
	entry := framework.WALEntry{Data: in}
	if err := stored.DecodeJSON(&entry); err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreadableIntent, err)
	}
	if entry.Kind != walKind && entry.Kind != recordKind {
		return nil, fmt.Errorf("%w: it is of kind %q", errUnreadableIntent, entry.Kind)
	}
	return in, nil
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
	if ref := in.ref(); ref != nil {
		fields = append(fields, "scope", ref.Scope, "key", ref.Key)
	}
	if in.Grant != nil {
		fields = append(fields, "scope", in.Grant.Scope, "principal", in.Grant.Principal)
	}
	return fields
}
