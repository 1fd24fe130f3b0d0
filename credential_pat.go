// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"vault-plugin-secrets-databricks/internal/client"
)

const credentialPAT = "pat"

// maxTokens is how many live personal access tokens a user has in a workspace at most (Databricks guide "Resource limits").
const maxTokens = 600

// patCredential is a personal access token of the engine's own identity. Its nonce is in its comment.
type patCredential struct{}

var _ credentialType = patCredential{}

func (patCredential) mint(ctx context.Context, conn *connection, o order) (*minted, error) {
	created, err := conn.client.CreateToken(ctx, client.CreateTokenRequest{
		Comment:  o.marker.comment(o.text),
		Lifetime: o.lifetime,
		Scopes:   o.scopes,
	})
	if err != nil {
		return nil, explainTokenQuota(ctx, conn, o.marker.mountID, err)
	}
	token := &minted{id: created.Info.TokenID, retried: created.Retried, data: tokenData(&created.Info), secret: keyTokenValue}
	switch {
	case created.Info.ExpiryTime.IsZero(): // it never ends
	case created.Info.CreationTime.IsZero():
		token.lifetime = time.Until(created.Info.ExpiryTime)
	default:
		token.lifetime = created.Info.ExpiryTime.Sub(created.Info.CreationTime)
	}
	token.data[keyHost] = conn.config.Host
	token.data[keyTokenValue] = created.Value.Reveal()
	return token, nil
}

func (patCredential) undo(ctx context.Context, conn *connection, how reach, in *intent) (removed []string, err error) {
	tokens, err := passOf(ctx).tokens(ctx, conn, how)
	if err != nil {
		return nil, err
	}
	for _, token := range tokens {
		if m, ok := parseMarker(token.Comment); !ok || m.nonce != in.Nonce || token.TokenID == in.Credential.Keep {
			continue
		}
		if err := deletePAT(ctx, conn, how, token.TokenID); err != nil {
			return removed, err
		}
		removed = append(removed, token.TokenID)
	}
	return removed, nil
}

func (patCredential) revoke(ctx context.Context, conn *connection, how reach, l *lease) error {
	return deletePAT(ctx, conn, how, l.ID)
}

// deletePAT succeeds when the token is gone already.
func deletePAT(ctx context.Context, conn *connection, how reach, id string) error {
	remove := conn.client.DeleteToken
	if how == reachAdmin {
		remove = conn.client.DeleteManagedToken
	}
	if err := remove(ctx, id); err != nil && !isGone(err) {
		return err
	}
	return nil
}

func (patCredential) warnings(identity *client.Identity, role *roleEntry) []string {
	var all []string
	if identity != nil && identity.Admin {
		all = append(all, fmt.Sprintf("Tokens of this role have all the rights of %s, who is a workspace admin. Connect the mount as a service principal with only the rights that the role's users need, or narrow the role with scopes.", identity.UserName))
	}
	for _, scope := range role.Scopes {
		if scope == "authentication" {
			all = append(all, `A token with the scope "authentication" can create further tokens with any scope, which outlive the lease.`)
		}
	}
	return all
}

// explainTokenQuota adds to a quota error what the limit is, how much of it this mount uses, and the way out.
func explainTokenQuota(ctx context.Context, conn *connection, mountID string, err error) error {
	var remote *client.Error
	if !errors.As(err, &remote) || remote.Kind != client.QuotaExceeded {
		return err
	}
	count := "how many it has could not be counted"
	if tokens, listErr := conn.client.ListTokens(ctx); listErr == nil {
		ours := 0
		for _, token := range tokens {
			if m, ok := parseMarker(token.Comment); ok && m.mountID == mountID {
				ours++
			}
		}
		count = fmt.Sprintf("it has %d, of which this mount made %d", len(tokens), ours)
	}
	return fmt.Errorf("a user can have %d live tokens in a workspace, and for the engine's own user %s; revoke leases that are no longer needed (vault lease revoke -prefix …), shorten ttl and max_ttl of the roles, or spread the load over mounts with an identity of their own: %w", maxTokens, count, err)
}

// tokenData is a token as answers show it, without its value.
func tokenData(token *client.TokenInfo) map[string]any {
	scopes := token.Scopes
	if scopes == nil {
		scopes = []string{}
	}
	return map[string]any{
		keyTokenID:      token.TokenID,
		keyComment:      token.Comment,
		keyCreationTime: rfc3339(token.CreationTime),
		keyExpiryTime:   rfc3339(token.ExpiryTime),
		keyScopes:       scopes,
	}
}
