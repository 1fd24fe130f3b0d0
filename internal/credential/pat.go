// SPDX-License-Identifier: MPL-2.0

package credential

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-databricks/internal/client"
	"vault-plugin-secrets-databricks/internal/marker"
)

// PAT is the name of the type of personal access tokens of the engine's own identity.
const PAT = "pat"

// MaxTokens is how many live personal access tokens a user has in a workspace at most (Databricks guide "Resource limits").
const MaxTokens = 600

// patCredential is a personal access token of the engine's own identity. Its nonce is in its comment.
type patCredential struct{ described }

var _ Type = patCredential{}

var patTraits = Traits{
	Name:    PAT,
	Summary: "a personal access token of the engine's own identity",
	Comment: true, Workspace: true, Static: true,
	answer: tokenAnswer,
}

func (patCredential) Fits(Conn, Spec) error { return nil }

func (patCredential) Mint(ctx context.Context, conn Conn, r Request) (*Credential, error) {
	created, err := conn.Client().CreateToken(ctx, client.CreateTokenRequest{
		Comment:  r.Mark.Comment(r.Text),
		Lifetime: r.Lifetime,
		Scopes:   r.Scopes,
	})
	if client.IsKind(err, client.QuotaExceeded) {
		count := "how many it has could not be counted"
		if tokens, listErr := conn.Client().ListTokens(ctx); listErr == nil {
			count = "it has " + countTokens(tokens, r.Mark.MountID)
		}
		return nil, tokenQuota("the engine's own user", count, r.Stored, err)
	}
	if err != nil {
		return nil, err
	}
	return mintedToken(created, r.Scopes), nil
}

func (patCredential) Undo(ctx context.Context, conn Conn, access Access, lists Lists, lost Lost) ([]string, error) {
	return undoTokens(ctx, conn, access, lists, lost)
}

func (patCredential) Revoke(ctx context.Context, conn Conn, access Access, ref Ref) error {
	return DeleteToken(ctx, conn, access, ref.ID)
}

func (patCredential) Warnings(known Known, spec Spec) []string {
	return append(adminWarnings(known, spec), scopeWarnings(spec)...)
}

// tokenAnswer has the response fields of a personal access token.
var tokenAnswer = map[string]*framework.FieldSchema{
	fieldTokenValue:   secretField("The token."),
	fieldTokenID:      textField("Id of the token, by which it can be found at Databricks."),
	fieldComment:      textField("Comment of the token."),
	fieldCreationTime: textField("When the token was created, RFC 3339."),
	fieldScopes:       scopesSchema,
}

// mintedToken is a new personal access token, of the engine's identity or on behalf of another.
func mintedToken(created *client.CreatedToken, scopes []string) *Credential {
	token := &Credential{ID: created.Info.TokenID, Duplicate: created.Retried, Data: TokenData(&created.Info), Secret: fieldTokenValue}
	token.Lifetime = Life(created.Info.CreationTime, created.Info.ExpiryTime)
	token.Expires = created.Info.ExpiryTime
	token.Data[fieldTokenValue] = created.Value.Reveal()
	token.Unfit = widened("token", "removed again", scopes, created.Info.Scopes)
	token.Warning = unconfirmed("token", scopes, created.Info.Scopes)
	return token
}

// undoTokens removes the tokens with the nonce, except the one to keep.
func undoTokens(ctx context.Context, conn Conn, access Access, lists Lists, lost Lost) (removed []string, err error) {
	all, err := lists.Tokens(ctx, conn, access)
	if err != nil {
		return nil, err
	}
	for _, token := range all {
		if m, ok := marker.Parse(token.Comment); !ok || m.Nonce != lost.Nonce || token.TokenID == lost.Keep {
			continue
		}
		if err := DeleteToken(ctx, conn, access, token.TokenID); err != nil {
			return removed, err
		}
		removed = append(removed, token.TokenID)
	}
	return removed, nil
}

// DeleteToken deletes a personal access token. It succeeds if the token is gone already.
func DeleteToken(ctx context.Context, conn Conn, access Access, id string) error {
	remove := conn.Client().DeleteToken
	if access == AccessAdmin {
		remove = conn.Client().DeleteManagedToken
	}
	if err := remove(ctx, id); err != nil && !client.IsGone(err) {
		return err
	}
	return nil
}

// tokenQuota adds the limit, how much of it is used, and advice to a quota error. stored is that of the spec.
func tokenQuota(whose, count string, stored bool, err error) error {
	instead := fmt.Sprintf("use roles of credential_type %s or %s", OAuthToken, ServicePrincipal)
	if stored {
		instead = "delete tokens that nobody uses"
	}
	return explain("a user can have %d live tokens in a workspace, and for %s %s; revoke leases that are no longer needed (vault lease revoke -prefix …), shorten ttl and max_ttl of the roles, or %s: %w",
		MaxTokens, whose, count, instead, err)
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

// TokenData returns a token as the fields of a response, without its value.
func TokenData(token *client.TokenInfo) map[string]any {
	return map[string]any{
		fieldTokenID:      token.TokenID,
		fieldComment:      token.Comment,
		fieldCreationTime: rfc3339(token.CreationTime),
		fieldExpiryTime:   rfc3339(token.ExpiryTime),
		fieldScopes:       append([]string{}, token.Scopes...),
	}
}

// TokenID returns the id of a personal access token: the SHA-256 of it (Databricks SDK, UpdateTokenRequest).
func TokenID(token client.Secret) string {
	sum := sha256.Sum256([]byte(token.Reveal()))
	return hex.EncodeToString(sum[:])
}

// rfc3339 formats a time for a response: RFC 3339 in UTC, empty for the zero time.
func rfc3339(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
