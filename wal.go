// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
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

// rollback undoes an intent that was not handed over. Vault calls it about once a minute for every entry older than
// walMinAge. An error keeps the entry for the next time, until the intent's end.
func (b *backend) rollback(ctx context.Context, req *logical.Request, kind string, data any) error {
	if !b.mayWrite() {
		return logical.ErrReadOnly
	}
	var in intent
	if err := decodeMap(data, &in); err != nil || kind != walKind {
		err = errors.Join(err, fmt.Errorf("an entry of kind %q of the write-ahead log can't be read; was it written by another version of the plugin?", kind))
		b.complain(in, err)
		return err
	}
	if _, busy := b.underway.Load(in.Nonce); busy {
		return errors.New("the request that wrote the entry is still under way")
	}
	now := b.now()
	last := now.After(in.Expires)
	if last && in.endsByItself() {
		b.tried.Delete(in.Nonce)
		return nil
	}
	if tried, ok := b.tried.Load(in.Nonce); ok && !last && now.Sub(in.Started) > intentLife && now.Sub(tried.(time.Time)) < time.Hour && !b.System().Tainted() {
		return errors.New("what was tried for a day is tried once an hour from then on")
	}
	b.tried.Store(in.Nonce, now)
	err := b.rollbackIntent(ctx, req, &in)
	if err == nil || last {
		b.tried.Delete(in.Nonce)
	}
	if last && err != nil {
		b.complain(in, fmt.Errorf("it is given up now: %w", err))
		return nil
	}
	if err != nil {
		// The framework gives errors of rollbacks to Vault in a form that is never logged.
		b.complain(in, err)
	}
	return err
}

// endsByItself tells whether what the intent leaves ends at Databricks without anybody's doing.
func (in *intent) endsByItself() bool {
	return in.Secret == nil && in.Grant == nil && (in.Credential == nil || credentialTypes[in.Credential.Type] == nil || !credentialTypes[in.Credential.Type].needs().lasting)
}

func (b *backend) rollbackIntent(ctx context.Context, req *logical.Request, in *intent) error {
	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return err
	}
	how, err := passOf(ctx).reaches(ctx, conn, in.origin)
	if err != nil {
		return err
	}
	if how == reachNone {
		return fmt.Errorf("it was done at %s, but the mount is now connected to another workspace, %s", in.Host, conn.config.Host)
	}
	if in.Credential != nil {
		credential, ok := credentialTypes[in.Credential.Type]
		if !ok {
			return fmt.Errorf("unknown credential type %q; was the entry written by a newer version of the plugin?", in.Credential.Type)
		}
		if err := keepSaved(ctx, req.Storage, in); err != nil {
			return err
		}
		removed, err := credential.undo(ctx, conn, how, in)
		for _, id := range removed {
			b.Logger().Warn("removed a credential whose creation was not completed", append(in.fields(), "id", id)...)
			b.event(ctx, "creds-rollback", req.Path, "credential_type", in.Credential.Type, "id", id)
		}
		if errors.Is(err, errAmbiguous) {
			if in.Keeper != "" {
				return err // it lives for long, and leases that it can't be told from may end before
			}
			b.Logger().Error("a credential whose creation was not completed may be left", append(in.fields(), "error", err)...)
			err = nil
		}
		if err != nil {
			return err
		}
	}
	if in.Secret != nil {
		if err := b.rollbackSecret(ctx, req.Storage, conn, in); err != nil {
			return err
		}
	}
	if in.Grant != nil {
		return b.endGrant(ctx, req.Storage, conn, in.origin, *in.Grant)
	}
	return nil
}

// keepSaved makes the rollback keep the credential that the intent's storage entry has, and spare all others that are kept: an
// OAuth secret can't bear the nonce that would tell it apart. While the entry can't be read, it fails.
func keepSaved(ctx context.Context, s logical.Storage, in *intent) error {
	var all []kept
	var err error
	if in.Credential.ServicePrincipalID != "" {
		if all, err = passOf(ctx).allKept(ctx, s); err != nil {
			return err
		}
	}
	if in.Keeper != "" {
		own, err := keptUnder(ctx, s, in.Keeper)
		if err != nil {
			return fmt.Errorf("look whether the credential was saved: %w", err)
		}
		all = append(slices.Clone(all), own...)
	}
	in.spared = make(map[string]bool)
	for _, k := range all {
		in.spared[k.ID] = true
		if k.Nonce == in.Nonce {
			in.Credential.Keep = k.ID
		}
	}
	return nil
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

// complain says, loudly and once for each intent and reason, what could not be undone, so that it can be cleaned by hand if
// the reason stays.
func (b *backend) complain(in intent, why error) {
	if _, said := b.complaints.LoadOrStore(in.Nonce+" "+requestID.ReplaceAllString(why.Error(), ""), true); said {
		return
	}
	b.Logger().Error("something may be left at Databricks that could not be undone yet: a credential bears the nonce in its comment, a secret or permission is named here; it is tried again until the time given, then remove it by hand",
		append(in.fields(), "until", rfc3339(in.Expires), "error", why)...)
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

// pass is one run of Vault's rollback over all entries of the write-ahead log. It lists Databricks' tokens once, and asks
// once who the engine is, however many entries there are, so that a run after an outage stays within its time.
type pass struct {
	listings map[reach]func() ([]client.TokenInfo, error)
	unknown  error // why it is not known who the engine is
	kept     []kept
	keptRead bool
}

type passKey struct{}

// withPass marks the beginning of a rollback.
func withPass(ctx context.Context) context.Context {
	return context.WithValue(ctx, passKey{}, &pass{listings: make(map[reach]func() ([]client.TokenInfo, error))})
}

func passOf(ctx context.Context) *pass {
	p, _ := ctx.Value(passKey{}).(*pass)
	return p
}

func (p *pass) reaches(ctx context.Context, conn *connection, made origin) (reach, error) {
	if p.unknown != nil {
		return reachNone, p.unknown
	}
	how, err := conn.reaches(ctx, made)
	p.unknown = err
	return how, err
}

// allKept are the credentials that the config and the static roles answer for. Those of an entry that can't be read are not known.
func (p *pass) allKept(ctx context.Context, s logical.Storage) ([]kept, error) {
	if p.keptRead {
		return p.kept, nil
	}
	p.kept = nil
	err := eachKept(ctx, s, func(_ string, all []kept) { p.kept = append(p.kept, all...) })
	if err != nil && !isUnreadable(err) {
		return nil, fmt.Errorf("look which credentials were saved: %w", err)
	}
	p.keptRead = true
	return p.kept, nil
}

// tokens lists what the connection can reach, as it was at the first call of the pass.
func (p *pass) tokens(ctx context.Context, conn *connection, how reach) ([]client.TokenInfo, error) {
	if p.listings[how] == nil {
		p.listings[how] = sync.OnceValues(func() ([]client.TokenInfo, error) {
			if how == reachAdmin {
				return conn.client.ListManagedTokens(ctx)
			}
			return conn.client.ListTokens(ctx)
		})
	}
	return p.listings[how]()
}

// decodeMap decodes what Vault kept as a map back into the struct that it was made from, or a struct into such a map.
func decodeMap(from, to any) error {
	raw, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, to)
}
