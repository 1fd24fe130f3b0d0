// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"fmt"

	"vault-plugin-secrets-databricks/internal/client"
)

const credentialPAT = "pat"

// maxTokens is how many live personal access tokens a user has in a workspace at most (Databricks guide "Resource limits").
const maxTokens = 600

// patCredential is a personal access token of the engine's own identity. Its nonce is in its comment.
type patCredential struct{}

var _ credentialType = patCredential{}

func (patCredential) needs() needs { return needs{scopes: true, comment: true, workspace: true} }

func (patCredential) fits(*connection, *roleEntry) error { return nil }

func (patCredential) mint(ctx context.Context, conn *connection, o order) (*minted, error) {
	created, err := conn.client.CreateToken(ctx, client.CreateTokenRequest{
		Comment:  o.marker.comment(o.text),
		Lifetime: o.lifetime,
		Scopes:   o.scopes,
	})
	if isKind(err, client.QuotaExceeded) {
		count := "how many it has could not be counted"
		if tokens, listErr := conn.client.ListTokens(ctx); listErr == nil {
			count = "it has " + countTokens(tokens, o.marker.mountID)
		}
		return nil, tokenQuota("the engine's own user", count, err)
	}
	if err != nil {
		return nil, err
	}
	return mintedToken(conn, created), nil
}

func (patCredential) undo(ctx context.Context, conn *connection, how reach, in *intent) ([]string, error) {
	return undoTokens(ctx, conn, how, in)
}

func (patCredential) revoke(ctx context.Context, conn *connection, how reach, l *lease) error {
	return deletePAT(ctx, conn, how, l.ID)
}

func (patCredential) warnings(identity *client.Identity, role *roleEntry) []string {
	return append(adminWarnings(identity), scopeWarnings(role)...)
}

// mintedToken is a new personal access token, whoever it acts for.
func mintedToken(conn *connection, created *client.CreatedToken) *minted {
	token := &minted{id: created.Info.TokenID, twin: created.Retried, data: tokenData(&created.Info), secret: keyTokenValue}
	token.lifetime = grantedLife(created.Info.CreationTime, created.Info.ExpiryTime)
	token.expires = created.Info.ExpiryTime
	token.data[keyHost] = conn.config.Host
	token.data[keyTokenValue] = created.Value.Reveal()
	return token
}

// undoTokens removes the tokens that bear the intent's nonce, but for the one to keep.
func undoTokens(ctx context.Context, conn *connection, how reach, in *intent) (removed []string, err error) {
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

// tokenQuota adds to a quota error what the limit is, how much of it is used, and the way out.
func tokenQuota(whose, count string, err error) error {
	return fmt.Errorf("a user can have %d live tokens in a workspace, and for %s %s; revoke leases that are no longer needed (vault lease revoke -prefix …), shorten ttl and max_ttl of the roles, or use roles of credential_type %s or %s: %w",
		maxTokens, whose, count, credentialOAuthToken, credentialServicePrincipal, err)
}

func countTokens(tokens []client.TokenInfo, mountID string) string {
	ours := 0
	for _, token := range tokens {
		if m, ok := parseMarker(token.Comment); ok && m.mountID == mountID {
			ours++
		}
	}
	return fmt.Sprintf("%d, of which this mount made %d", len(tokens), ours)
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
