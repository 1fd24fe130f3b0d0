// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/marker"
)

const credentialPAT = "pat"

// maxTokens is how many live personal access tokens a user has in a workspace at most (Databricks guide "Resource limits").
const maxTokens = 600

// patCredential is a personal access token of the engine's own identity. Its nonce is in its comment.
type patCredential struct{ described }

var _ credentialType = patCredential{}

var patTraits = traits{
	name:    credentialPAT,
	summary: "a personal access token of the engine's own identity",
	comment: true, workspace: true, static: true,
	answer: tokenAnswer, secret: keyTokenValue,
}

func (patCredential) fits(*connection, credentialSpec) error { return nil }

func (patCredential) mint(ctx context.Context, conn *connection, r mintRequest) (*minted, error) {
	created, err := conn.client.CreateToken(ctx, client.CreateTokenRequest{
		Comment:  r.mark.Comment(r.text),
		Lifetime: r.lifetime,
		Scopes:   r.scopes,
	})
	if isKind(err, client.QuotaExceeded) {
		count := "how many it has could not be counted"
		if tokens, listErr := conn.client.ListTokens(ctx); listErr == nil {
			count = "it has " + countTokens(tokens, r.mark.MountID)
		}
		return nil, tokenQuota("the engine's own user", count, err)
	}
	if err != nil {
		return nil, err
	}
	return mintedToken(created), nil
}

func (patCredential) undo(ctx context.Context, conn *connection, how reach, p *pass, lost lostCredential) ([]string, error) {
	return undoTokens(ctx, conn, how, p, lost)
}

func (patCredential) revoke(ctx context.Context, conn *connection, how reach, ref credentialRef) error {
	return deletePAT(ctx, conn, how, ref.id)
}

func (patCredential) warnings(identity *client.Identity, spec credentialSpec) []string {
	return append(adminWarnings(identity), scopeWarnings(spec)...)
}

// tokenAnswer is what answers show of a personal access token.
var tokenAnswer = map[string]*framework.FieldSchema{
	keyTokenValue:   secretAnswerField("The token."),
	keyTokenID:      {Type: framework.TypeString, Description: "Id of the token, by which it can be found at Databricks."},
	keyComment:      {Type: framework.TypeString, Description: "Comment of the token."},
	keyCreationTime: {Type: framework.TypeString, Description: "When the token was created, RFC 3339."},
}

// mintedToken is a new personal access token, whoever it acts for.
func mintedToken(created *client.CreatedToken) *minted {
	token := &minted{id: created.Info.TokenID, twin: created.Retried, data: tokenData(&created.Info), secret: keyTokenValue}
	token.lifetime = grantedLife(created.Info.CreationTime, created.Info.ExpiryTime)
	token.expires = created.Info.ExpiryTime
	token.data[keyTokenValue] = created.Value.Reveal()
	return token
}

// undoTokens removes the tokens that bear the nonce, but for the one to keep.
func undoTokens(ctx context.Context, conn *connection, how reach, p *pass, lost lostCredential) (removed []string, err error) {
	tokens, err := p.tokens(ctx, conn, how)
	if err != nil {
		return nil, err
	}
	for _, token := range tokens {
		if m, ok := marker.Parse(token.Comment); !ok || m.Nonce != lost.nonce || token.TokenID == lost.keep {
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
		if m, ok := marker.Parse(token.Comment); ok && m.MountID == mountID {
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

// tokenIDOf is the id of a personal access token: the SHA-256 of it (Databricks SDK, UpdateTokenRequest).
func tokenIDOf(token client.Secret) string {
	sum := sha256.Sum256([]byte(token.Reveal()))
	return hex.EncodeToString(sum[:])
}
