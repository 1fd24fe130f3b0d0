// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
)

const (
	walKindCreate = "create"

	// walMinAge is how old an entry must be before a rollback touches it: more than the longest create, so that no
	// rollback undoes one that is under way. Vault ticks once a minute, so an orphan is gone within about 4 minutes.
	walMinAge = 2 * time.Minute
)

// intent is what is written down before a credential is created, and all that undoing it needs. It holds no secret.
type intent struct {
	origin
	CredentialType string    `json:"credential_type"`
	Nonce          string    `json:"nonce"`
	Role           string    `json:"role"`
	Expires        time.Time `json:"expires"` // after this moment there can be nothing left to undo

	// Keep is set when the create was repeated: the bearer of the nonce that has this id belongs to a lease, and any other
	// is a twin.
	Keep string `json:"keep,omitempty"`
}

// openIntent is an intent in storage. Whoever wrote it ends it with settle or keep, or leaves it for the rollback. How
// intents are stored, and whether concurrent ones share an entry, is nobody's business but this file's.
type openIntent struct {
	storage logical.Storage
	id      string
	intent  intent
}

// writeIntent writes down what is about to be created.
func writeIntent(ctx context.Context, s logical.Storage, in intent) (*openIntent, error) {
	id, err := framework.PutWAL(ctx, s, walKindCreate, in)
	if err != nil {
		return nil, fmt.Errorf("write to the write-ahead log: %w", err)
	}
	return &openIntent{storage: s, id: id, intent: in}, nil
}

// settle says that there is nothing to undo: either nothing was created, or a lease will answer for it. When it fails, the
// request must fail too, since the rollback will undo what was created.
func (o *openIntent) settle(ctx context.Context) error {
	if err := framework.DeleteWAL(ctx, o.storage, o.id); err != nil {
		return fmt.Errorf("delete from the write-ahead log: %w", err)
	}
	return nil
}

// keep says that a lease will answer for the bearer of the nonce with this id, but that there may be a twin of it.
// It replaces the entry in one write, so that no crash can leave one that condemns the lease's credential.
func (o *openIntent) keep(ctx context.Context, id string) error {
	o.intent.Keep = id
	value, err := json.Marshal(&framework.WALEntry{Kind: walKindCreate, Data: o.intent, CreatedAt: time.Now().UTC().Unix()})
	if err != nil {
		return err
	}
	if err := o.storage.Put(ctx, &logical.StorageEntry{Key: framework.WALPrefix + o.id, Value: value}); err != nil {
		return fmt.Errorf("write to the write-ahead log: %w", err)
	}
	return nil
}

// newNonce answers 128 random bits in hex.
func newNonce() (string, error) {
	var raw [16]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return "", err
	}
	return hex.EncodeToString(raw[:]), nil
}

// rollback undoes an intent that nobody ended. Vault calls it about once a minute for every entry older than walMinAge; an
// error keeps the entry for the next time.
func (b *backend) rollback(ctx context.Context, req *logical.Request, kind string, data any) error {
	if !b.mayWrite() {
		return logical.ErrReadOnly
	}
	if kind != walKindCreate {
		return fmt.Errorf("unknown kind %q of write-ahead log entry; was it written by a newer version of the plugin?", kind)
	}
	var in intent
	if err := decodeMap(data, &in); err != nil {
		return fmt.Errorf("the write-ahead log entry cannot be read: %w", err)
	}
	credential, ok := credentialTypes[in.CredentialType]
	if !ok {
		return fmt.Errorf("unknown credential type %q in the write-ahead log; was it written by a newer version of the plugin?", in.CredentialType)
	}
	if time.Now().After(in.Expires) {
		return nil
	}

	conn, err := b.connection(ctx, req.Storage)
	if err != nil {
		return err
	}
	how, err := conn.reaches(ctx, in.origin)
	if err != nil {
		return err
	}
	if how == reachNone {
		b.giveUp(in, fmt.Sprintf("the mount is now connected to another workspace, %s", conn.config.Host))
		return nil
	}
	removed, err := credential.undo(ctx, conn, how, in)
	if how == reachAdmin && isDenied(err) {
		b.giveUp(in, "the mount now has another identity, which is no workspace admin")
		return nil
	}
	for _, id := range removed {
		b.Logger().Warn("removed a credential whose creation was not completed", "credential_type", in.CredentialType, "id", id, "role", in.Role)
		b.event(ctx, "creds-rollback", req.Path, "credential_type", in.CredentialType, "id", id)
	}
	return err
}

// pass is one run of Vault's rollback over all entries of the write-ahead log. It lists Databricks' tokens once however
// many entries there are, so that a run after an outage stays within its time.
type pass struct {
	listings map[reach]func() ([]client.TokenInfo, error)
}

type passKey struct{}

// withPass marks the beginning of a rollback.
func withPass(ctx context.Context) context.Context {
	return context.WithValue(ctx, passKey{}, &pass{listings: make(map[reach]func() ([]client.TokenInfo, error))})
}

// tokens lists what the connection can reach: as it was at the first call of this pass, or now where there is no pass.
func (c *connection) tokens(ctx context.Context, how reach) ([]client.TokenInfo, error) {
	list := func() ([]client.TokenInfo, error) {
		if how == reachAdmin {
			return c.client.ListManagedTokens(ctx)
		}
		return c.client.ListTokens(ctx)
	}
	p, ok := ctx.Value(passKey{}).(*pass)
	if !ok {
		return list()
	}
	if p.listings[how] == nil {
		p.listings[how] = sync.OnceValues(list)
	}
	return p.listings[how]()
}

// giveUp says, loudly and once, what has to be cleaned by hand.
func (b *backend) giveUp(in intent, why string) {
	b.Logger().Error("a credential may be left at Databricks and can't be removed from here: look for the nonce in the comments of its tokens, and delete the one that bears it",
		"why", why, "credential_type", in.CredentialType, "host", in.Host, "nonce", in.Nonce, "keep", in.Keep, "role", in.Role, "ends_by_itself", rfc3339(in.Expires))
}

// isDenied tells whether Databricks refused because of who is asking.
func isDenied(err error) bool {
	var remote *client.Error
	return errors.As(err, &remote) && remote.Kind == client.PermissionDenied
}

// decodeMap decodes what Vault kept as a map back into the struct that it was made from.
func decodeMap(from, to any) error {
	raw, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, to)
}
