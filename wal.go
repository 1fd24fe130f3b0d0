// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	walKind = "intent"

	// walMinAge is how old an entry must be before a rollback touches it: more than the longest create, so that no
	// rollback undoes one that is under way. Vault ticks once a minute, so an orphan is gone within about 4 minutes.
	walMinAge = 2 * time.Minute

	// undoBudget is how long a request that failed may take to undo at once what it did.
	undoBudget = 25 * time.Second

	// intentLife is how long a rollback tries to undo what has no end of its own.
	intentLife = 24 * time.Hour
)

// intent is what is written down before something is done at Databricks for which a lease is to answer, and all that
// undoing it needs. It holds no secret.
type intent struct {
	origin
	Nonce   string    `json:"nonce"`
	Started time.Time `json:"started"` // by Vault's clock
	Expires time.Time `json:"expires"` // after this moment there can be nothing left to undo, or it is no use to go on trying

	// Keeper is the key of the storage entry that answers for the credential once it has it; empty where a lease does.
	Keeper string `json:"keeper,omitempty"`

	Credential *credentialIntent `json:"credential,omitempty"`
	Secret     *secretIntent     `json:"secret,omitempty"` // alone, or where the credential is delivered to
	Grant      *grantID          `json:"grant,omitempty"`

	// spared are ids that the rollback must not touch: storage entries answer for them.
	spared map[string]bool
}

// credentialIntent is a credential to be made, which will bear the intent's nonce.
type credentialIntent struct {
	Type string `json:"credential_type"`
	Role string `json:"role"`

	// ServicePrincipalID and Lifetime, in seconds, are what an OAuth secret is found by: it can't bear a nonce. A Lifetime of 0
	// is one that others have, too.
	ServicePrincipalID string `json:"service_principal_id,omitempty"`
	Lifetime           int64  `json:"lifetime,omitempty"`

	// Keep is set when the create was repeated: the bearer of the nonce that has this id belongs to a lease, and any other
	// is a twin.
	Keep string `json:"keep,omitempty"`
}

// newIntent begins an intent over the connection. The caller adds what is to be done, and when it will be over.
func (b *backend) newIntent(ctx context.Context, conn *connection) (intent, error) {
	made, err := conn.origin(ctx)
	if err != nil {
		return intent{}, err
	}
	nonce, err := newNonce()
	if err != nil {
		return intent{}, err
	}
	now := b.now().UTC()
	return intent{origin: made, Nonce: nonce, Started: now, Expires: now.Add(intentLife)}, nil
}

// newNonce answers 128 random bits in hex.
func newNonce() (string, error) {
	var raw [16]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return "", err
	}
	return hex.EncodeToString(raw[:]), nil
}

// undertaking is an intent being carried out. It begins with the entry in the write-ahead log and ends with handOver, when
// a lease answers for what was done. However else the request ends, by an error, by the caller's leaving or by a panic, end
// undoes what was done, or sees to it that the entry is there for the rollback.
//
// How entries are stored, and whether concurrent undertakings share one, is nobody's business but this type's.
type undertaking struct {
	b       *backend
	storage logical.Storage
	id      string // of the entry
	intent  intent // as the rollback is to find it if the undertaking fails

	// undo is set as soon as it is known what was done. It is called at most once, by end.
	undo       func(ctx context.Context) error
	twin       bool // there may be more than what undo knows
	handedOver bool
}

// undertake writes the intent down. The context must not end with the caller's.
func (b *backend) undertake(ctx context.Context, s logical.Storage, in intent) (*undertaking, error) {
	b.underway.Store(in.Nonce, true)
	id, err := framework.PutWAL(ctx, s, walKind, in)
	if err != nil {
		b.underway.Delete(in.Nonce)
		return nil, fmt.Errorf("write to the write-ahead log: %w", err)
	}
	return &undertaking{b: b, storage: s, id: id, intent: in}, nil
}

// failed takes note of why nothing is known to have been done. If it is certain that nothing was, there is nothing for the
// rollback to do.
func (u *undertaking) failed(ctx context.Context, why error) {
	if !hadNoEffect(why) {
		return
	}
	if err := u.settle(ctx); err != nil {
		u.b.Logger().Warn("an entry of the write-ahead log was left behind; the rollback will find nothing to undo", "error", err)
	}
}

// settle says that there is nothing to undo: either nothing happened, or a lease will answer for it.
func (u *undertaking) settle(ctx context.Context) error {
	if err := framework.DeleteWAL(ctx, u.storage, u.id); err != nil {
		return fmt.Errorf("delete from the write-ahead log: %w", err)
	}
	return nil
}

// keep says that a lease will answer for the credential with this id, but that there may be a twin of it, which the rollback
// must look for. It replaces the entry in one write, so that no crash can leave one that condemns the lease's credential.
func (u *undertaking) keep(ctx context.Context, id string) error {
	kept := u.intent
	credential := *kept.Credential
	credential.Keep = id
	kept.Credential, kept.Secret = &credential, nil
	return u.put(ctx, kept)
}

func (u *undertaking) put(ctx context.Context, in intent) error {
	value, err := json.Marshal(&framework.WALEntry{Kind: walKind, Data: in, CreatedAt: time.Now().UTC().Unix()})
	if err != nil {
		return err
	}
	if err := u.storage.Put(ctx, &logical.StorageEntry{Key: framework.WALPrefix + u.id, Value: value}); err != nil {
		return fmt.Errorf("write to the write-ahead log: %w", err)
	}
	return nil
}

// handOver is the last step of a request: the lease is the caller's, if the caller is still there.
func (u *undertaking) handOver(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	u.handedOver = true
	return nil
}

// end must be deferred. It does nothing when the undertaking was handed over or nothing is known to have been done.
func (u *undertaking) end(ctx context.Context) {
	defer u.b.underway.Delete(u.intent.Nonce)
	if u.handedOver || u.undo == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoBudget)
	defer cancel()
	err := u.undo(ctx)
	if err == nil && !u.twin {
		// A failure leaves an entry by which the rollback finds nothing to undo.
		_ = u.settle(ctx)
		return
	}
	left := u.intent
	if err == nil {
		left.Secret = nil
	}
	// The entry may have been deleted, or changed to keep what nobody got.
	if putErr := u.put(ctx, left); putErr != nil {
		u.b.complain(left, errors.Join(err, putErr))
		return
	}
	if err == nil {
		return
	}
	u.b.Logger().Warn("what a failed request did at Databricks could not be undone at once; the rollback will", append(u.intent.fields(), "error", err)...)
}

// eachIntent shows every intent of the write-ahead log, with the id of its entry. What can't be read is left out: the
// rollback complains of it.
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

// fields is the intent as a log shows it.
func (in *intent) fields() []any {
	fields := []any{"host", in.Host, "nonce", in.Nonce}
	if in.Credential != nil {
		fields = append(fields, "credential_type", in.Credential.Type, "role", in.Credential.Role, "keep", in.Credential.Keep)
		if in.Keeper != "" {
			fields = append(fields, "keeper", in.Keeper)
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
