// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/credential"
)

// rootFound is what is known of the credential that is to be replaced.
type rootFound struct {
	id           string          // empty when it can't be told from others
	lifetime     time.Duration   // that it was made with; 0 for unknown or endless
	ends         time.Time       // by Databricks' clock; zero for unknown or endless
	scopes       []string        // its API scopes, empty for all or unknown
	live         map[string]bool // all credentials of its kind that the identity has
	unidentified string          // what to tell the operator when id is empty
}

// findEnd looks up when the credential of a config that is about to replace old ends, so that it is rotated before, or the operator is
// warned. It does so only for one that an operator created: from the token itself, if it is an access token, and else over a connection
// that was verified. The storedCredential that it returns has no ID, and is zero for a credential without an end and for one whose end is not
// looked up. The warning says what could not be found out, where a schedule depends on it.
func (b *backend) findEnd(ctx context.Context, req *logical.Request, conn *connection, old *configEntry) (given storedCredential, warning string) {
	config := conn.config
	scheduled, same := config.effectiveSchedule().Automatic(), !config.replaces(old) && old.Host != ""
	switch end := accessTokenEnd(config.Token); {
	case same && config.Rotation.Credential.ID != "":
		return storedCredential{}, ""
	case !end.IsZero():
		return b.endsAt(end), ""
	case !config.VerifyConnection, !rotates(config.AuthType), !scheduled && same && !config.Rotation.Credential.Expires.IsZero():
		return storedCredential{}, ""
	case !scheduled:
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, endBudget)
		defer cancel()
	}
	probe := *config
	probe.Rotation = rootRotation{}
	conn = &connection{config: &probe, client: conn.client, account: conn.account, logger: conn.logger, identity: config.Identity}
	var found *rootFound
	identity, err := conn.whoami(ctx)
	if err == nil {
		found, err = b.findRoot(ctx, req, conn, identity)
	}
	switch {
	case err != nil:
		warning = fmt.Sprintf("It could not be found out when the credential ends, so see to it that it is replaced before: %s", err)
	case found.id == "":
		warning = "The credential can't be told from others at Databricks, so it isn't known when it ends; see to it that it is replaced before."
	case !found.ends.IsZero():
		given = b.endsAt(found.ends)
	}
	if !scheduled {
		warning = "" // not everybody may look it up, and nothing depends on it
	}
	return given, warning
}

// endBudget limits how long a config write waits for the end of its credential where no schedule depends on that.
const endBudget = 10 * time.Second

// endsAt returns what is stored of a credential that an operator created, and that ends at the time.
func (b *backend) endsAt(end time.Time) storedCredential {
	now := b.now().UTC()
	return storedCredential{Created: now, Lifetime: max(1, int64(end.Sub(now)/time.Second)), Expires: end}
}

// accessTokenEnd returns when an access token, of OAuth or of Entra ID, says that it ends. It is the zero time for other tokens. The signature
// isn't checked: Databricks does that, and nothing but a warning depends on the time.
func accessTokenEnd(token client.Secret) time.Time {
	parts := strings.Split(token.Reveal(), ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	var claims struct {
		Exp float64 `json:"exp"`
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(raw, &claims) != nil || claims.Exp < 1 || claims.Exp > endOfTime {
		return time.Time{}
	}
	return time.Unix(int64(claims.Exp), 0).UTC()
}

// endOfTime is the year 10000 in seconds since 1970, which RFC 3339 can't write.
const endOfTime = 253402300800 - 1

// connectionOf returns a connection with the stored config: the mount's own, if that has the same credential.
func (b *backend) connectionOf(ctx context.Context, s logical.Storage, config *configEntry) (*connection, error) {
	if shared, err := b.connection(ctx, s); err == nil && shared.config.sameCredential(config) {
		return &connection{config: config, client: shared.client, account: shared.account, logger: shared.logger, identity: shared.cachedIdentity()}, nil
	}
	return b.connect(ctx, config)
}

// find looks for the current credential at Databricks, and makes room for another where it can.
func (r *rootItem) find(ctx context.Context, conn *connection, identity *client.Identity) (*rootFound, error) {
	found, err := r.b.findRoot(ctx, r.req, conn, identity)
	if !errors.Is(err, errNoRoom) {
		return found, err
	}
	// What has had its grace makes room.
	gone, removeErr := r.removeRetired(ctx, conn)
	if removeErr = errors.Join(removeErr, r.forget(ctx, gone)); removeErr != nil {
		return nil, errors.Join(err, removeErr)
	}
	return r.b.findRoot(ctx, r.req, conn, identity)
}

// findRoot looks at Databricks for the credential that the connection was made with. It returns errNoRoom when there is no room for
// another.
func (b *backend) findRoot(ctx context.Context, req *logical.Request, conn *connection, identity *client.Identity) (*rootFound, error) {
	if conn.config.AuthType == client.AuthPAT {
		return b.findToken(ctx, req.MountPoint, conn, identity)
	}
	return b.findSecret(ctx, req.Storage, conn, identity)
}

// findToken finds a token by its id, which is the SHA-256 of the token where no rotation has stored it.
func (b *backend) findToken(ctx context.Context, mountPoint string, conn *connection, identity *client.Identity) (*rootFound, error) {
	tokens, err := conn.client.ListTokens(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the tokens of %s: %w", identity.UserName, err)
	}
	if err := b.checkAlone(ctx, conn, tokens); err != nil {
		return nil, err
	}
	ours := conn.config.Rotation.Credential
	found := &rootFound{live: make(map[string]bool), id: ours.ID, scopes: ours.Scopes}
	if ours.ID == "" {
		found.id = credential.TokenID(conn.config.Token)
	}
	scoped := false
	for _, token := range tokens {
		found.live[token.TokenID] = true
		scoped = scoped || len(token.Scopes) > 0
		if token.TokenID == found.id {
			found.lifetime, found.ends = credential.Life(token.CreationTime, token.ExpiryTime), token.ExpiryTime
			if ours.ID == "" {
				found.scopes = token.Scopes
			}
		}
	}
	switch {
	case ours.ID != "" || found.live[found.id]:
	case scoped || len(tokens) == 0:
		return nil, badField(keyToken, "the present one can't be recognised among the %d tokens that %s is said to have, so it isn't known which API scopes a new one may have; try again, or write another one to config", len(tokens), identity.UserName)
	default:
		found.id = ""
		found.unidentified = fmt.Sprintf("The token that was replaced can't be recognised among the %d tokens of %s, and still works; delete it by hand (vault list %stokens shows them).", len(tokens), identity.UserName, mountPoint)
	}
	return found, nil
}

// findSecret finds an OAuth secret by its id. One that no rotation has made is found only if no other secret of the service principal
// could be it.
func (b *backend) findSecret(ctx context.Context, s logical.Storage, conn *connection, identity *client.Identity) (*rootFound, error) {
	secrets, err := conn.client.ListOAuthSecrets(ctx, identity.ID)
	if err != nil {
		return nil, fmt.Errorf("list the OAuth secrets of the engine's own service principal: %w", credential.ExplainPrincipal(err, identity.ID))
	}
	ours := conn.config.Rotation.Credential
	found := &rootFound{live: make(map[string]bool), id: ours.ID, scopes: ours.Scopes}
	var all, unknown []string
	known := make(map[string]bool)
	err = eachStored(ctx, s, func(_ string, kept []storedCredential) {
		for _, k := range kept {
			known[k.ID] = true
		}
	})
	if err != nil && !isUnreadable(err) {
		return nil, err
	}
	listed := make(map[string]client.OAuthSecret)
	for _, secret := range secrets {
		all = append(all, secret.ID)
		found.live[secret.ID] = true
		listed[secret.ID] = secret
		if !known[secret.ID] {
			unknown = append(unknown, secret.ID)
		}
	}
	if len(secrets) >= credential.MaxOAuthSecrets {
		return nil, noRoom(conn.config, identity, all)
	}
	if ours.ID == "" {
		if len(unknown) == 1 {
			found.id = unknown[0]
		} else {
			found.unidentified = fmt.Sprintf("The OAuth secret that was replaced can't be told from the others of service principal %s, so it still works. It is one of these, unless they belong to leases of this mount; delete it by hand: %s", identity.UserName, joinIDs(unknown))
		}
	}
	if secret, ok := listed[found.id]; ok {
		found.lifetime, found.ends = credential.Life(secret.CreateTime, secret.ExpireTime), secret.ExpireTime
		if len(secret.Scopes) > 0 {
			found.scopes = secret.Scopes
		}
	}
	if found.id == "" {
		var same bool
		if found.scopes, same = commonScopes(listed, unknown); !same {
			found.unidentified += ". As these have different API scopes, it isn't known which it had, so the new one is not limited to any"
		}
	}
	return found, nil
}

// commonScopes returns the API scopes of the secrets, and whether all of them have the same ones. If they differ, it returns none.
func commonScopes(listed map[string]client.OAuthSecret, ids []string) (common []string, same bool) {
	for i, id := range ids {
		scopes := slices.Sorted(slices.Values(listed[id].Scopes))
		if i > 0 && !slices.Equal(scopes, common) {
			return nil, false
		}
		common = scopes
	}
	return common, true
}

// errNoRoom says that a service principal has all the secrets that it can have.
var errNoRoom = errors.New("there is no room for a new one")

// noRoom returns the error of a rotation for a service principal that has all the secrets that it can have, ids.
func noRoom(config *configEntry, identity *client.Identity, ids []string) error {
	soon := ""
	for _, old := range config.Rotation.Retired {
		if slices.Contains(ids, old.ID) {
			soon = fmt.Sprintf("; %s is removed at %s anyway, so try again after that", old.ID, rfc3339(old.Until))
			break
		}
	}
	return fmt.Errorf("%w: %w", badField(keyClientSecret, "service principal %s has %d OAuth secrets, which is all it can have: %s. Delete one that is no longer needed, or revoke leases of roles for this service principal%s", identity.UserName, len(ids), joinIDs(ids), soon), errNoRoom)
}
