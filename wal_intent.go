// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/credential"
)

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

// putIntent writes the entry of the log that has the id. After an error it may have been written all the same.
func (b *backend) putIntent(ctx context.Context, s logical.Storage, id string, in *intent) error {
	return b.putEntry(ctx, s, id, &framework.WALEntry{Kind: in.kind(), Data: in, CreatedAt: b.now().UTC().Unix()}, in)
}

// kind returns the kind of the entry that holds the intent alone.
func (in *intent) kind() string {
	switch {
	case !in.Until.IsZero():
		return recordKind
	case in.Credential == nil && in.Secret != nil && in.Secret.UC != "":
		return ucKind
	default:
		return walKind
	}
}

// putEntry writes an entry with the intents.
func (b *backend) putEntry(ctx context.Context, s logical.Storage, id string, entry *framework.WALEntry, intents ...*intent) error {
	value, err := json.Marshal(entry)
	if err != nil {
		return err
	}
	if err := s.Put(ctx, &logical.StorageEntry{Key: framework.WALPrefix + id, Value: value}); err != nil {
		b.intents.add(id, intents...)
		if err.Error() == logical.ErrReadOnly.Error() {
			return logical.ErrReadOnly // in exactly this form Vault sends the request to the active node; gRPC has made it another error
		}
		return fmt.Errorf("write to the write-ahead log: %w", err)
	}
	b.intents.put(id, intents...)
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

// readIntent reads an entry of the log that holds one intent. It returns nil when there is none, and errUnreadableIntent for one that makes
// no sense.
func readIntent(ctx context.Context, s logical.Storage, id string) (*intent, error) {
	intents, err := readIntents(ctx, s, id)
	if len(intents) > 1 {
		err = fmt.Errorf("%w: it is shared", errUnreadableIntent)
	}
	if err != nil || len(intents) == 0 {
		return nil, err
	}
	return intents[0], nil
}

// readIntents reads an entry of the log, which may be shared.
func readIntents(ctx context.Context, s logical.Storage, id string) ([]*intent, error) {
	stored, err := s.Get(ctx, framework.WALPrefix+id)
	if err != nil {
		return nil, fmt.Errorf("read entry %s of the write-ahead log: %w", id, err)
	}
	if stored == nil {
		return nil, nil
	}
	var data json.RawMessage
	entry := framework.WALEntry{Data: &data}
	if err := stored.DecodeJSON(&entry); err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreadableIntent, err)
	}
	var intents []*intent
	switch entry.Kind {
	case sharedKind:
		err = json.Unmarshal(data, &intents)
		if err == nil && (len(intents) == 0 || slices.Contains(intents, nil)) {
			err = errors.New("an intent is missing")
		}
	case walKind, ucKind, recordKind:
		intents = []*intent{{}}
		err = json.Unmarshal(data, intents[0])
	default:
		err = fmt.Errorf("it is of kind %q", entry.Kind)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreadableIntent, err)
	}
	return intents, nil
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
		fields = append(fields, ref.logNames()...)
	}
	if in.Grant != nil {
		fields = append(fields, "scope", in.Grant.Scope, "principal", in.Grant.Principal)
	}
	return fields
}
